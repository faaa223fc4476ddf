// Sums and maxima over the threads of a row, and the sum of all losses over the blocks.
//
// Inside a warp by shuffles; between the warps of a block through shared memory, one double per
// warp and sum. Between blocks, each writes one double and the last to finish reads them all.
//
// Traffic: 8 bytes written and 8 read per block, 8 bytes for the loss.
#pragma once

#include <cmath>
#include <cstdint>

#include <cuda_runtime.h>

#include "launch.h"
#include "threads.cuh"

namespace gift {
namespace {

// ---- inside a warp -----------------------------------------------------------------------------

template <class T>
__device__ __forceinline__ T sum_of_warp(T x) {
#pragma unroll
  for (int other = kWarp / 2; other > 0; other /= 2) x += __shfl_xor_sync(kAllLanes, x, other);
  return x;
}

__device__ __forceinline__ float larger(float a, float b) { return fmaxf(a, b); }
__device__ __forceinline__ double larger(double a, double b) { return fmax(a, b); }

template <class T>
__device__ __forceinline__ T largest_of_warp(T x) {
#pragma unroll
  for (int other = kWarp / 2; other > 0; other /= 2)
    x = larger(x, __shfl_xor_sync(kAllLanes, x, other));
  return x;
}

// ---- inside a block ----------------------------------------------------------------------------

// What the threads of a block share. Rows of one warp use `losses` and `last_block` only.
struct Exchange {
  double partial[5][kMaxWarps];
  double largest[kMaxWarps];
  double losses[kOwnWarps];  // of the rows that this block has done
  bool last_block;
};

// What the warp of this lane's number has left; `otherwise` for lanes beyond the block's warps.
__device__ __forceinline__ double of_warps(const double (&left)[kMaxWarps], double otherwise) {
  return lane() < int(blockDim.x) / kWarp ? left[lane()] : otherwise;
}

// The row's sums in double: in its first warp, or in all of them. A is float only inside a warp, as
// deep as a tree of five additions.
template <int count, class A>
__device__ __forceinline__ void sum_over_row(const A (&part)[count], double (&sum)[count],
                                             bool in_all_warps, Exchange& shared) {
#pragma unroll
  for (int i = 0; i < count; ++i) sum[i] = double(sum_of_warp(part[i]));
  if (row_is_one_warp()) return;
  if (lane() == 0) {
#pragma unroll
    for (int i = 0; i < count; ++i) shared.partial[i][warp()] = sum[i];
  }
  __syncthreads();
  if (in_all_warps || warp() == 0) {
#pragma unroll
    for (int i = 0; i < count; ++i) sum[i] = sum_of_warp(of_warps(shared.partial[i], 0.0));
  }
  if (in_all_warps) __syncthreads();  // partial may be written again
}

template <class A>
__device__ __forceinline__ A largest_of_row(A x, Exchange& shared) {
  x = largest_of_warp(x);
  if (row_is_one_warp()) return x;
  if (lane() == 0) shared.largest[warp()] = double(x);
  __syncthreads();
  return largest_of_warp(A(of_warps(shared.largest, -INFINITY)));
}

// row_in_double() is written once for every group of threads. The two groups: the threads of a warp
// or of a block,
struct RowOfBlock {
  static constexpr unsigned together = kAllLanes;
  Exchange& shared;

  __device__ __forceinline__ int64_t first() const { return threadIdx.x; }
  __device__ __forceinline__ int64_t step() const { return blockDim.x; }
  __device__ __forceinline__ double largest(double x) const { return largest_of_row(x, shared); }
  template <int count>
  __device__ __forceinline__ void sum(const double (&part)[count], double (&sum)[count]) const {
    sum_over_row(part, sum, true, shared);
  }
  __device__ __forceinline__ void all_have_read() const {}  // gradients have memory of their own
};

// and `lanes` neighbors of a warp, a power of two. `together`: the lanes of the warp that take
// part, all of them or those of one row.
struct RowOfLanes {
  int lanes;
  unsigned together;

