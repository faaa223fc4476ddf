// One row: its options, its arithmetic between the sweeps, and its recomputation in double.
//
// A sweep turns a row into RowSums; ../gift_row.h turns these into the loss and the coefficients of
// both gradients; a second sweep writes the gradients. How a row is swept is the kernels' business.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "launch.h"
#include "packing.cuh"
#include "reductions.cuh"

namespace gift {
namespace {

// What sums and gradients are computed in.
template <class Z, class S>
using Accumulator =
    std::conditional_t<std::is_same_v<Z, double> || std::is_same_v<S, double>, double, float>;

// The type of the losses.
template <class Z>
using Loss = std::conditional_t<std::is_same_v<Z, double>, double, float>;

template <class T>
constexpr bool kIsHalf = std::is_same_v<T, __half>;

// ---- options -----------------------------------------------------------------------------------

struct Options {
  SmoothedLabel hard_label;
  double gamma;
  bool softmax;        // of the soft labels; else they are taken as they are
  double temperature;  // of the softmax
  double weight;       // of every row, under this lane's label
};

// A row has one label, or two where they are mixed. Two share the sums over the row and are
// computed side by side: the first in even lanes, the second in odd ones, which then add up what
// they have. That takes no more registers than one label does; both in every lane had to spill for
// sm_75.
template <int labels>
__device__ __forceinline__ bool is_second_label() {
  return labels == 2 && lane() % 2 == 1;
}
// What the other label's lane has of x. `together`: the lanes of the warp that call it.
template <class T>
__device__ __forceinline__ T of_other_label(T x, unsigned together) {
  return __shfl_xor_sync(together, x, 1);
}
template <int labels>
__device__ __forceinline__ double over_labels(double x, unsigned together) {
  if constexpr (labels == 2) x += of_other_label(x, together);
  return x;
}
template <int labels>
__device__ __forceinline__ bool any_label(bool x, unsigned together) {
  if constexpr (labels == 2) x |= of_other_label(int(x), together) != 0;
  return x;
}

// Of two labels of which one counts, both are that one, and the other's weight is 0. Where none
// counts, they are ignore_index. T: int64_t as they are read, int in rows of no more classes.
template <int labels, class T>
struct Targets {
  T at[labels];
  double weight;  // of the row's loss under this lane's label

