// One row: what is asked for, its arithmetic between the sweeps, and its recomputation in double.
//
// A sweep turns a row into RowSums; ../gift_row.h turns these into the loss and the coefficients of
// both gradients; a second sweep writes the gradients. How a row is swept is the kernels' business.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include <cuda_fp16.h>
#include <cuda_runtime.h>

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

// ---- what is asked for -------------------------------------------------------------------------

struct Options {
  SmoothedLabel hard_label;
  double gamma;
  bool softmax;        // of the soft labels; else they are taken as they are
  double temperature;  // of the softmax
  double weight;       // of every row
};

template <class Z, class S>
struct RowMemory {
  const Z* z;  // [C]
  const S* s;  // [C]
  Z* dz;       // [C] or null
  S* ds;       // [C] or null
  int64_t n;   // C
  int64_t target;
};

// `softmax` is a constant in the kernels that are compiled for one of its values. As a question of
// the temperature it was one in none, and result_of()'s quotient took registers from row to row
// that sm_75 had to spill.
__device__ __forceinline__ Options options_of(const Problem& problem, bool softmax,
                                              double divisor) {
  return {problem.hard_label, problem.gamma, softmax, problem.soft_label_temperature,
          1.0 / divisor};
}

__device__ __forceinline__ int64_t target_of(const Problem& problem, int64_t row) {
  const int64_t i = row * problem.target_stride;
  return problem.target_is_int64 ? int64_t(__ldg(static_cast<const long long*>(problem.target) + i))
                                 : int64_t(__ldg(static_cast<const int*>(problem.target) + i));
}

template <class Z, class S>
__device__ __forceinline__ RowMemory<Z, S> row_of(const Problem& problem, int64_t i,
                                                  int64_t target) {
  const int64_t n = problem.classes;
  return {static_cast<const Z*>(problem.logits) + i * problem.logits_stride,
          static_cast<const S*>(problem.soft_labels) + i * problem.soft_labels_stride,
          problem.logits_grad != nullptr ? static_cast<Z*>(problem.logits_grad) + i * n : nullptr,
          problem.soft_labels_grad != nullptr ? static_cast<S*>(problem.soft_labels_grad) + i * n
                                              : nullptr,
          n,
          target};
}

// ---- from the sums to what is written ----------------------------------------------------------

// gift_row.h's coefficients, as the sweep uses them.
template <class A>
struct Linear {
  A other, own, all;
  A at_target;  // the gradient's value there
};

template <class A>
struct RowResult {
  bool again;  // A was not good enough for this row: row_in_double() does it again
  A loss;
  Linear<A> z, s;
  float z_scale, s_scale;  // inverse powers of two of float16 gradients
};

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

// `own_at` and `other_at`: the two arrays' values at the target.
template <class A>
__device__ __forceinline__ Linear<A> linear(const GradientCoefficients& k, double scale,
                                            double other_at, double own_at) {
  const double at_target = other_at * k.other + own_at * k.own + (k.all + k.target);
  return {A(k.other * scale), A(k.own * scale), A(k.all * scale), A(at_target * scale)};
}

// From the sums of a row to all that is written of it.
template <class A, class Z, class S>
__device__ __forceinline__ RowResult<A> result_of(const RowSums& sums, InverseNorm s_norm,
                                                  const Row& k, const RowMemory<Z, S>& row,
                                                  const Options& options) {
  const SmoothedLabel h = options.hard_label;
  const double gamma = options.gamma, weight = options.weight;
  RowResult<A> result = {};
  result.loss = A(1.0 - k.cosine);
  if (row.dz != nullptr) {
    const double scale = kIsHalf<Z> ? half_gradient_factor(weight * k.z.value) : 1.0;
    result.z = linear<A>(logits_gradient(k, h, gamma, weight), scale, sums.s_at, sums.z_at);
    result.z_scale = half_logits_unit(k, scale);
  }
  if (row.ds != nullptr) {
    const double steepest = options.softmax ? 1.0 / options.temperature : 1.0;
    const double bound = steepest * weight * (1.0 - gamma) * k.s.value * k.t.value;
    const double scale = kIsHalf<S> ? half_gradient_factor(bound) : 1.0;
    result.s =
        linear<A>(soft_labels_gradient(sums, k, h, gamma, weight), scale, sums.z_at, sums.s_at);
    if (options.softmax) result.s.at_target *= A(sums.s_at * steepest);
    result.s_scale = half_soft_labels_unit(k, scale);
  }
  return result;
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

// Loss and scales of row i.
template <class Z, class S, class A>
__device__ __forceinline__ void write_result(const Problem& problem, int64_t i,
                                             const RowResult<A>& result) {
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
template <class Z, class S, class Threads>
__device__ __forceinline__ RowResult<double> row_in_double(const RowMemory<Z, S>& row,
                                                           const Options& options,
                                                           const Threads& threads) {
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
  const RowSums sums = {sum[0], sum[1], sum[2], sum[3], sum[4], z_of(row.target), s_of(row.target)};
  const InverseNorm s_norm = inverse_norm(sums.ss, kNormalizeEps);
  RowProducts products = row_products(sums, s_norm, options.hard_label, gamma);
  if (products.tt < kCancellation) {
    // t nearly vanishes. The target last, so that its part of the hard label cannot cancel again.
    const RefinedLabel t = refined_label(s_norm, options.hard_label, gamma);
    double refined_part[2] = {}, refined[2];
#pragma unroll 1
    for (int64_t j = first; j < row.n; j += step) {
      const double x = j == row.target ? 0.0 : s_of(j) * t.scale + t.base;
      refined_part[0] += z_of(j) * x;
      refined_part[1] += x * x;
    }
    threads.sum(refined_part, refined);
    const double x = sums.s_at * t.scale + (t.base + t.on_target);
    products = {refined[0] + sums.z_at * x, refined[1] + x * x};
  }
  const RowResult<double> result =
      result_of<double>(sums, s_norm, finish_row(sums, s_norm, products), row, options);

  threads.all_have_read();
#pragma unroll 1
  for (int64_t j = first; j < row.n; j += step) {
    const double z = z_of(j), s = s_of(j);
    if (row.dz != nullptr) {
      const double x = s * result.z.other + (z * result.z.own + result.z.all);
      narrow(j == row.target ? result.z.at_target : x, row.dz[j]);
    }
    if (row.ds != nullptr) {
      double x = z * result.s.other + (s * result.s.own + result.s.all);
      if (softmax) x *= s * inverse;
      narrow(j == row.target ? result.s.at_target : x, row.ds[j]);
    }
  }
  return result;
}

}  // namespace
}  // namespace gift