  __device__ __forceinline__ int first() const { return lane() & (lanes - 1); }
  __device__ __forceinline__ int step() const { return lanes; }
  template <class A>
  __device__ __forceinline__ A largest(A x) const {
#pragma unroll 1
    for (int other = lanes / 2; other > 0; other /= 2)
      x = larger(x, __shfl_xor_sync(together, x, other));
    return x;
  }
  template <int count, class A>
  __device__ __forceinline__ void sum(const A (&part)[count], double (&sum)[count]) const {
    A x[count];
#pragma unroll
    for (int i = 0; i < count; ++i) x[i] = part[i];
#pragma unroll 1
    for (int other = lanes / 2; other > 0; other /= 2) {
#pragma unroll
      for (int i = 0; i < count; ++i) x[i] += __shfl_xor_sync(together, x[i], other);
    }
#pragma unroll
    for (int i = 0; i < count; ++i) sum[i] = double(x[i]);
  }
  __device__ __forceinline__ void all_have_read() const { __syncwarp(together); }
};

// ---- over the blocks ---------------------------------------------------------------------------

// What the sum of the losses is divided by: the valid rows that count_kernel's `parts` blocks have
// counted, or 1 for 0 parts, where no mean is requested. Read twice rather than kept, which saves
// registers; there is one part unless there are thousands of rows.
__device__ __forceinline__ double counted(const int64_t* valid, int parts) {
  int64_t rows = 0;
#pragma unroll 1
  for (int i = 0; i < parts; ++i) rows += __ldg(valid + i);
  return double(rows);
}
__device__ __forceinline__ double divisor_of(const Workspace* workspace, int parts) {
  return parts == 0 ? 1.0 : counted(workspace->valid, parts);
}
__device__ __forceinline__ double other_divisor_of(const Workspace* workspace, int parts) {
  return parts == 0 ? 1.0 : counted(workspace->valid_others, parts);
}

// The loss from the sum over all rows, which has been divided already where labels are mixed. No
// valid row: 0 / 0, as F.cross_entropy has it, also by one of two labels.
template <int labels>
__device__ __forceinline__ double mean_of(double sum, const Workspace* workspace, int parts) {
  if constexpr (labels == 1) return sum / divisor_of(workspace, parts);
  return sum + (0.0 / divisor_of(workspace, parts) + 0.0 / other_divisor_of(workspace, parts));
}

// The loss of the batch, from the sums of the blocks: `shared.losses` has this block's. The last
// block to arrive adds up what all have written, in the order of the blocks, so that the result has
// the same bits every time.
template <class Loss, int labels>
__device__ __forceinline__ void add_up(Exchange& shared, void* total, Workspace* workspace,
                                       int parts) {
  __syncthreads();
  const int thread = int(threadIdx.y * blockDim.x + threadIdx.x);
  if (thread == 0) {
    double sum = shared.losses[0];
    for (int y = 1; y < int(blockDim.y); ++y) sum += shared.losses[y];
    // An atomic write: other blocks read it in this launch, and a plain store would be a data race.
    atomicExch(workspace->losses + blockIdx.x, (unsigned long long)__double_as_longlong(sum));
    __threadfence();
    shared.last_block = atomicAdd(&workspace->done, 1) == int(gridDim.x) - 1;
  }
  __syncthreads();
  if (!shared.last_block) return;
  __threadfence();
  if (threadIdx.y != 0) return;
  double sum = 0;
  // Other blocks wrote them after this one began.
  const volatile unsigned long long* const losses = workspace->losses;
  for (int b = int(threadIdx.x); b < int(gridDim.x); b += int(blockDim.x))
    sum += __longlong_as_double(int64_t(losses[b]));
  // Warps other than the first have returned where each has a row of its own.
  sum = sum_of_warp(sum);
  if (!row_is_one_warp()) {
    if (lane() == 0) shared.largest[warp()] = sum;
    __syncthreads();
    sum = sum_of_warp(of_warps(shared.largest, 0.0));
  }
  if (thread == 0) *static_cast<Loss*>(total) = Loss(mean_of<labels>(sum, workspace, parts));
}

}  // namespace
}  // namespace gift