  __device__ __forceinline__ T own() const {
    return is_second_label<labels>() ? at[labels - 1] : at[0];
  }
};

template <class Z, class S, int labels, class T>
struct RowMemory {
  const Z* z;  // [C]
  const S* s;  // [C]
  Z* dz;       // [C] or null
  S* ds;       // [C] or null
  int64_t n;   // C
  Targets<labels, T> targets;
};

// The weight of every row in the mean, under this lane's label.
template <int labels>
__device__ __forceinline__ double weight_of_rows(const Workspace* workspace, int parts) {
  return 1.0 / (is_second_label<labels>() ? other_divisor_of(workspace, parts)
                                          : divisor_of(workspace, parts));
}

// `softmax` is a constant in the kernels that are compiled for one of its values. As a question of
// the temperature it was one in none, and result_of()'s quotient took registers from row to row
// that sm_75 had to spill.
template <int labels>
__device__ __forceinline__ Options options_of(const Problem& problem, bool softmax,
                                              const Workspace* workspace, int parts) {
  return {problem.hard_label, problem.gamma, softmax, problem.soft_label_temperature,
          weight_of_rows<labels>(workspace, parts)};
}

// Where a row begins, in elements from the first one on. With a single group, as launch_cuda()
// makes of groups without gaps, that is no division; with several, the rows are numbered in 32
// bits.
__device__ __forceinline__ int64_t offset_of(const Problem& problem, int64_t row, int64_t stride,
                                             int64_t group_stride) {
  if (problem.rows_per_group >= problem.rows) return row * stride;
  const unsigned rows_per_group = unsigned(problem.rows_per_group);
  const unsigned group = unsigned(row) / rows_per_group;
  return group * group_stride + (unsigned(row) - group * rows_per_group) * stride;
}

__device__ __forceinline__ int64_t target_at(const void* targets, bool is_int64, int64_t i) {
  return is_int64 ? int64_t(__ldg(static_cast<const long long*>(targets) + i))
                  : int64_t(__ldg(static_cast<const int*>(targets) + i));
}
__device__ __forceinline__ int64_t target_of(const Problem& problem, int64_t row) {
  return target_at(problem.target, problem.target_is_int64,
                   offset_of(problem, row, problem.target_stride, problem.target_group_stride));
}
__device__ __forceinline__ int64_t other_target_of(const Problem& problem, int64_t row) {
  return target_at(
      problem.other_target, problem.other_target_is_int64,
      offset_of(problem, row, problem.other_target_stride, problem.other_target_group_stride));
}
__device__ __forceinline__ double target_weight_of(const Problem& problem, int64_t row) {
  const int64_t i =
      offset_of(problem, row, problem.target_weight_stride, problem.target_weight_group_stride);
  return problem.target_weight_is_double
             ? __ldg(static_cast<const double*>(problem.target_weight) + i)
             : double(__ldg(static_cast<const float*>(problem.target_weight) + i));
}

// `weight`: that of every row.
template <int labels>
__device__ __forceinline__ Targets<labels, int64_t> targets_of(const Problem& problem, int64_t row,
                                                               double weight) {
  Targets<labels, int64_t> targets = {{target_of(problem, row)}, weight};
  if constexpr (labels == 2) {
    const int64_t other = other_target_of(problem, row);
    const double share = target_weight_of(problem, row);
    const bool counts = targets.at[0] != problem.ignore_index;
    const bool other_counts = other != problem.ignore_index;
    targets.weight *= is_second_label<labels>() ? 1.0 - share : share;
    if (!(is_second_label<labels>() ? other_counts : counts)) targets.weight = 0.0;
    targets.at[1] = other_counts ? other : targets.at[0];
    if (!counts) targets.at[0] = other;
  }
  return targets;
}

// As T, once they are known to be classes.
template <class T, int labels>
__device__ __forceinline__ Targets<labels, T> checked_targets(
    const Targets<labels, int64_t>& targets, int64_t classes) {
  const int64_t target = targets.at[0];
  GIFT_DEVICE_ASSERT(target >= 0 && target < classes);
  Targets<labels, T> checked = {{T(target)}, targets.weight};
  if constexpr (labels == 2) {
    const int64_t other_target = targets.at[1];
    GIFT_DEVICE_ASSERT(other_target >= 0 && other_target < classes);
    checked.at[1] = T(other_target);
  }
  return checked;
}

template <class Z, class S, int labels, class T>
__device__ __forceinline__ RowMemory<Z, S, labels, T> row_of(const Problem& problem, int64_t i,
                                                             const Targets<labels, T>& targets) {
  const int64_t n = problem.classes;
  return {static_cast<const Z*>(problem.logits) +
              offset_of(problem, i, problem.logits_stride, problem.logits_group_stride),
          static_cast<const S*>(problem.soft_labels) +
              offset_of(problem, i, problem.soft_labels_stride, problem.soft_labels_group_stride),
          problem.logits_grad != nullptr ? static_cast<Z*>(problem.logits_grad) + i * n : nullptr,
          problem.soft_labels_grad != nullptr ? static_cast<S*>(problem.soft_labels_grad) + i * n
                                              : nullptr,
          n,
          targets};
}

// ---- from the sums to what is written ----------------------------------------------------------

template <class A>
struct Sums {
  A sum[5] = {};

