// Losses and gradients of rows with few classes, several rows to a warp.
//
//   loss[i] = 1 - cos(z_i, t_i), its gradients dz_i and ds_i, and the mean or sum of the losses
//
// Mixed labels as in rows_kernel.
//
// Shapes: z, dz [N, C] of Z; s, ds [N, C] of S, all without gaps between rows; targets, losses and
// float16's scales [N]. A tile is consecutive rows, one stretch of memory. A warp copies its tiles
// of z and s to shared memory, where 1, 2, 4, 8 or 16 lanes take each of the 32, 16, 8, 4 or 2
// rows; the gradients replace the inputs and are copied back.
//
// Traffic of a row in bytes, for elements of Z and S bytes and both gradients: read C (Z + S) and 8
// or 4 of target (and of the other one and w), written C (Z + S), 8 or 4 of loss for reduction
// "none" and 4 of a float16 gradient's scale. A tile shares the 32-byte sectors at its two ends
// with its neighbors.
//
// A tile has as many rows as take at most kTileBytes, of logits and soft labels. So much is long
// beside the shared sectors, and a block's 16 kB leave an SM as many warps as its registers do.
// Every lane computes coefficients, so that a tile takes some 800 instructions beside what its
// elements take (docs/gpu.md): for 32 rows next to nothing, for 2 as many as for a row of a warp's
// own.
#pragma once

#include <algorithm>
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

constexpr int kTileBytes = 4096;
constexpr int kMostLanes = 16;

// `row_bytes` of logits and soft labels; 0: a row is too long. `labels`: of a row, a lane each.
int lanes_of_tile(int64_t row_bytes, int labels) {
  for (int lanes = labels; lanes <= kMostLanes; lanes *= 2)
    if (kWarp / lanes * row_bytes <= kTileBytes) return lanes;
  return 0;
}

// Shared memory for `elements` of T, wherever they begin in a vector of 16 bytes.
template <class T>
GIFT_HOST_DEVICE int tile_vectors(int elements) {
  return (elements * int(sizeof(T)) + 15) / 16 + 1;
}

template <class T>
struct Tile {
  static constexpr int V = 16 / sizeof(T);
  // Vectors that a lane loads at a time: all that a tile of two types of one size has for it.
  static constexpr int kBatch = 4;
  uint4* vectors;  // in shared memory: as they lie in the matrix, at its own 16-byte boundaries
  const T* first;  // [n] in the matrix
  int n, past;     // the tile begins so many elements into the first vector
  int begin, end;  // of the vectors, those that reach beyond neither end of the matrix

  // `before` and `behind`: the elements of the matrix up to the tile, and from its begin on.
  __device__ __forceinline__ Tile(uint4* vectors_, const T* first_, int n_, int64_t before,
                                  int64_t behind)
      : vectors(vectors_), first(first_), n(n_), past(past_boundary(first_) / int(sizeof(T))) {
    const int count = (past + n + V - 1) / V;
    begin = before < past ? 1 : 0;
    end = count * V - past > behind ? count - 1 : count;
  }

  __device__ __forceinline__ T* element(int i) const {
    return reinterpret_cast<T*>(vectors) + past + i;
  }

  // All of a batch's loads are on their way before the first is waited for.
  __device__ __forceinline__ void fetch(int at, uint4 (&held)[kBatch]) const {
    const auto* const matrix = reinterpret_cast<const uint4*>(first - past);
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int v = at + i * kWarp;
      held[i] = v >= begin && v < end ? matrix[v] : make_uint4(0, 0, 0, 0);
    }
  }
  __device__ __forceinline__ void put(int at, const uint4 (&held)[kBatch]) const {
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int v = at + i * kWarp;
      if (v >= begin && v < end) vectors[v] = held[i];
    }
  }
  // The vectors that reach beyond the matrix, an element a lane and zeros outside of the tile.
  __device__ __forceinline__ void copy_ends() const {
    const int v = lane() < kWarp / 2 ? 0 : (past + n - 1) / V;
    const int i = v * V + lane() % (kWarp / 2) - past;
    if ((v >= begin && v < end) || i >= v * V + V - past) return;
    if (i >= 0 && i < n) {
      *element(i) = first[i];
    } else {
      narrow(0.0, *element(i));
    }
  }

  // The tile's gradient, whose rows may begin at another place in a vector than the input's.
  __device__ __forceinline__ void store(T* to) const {
    const Cut<V, int> cut(to, n);
    const int shift = past + cut.head, skipped = shift / V, bytes = shift % V * int(sizeof(T));
#pragma unroll 1
    for (int v = lane(); v < cut.packs; v += kWarp) {
      uint4 vector = vectors[skipped + v];
      if (bytes != 0) vector = realigned(vector, vectors[skipped + v + 1], bytes);
      reinterpret_cast<uint4*>(to + cut.head)[v] = vector;
    }
    const int edge = cut.edge();
    if (edge >= 0) to[edge] = *element(edge);
  }
};

