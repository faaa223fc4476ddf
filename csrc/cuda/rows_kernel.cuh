// Losses and gradients, one row to a warp or to a block.
//
//   loss[i] = 1 - cos(z_i, t_i), its gradients dz_i and ds_i, and the mean or sum of the losses
//
// With mixed labels, loss[i] = w_i (1 - cos(z_i, t_i)) + (1 - w_i) (1 - cos(z_i, t'_i)), in the
// same sweeps: t and t' differ in the hard label alone.
//
// Shapes: z, dz [N, C] of Z; s, ds [N, C] of S; targets, losses and float16's scales [N]. Rows of z
// and s may be strided, their elements may not. Blocks stride over the rows: blockDim.y of them at
// a time, more than one only where each has a warp.
//
// Where the threads keep their row between the sums and the gradients, and the traffic of a row in
// bytes, for elements of Z and S bytes and both gradients (without those not requested):
//
//   registers          read C (Z + S), written C (Z + S)
//   shared memory      the same
//   nowhere, streamed  read 3 C (Z + S): for the sums, for dz and for ds, mostly out of L2 from the
//                      second time on, and once more with a softmax; written C (Z + S)
//
// Beside these 8 or 4 bytes of target, of either target and of w with mixed labels; 8 or 4 of loss
// for reduction "none"; 4 of a float16 gradient's scale. An ignored row is written, with zeros, and
// not read.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include <cuda_runtime.h>

#include "launch.h"
#include "packing.cuh"
#include "reductions.cuh"
#include "row.cuh"

namespace gift {
namespace {

// The block's shared memory: what its warps exchange, and the result of each row it is at.
template <class A, int labels>
struct Shared : Exchange {
  RowResult<A, labels> result[kOwnWarps];
};

// Cut at the boundaries of what is written, so that stores need no realigning; the gradients begin
// at such boundaries and are contiguous, so the narrower one's are the other's too.
template <class Index, class Z, class S, int labels, class T>
__device__ __forceinline__ auto cut_row(const RowMemory<Z, S, labels, T>& row) {
  using RowCut = Cut<Packing<Z, S>::kElements, Index>;
  const bool at_dz = row.dz != nullptr && (sizeof(Z) <= sizeof(S) || row.ds == nullptr);
  RowCut cut = at_dz               ? RowCut(row.dz, row.n)
               : row.ds != nullptr ? RowCut(row.ds, row.n)
                                   : RowCut(row.z, row.n);
  const int z_tail = cut.room_for(row.z), s_tail = cut.room_for(row.s);
  cut.divide(z_tail > s_tail ? z_tail : s_tail);
  return cut;
}

// The row, read once and held in registers; `streamed`: it is longer than that, and read twice (its
// soft labels three times with a softmax) unless `kept`, shared memory for all of it, is given.
template <bool streamed, class Z, class S, int labels, class T>
__device__ __forceinline__ RowResult<Accumulator<Z, S>, labels> row_in_packs(
    const RowMemory<Z, S, labels, T>& row, const Options& options, uint4* kept,
    Shared<Accumulator<Z, S>, labels>& shared) {
  using A = Accumulator<Z, S>;
  using P = Packing<Z, S>;
  const bool softmax = options.softmax;
  constexpr int kPacks = streamed ? P::kStreamed : P::kHeld, kChunk = P::kChunk,
                kChunks = P::kChunks;
  using Index = std::conditional_t<streamed, int64_t, int>;  // what is held is short
  const auto cut = cut_row<Index>(row);
  const Index edge = cut.edge();
  const int threads = int(blockDim.x);
  const Z* const z_packs = row.z + cut.head;
  const S* const s_packs = row.s + cut.head;

  Pack<Z, kChunk, kChunks> z[kPacks];
  Pack<S, kChunk, kChunks> s[kPacks];
  // Of this thread's k-th pack of a batch: whether its warp has any, and where its chunks begin.
  const auto exists = [&](Index begin, int k) { return begin + k * threads - lane() < cut.packs; };
  const auto chunk_begin = [&](Index begin, int k, int c) {
    return cut.head + ((begin + k * threads - lane()) * kChunks + kWarp * c + lane()) * kChunk;
  };
  const auto load = [&](auto& packs, const auto* first, Index begin) {
#pragma unroll
    for (int k = 0; k < kPacks; ++k)
      if (exists(begin, k)) packs[k].load(first, begin + k * threads, cut.packs);
  };
  const auto arrange = [&](auto& packs, const auto* first, Index begin) {
#pragma unroll
    for (int k = 0; k < kPacks; ++k)
      if (exists(begin, k)) packs[k].arrange(first, begin + k * threads, cut.packs);
  };
  const auto load_both = [&](Index begin) {
    load(z, z_packs, begin);
    load(s, s_packs, begin);
    arrange(z, z_packs, begin);
    arrange(s, s_packs, begin);
  };
  // A streamed row that fits into shared memory is put there by the first sweep; a thread reads
  // back what it wrote itself, so no barrier. A pack's vectors lie apart: no bank conflict.
  const Index slots = (cut.packs + kWarp - 1) / kWarp * kWarp;
  uint4* const kept_s = kept + (kept != nullptr ? slots * z[0].kVectors : 0);
  const auto keep = [&](Index begin) {
    if (kept == nullptr) return;
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      if (!exists(begin, k)) break;
      z[k].keep(kept + begin + k * threads, slots);
      s[k].keep(kept_s + begin + k * threads, slots);
    }
  };
  const auto load_again = [&](Index begin) {
    if (!streamed) return;
    if (kept == nullptr) {
      load_both(begin);
      return;
    }
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      if (!exists(begin, k)) break;
      z[k].get(kept + begin + k * threads, slots);
      s[k].get(kept_s + begin + k * threads, slots);
    }
  };
  // body(begin): the packs begin, begin + threads, ... of this thread, kPacks of them at most.
  const auto each_batch = [&](const auto& body) {
    if (!streamed) {
      body(Index(threadIdx.x));
    } else {
      for (Index begin = threadIdx.x; exists(begin, 0); begin += kPacks * threads) body(begin);
    }
  };

