// Runs the row kernels of one instruction set without torch, against the definition in double.
//
// For what pytest cannot do from Python: AddressSanitizer and UBSan on the kernel itself, with
// every row ending where its allocation ends, and arm64 under an emulator. Prints the worst error
// of each combination of types; the exit status says whether all are within their bounds.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "../../csrc/cpu/rows.h"

using gift::DType;
using gift::Problem;

#ifndef GIFT_CHECKED_ROWS
#define GIFT_CHECKED_ROWS gift::kRowsDefault
#endif

namespace {

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
Expected expected_of(const std::vector<double>& z, const std::vector<double>& scores, int64_t y,
                     double gamma, double alpha, bool others, double temperature, double weight) {
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
  return {1 - c, weight / (n_z * n_t), steepest * weight / (n_s * n_t * n_t), dz, ds};
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

int main() {
  std::mt19937 random(0);
  std::normal_distribution<double> normal;
  bool good = true;
  const int64_t widths[] = {1,  2,  3,  4,  5,  7,   8,    9,    15,  16,
                            17, 31, 33, 63, 65, 100, 1001, 4097, 8200};
  for (const DType zt : kTypes) {
    for (const DType st : kTypes) {
      const double sums = zt == DType::kFloat64 ? 1e-14 : 1e-6;
      const double stored[] = {0, 1e-7, 4e-3, 5e-4};  // half a unit in the last place
      double worst_loss = 0, worst_z = 0, worst_s = 0;
      for (const int64_t n : widths) {
        for (int variant = 0; variant < 8; ++variant) {
          const bool others = variant & 1 && n > 1, stream = variant & 4;
          const double temperature = variant & 2 ? 1.5 : 0;
          const int64_t y = std::uniform_int_distribution<int64_t>(0, n - 1)(random);
          const double weight = 1.0 / 1024, gamma = 0.3, alpha = 0.2;

          // Exactly as long as the row: one element past the end is the sanitizer's.
          const size_t z_bytes = size_t(n) * kBytes[int(zt)], s_bytes = size_t(n) * kBytes[int(st)];
          std::unique_ptr<char[]> z(new char[z_bytes]), s(new char[s_bytes]);
          std::unique_ptr<char[]> dz(new char[z_bytes]), ds(new char[s_bytes]);
          std::vector<double> z_values(n), s_values(n);
          for (int64_t j = 0; j < n; ++j) {
            put(z.get(), j, 3 * normal(random), zt);
            put(s.get(), j, 2 * normal(random), st);
            z_values[j] = get(z.get(), j, zt);
            s_values[j] = get(s.get(), j, st);
          }
          double loss = 0;
          float z_scale = 1, s_scale = 1;
          Problem problem = {};
          problem.rows = 1;
          problem.classes = n;
          problem.logits = z.get();
          problem.logits_stride = n;
          problem.logits_type = zt;
          problem.soft_labels = s.get();
          problem.soft_labels_stride = n;
          problem.soft_labels_type = st;
          problem.target = &y;
          problem.target_is_int64 = true;
          problem.hard_label = gift::smoothed_label(double(n), alpha, others);
          problem.gamma = gamma;
          problem.soft_label_temperature = temperature;
          problem.ignore_index = -100;
          problem.row_losses = &loss;
          problem.logits_grad = dz.get();
          problem.soft_labels_grad = ds.get();
          problem.logits_grad_scale = &z_scale;
          problem.soft_labels_grad_scale = &s_scale;
          problem.stream = stream;
          const auto kernel = GIFT_CHECKED_ROWS.loss[int(zt)][int(st)];
          const gift::RowsResult result = kernel(problem, weight, 0, 1);

          const Expected expected =
              expected_of(z_values, s_values, y, gamma, alpha, others, temperature, weight);
          std::vector<double> dz_got(n), ds_got(n);
          for (int64_t j = 0; j < n; ++j) {
            dz_got[j] = get(dz.get(), j, zt) * (zt == DType::kFloat16 ? z_scale : 1);
            ds_got[j] = get(ds.get(), j, st) * (st == DType::kFloat16 ? s_scale : 1);
          }
          worst_loss = std::max(worst_loss, std::fabs(result.loss - expected.loss));
          worst_z = std::max(
              worst_z, share_of_bound(dz_got, expected.dz, stored[int(zt)], sums, expected.part_z));
          worst_s = std::max(
              worst_s, share_of_bound(ds_got, expected.ds, stored[int(st)], sums, expected.part_s));
        }
      }
      const bool ok = worst_loss < sums && worst_z < 1 && worst_s < 1;
      good = good && ok;
      std::printf("%-8s %-8s loss %.1e of %.0e, gradients %.2f and %.2f of their bounds: %s\n",
                  kNames[int(zt)], kNames[int(st)], worst_loss, sums, worst_z, worst_s,
                  ok ? "ok" : "TOO LARGE");
    }
  }
  return good ? 0 : 1;
}
