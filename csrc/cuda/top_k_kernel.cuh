// Losses and gradients of rows with top-k labels, one row to a warp or to a block.
//
//   loss[i] = 1 - cos(z_i, t_i), its gradient dz_i, and the mean or sum of the losses
//
// A row of soft labels has `values` v at the k classes `indices`, and `rest` everywhere else. Then
// t has k + 2 different values at most: of the kept classes, of the target where it is not kept,
// and t_rest of all others. |t|^2 needs no sweep and does not cancel, and z.t needs the sum of z
// and the logits at k + 1 classes:
//
//   z.t = sum_i t_i z_i + t_y z_y + t_rest (sum z - sum_i z_i - z_y)
//   dz_j = q z_j - weight t_j / (n_z n_t)
//
// The first sweep has sum z and |z|^2, the second writes q z_j + r; then the row's first warp
// writes k + 1 elements over. That warp also does what is of a row, in double.
//
// Shapes: z, dz [N, C] of Z; v, indices [N, k] of any type; rest, targets, losses and float16's
// scales [N]. Mixed labels, strides and groups as in rows_kernel.
//
// Traffic of a row in bytes, for elements of Z bytes, where the row is held in registers or shared
// memory: read C Z, k times a value and an index, and rest; written C Z. Streamed rows are read
// twice, mostly out of L2 the second time. The logits at k + 1 classes are read once more, and
// their gradients written twice, out of and into L1 and L2. Beside these as in rows_kernel.
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

template <class Z>
using TopKAccumulator = Accumulator<Z, Z>;

// Without soft labels to hold, half as many threads hold as much of a row. In blocks of 256, a
// thread may have 255 registers, which it takes on sm_75; of 512, it spilled there.
template <class Z>
struct TopKPacking : Packing<Z, Z> {
  static constexpr int kMostThreads = kMaxThreads / 2;
  static constexpr int kHeld = 2 * Packing<Z, Z>::kHeld;
  static constexpr int kStreamed = Packing<Z, Z>::kHeld;
};

// What the threads of a row need of it to write the gradient: own z_j + all, and at the kept
// classes and the targets own z_j + towards_t (base + scale s_j), with `at_target` for a target.
template <int labels>
struct TopKResult {
  bool again;  // float was not good enough for this row
  double loss, own, all;
  double towards_t, base, scale, rest;
  double at_target[labels];
  bool is_alone[labels];  // the target is not a kept class
  float z_scale;
};

template <int labels>
struct TopKShared : Exchange {
  TopKResult<labels> result[kOwnWarps];
};

__device__ __forceinline__ double widened_at(const void* values, DType type, int64_t i) {
  switch (type) {
    case DType::kFloat64: return static_cast<const double*>(values)[i];
    case DType::kFloat32: return double(static_cast<const float*>(values)[i]);
    case DType::kBFloat16: return double(widen(static_cast<const __nv_bfloat16*>(values)[i]));
    default: return double(widen(static_cast<const __half*>(values)[i]));
  }
}

__device__ __forceinline__ int64_t index_at(const void* indices, IndexType type, int64_t i) {
  switch (type) {
    case IndexType::kInt64: return static_cast<const int64_t*>(indices)[i];
    case IndexType::kInt32: return static_cast<const int32_t*>(indices)[i];
    default: return static_cast<const int16_t*>(indices)[i];
  }
}

// The soft labels of row i, as the lanes of its first warp have them: each takes every 32nd of the
// kept classes, holds the first of these and reads the others again. T: of an index.
template <class A, class Z, class T>
struct TopKRow {
  struct Kept {
    T index;
    double value;
  };

  const TopKProblem& problem;
  int64_t i;
  const Z* z;  // [C]
  bool softmax;
  A inverse;       // of its temperature
  double largest;  // of its scores
  double rest;     // of the other classes
  Kept own;