  __device__ __forceinline__ void add(A z, A s) {
    sum[0] += z;
    sum[1] += s;
    sum[2] += z * z;
    sum[3] += s * s;
    sum[4] += z * s;
  }
};

// gift_row.h's coefficients, as the sweep uses them: summed over the labels.
template <class A, int labels>
struct Linear {
  A other, own, all;
  A at_target[labels];  // the gradient's values there
};

template <class A, int labels>
struct RowResult {
  bool again;  // A was not good enough for this row: row_in_double() does it again
  A loss;      // for two labels, their sum with their weights
  Linear<A, labels> z, s;
  float z_scale, s_scale;  // inverse powers of two of float16 gradients
};

// `own_at` and `other_at`: the two arrays' values at the target.
template <class A, int labels, class T>
__device__ __forceinline__ Linear<A, labels> linear(GradientCoefficients k, double scale,
                                                    double other_at, double own_at,
                                                    const Targets<labels, T>& targets,
                                                    unsigned together) {
  if constexpr (labels == 2) {
    const double of_other_target = of_other_label(k.target, together);
    k = {over_labels<labels>(k.other, together), over_labels<labels>(k.own, together),
         over_labels<labels>(k.all, together), k.target};
    if (targets.at[0] == targets.at[1]) k.target += of_other_target;
  }
  const double at_target = other_at * k.other + own_at * k.own + (k.all + k.target);
  return {A(k.other * scale), A(k.own * scale), A(k.all * scale), {A(at_target * scale)}};
}

// Of a gradient that has its own lane's value at the target first.
template <class A, int labels>
__device__ __forceinline__ void set_both_targets(Linear<A, labels>& k, unsigned together) {
  if constexpr (labels == 2) {
    const A own = k.at_target[0], other = of_other_label(own, together);
    k.at_target[0] = is_second_label<labels>() ? other : own;
    k.at_target[1] = is_second_label<labels>() ? own : other;
  }
}

// x, or the gradient's value at a target where element j is one.
template <class A, int labels, class T>
__device__ __forceinline__ A value_at(int64_t j, A x, const Targets<labels, T>& targets,
                                      const Linear<A, labels>& k) {
#pragma unroll
  for (int i = 0; i < labels; ++i) x = j == targets.at[i] ? k.at_target[i] : x;
  return x;
}

// Whether the sums are good enough: those of double unless t nearly vanishes, those of float only
// at ordinary norms.
template <class A>
__device__ __forceinline__ bool good_enough(const RowSums& sums, const RowProducts& products,
                                            const Row& row) {
  if (std::is_same_v<A, double>) return !(products.tt < kCancellation);
  return products.tt >= kCancellation && isfinite(sums.zs) && is_ordinary(row.z) &&
         is_ordinary(row.s);
}

// From the sums of a row to all that is written of it. `together`: the lanes that call it.
template <class A, class Z, class S, int labels, class T>
__device__ __forceinline__ RowResult<A, labels> result_of(const RowSums& sums, InverseNorm s_norm,
                                                          const Row& k,
                                                          const RowMemory<Z, S, labels, T>& row,
                                                          const Options& options,
                                                          unsigned together) {
  const SmoothedLabel h = options.hard_label;
  const double gamma = options.gamma, weight = row.targets.weight;
  const double size = labels == 1 ? weight : fabs(weight);
  RowResult<A, labels> result = {};
  const double loss = 1.0 - k.cosine;
  result.loss = A(labels == 1 ? loss : over_labels<labels>(weight * loss, together));
  // The soft labels first, whose coefficients take more registers: what is ready occupies some.
  if (row.ds != nullptr) {
    const double steepest = options.softmax ? 1.0 / options.temperature : 1.0;
    const double bound =
        over_labels<labels>(steepest * size * (1.0 - gamma) * k.s.value * k.t.value, together);
    const double scale = kIsHalf<S> ? half_gradient_factor(bound) : 1.0;
    result.s = linear<A>(soft_labels_gradient(sums, k, h, gamma, weight), scale, sums.z_at,
                         sums.s_at, row.targets, together);
    if (options.softmax) result.s.at_target[0] *= A(sums.s_at * steepest);
    set_both_targets(result.s, together);
    result.s_scale = half_soft_labels_unit(k, scale);
  }
  if (row.dz != nullptr) {
    const double bound = over_labels<labels>(size * k.z.value, together);
    const double scale = kIsHalf<Z> ? half_gradient_factor(bound) : 1.0;
    result.z = linear<A>(logits_gradient(k, h, gamma, weight), scale, sums.s_at, sums.z_at,
                         row.targets, together);
    set_both_targets(result.z, together);
    result.z_scale = half_logits_unit(k, scale);
  }
  return result;
}

// Loss and scales of row i.
template <class Z, class S, class A, int labels>
__device__ __forceinline__ void write_result(const Problem& problem, int64_t i,
                                             const RowResult<A, labels>& result) {
  if (problem.row_losses != nullptr)
    static_cast<Loss<Z>*>(problem.row_losses)[i] = Loss<Z>(result.loss);
  if (kIsHalf<Z> && problem.logits_grad != nullptr) problem.logits_grad_scale[i] = result.z_scale;
  if (kIsHalf<S> && problem.soft_labels_grad != nullptr)
    problem.soft_labels_grad_scale[i] = result.s_scale;
}

// ---- in double ---------------------------------------------------------------------------------

__device__ __forceinline__ float exp_of(float x) { return expf(x); }
__device__ __forceinline__ double exp_of(double x) { return exp(x); }

// The whole row once more in double, element by element, where the usual result is not good enough.
// Its loops are not unrolled, so that it needs no more registers than the usual rows.
//
// Traffic: reads z and s three times, four times where t nearly vanishes, and s once more with a
// softmax; all but the first time they are likely to be in L1 or L2. Writes the gradients once.
template <class Z, class S, int labels, class T, class Threads>
__device__ __forceinline__ RowResult<double, labels> row_in_double(
    const RowMemory<Z, S, labels, T>& row, const Options& options, const Threads& threads) {
  const bool softmax = options.softmax;
  const double inverse = softmax ? inverse_temperature<double>(options.temperature) : 1.0;
  const double gamma = options.gamma;
  const int64_t first = threads.first(), step = threads.step();

  double largest = -INFINITY;
  if (softmax) {
#pragma unroll 1
    for (int64_t j = first; j < row.n; j += step) largest = fmax(largest, double(widen(row.s[j])));
    largest = threads.largest(largest);
  }
  const auto z_of = [&](int64_t j) { return double(widen(row.z[j])); };
  const auto s_of = [&](int64_t j) {
    const double s = double(widen(row.s[j]));
    return softmax ? exp_of((s - largest) * inverse) : s;
  };

  double part[5] = {}, sum[5];
#pragma unroll 1
  for (int64_t j = first; j < row.n; j += step) {
    const double z = z_of(j), s = s_of(j);
    part[0] += z;
    part[1] += s;
    part[2] += z * z;
    part[3] += s * s;
    part[4] += z * s;
  }
  threads.sum(part, sum);
  const int64_t target = row.targets.own();
  const RowSums sums = {sum[0], sum[1], sum[2], sum[3], sum[4], z_of(target), s_of(target)};
  const InverseNorm s_norm = inverse_norm(sums.ss, kNormalizeEps);
  RowProducts products = row_products(sums, s_norm, options.hard_label, gamma);
  const bool vanishes = products.tt < kCancellation;
  if (any_label<labels>(vanishes, threads.together)) {
    // t nearly vanishes. The target last, so that its part of the hard label cannot cancel again.
    const RefinedLabel t = refined_label(s_norm, options.hard_label, gamma);
    double refined_part[2 * labels] = {}, refined[2 * labels];
#pragma unroll 1
    for (int64_t j = first; j < row.n; j += step) {
#pragma unroll
      for (int i = 0; i < labels; ++i) {
        const double x = j == row.targets.at[i] ? 0.0 : s_of(j) * t.scale + t.base;
        refined_part[2 * i] += z_of(j) * x;
        refined_part[2 * i + 1] += x * x;
      }
    }
    threads.sum(refined_part, refined);
    const bool second = is_second_label<labels>();
    const double zt = second ? refined[2 * labels - 2] : refined[0];
    const double tt = second ? refined[2 * labels - 1] : refined[1];
    const double x = sums.s_at * t.scale + (t.base + t.on_target);
    if (vanishes) products = {zt + sums.z_at * x, tt + x * x};
  }
  const RowResult<double, labels> result = result_of<double>(
      sums, s_norm, finish_row(sums, s_norm, products), row, options, threads.together);

  threads.all_have_read();
#pragma unroll 1
  for (int64_t j = first; j < row.n; j += step) {
    const double z = z_of(j), s = s_of(j);
    if (row.dz != nullptr) {
      const double x = s * result.z.other + (z * result.z.own + result.z.all);
      narrow(value_at(j, x, row.targets, result.z), row.dz[j]);
    }
    if (row.ds != nullptr) {
      double x = z * result.s.other + (s * result.s.own + result.s.all);
      if (softmax) x *= s * inverse;
      narrow(value_at(j, x, row.targets, result.s), row.ds[j]);
    }
  }
  return result;
}

}  // namespace
}  // namespace gift