  const A z_edge = edge >= 0 ? A(widen(row.z[edge])) : A(0);
  const A s_edge_stored = edge >= 0 ? A(widen(row.s[edge])) : A(0);
  if (!streamed) load_both(Index(threadIdx.x));
  // The coefficients are some hundred operations in double: the first warp's, for all.
  const bool computes_result = row_is_one_warp() || warp() == 0;
  const A z_at = computes_result ? A(widen(row.z[row.targets.own()])) : A(0);
  const A s_at_stored = computes_result ? A(widen(row.s[row.targets.own()])) : A(0);

  A largest = -INFINITY, inverse = 1;
  if (softmax) {
    inverse = A(inverse_temperature<A>(options.temperature));
    if (edge >= 0) largest = s_edge_stored;
    each_batch([&](Index begin) {
      if (streamed) {
        load_both(begin);
        keep(begin);
      }
#pragma unroll
      for (int k = 0; k < kPacks; ++k) {
        if (!exists(begin, k)) break;
#pragma unroll
        for (int c = 0; c < kChunks; ++c) {
          if (chunk_begin(begin, k, c) >= cut.end()) continue;
          A x[kChunk];
          s[k].widen_chunk(c, x);
#pragma unroll
          for (int e = 0; e < kChunk; ++e) largest = larger(largest, x[e]);
        }
      }
    });
    largest = largest_of_row(largest, shared);
  }
  const auto label = [&](A x) { return softmax ? exp_of((x - largest) * inverse) : x; };
  const A s_edge = label(s_edge_stored);

