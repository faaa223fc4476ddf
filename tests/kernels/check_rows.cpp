// Runs the row kernels of one instruction set without torch, against the definition in double.
//
// For what pytest cannot do from Python: AddressSanitizer and UBSan on the kernel itself, with
// every row ending where its allocation ends, and arm64 under an emulator. Prints the worst error
// of each combination of types; the exit status says whether all are within their bounds.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <random>
#include <vector>

#include "../../csrc/cpu/rows.h"
#include "expected_row.h"

using gift::Problem;

#ifndef GIFT_CHECKED_ROWS
#define GIFT_CHECKED_ROWS gift::kRowsDefault
#endif

// Top-k labels of all types, against the dense row that they stand for.
bool top_k_rows_are_right() {
  std::mt19937 random(0);
  std::normal_distribution<double> normal;
  using gift::IndexType;
  constexpr size_t kIndexBytes[] = {8, 4, 2};
  bool good = true;
  int variant = 0;
  for (const DType zt : kTypes) {
    for (const DType vt : kTypes) {
      const double sums = zt == DType::kFloat64 ? 1e-14 : 1e-6;
      const double stored[] = {0, 1e-7, 4e-3, 5e-4};
      double worst_loss = 0, worst_z = 0;
      for (const int64_t n : {1, 2, 5, 16, 33, 100, 1001, 8200}) {
        for (const int64_t k : {int64_t(1), (n + 3) / 4, n - 1, n}) {
          if (k < 1) continue;
          ++variant;
          const DType ut = kTypes[variant % 4];
          const IndexType it = IndexType(variant % 3);
          // What is missing to 1 is a small difference of long sums.
          const bool softmax = variant & 2, uniform = !softmax && variant & 8 && k < 1000;
          const double temperature = softmax ? 1.5 : 0, weight = 1.0 / 1024;
          const double gamma = 0.3, alpha = 0.2;

          // Exactly as long as the row; every kept class once, in any order.
          const size_t z_bytes = size_t(n) * kBytes[int(zt)], v_bytes = size_t(k) * kBytes[int(vt)];
          std::unique_ptr<char[]> z(new char[z_bytes]), dz(new char[z_bytes]);
          std::unique_ptr<char[]> v(new char[v_bytes]), u(new char[kBytes[int(ut)]]);
          std::unique_ptr<char[]> indices(new char[size_t(k) * kIndexBytes[int(it)]]);
          std::vector<int64_t> classes(n);
          for (int64_t j = 0; j < n; ++j) classes[j] = j;
          std::shuffle(classes.begin(), classes.end(), random);
          const int64_t y = classes[variant & 16 ? 0 : n - 1];  // kept, or not
          std::vector<double> z_values(n), dense(n);
          for (int64_t j = 0; j < n; ++j) {
            put(z.get(), j, 3 * normal(random), zt);
            z_values[j] = get(z.get(), j, zt);
          }
          put(u.get(), 0, normal(random), ut);
          double rest = get(u.get(), 0, ut), mass = 0;
          for (int64_t i = 0; i < k; ++i) {
            put(v.get(), i, uniform ? 0.9 / double(k) : 2 * normal(random), vt);
            mass += get(v.get(), i, vt);
          }
          if (uniform) rest = n > k ? (1 - mass) / double(n - k) : 0;
          for (double& x : dense) x = rest;
          for (int64_t i = 0; i < k; ++i) {
            dense[classes[i]] = get(v.get(), i, vt);
            if (it == IndexType::kInt64) reinterpret_cast<int64_t*>(indices.get())[i] = classes[i];
            if (it == IndexType::kInt32)
              reinterpret_cast<int32_t*>(indices.get())[i] = int32_t(classes[i]);
            if (it == IndexType::kInt16)
              reinterpret_cast<int16_t*>(indices.get())[i] = int16_t(classes[i]);
          }
          double loss = 0;
          float z_scale = 1;
          gift::TopKProblem problem = {};
          Problem& call = problem.call;
          call.rows = call.rows_per_group = 1;
          call.classes = n;
          call.logits = z.get();
          call.logits_type = zt;
          call.target = &y;
          call.target_is_int64 = true;
          call.hard_label = gift::smoothed_label(double(n), alpha, false);
          call.gamma = gamma;
          call.soft_label_temperature = temperature;
          call.ignore_index = -100;
          call.row_losses = &loss;
          call.logits_grad = dz.get();
          call.logits_grad_scale = &z_scale;
          call.stream = variant & 4;
          problem.labels.kept = k;
          problem.labels.values = v.get();
          problem.labels.values_type = vt;
          problem.labels.indices = indices.get();
          problem.labels.indices_type = it;
          problem.labels.rest = uniform ? nullptr : u.get();
          problem.labels.rest_type = ut;
          const gift::RowsResult result =
              GIFT_CHECKED_ROWS.top_k[int(zt)](problem, {weight, weight}, 0, 1);

          const Expected expected = expected_of(z_values, zt, dense, DType::kFloat64, y, gamma,
                                                alpha, false, temperature, weight);
          std::vector<double> got(n);
          for (int64_t j = 0; j < n; ++j)
            got[j] = get(dz.get(), j, zt) * (zt == DType::kFloat16 ? z_scale : 1);
          worst_loss = std::max(worst_loss, std::fabs(result.loss.target - expected.loss));
          worst_z = std::max(
              worst_z, share_of_bound(got, expected.dz, stored[int(zt)], sums, expected.part_z));
        }
      }
      const bool ok = worst_loss < sums && worst_z < 1;
      good = good && ok;
      std::printf("%-8s top-k %-8s loss %.1e of %.0e, gradient %.2f of its bound: %s\n",
                  kNames[int(zt)], kNames[int(vt)], worst_loss, sums, worst_z,
                  ok ? "ok" : "TOO LARGE");
    }
  }
  return good;
}

