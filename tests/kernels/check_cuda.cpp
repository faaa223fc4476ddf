// Runs the CUDA source on the CPU (host_cuda/), against the definition in double.
//
// The launchers choose the kernel as on a device, so the shapes lie around their boundaries. Every
// tensor ends where its allocation ends, for AddressSanitizer. With an argument, a target out of
// range, on which the device's assert has to fire.
#include <cstdio>
#include <memory>
#include <random>
#include <vector>

#include "../../csrc/cuda/gift_loss_cuda.cu"
#include "expected_row.h"

thread_local uint4 gift::row_memory[232448 / 16];

namespace {

struct Case {
  DType zt, st;
  int64_t classes;
  int z_offset, s_offset;  // elements before the first row
  int z_padding;           // elements between rows
  double temperature;
  bool mean, others, opposite;
  bool int32_target;
};

bool check(const Case& c, std::mt19937& random, double& worst) {
  constexpr int64_t rows = 3, ignored = 1;
  std::normal_distribution<double> normal;
  const int64_t n = c.classes, z_stride = n + c.z_padding;
  const size_t z_size = kBytes[int(c.zt)], s_size = kBytes[int(c.st)];
  // malloc: 16-byte aligned, as the offsets assume.
  const auto allocate = [](size_t bytes) {
    std::unique_ptr<char, void (*)(void*)> memory(static_cast<char*>(std::malloc(bytes)),
                                                  std::free);
    std::memset(memory.get(), 0xcb, bytes);
    return memory;
  };
  auto z = allocate(size_t(c.z_offset + (rows - 1) * z_stride + n) * z_size);
  auto s = allocate(size_t(c.s_offset + rows * n) * s_size);
  auto dz = allocate(size_t(rows * n) * z_size), ds = allocate(size_t(rows * n) * s_size);
  char* const z_rows = z.get() + size_t(c.z_offset) * z_size;
  char* const s_rows = s.get() + size_t(c.s_offset) * s_size;
  std::vector<int64_t> target;
  std::vector<int32_t> short_target;
  const double gamma = c.opposite ? 0.5 : 0.3, alpha = 0.2;
  for (int64_t i = 0; i < rows; ++i) {
    target.push_back(i == ignored ? -7 : std::uniform_int_distribution<int64_t>(0, n - 1)(random));
    short_target.push_back(int32_t(target.back()));
    for (int64_t j = 0; j < n; ++j) {
      // `opposite`: the soft label points away from the hard one, and t nearly vanishes.
      const double h = j == target.back() ? 1 - alpha + alpha / double(n) : alpha / double(n);
      put(z_rows, i * z_stride + j, 3 * normal(random), c.zt);
      put(s_rows, i * n + j, c.opposite ? -h * (1 + 1e-3 * normal(random)) : 2 * normal(random),
          c.st);
    }
  }
  std::vector<double> losses(rows, NAN);  // float or double
  std::vector<float> z_scale(rows, NAN), s_scale(rows, NAN);
  auto workspace = std::make_unique<gift::Workspace>();
  std::memset(workspace.get(), 0xcb, sizeof(gift::Workspace));

  gift::Problem problem = {};
  problem.rows = rows;
  problem.classes = n;
  problem.logits = z_rows;
  problem.logits_stride = z_stride;
  problem.logits_type = c.zt;
  problem.soft_labels = s_rows;
  problem.soft_labels_stride = n;
  problem.soft_labels_type = c.st;
  problem.target = c.int32_target ? static_cast<void*>(short_target.data()) : target.data();
  problem.target_stride = 1;
  problem.target_is_int64 = !c.int32_target;
  problem.hard_label = gift::smoothed_label(double(n), alpha, c.others);
  problem.gamma = gamma;
  problem.soft_label_temperature = c.temperature;
  problem.ignore_index = -7;
  problem.mean = c.mean;
  (c.mean ? problem.total : problem.row_losses) = losses.data();
  problem.logits_grad = dz.get();
  problem.soft_labels_grad = ds.get();
  if (c.zt == DType::kFloat16) problem.logits_grad_scale = z_scale.data();
  if (c.st == DType::kFloat16) problem.soft_labels_grad_scale = s_scale.data();
  gift::launch_cuda(problem, c.mean ? workspace.get() : nullptr, nullptr);

  const DType loss_type = c.zt == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
  const double sums = c.zt == DType::kFloat64 ? 1e-13 : 2e-6;
  const double stored[] = {1e-15, 1e-7, 4e-3, 5e-4};
  const double weight = c.mean ? 1.0 / (rows - 1) : 1.0;
  double total = 0, share = 0;
  for (int64_t i = 0; i < rows; ++i) {
    std::vector<double> z_row(n), s_row(n), dz_got(n), ds_got(n);
    for (int64_t j = 0; j < n; ++j) {
      z_row[j] = get(z_rows, i * z_stride + j, c.zt);
      s_row[j] = get(s_rows, i * n + j, c.st);
      dz_got[j] =
          get(dz.get(), i * n + j, c.zt) * (c.zt == DType::kFloat16 ? double(z_scale[i]) : 1);
      ds_got[j] =
          get(ds.get(), i * n + j, c.st) * (c.st == DType::kFloat16 ? double(s_scale[i]) : 1);
    }
    if (i == ignored) {
      for (int64_t j = 0; j < n; ++j)
        if (dz_got[j] != 0 || ds_got[j] != 0) share = INFINITY;
      if (!c.mean && get(losses.data(), i, loss_type) != 0) share = INFINITY;
      continue;
    }
    const Expected expected =
        expected_of(z_row, s_row, target[i], gamma, alpha, c.others, c.temperature, weight);
    total += weight * expected.loss;
    if (!c.mean)
      share =
          std::max(share, std::fabs(get(losses.data(), i, loss_type) - expected.loss) / (4 * sums));
    share = std::max(share,
                     share_of_bound(dz_got, expected.dz, stored[int(c.zt)], sums, expected.part_z));
    share = std::max(share,
                     share_of_bound(ds_got, expected.ds, stored[int(c.st)], sums, expected.part_s));
  }
  if (c.mean)
    share = std::max(share, std::fabs(get(losses.data(), 0, loss_type) - total) / (4 * sums));
  worst = std::max(worst, share);
  if (share < 1) return true;
  std::printf("%s %s C=%lld offsets %d %d padding %d T=%g mean %d others %d opposite %d: %g\n",
              kNames[int(c.zt)], kNames[int(c.st)], (long long)n, c.z_offset, c.s_offset,
              c.z_padding, c.temperature, c.mean, c.others, c.opposite, share);
  return false;
}

}  // namespace

