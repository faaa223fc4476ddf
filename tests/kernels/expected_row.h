// One row by the definition, in double, and the four storage types: what the kernels are checked
// against without torch. Written from the definition and the formats, sharing nothing with csrc.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../../csrc/gift_loss.h"

namespace {

using gift::DType;

constexpr DType kTypes[] = {DType::kFloat64, DType::kFloat32, DType::kBFloat16, DType::kFloat16};
constexpr const char* kNames[] = {"float64", "float32", "bfloat16", "float16"};
constexpr size_t kBytes[] = {8, 4, 2, 2};

// The value of x after a round trip through the type, and its bits. Written from the formats'
// definitions, with the C library: 8 and 11 bits of significand, and float16's exponent range.
double rounded(double x, DType type) {
  if (type == DType::kFloat64) return x;
  x = float(x);
  if (type == DType::kFloat32 || x == 0) return x;
  int exponent;
  std::frexp(x, &exponent);
  int digits = type == DType::kBFloat16 ? 8 : 11;
  if (type == DType::kFloat16 && exponent < -13) digits += exponent + 13;  // subnormal
  return std::ldexp(std::nearbyint(std::ldexp(x, digits - exponent)), exponent - digits);
}

void put(void* row, int64_t j, double x, DType type) {
  const double value = rounded(x, type);
  if (type == DType::kFloat64) static_cast<double*>(row)[j] = value;
  if (type == DType::kFloat32) static_cast<float*>(row)[j] = float(value);
  if (type == DType::kBFloat16) {
    const float f = float(value);
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    static_cast<uint16_t*>(row)[j] = uint16_t(bits >> 16);
  }
  if (type == DType::kFloat16) {
    int exponent;
    const double fraction = std::frexp(std::fabs(value), &exponent);
    uint16_t bits = 0;
    if (value != 0) {
      bits = exponent < -13 ? uint16_t(std::ldexp(std::fabs(value), 24))
                            : uint16_t(((exponent + 14) << 10) + int(fraction * 2048) - 1024);
    }
    static_cast<uint16_t*>(row)[j] = uint16_t(bits | (std::signbit(value) ? 0x8000 : 0));
  }
}

double get(const void* row, int64_t j, DType type) {
  if (type == DType::kFloat64) return static_cast<const double*>(row)[j];
  if (type == DType::kFloat32) return static_cast<const float*>(row)[j];
  const uint16_t bits = static_cast<const uint16_t*>(row)[j];
  if (type == DType::kBFloat16) {
    const uint32_t wide = uint32_t(bits) << 16;
    float f;
    std::memcpy(&f, &wide, 4);
    return f;
  }
  const int exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent == 31) return fraction ? NAN : (bits & 0x8000 ? -INFINITY : INFINITY);
  const double magnitude =
      exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
  return bits & 0x8000 ? -magnitude : magnitude;
}

struct Expected {
  double loss, part_z, part_s;  // the largest term of a gradient before terms cancel
  std::vector<double> dz, ds;
};

// The loss and its gradients by the chain rule, one step at a time; sums in long double, since the
// kernel's own, in several lanes, are better than one after the other in double.
Expected expected_of(const std::vector<double>& z, DType zt, const std::vector<double>& scores,
                     DType st, int64_t y, double gamma, double alpha, bool others,
                     double temperature, double weight) {
  const int64_t n = int64_t(z.size());
  std::vector<double> s = scores, h(n), t(n), v(n), ds(n), dz(n);
  if (temperature > 0) {
    double most = -INFINITY;
    long double sum = 0;
    for (double x : s) most = std::max(most, x);
    for (double& x : s) sum += x = std::exp((x - most) / temperature);
    for (double& x : s) x /= double(sum);
  }
  const auto norm = [](const std::vector<double>& x) {
    long double sum = 0;
    for (double e : x) sum += (long double)e * e;
    return double(std::sqrt(sum));
  };
  for (int64_t j = 0; j < n; ++j)
    h[j] = j == y ? (others ? 1 - alpha : 1 - alpha + alpha / n) : alpha / (others ? n - 1 : n);
  const double n_h = norm(h), n_s = std::max(norm(s), 1e-12), n_z = std::max(norm(z), 1e-8);
  for (int64_t j = 0; j < n; ++j) t[j] = gamma * h[j] / n_h + (1 - gamma) * s[j] / n_s;
  const double n_t = std::max(norm(t), 1e-8);
  long double dot = 0, vs = 0;
  for (int64_t j = 0; j < n; ++j) dot += (long double)z[j] * t[j];
  const double c = double(dot) / (n_z * n_t);
  for (int64_t j = 0; j < n; ++j) {
    dz[j] = -weight * (t[j] / (n_z * n_t) - (n_z > 1e-8 ? c * z[j] / (n_z * n_z) : 0));
    v[j] = -weight * (z[j] / (n_z * n_t) - (n_t > 1e-8 ? c * t[j] / (n_t * n_t) : 0));
    vs += (long double)v[j] * s[j];
  }
  for (int64_t j = 0; j < n; ++j)
    ds[j] = (1 - gamma) / n_s * (v[j] - (n_s > 1e-12 ? double(vs) * s[j] / (n_s * n_s) : 0));
  if (temperature > 0) {
    long double mean = 0;
    for (int64_t j = 0; j < n; ++j) mean += (long double)s[j] * ds[j];
    for (int64_t j = 0; j < n; ++j) ds[j] = s[j] / temperature * (ds[j] - double(mean));
  }
  const double steepest = temperature > 0 ? 1 / temperature : 1;
  Expected expected = {1 - c, weight / (n_z * n_t), steepest * weight / (n_s * n_t * n_t), dz, ds};
  // The gradient of a float16 row of zeros is bounded by 2^15 times the weight.
  const auto zero = [](const std::vector<double>& x) {
    return std::all_of(x.begin(), x.end(), [](double e) { return e == 0; });
  };
  const auto shrink = [](std::vector<double>& gradient, double& part, double factor) {
    for (double& x : gradient) x *= factor;
    part *= factor;
  };
  if (zt == DType::kFloat16 && zero(z)) shrink(expected.dz, expected.part_z, 32768 * 1e-8);
  if (st == DType::kFloat16 && zero(scores) && temperature == 0)
    shrink(expected.ds, expected.part_s, 32768 * 1e-12 * n_t);
  return expected;
}

// |got - expected| over what it may be: the rounding of what is stored, relative to the gradient
// itself, and that of the sums, relative to its largest term `part`: terms cancel when z and t are
// nearly parallel, and inside t when the soft label points away from the hard one.
double share_of_bound(const std::vector<double>& got, const std::vector<double>& expected,
                      double stored, double sums, double part) {
  double error = 0, size = 0;
  for (size_t j = 0; j < got.size(); ++j) {
    if (!std::isfinite(got[j])) return INFINITY;
    error += (got[j] - expected[j]) * (got[j] - expected[j]);
    size += expected[j] * expected[j];
  }
  return std::sqrt(error) / (stored * std::sqrt(size) + sums * part);
}

}  // namespace