// A row in shared memory, gradients in place of the inputs. All lanes of a warp call it together.
// `valid`: this lane has a row, and it is not ignored. `skew`: the element that the row's first
// lane begins with.
template <class Z, class S, int labels, class T>
__device__ __forceinline__ RowResult<double, labels> row_of_lanes(
    const RowMemory<Z, S, labels, T>& row, bool valid, int lanes, int skew,
    const Options& options) {
  using A = Accumulator<Z, S>;
  constexpr int kBatch = std::is_same_v<A, float> ? 4 : 2;
  const bool softmax = options.softmax;
  const int n = valid ? int(row.n) : 0;
  const RowOfLanes own = {lanes, kAllLanes};

  A largest = -INFINITY, inverse = 1;
  const auto label = [&](A x) { return softmax ? exp_of((x - largest) * inverse) : x; };
  // body(j, z_j, s_j), of this lane's share of the row: kBatch loads of either before the first is
  // waited for, and what is left one by one.
  const auto few = [&](auto count, int at, const auto& body) {
    constexpr int kCount = decltype(count)::value;
    int j[kCount];
    A z[kCount], s[kCount];
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      j[i] = at + i * lanes + skew;
      if (j[i] >= n) j[i] -= n;
      z[i] = A(widen(row.z[j[i]]));
      s[i] = A(widen(row.s[j[i]]));
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) body(j[i], z[i], s[i]);
  };
  const auto each = [&](const auto& body) {
    int at = own.first();
#pragma unroll 1
    for (; at + (kBatch - 1) * lanes < n; at += kBatch * lanes)
      few(std::integral_constant<int, kBatch>(), at, body);
#pragma unroll 1
    for (; at < n; at += lanes) few(std::integral_constant<int, 1>(), at, body);
  };

  if (softmax) {
    inverse = A(inverse_temperature<A>(options.temperature));
    each([&](int, A, A s) { largest = larger(largest, s); });
    largest = own.largest(largest);
  }
  Sums<A> part;
  each([&](int, A z, A s) { part.add(z, label(s)); });
  const A z_at = A(widen(row.z[row.targets.own()]));
  const A s_at = label(A(widen(row.s[row.targets.own()])));
  double sum[5];
  own.sum(part.sum, sum);
  const RowSums sums = {sum[0], sum[1], sum[2], sum[3], sum[4], z_at, s_at};
  const InverseNorm s_norm = inverse_norm(sums.ss, kNormalizeEps);
  const RowProducts products = row_products(sums, s_norm, options.hard_label, options.gamma);
  const Row k = finish_row(sums, s_norm, products);
  own.all_have_read();
  if (!valid) return {};
  const unsigned of_row = ((1u << lanes) - 1) << (lane() - own.first());
  if (any_label<labels>(!good_enough<A>(sums, products, k), of_row))
    return row_in_double(row, options, RowOfLanes{lanes, of_row});
  const RowResult<A, labels> result = result_of<A>(sums, s_norm, k, row, options, of_row);
  each([&](int j, A z, A stored) {
    const A s = label(stored);
    if (row.dz != nullptr) {
      const A x = s * result.z.other + (z * result.z.own + result.z.all);
      narrow(value_at(j, x, row.targets, result.z), row.dz[j]);
    }
    if (row.ds != nullptr) {
      A x = z * result.s.other + (s * result.s.own + result.s.all);
      if (softmax) x *= s * inverse;
      narrow(value_at(j, x, row.targets, result.s), row.ds[j]);
    }
  });
  RowResult<double, labels> usual = {};
  usual.loss = result.loss;
  usual.z_scale = result.z_scale;
  usual.s_scale = result.s_scale;
  return usual;
}

