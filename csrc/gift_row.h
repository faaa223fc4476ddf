// The mathematics of one row: from its sums to the loss and to the coefficients of its gradients.
//
// Shared by every C++ backend, host and device; a kernel only sums and writes. For a row z of
// logits and s of soft labels, h the unit-norm smoothed label (`on_target` at the target y,
// `elsewhere` on the others) and g = gamma,
//
//   t = g h + (1-g) s / n_s        n_s = max(|s|, kNormalizeEps)
//   c = z.t / (n_z n_t)            n_z = max(|z|, kCosineEps), n_t = max(|t|, kCosineEps)
//   loss = weight * (1 - c)
//
// Since h has two values, the products with it need no pass of their own:
//   z.h = elsewhere * sum z + (on_target - elsewhere) * z_y,      s.h likewise,
//   z.t = g z.h + (1-g) z.s / n_s
//   |t|^2 = g^2 + (1-g)^2 |s|^2 / n_s^2 + 2 g (1-g) s.h / n_s
// and both gradients are linear in z and s:
//   dloss/dz_j = p s_j + q z_j + r + e [j = y]
//   dloss/ds_j = p z_j + q' s_j + r' + e' [j = y]
//
// All of it is in double: 1 / (n_s n_t)^2 overflows in float.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define GIFT_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define GIFT_HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace gift {

// The thresholds of every backend; gift_fast/loss/thresholds.py has them for Python, and
// tests/kernels/test_thresholds.py compares the two files.

// The lower bounds of the norms: torch.nn.functional.cosine_similarity's and .normalize's.
constexpr double kCosineEps = 1e-8;
constexpr double kNormalizeEps = 1e-12;

// Below this |t|^2 the closed form has lost half of float's digits to cancellation (s points away
// from h): the caller sums z.t and |t|^2 once more, element by element.
constexpr double kCancellation = 1e-2;

// Float has room for a product of three and digits to spare while |z| and |s| lie between the
// inverses of these: the caller computes other rows in double.
constexpr double kSmallestInverseNorm = 1e-12;
constexpr double kLargestInverseNorm = 1e12;

// 1/T is at most this, finite in float: a softmax weight of 0 times infinity would be NaN.
constexpr double kLargestInverseTemperature = 3e38;

// A row of a float16 gradient is stored below 2 to this power, inside float16's range. The factor
// that brings it there is at most 2^kHalfMaxShift and at least its inverse: normal in float32.
constexpr int kHalfExponent = 14;
constexpr int kHalfMaxShift = 120;
constexpr double kHalfLargest = 1e300;  // a bound that is not smaller gets the factor 1

// The gradient of a row of zeros is as large as the bounds of the norms are small: 1e8 and more,
// which is infinite in float16. A float16 row of zeros has a gradient of this norm at most, times
// its weight. No other float16 row is at the bounds: the smallest number is 6e-8.
constexpr double kZeroRowGradient = 32768.0;

// Probabilities may sum to 1 plus this and the epsilon of their type: those of a softmax over many
// classes in float do, and so do probabilities that are rounded to fewer bits.
constexpr double kMassRounding = 1e-4;

// The smoothed one-hot label, scaled to unit norm.
struct SmoothedLabel {
  double on_target;
  double elsewhere;
};

// reference.py's smoothed_label_values: "uniform" spreads alpha over all classes, "others" over the
// wrong ones.
inline SmoothedLabel smoothed_label(double classes, double alpha, bool others) {
  const double b = others ? alpha / (classes - 1.0) : alpha / classes;
  const double a = others ? 1.0 - alpha : 1.0 - alpha + b;
  const double norm = std::sqrt(a * a + (classes - 1.0) * b * b);
  return {a / norm, b / norm};
}

struct RowSums {
  double z, s;        // sum z, sum s
  double zz, ss, zs;  // |z|^2, |s|^2, z.s
  double z_at, s_at;  // z_y, s_y
};

// How t is put together: t_j = base + scale * s_j, and `on_target` more at the target.
struct RefinedLabel {
  double scale, base, on_target;
};

struct RowProducts {
  double zt, tt;  // z.t, |t|^2
};

// A row of the gradient: s_j * other + own * z_j + all + target [j = y] for the logits (other = p,
// own = q, all = r, target = e); with z and s exchanged for the soft labels.
struct GradientCoefficients {
  double other, own, all, target;
};

// 1 / max(sqrt(square), eps). `bounded`: the norm is the bound itself, a constant without gradient.
struct InverseNorm {
  double value;
  bool bounded;
};

GIFT_HOST_DEVICE InverseNorm inverse_norm(double square, double eps) {
  const bool bounded = square < eps * eps;
  return {1.0 / (bounded ? eps : sqrt(square)), bounded};
}

GIFT_HOST_DEVICE bool is_ordinary(InverseNorm norm) {
  return norm.value >= kSmallestInverseNorm && norm.value <= kLargestInverseNorm;
}

// 1/T, finite in A, which a softmax is computed in.
template <class A>
GIFT_HOST_DEVICE double inverse_temperature(double temperature) {
  return fmin(1.0 / temperature, sizeof(A) < sizeof(double) ? kLargestInverseTemperature : 1e308);
}