  __device__ __forceinline__ double others() const {
    return double(problem.call.classes - problem.labels.kept);
  }
  __device__ __forceinline__ double label(double score) const {
    return softmax ? double(exp_of(A(score - largest) * inverse)) : score;
  }
  __device__ __forceinline__ double score(int64_t e) const {
    const TopKLabels& labels = problem.labels;
    return widened_at(
        labels.values, labels.values_type,
        offset_of(problem.call, i, labels.values_stride, labels.values_group_stride) + e);
  }
  __device__ __forceinline__ T index(int64_t e) const {
    const TopKLabels& labels = problem.labels;
    const int64_t classes = problem.call.classes;
    const int64_t index = index_at(
        labels.indices, labels.indices_type,
        offset_of(problem.call, i, labels.indices_stride, labels.indices_group_stride) + e);
    GIFT_DEVICE_ASSERT(index >= 0 && index < classes);
    return T(index);
  }

  // body(index, v, z) for each of this lane's classes.
  template <class Body>
  __device__ __forceinline__ void each(const Body& body) const {
    Kept kept = own;
#pragma unroll 1
    for (int64_t e = lane(); e < problem.labels.kept;) {
      body(kept.index, kept.value, double(widen(z[kept.index])));
      e += kWarp;
      if (e < problem.labels.kept) kept = {index(e), label(score(e))};
    }
  }

  // All that comes before the sums. `largest_mass`: what probabilities may sum to.
  __device__ __forceinline__ void read(double temperature, double largest_mass) {
    const TopKLabels& labels = problem.labels;
    const bool any = lane() < labels.kept, has_others = labels.kept < problem.call.classes;
    if (any) own = {index(lane()), score(lane())};
    if (labels.rest == nullptr) {
      double sum = any ? own.value : 0.0;
      bool negative = sum < 0.0;  // NaN is not: it stays in its row
#pragma unroll 1
      for (int64_t e = lane() + kWarp; e < labels.kept; e += kWarp) {
        const double value = score(e);
        sum += value;
        negative |= value < 0.0;
      }
      sum = sum_of_warp(sum);
      const bool are_probabilities = !negative && !(sum > largest_mass);
      GIFT_DEVICE_ASSERT(are_probabilities);
      const double missing = 1.0 - sum;
      if (has_others) rest = (missing < 0.0 ? 0.0 : missing) / others();
    } else if (has_others) {
      rest = widened_at(labels.rest, labels.rest_type,
                        offset_of(problem.call, i, labels.rest_stride, labels.rest_group_stride));
      const bool rest_is_finite = softmax || rest != -INFINITY;
      GIFT_DEVICE_ASSERT(rest_is_finite);
    }
    if (!softmax) return;
    inverse = A(inverse_temperature<A>(temperature));
    largest = has_others ? rest : -INFINITY;
    if (any) largest = larger(largest, own.value);
#pragma unroll 1
    for (int64_t e = lane() + kWarp; e < labels.kept; e += kWarp)
      largest = larger(largest, score(e));
    largest = largest_of_warp(largest);
    own.value = label(own.value);
    if (has_others) rest = label(rest);
  }
};