int main(int argc, char**) {
  std::mt19937 random(0);
  if (argc > 1) {
    float z[2] = {1, 2}, s[2] = {1, 2}, loss[1];
    const int64_t target[1] = {2};
    gift::Problem problem = {};
    problem.rows = 1;
    problem.classes = problem.logits_stride = problem.soft_labels_stride = 2;
    problem.logits = z;
    problem.soft_labels = s;
    problem.logits_type = problem.soft_labels_type = DType::kFloat32;
    problem.target = target;
    problem.target_is_int64 = true;
    problem.hard_label = gift::smoothed_label(2, 0.1, false);
    problem.row_losses = loss;
    gift::launch_cuda(problem, nullptr, nullptr);
    return 0;
  }
  bool good = true;
  int cases = 0;
  double worst = 0;
  const auto run = [&](const Case& c) {
    good = check(c, random, worst) && good;
    ++cases;
  };
  const int64_t narrow[] = {1, 2, 3, 7, 8, 9, 17, 31, 33, 100, 129};
  const int64_t around[] = {511, 519, 527, 1000, 1001, 1031, 2049};
  for (const DType zt : kTypes) {
    for (const DType st : kTypes) {
      int i = 0;
      for (const int64_t n : narrow) {
        ++i;
        run({zt, st, n, i % 5, 0, i % 3, i % 2 ? 0 : 1.5, i % 4 > 1, i % 3 == 0 && n > 1, false,
             i % 2 == 0});
      }
      for (const int64_t n : around) {
        ++i;
        run({zt, st, n, i % 2 ? 0 : 3, i % 2 ? 0 : 3, 0, i % 3 ? 0 : 1.5, i % 4 > 1, false, false,
             false});
      }
      run({zt, st, 130, 1, 1, 1, 0, true, false, st != DType::kBFloat16 && st != DType::kFloat16,
           false});
    }
  }
  // Registers of a block, shared memory, streamed: on both sides of each boundary.
  const auto wide = [&](DType zt, DType st, int64_t n, int offset, double temperature) {
    run({zt, st, n, offset, offset, 0, temperature, true, false, false, false});
  };
  const DType f32 = DType::kFloat32, bf16 = DType::kBFloat16, f16 = DType::kFloat16;
  for (const double temperature : {0.0, 1.5}) {
    wide(f32, f32, 8192, 0, temperature);
    wide(f32, f32, 8199, 1, temperature);
    wide(bf16, bf16, 16391, 0, temperature);
    wide(bf16, bf16, 16393, 5, temperature);
    wide(f16, f32, 8200, 3, temperature);
    if (fibers::shared_memory_taken == 0) good = false;  // it was to be kept there
    wide(f32, f32, 12700, 2, temperature);
    if (fibers::shared_memory_taken != 0) good = false;
  }
  wide(f16, f16, 21841, 1, 0);
  wide(bf16, bf16, 50257, 0, 0);
  std::printf("%d cases, %lld launches: at most %.2f of the bound: %s\n", cases,
              (long long)fibers::launches, worst, good ? "ok" : "WRONG");
  return good ? 0 : 1;
}