GIFT_HOST_DEVICE double dot_with_hard_label(double sum, double at_target, SmoothedLabel h) {
  return h.elsewhere * sum + (h.on_target - h.elsewhere) * at_target;
}

GIFT_HOST_DEVICE RefinedLabel refined_label(InverseNorm s, SmoothedLabel h, double gamma) {
  return {(1.0 - gamma) * s.value, gamma * h.elsewhere, gamma * (h.on_target - h.elsewhere)};
}

GIFT_HOST_DEVICE RowProducts row_products(const RowSums& sums, InverseNorm s, SmoothedLabel h,
                                          double gamma) {
  const double zh = dot_with_hard_label(sums.z, sums.z_at, h);
  const double sh = dot_with_hard_label(sums.s, sums.s_at, h);
  const double soft = (1.0 - gamma) * s.value;
  return {gamma * zh + soft * sums.zs, gamma * gamma + soft * (soft * sums.ss + 2.0 * gamma * sh)};
}

// What the loss and both gradients need of a row once its products are known.
struct Row {
  InverseNorm z, s, t;
  double cosine;
};

GIFT_HOST_DEVICE Row finish_row(const RowSums& sums, InverseNorm s, const RowProducts& products) {
  const InverseNorm z = inverse_norm(sums.zz, kCosineEps);
  const InverseNorm t = inverse_norm(products.tt, kCosineEps);
  return {z, s, t, products.zt * z.value * t.value};
}

GIFT_HOST_DEVICE GradientCoefficients logits_gradient(const Row& row, SmoothedLabel h, double gamma,
                                                      double weight) {
  const double towards_t = -weight * row.z.value * row.t.value;
  return {towards_t * (1.0 - gamma) * row.s.value,
          row.z.bounded ? 0.0 : weight * row.cosine * row.z.value * row.z.value,
          towards_t * gamma * h.elsewhere, towards_t * gamma * (h.on_target - h.elsewhere)};
}

// dloss/dt = -along_z z + along_t t, then through t = g h + (1-g) s / n_s.
GIFT_HOST_DEVICE GradientCoefficients soft_labels_gradient(const RowSums& sums, const Row& row,
                                                           SmoothedLabel h, double gamma,
                                                           double weight) {
  const double dt_ds = (1.0 - gamma) * row.s.value;
  const double along_z = weight * row.z.value * row.t.value;
  const double along_t = row.t.bounded ? 0.0 : weight * row.cosine * row.t.value * row.t.value;
  const double sh = dot_with_hard_label(sums.s, sums.s_at, h);
  // Along s itself. Unbounded, t's own share of s and the one from dn_s/ds cancel exactly.
  const double own = row.s.bounded
                         ? along_t * dt_ds
                         : (along_z * sums.zs - along_t * gamma * sh) * row.s.value * row.s.value;
  return {-dt_ds * along_z, dt_ds * own, dt_ds * along_t * gamma * h.elsewhere,
          dt_ds * along_t * gamma * (h.on_target - h.elsewhere)};
}

// The power of two that a row of a float16 gradient is stored with, from a bound of its largest
// element. The row keeps 28 binary orders below 2^kHalfExponent.
GIFT_HOST_DEVICE double half_gradient_factor(double largest) {
  if (!(largest > 0.0) || !(largest < kHalfLargest)) return 1.0;
  // frexp and ldexp by hand, which on a GPU cost registers that the row needs: largest <
  // 2^exponent. A subnormal's exponent comes out wrong, and so far down that it makes no
  // difference.
  uint64_t bits;
  memcpy(&bits, &largest, sizeof(bits));
  const int exponent = int(bits >> 52) - 1022;
  const int shift = kHalfExponent - exponent;
  const int most = kHalfMaxShift;
  bits = uint64_t(1023 + (shift > most ? most : (shift < -most ? -most : shift))) << 52;
  memcpy(&largest, &bits, sizeof(bits));
  return largest;
}

// By its exponent alone: a division in double costs registers that a GPU's kernels would spill.
// `power` is a power of two between 2^-1022 and 2^1022.
GIFT_HOST_DEVICE double inverse_of_power_of_two(double power) {
  uint64_t bits;
  memcpy(&bits, &power, sizeof(bits));
  bits = (uint64_t(2 * 1023) << 52) - bits;
  memcpy(&power, &bits, sizeof(bits));
  return power;
}

// What undoes `scale`, the power of two of a row, and bounds the gradient of a row of zeros.
GIFT_HOST_DEVICE float half_logits_unit(const Row& row, double scale) {
  const float bound = row.z.bounded ? float(kZeroRowGradient * kCosineEps) : 1.0f;
  return bound * float(inverse_of_power_of_two(scale));
}
GIFT_HOST_DEVICE float half_soft_labels_unit(const Row& row, double scale) {
  const float bound =
      row.s.bounded ? float(kZeroRowGradient * kNormalizeEps) / float(row.t.value) : 1.0f;
  return bound * float(inverse_of_power_of_two(scale));
}

}  // namespace gift