// From the sums of z to the loss and the gradient. For the lanes of a row's first warp, together.
template <class A, class Z, int labels, class T>
__device__ __forceinline__ TopKResult<labels> top_k_result(const TopKRow<A, Z, T>& s, double sum_z,
                                                           double zz,
                                                           const Targets<labels, T>& targets,
                                                           const Options& options) {
  const SmoothedLabel h = options.hard_label;
  double square = 0.0, kept_z = 0.0;
  s.each([&](T, double v, double z) {
    square += v * v;
    kept_z += z;
  });
  square = sum_of_warp(square);
  sum_z -= sum_of_warp(kept_z);
  const double others = s.others();
  if (others > 0.0) square += others * s.rest * s.rest;
  const InverseNorm s_norm = inverse_norm(square, kNormalizeEps);
  const RefinedLabel t = refined_label(s_norm, h, options.gamma);
  const double t_rest = t.base + t.scale * s.rest;

  // z.t and |t|^2 of either label over the kept classes.
  double part[2 * labels] = {};
  int found[labels] = {};
  s.each([&](T index, double v, double z) {
#pragma unroll
    for (int l = 0; l < labels; ++l) {
      const bool is_target = index == targets.at[l];
      const double x = t.base + t.scale * v + (is_target ? t.on_target : 0.0);
      part[2 * l] += x * z;
      part[2 * l + 1] += x * x;
      found[l] |= is_target;
    }
  });
  RowProducts products = {sum_of_warp(part[0]), sum_of_warp(part[1])};
  bool is_alone = sum_of_warp(found[0]) == 0;
  if constexpr (labels == 2) {
    const RowProducts second = {sum_of_warp(part[2]), sum_of_warp(part[3])};
    const bool second_is_alone = sum_of_warp(found[1]) == 0;
    if (is_second_label<labels>()) {
      products = second;
      is_alone = second_is_alone;
    }
  }
  if (others > 0.0) {
    const double z_target = is_alone ? double(widen(s.z[targets.own()])) : 0.0;
    const double t_target = is_alone ? t_rest + t.on_target : 0.0;
    products.zt += t_target * z_target + t_rest * (sum_z - z_target);
    products.tt += t_target * t_target + t_rest * t_rest * (others - (is_alone ? 1.0 : 0.0));
  }

  RowSums sums = {};
  sums.zz = zz;
  const Row k = finish_row(sums, s_norm, products);
  const double weight = targets.weight, loss = 1.0 - k.cosine;
  TopKResult<labels> result = {};
  result.again = any_label<labels>(std::is_same_v<A, float> && !is_ordinary(k.z), kAllLanes);
  result.loss = labels == 1 ? loss : over_labels<labels>(weight * loss, kAllLanes);
  const double size = over_labels<labels>(fabs(weight) * k.z.value, kAllLanes);
  const double factor = kIsHalf<Z> ? half_gradient_factor(size) : 1.0;
  const double along_z = k.z.bounded ? 0.0 : weight * k.cosine * k.z.value * k.z.value * factor;
  const double towards_t = -weight * k.z.value * k.t.value * factor;
  result.own = over_labels<labels>(along_z, kAllLanes);
  result.towards_t = over_labels<labels>(towards_t, kAllLanes);
  result.all = result.towards_t * t_rest;
  result.base = t.base;
  result.scale = t.scale;
  result.rest = s.rest;
  // As lane 0 has them, which stores the result.
  result.at_target[0] = towards_t * t.on_target;
  result.is_alone[0] = is_alone;
  if constexpr (labels == 2) {
    result.at_target[1] = of_other_label(result.at_target[0], kAllLanes);
    result.is_alone[1] = of_other_label(int(is_alone), kAllLanes) != 0;
  }
  result.z_scale = half_logits_unit(k, factor);
  return result;
}

// The elements at the kept classes and at the targets. For the lanes of a row's first warp.
template <class A, class Z, int labels, class T>
__device__ __forceinline__ void write_kept(const TopKRow<A, Z, T>& s,
                                           const TopKResult<labels>& result,
                                           const Targets<labels, T>& targets, Z* dz) {
  const auto write = [&](T j, double v, double z) {
    double x = result.own * z + result.towards_t * (result.base + result.scale * v);
#pragma unroll
    for (int l = 0; l < labels; ++l) x += j == targets.at[l] ? result.at_target[l] : 0.0;
    narrow(x, dz[j]);
  };
  s.each(write);
  if (lane() != 0) return;
#pragma unroll
  for (int l = 0; l < labels; ++l) {
    const T target = targets.at[l];
    if (result.is_alone[l]) write(target, result.rest, double(widen(s.z[target])));
  }
}