// `parts`, `labels`: as in rows_kernel. `lanes`: that a row has.
template <class Z, class S, int labels>
__global__ void __launch_bounds__(kOwnWarps* kWarp, 4)  // so that 128 registers are the most
    tiles_kernel(const Problem problem, Workspace* workspace, int parts, int lanes) {
  __shared__ Exchange shared;
  const int classes = int(problem.classes);
  const int most_rows = kWarp / lanes, own_row = lane() / lanes;
  const int z_vectors = tile_vectors<Z>(most_rows * classes);
  const int s_vectors = tile_vectors<S>(most_rows * classes);
  uint4* const z_memory = row_memory + int(threadIdx.y) * (z_vectors + s_vectors);
  uint4* const s_memory = z_memory + z_vectors;
  // Rows whose first elements lie in one bank would all ask it at once. Each of them begins so many
  // elements further on, and ends with those it has skipped. With a lane a row no two lanes are
  // then at one bank, except for elements of 16 bits at odd addresses; with more the conflicts are
  // fewer.
  constexpr int kNarrower = Packing<Z, S>::kNarrower;
  constexpr int kBanks = 128 / kNarrower, kOneBank = kNarrower < 4 ? 4 / kNarrower : 1;
  const int power_of_two = min(classes & -classes, kBanks);
  const int skew = own_row * power_of_two / kBanks * max(lanes, kOneBank) & (power_of_two - 1);

  const Options options =
      options_of<labels>(problem, problem.soft_label_temperature > 0.0, workspace, parts);
  double loss = 0.0;
  const int64_t step = int64_t(gridDim.x) * kOwnWarps * most_rows;
  for (int64_t i = (int64_t(blockIdx.x) * kOwnWarps + threadIdx.y) * most_rows; i < problem.rows;
       i += step) {
    const int tile_rows = int(min(int64_t(most_rows), problem.rows - i));
    const int n = tile_rows * classes;
    const int64_t before = i * classes, behind = (problem.rows - i) * classes;
    const Tile<Z> z(z_memory, static_cast<const Z*>(problem.logits) + i * problem.logits_stride, n,
                    before, behind);
    const Tile<S> s(s_memory,
                    static_cast<const S*>(problem.soft_labels) + i * problem.soft_labels_stride, n,
                    before, behind);
    const bool has_row = own_row < tile_rows;
    Targets<labels, int64_t> targets = {};
    if (has_row) targets = targets_of<labels>(problem, i + own_row, options.weight);
#pragma unroll 1
    for (int at = lane(); at < max(z.end, s.end); at += Tile<Z>::kBatch * kWarp) {
      uint4 z_held[Tile<Z>::kBatch], s_held[Tile<S>::kBatch];
      z.fetch(at, z_held);
      s.fetch(at, s_held);
      z.put(at, z_held);
      s.put(at, s_held);
    }
    z.copy_ends();
    s.copy_ends();
    const bool is_valid = has_row && targets.at[0] != problem.ignore_index;
    Targets<labels, int> checked = {};
    if (is_valid) checked = checked_targets<int>(targets, classes);
    __syncwarp();

    const int first = has_row ? own_row * classes : 0;
    const RowMemory<Z, S, labels, int> row = {
        z.element(first),
        s.element(first),
        problem.logits_grad != nullptr ? z.element(first) : nullptr,
        problem.soft_labels_grad != nullptr ? s.element(first) : nullptr,
        classes,
        checked};
    RowResult<double, labels> result = row_of_lanes(row, is_valid, lanes, skew, options);
    const int part = lane() & (lanes - 1);
    if (has_row && !is_valid) {
      result.z_scale = result.s_scale = 1.0f;
#pragma unroll 1
      for (int j = part; j < classes; j += lanes) {
        if (row.dz != nullptr) narrow(0.0, row.dz[j]);
        if (row.ds != nullptr) narrow(0.0, row.ds[j]);
      }
    }
    if (has_row && part == 0) {
      loss += result.loss;
      write_result<Z, S>(problem, i + own_row, result);
    }
    __syncwarp();
    if (problem.logits_grad != nullptr) z.store(static_cast<Z*>(problem.logits_grad) + before);
    if (problem.soft_labels_grad != nullptr)
      s.store(static_cast<S*>(problem.soft_labels_grad) + before);
    __syncwarp();  // the next tile goes where this one was
  }
  if (problem.total == nullptr) return;
  loss = sum_of_warp(loss);
  if (lane() == 0) shared.losses[threadIdx.y] = loss;
  add_up<Loss<Z>, labels>(shared, problem.total, workspace, parts);
}

}  // namespace
}  // namespace gift