  {
    RowResult<A, labels> result = {};
    double sum[5];
    Sums<A> part;
    if (edge >= 0) part.add(z_edge, s_edge);
    const auto add_batch = [&](Index begin) {
#pragma unroll
      for (int k = 0; k < kPacks; ++k) {
        if (!exists(begin, k)) break;
#pragma unroll
        for (int c = 0; c < kChunks; ++c) {
          if (chunk_begin(begin, k, c) >= cut.end()) continue;
          A a[kChunk], b[kChunk];
          z[k].widen_chunk(c, a);
          s[k].widen_chunk(c, b);
#pragma unroll
          for (int e = 0; e < kChunk; ++e) part.add(a[e], label(b[e]));
        }
      }
    };
    if (!streamed) {
      add_batch(Index(threadIdx.x));
      sum_over_row(part.sum, sum, false, shared);
    } else {
      // Float over at most kPacks packs: sums of a long constant row would drift otherwise.
      double total[5] = {};
      each_batch([&](Index begin) {
        if (softmax) {
          load_again(begin);
        } else {
          load_both(begin);
          keep(begin);
        }
        add_batch(begin);
#pragma unroll
        for (int i = 0; i < 5; ++i) total[i] += double(part.sum[i]);
        part = {};
      });
#pragma unroll
      for (int i = 0; i < 5; ++i) total[i] += double(part.sum[i]);
      sum_over_row(total, sum, false, shared);
    }
    if (computes_result) {
      const RowSums sums = {sum[0], sum[1], sum[2], sum[3], sum[4], z_at, label(s_at_stored)};
      const InverseNorm s_norm = inverse_norm(sums.ss, kNormalizeEps);
      const RowProducts products = row_products(sums, s_norm, options.hard_label, options.gamma);
      const Row k = finish_row(sums, s_norm, products);
      result = result_of<A>(sums, s_norm, k, row, options, kAllLanes);
      result.again = any_label<labels>(!good_enough<A>(sums, products, k), kAllLanes);
    }
    // By way of shared memory, also inside a warp: not all of it is needed in registers at once.
    if (row_is_one_warp()) __syncwarp();  // the last row's has been read
    if (threadIdx.x == 0) shared.result[threadIdx.y] = result;
    if (row_is_one_warp())
      __syncwarp();
    else
      __syncthreads();
  }
  const RowResult<A, labels>& result = shared.result[threadIdx.y];
  if (result.again) return result;

  // k: the gradient's values at the targets; gradient(z_j, s_j): elsewhere.
  const auto write = [&](auto* gradient_row, const Linear<A, labels>& k, const auto& gradient) {
    Pack<std::remove_pointer_t<decltype(gradient_row)>, kChunk, kChunks> out;
    each_batch([&](Index begin) {
      load_again(begin);
#pragma unroll
      for (int i = 0; i < kPacks; ++i) {
        if (!exists(begin, i)) break;
#pragma unroll
        for (int c = 0; c < kChunks; ++c) {
          A a[kChunk], b[kChunk];
          z[i].widen_chunk(c, a);
          s[i].widen_chunk(c, b);
#pragma unroll
          for (int e = 0; e < kChunk; ++e) a[e] = gradient(a[e], label(b[e]));
#pragma unroll
          for (int l = 0; l < labels; ++l) {
            const Index target = Index(row.targets.at[l]) - chunk_begin(begin, i, c);
            // Without a branch where lanes swap next, for which they have to be together.
            if (kChunks > 1 || (target >= 0 && target < kChunk)) {
#pragma unroll
              for (int e = 0; e < kChunk; ++e) a[e] = e == target ? k.at_target[l] : a[e];
            }
          }
          out.narrow_chunk(c, a);
        }
        out.store(gradient_row + cut.head, begin + i * threads, cut.packs);
      }
    });
  };
  const auto z_gradient = [&](A a, A b) {
    return b * result.z.other + (a * result.z.own + result.z.all);
  };
  const auto s_gradient = [&](A a, A b) {
    const A x = a * result.s.other + (b * result.s.own + result.s.all);
    return softmax ? x * (b * inverse) : x;
  };
  if (row.dz != nullptr) write(row.dz, result.z, z_gradient);
  if (row.ds != nullptr) write(row.ds, result.s, s_gradient);
  // Last, since some lanes go here alone, and above they have to be together.
  if (edge >= 0) {
    if (row.dz != nullptr)
      narrow(value_at(edge, z_gradient(z_edge, s_edge), row.targets, result.z), row.dz[edge]);
    if (row.ds != nullptr)
      narrow(value_at(edge, s_gradient(z_edge, s_edge), row.targets, result.s), row.ds[edge]);
  }
  return result;
}