// The row, read once and held in registers; `streamed`: read twice, unless `kept`, shared memory
// for all of it, is given.
template <bool streamed, class Z, int labels, class T>
__device__ __forceinline__ const TopKResult<labels>& top_k_row(
    const TopKProblem& problem, int64_t i, const Targets<labels, T>& targets,
    const Options& options, double largest_mass, uint4* kept, TopKShared<labels>& shared) {
  using A = TopKAccumulator<Z>;
  using P = TopKPacking<Z>;
  constexpr int kPacks = streamed ? P::kStreamed : P::kHeld, V = P::kElements;
  using Index = std::conditional_t<streamed, int64_t, int>;  // what is held is short
  const Problem& call = problem.call;
  const TopKLabels& top_k = problem.labels;
  const int64_t n = call.classes;
  const Z* const row = static_cast<const Z*>(call.logits) +
                       offset_of(call, i, call.logits_stride, call.logits_group_stride);
  Z* const dz = call.logits_grad != nullptr ? static_cast<Z*>(call.logits_grad) + i * n : nullptr;
  // Of a few other classes the logits are a small difference of large sums.
  const bool has_others = top_k.kept < n;
  const bool few_others = has_others && n - top_k.kept < top_k.kept;
  const bool is_first_warp = row_is_one_warp() || warp() == 0;

  TopKRow<A, Z, T> s = {problem, i, row, options.softmax, A(1), 0.0, 0.0, {}};

  Cut<V, Index> cut = dz != nullptr ? Cut<V, Index>(dz, n) : Cut<V, Index>(row, n);
  cut.divide(cut.room_for(row));
  const Index edge = cut.edge();
  const int threads = int(blockDim.x);
  const Z* const packs = row + cut.head;
  Pack<Z, V, 1> z[kPacks];
  const auto exists = [&](Index begin, int k) { return begin + k * threads - lane() < cut.packs; };
  const auto load = [&](Index begin) {
#pragma unroll
    for (int k = 0; k < kPacks; ++k)
      if (exists(begin, k)) z[k].load(packs, begin + k * threads, cut.packs);
#pragma unroll
    for (int k = 0; k < kPacks; ++k)
      if (exists(begin, k)) z[k].arrange(packs, begin + k * threads, cut.packs);
  };
  const Index slots = (cut.packs + kWarp - 1) / kWarp * kWarp;
  const auto each_batch = [&](const auto& body) {
    if (!streamed) {
      body(Index(threadIdx.x));
    } else {
      for (Index begin = threadIdx.x; exists(begin, 0); begin += kPacks * threads) body(begin);
    }
  };

  if (!streamed) load(Index(threadIdx.x));
  const A z_edge = edge >= 0 ? A(widen(row[edge])) : A(0);
  if (is_first_warp) s.read(options.temperature, largest_mass);

  A part[2] = {z_edge, z_edge * z_edge};
  double sums[2] = {};
  each_batch([&](Index begin) {
    if (streamed) load(begin);
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      if (!exists(begin, k)) break;
      if (streamed && kept != nullptr) z[k].keep(kept + begin + k * threads, slots);
      A x[V];
      z[k].widen_chunk(0, x);  // zeros beyond the last pack
#pragma unroll
      for (int e = 0; e < V; ++e) {
        part[0] += x[e];
        part[1] += x[e] * x[e];
      }
    }
    // Float over one batch at most: sums of a long constant row would drift otherwise.
    if (streamed) {
      sums[0] += double(part[0]);
      sums[1] += double(part[1]);
      part[0] = part[1] = A(0);
    }
  });
  if (streamed) {
    const double total[2] = {sums[0] + double(part[0]), sums[1] + double(part[1])};
    sum_over_row(total, sums, false, shared);
  } else {
    sum_over_row(part, sums, false, shared);
  }

  // By way of shared memory, also inside a warp.
  TopKResult<labels>& result = shared.result[threadIdx.y];
  const auto compute = [&] {
    TopKResult<labels> computed = {};
    if (is_first_warp) computed = top_k_result(s, sums[0], sums[1], targets, options);
    if (row_is_one_warp()) __syncwarp();  // the last row's has been read
    if (threadIdx.x == 0) result = computed;
    if (row_is_one_warp())
      __syncwarp();
    else
      __syncthreads();
  };
  compute();
  if (std::is_same_v<A, float> && (result.again || few_others)) {
    double sums_in_double[2] = {};
#pragma unroll 1
    for (int64_t j = threadIdx.x; j < n; j += threads) {
      const double x = double(widen(row[j]));
      sums_in_double[0] += x;
      sums_in_double[1] += x * x;
    }
    sum_over_row(sums_in_double, sums, false, shared);
    compute();
    if (dz != nullptr && has_others) {
#pragma unroll 1
      for (int64_t j = threadIdx.x; j < n; j += threads)
        narrow(double(widen(row[j])) * result.own + result.all, dz[j]);
    }
  } else if (dz != nullptr && has_others) {
    const A own = A(result.own), all = A(result.all);
    each_batch([&](Index begin) {
      if (streamed && kept == nullptr) load(begin);
#pragma unroll
      for (int k = 0; k < kPacks; ++k) {
        if (!exists(begin, k)) break;
        if (streamed && kept != nullptr) z[k].get(kept + begin + k * threads, slots);
        A x[V];
        z[k].widen_chunk(0, x);
#pragma unroll
        for (int e = 0; e < V; ++e) x[e] = x[e] * own + all;
        z[k].narrow_chunk(0, x);
        z[k].store(dz + cut.head, begin + k * threads, cut.packs);
      }
    });
    if (edge >= 0) narrow(z_edge * own + all, dz[edge]);
  }
  if (dz != nullptr) {
    // What is written over has to be there.
    if (row_is_one_warp())
      __syncwarp();
    else
      __syncthreads();
    if (is_first_warp) write_kept(s, result, targets, dz);
  }
  return result;
}