int main() {
  std::mt19937 random(0);
  std::normal_distribution<double> normal;
  bool good = top_k_rows_are_right();
  const int64_t widths[] = {1,  2,  3,  4,  5,  7,   8,    9,    15,  16,
                            17, 31, 33, 63, 65, 100, 1001, 4097, 8200};
  for (const DType zt : kTypes) {
    for (const DType st : kTypes) {
      const double sums = zt == DType::kFloat64 ? 1e-14 : 1e-6;
      const double stored[] = {0, 1e-7, 4e-3, 5e-4};  // half a unit in the last place
      double worst_loss = 0, worst_z = 0, worst_s = 0;
      for (const int64_t n : widths) {
        for (int variant = 0; variant < 10; ++variant) {
          const bool others = variant & 1 && n > 1, stream = variant & 4;
          const bool zero_logits = variant == 8, zero_labels = variant == 9;
          const double temperature = variant & 2 ? 1.5 : 0;
          const int64_t y = std::uniform_int_distribution<int64_t>(0, n - 1)(random);
          const double weight = 1.0 / 1024, gamma = 0.3, alpha = 0.2;

          // Exactly as long as the row: one element past the end is the sanitizer's.
          const size_t z_bytes = size_t(n) * kBytes[int(zt)], s_bytes = size_t(n) * kBytes[int(st)];
          std::unique_ptr<char[]> z(new char[z_bytes]), s(new char[s_bytes]);
          std::unique_ptr<char[]> dz(new char[z_bytes]), ds(new char[s_bytes]);
          std::vector<double> z_values(n), s_values(n);
          for (int64_t j = 0; j < n; ++j) {
            put(z.get(), j, zero_logits ? 0 : 3 * normal(random), zt);
            put(s.get(), j, zero_labels ? 0 : 2 * normal(random), st);
            z_values[j] = get(z.get(), j, zt);
            s_values[j] = get(s.get(), j, st);
          }
          double loss = 0;
          float z_scale = 1, s_scale = 1;
          Problem problem = {};
          problem.rows = 1;
          problem.rows_per_group = 1;
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
          const gift::RowsResult result = kernel(problem, {weight, weight}, 0, 1);

          const Expected expected =
              expected_of(z_values, zt, s_values, st, y, gamma, alpha, others, temperature, weight);
          std::vector<double> dz_got(n), ds_got(n);
          for (int64_t j = 0; j < n; ++j) {
            dz_got[j] = get(dz.get(), j, zt) * (zt == DType::kFloat16 ? z_scale : 1);
            ds_got[j] = get(ds.get(), j, st) * (st == DType::kFloat16 ? s_scale : 1);
          }
          worst_loss = std::max(worst_loss, std::fabs(result.loss.target - expected.loss));
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