template <class T>
__device__ __forceinline__ void write_zeros(T* row, int64_t n) {
  constexpr int V = 16 / sizeof(T);
  const Cut<V, int64_t> cut(row, n);
  for (int64_t i = threadIdx.x; i < cut.packs; i += blockDim.x)
    reinterpret_cast<uint4*>(row + cut.head)[i] = make_uint4(0, 0, 0, 0);
  const int64_t edge = cut.edge();
  if (edge >= 0) narrow(0.0, row[edge]);
}

// `parts`: of workspace->valid that count_kernel has written; 0: the losses are not divided.
// `keep`: the row fits into the dynamic shared memory (streamed rows only). `labels`: of a row.
template <class Z, class S, bool can_softmax, bool streamed, int labels>
__global__ void __launch_bounds__(Packing<Z, S>::kMostThreads, 1)
    rows_kernel(const Problem problem, Workspace* workspace, int parts, bool keep) {
  using A = Accumulator<Z, S>;
  __shared__ Shared<A, labels> shared;
  uint4* const kept = keep ? row_memory : nullptr;
  // The kernels in double are not worth two versions.
  const bool softmax =
      can_softmax && (std::is_same_v<A, float> || problem.soft_label_temperature > 0.0);
  const Options options = options_of<labels>(problem, softmax, workspace, parts);

  if (threadIdx.x == 0) shared.losses[threadIdx.y] = 0.0;
  for (int64_t i = blockIdx.x * blockDim.y + threadIdx.y; i < problem.rows;
       i += gridDim.x * blockDim.y) {
    // With two of 64 bits, sm_75 had to spill.
    using Target = std::conditional_t<streamed && labels == 1, int64_t, int>;
    // Streamed rows are long: what their weight takes is nothing, but its registers are wanted.
    const double weight =
        streamed && labels == 2 ? weight_of_rows<labels>(workspace, parts) : options.weight;
    const auto targets = targets_of<labels>(problem, i, weight);
    RowResult<double, labels> result = {};
    if (targets.at[0] == problem.ignore_index) {
      const auto row = row_of<Z, S>(problem, i, Targets<labels, Target>());
      result.z_scale = result.s_scale = 1.0f;
      if (row.dz != nullptr) write_zeros(row.dz, row.n);
      if (row.ds != nullptr) write_zeros(row.ds, row.n);
    } else {
      const auto row = row_of<Z, S>(problem, i, checked_targets<Target>(targets, problem.classes));
      const auto usual = row_in_packs<streamed>(row, options, kept, shared);
      if (usual.again) {
        result = row_in_double(row, options, RowOfBlock{shared});
      } else {
        result.loss = usual.loss;
        result.z_scale = usual.z_scale;
        result.s_scale = usual.s_scale;
      }
    }
    if (threadIdx.x == 0) {
      shared.losses[threadIdx.y] += result.loss;
      write_result<Z, S>(problem, i, result);
    }
  }
  if (problem.total != nullptr) add_up<Loss<Z>, labels>(shared, problem.total, workspace, parts);
}

}  // namespace
}  // namespace gift