// `parts`, `keep`, `labels`: as in rows_kernel.
template <class Z, bool streamed, int labels>
__global__ void __launch_bounds__(TopKPacking<Z>::kMostThreads, 1)
    top_k_kernel(const TopKProblem problem, double largest_mass, Workspace* workspace, int parts,
                 bool keep) {
  __shared__ TopKShared<labels> shared;
  uint4* const kept = keep ? row_memory : nullptr;
  const Problem& call = problem.call;
  const Options options =
      options_of<labels>(call, call.soft_label_temperature > 0.0, workspace, parts);

  if (threadIdx.x == 0) shared.losses[threadIdx.y] = 0.0;
  for (int64_t i = blockIdx.x * blockDim.y + threadIdx.y; i < call.rows;
       i += gridDim.x * blockDim.y) {
    using Target = std::conditional_t<streamed && labels == 1, int64_t, int>;
    const auto targets = targets_of<labels>(call, i, options.weight);
    double loss = 0.0;
    float z_scale = 1.0f;
    if (targets.at[0] == call.ignore_index) {
      if (call.logits_grad != nullptr)
        write_zeros(static_cast<Z*>(call.logits_grad) + i * call.classes, call.classes);
    } else {
      const auto& result =
          top_k_row<streamed, Z>(problem, i, checked_targets<Target>(targets, call.classes),
                                 options, largest_mass, kept, shared);
      loss = result.loss;
      z_scale = result.z_scale;
    }
    if (threadIdx.x == 0) {
      shared.losses[threadIdx.y] += loss;
      if (call.row_losses != nullptr) static_cast<Loss<Z>*>(call.row_losses)[i] = Loss<Z>(loss);
      if (kIsHalf<Z> && call.logits_grad != nullptr) call.logits_grad_scale[i] = z_scale;
    }
  }
  if (call.total != nullptr) add_up<Loss<Z>, labels>(shared, call.total, workspace, parts);
}

}  // namespace
}  // namespace gift
