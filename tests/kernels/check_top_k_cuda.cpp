// Runs the CUDA source for top-k labels on the CPU (host_cuda/), against the definition in double
// of the dense labels.
//
// Shapes lie around the launcher's boundaries, and every tensor ends where its allocation ends, for
// AddressSanitizer. With an argument, a problem on which one of the device's asserts has to fire.
#include <cstdio>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "../../csrc/cuda/launch.cu"
#include "expected_row.h"

thread_local uint4 gift::row_memory[232448 / 16];

namespace {

using gift::IndexType;

constexpr const char* kIndexNames[] = {"int64", "int32", "int16"};

enum class Rest { kNone, kGiven, kMinusInfinity };

struct Case {
  DType zt, vt;
  int64_t classes, kept;
  IndexType it = IndexType::kInt64;
  Rest rest = Rest::kGiven;
  double temperature = 0;
  int64_t rows = 5;
  int z_offset = 0, padding = 0;  // as in check_cuda.cpp; of logits, values and indices alike
  int rows_per_group = 0, group_gap = 0;
  bool mean = true, others = false, mixed = false, grad = true;
  double z_scale = 1;     // of every third row
  bool opposite = false;  // t nearly vanishes in every third row
  double broken = 0;      // NaN or inf, in the first row's logits alone

  int64_t place(int64_t i) const {
    return rows_per_group == 0 ? i : i + i / rows_per_group * group_gap;
  }
};

std::mt19937 generator(0);
double worst = 0;
int cases = 0, wrong = 0;

using Memory = std::unique_ptr<char, void (*)(void*)>;

Memory allocate(size_t bytes) {
  void* memory = nullptr;
  if (posix_memalign(&memory, 16, std::max<size_t>(bytes, 1)) != 0) std::abort();
  std::memset(memory, 0xcb, bytes);
  return Memory(static_cast<char*>(memory), std::free);
}

void put_index(char* to, int64_t i, int64_t index, IndexType type) {
  if (type == IndexType::kInt64) reinterpret_cast<int64_t*>(to)[i] = index;
  if (type == IndexType::kInt32) reinterpret_cast<int32_t*>(to)[i] = int32_t(index);
  if (type == IndexType::kInt16) reinterpret_cast<int16_t*>(to)[i] = int16_t(index);
}

double share_of(const Case& c) {
  std::normal_distribution<double> normal;
  const int64_t n = c.classes, k = c.kept, z_stride = n + c.padding, k_stride = k + c.padding;
  const int64_t last = c.place(c.rows - 1), ignored = c.rows > 2 ? 1 : -1;
  const size_t z_size = kBytes[int(c.zt)], v_size = kBytes[int(c.vt)];
  const size_t i_size = size_t(8) >> int(c.it);
  const Memory z = allocate(size_t(c.z_offset + last * z_stride + n) * z_size);
  const Memory v = allocate(size_t(last * k_stride + k) * v_size);
  const Memory at = allocate(size_t(last * k_stride + k) * i_size);
  const Memory u = allocate(size_t(last + 1) * v_size);
  const Memory dz = allocate(size_t(c.rows * n) * z_size);
  char* const z_rows = z.get() + size_t(c.z_offset) * z_size;
  std::vector<int64_t> target(size_t(last + 1), 1 << 30), other = target;
  std::vector<float> share(size_t(last + 1), NAN);
  std::vector<std::vector<double>> dense(size_t(c.rows));
  const double gamma = c.opposite ? 0.5 : 0.3, alpha = 0.2;
  int64_t valid = 0, other_valid = 0;
  for (int64_t i = 0; i < c.rows; ++i) {
    const int64_t place = c.place(i);
    const bool special = i % 3 == 0;
    std::vector<int64_t> order(static_cast<size_t>(n));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), generator);
    // Kept or not.
    const auto label = [&](int64_t number) { return order[size_t(number % 2 ? 0 : n - 1)]; };
    target[size_t(place)] = i == ignored ? -7 : label(i + k);
    other[size_t(place)] = i == ignored || i % 8 == 2 ? -7 : label(i / 2);
    if (c.mixed && i % 8 == 4) target[size_t(place)] = -7;
    share[size_t(place)] = 0.25f * float(1 + i % 3);
    valid += target[size_t(place)] != -7;
    other_valid += other[size_t(place)] != -7;

    std::vector<double> values(static_cast<size_t>(k));
    double sum = 0, rest = rounded(0.3 * normal(generator), c.vt);
    for (double& x : values)
      x = c.rest == Rest::kNone ? std::fabs(normal(generator)) : 2 * normal(generator);
    if (c.rest == Rest::kNone) {
      const double total = std::accumulate(values.begin(), values.end(), 0.0);
      for (double& x : values) x *= 0.9 / total;
    }
    if (c.opposite && special) {
      // Of the direction of -h, but for the noise.
      const int64_t y = target[size_t(place)];
      rest = rounded(-alpha / double(n), c.vt);
      for (int64_t e = 0; e < k; ++e)
        values[size_t(e)] =
            -(order[size_t(e)] == y ? 1 - alpha + alpha / double(n) : alpha / double(n)) *
            (1 + 1e-2 * normal(generator));
    }
    for (double& x : values) sum += x = rounded(x, c.vt);
    if (c.rest == Rest::kNone) rest = n > k ? std::max(0.0, 1 - sum) / double(n - k) : 0.0;
    if (c.rest == Rest::kMinusInfinity) rest = -INFINITY;
    dense[size_t(i)].assign(size_t(n), rest);
    for (int64_t e = 0; e < k; ++e) {
      put(v.get(), place * k_stride + e, values[size_t(e)], c.vt);
      put_index(at.get(), place * k_stride + e, i == ignored ? -1 : order[size_t(e)], c.it);
      dense[size_t(i)][size_t(order[size_t(e)])] = values[size_t(e)];
    }
    if (c.rest == Rest::kGiven) put(u.get(), place, rest, c.vt);
    if (c.rest == Rest::kMinusInfinity) {
      const uint16_t half = c.vt == DType::kFloat16 ? 0xfc00 : 0xff80;
      const float single = -INFINITY;
      const double twice = -INFINITY;
      const void* const from = v_size == 2   ? static_cast<const void*>(&half)
                               : v_size == 4 ? static_cast<const void*>(&single)
                                             : &twice;
      std::memcpy(u.get() + size_t(place) * v_size, from, v_size);
    }
    for (int64_t j = 0; j < n; ++j)
      put(z_rows, place * z_stride + j, (special ? c.z_scale : 1) * 3 * normal(generator), c.zt);
  }
  if (ignored > 0 && c.zt == DType::kFloat32) put(z_rows, c.place(1) * z_stride, NAN, c.zt);
  if (c.broken != 0) put(z_rows, n / 2, c.broken, DType::kFloat32);
  std::vector<double> losses(size_t(c.rows), NAN);
  std::vector<float> z_factor(size_t(c.rows), NAN);
  const auto workspace = std::make_unique<gift::Workspace>();
  std::memset(workspace.get(), 0xcb, sizeof(gift::Workspace));

  gift::TopKProblem problem = {};
  gift::Problem& call = problem.call;
  call.rows = c.rows;
  call.rows_per_group = c.rows_per_group != 0 ? c.rows_per_group : c.rows;
  const int64_t group = call.rows_per_group + c.group_gap;
  call.classes = n;
  call.logits = z_rows;
  call.logits_stride = z_stride;
  call.logits_group_stride = group * z_stride;
  call.logits_type = c.zt;
  call.target = target.data();
  call.target_stride = 1;
  call.target_group_stride = group;
  call.target_is_int64 = true;
  if (c.mixed) {
    call.other_target = other.data();
    call.other_target_stride = call.target_weight_stride = 1;
    call.other_target_group_stride = call.target_weight_group_stride = group;
    call.other_target_is_int64 = true;
    call.target_weight = share.data();
  }
  call.hard_label = gift::smoothed_label(double(n), alpha, c.others);
  call.gamma = gamma;
  call.soft_label_temperature = c.temperature;
  call.ignore_index = -7;
  call.mean = c.mean;
  (c.mean ? call.total : call.row_losses) = losses.data();
  if (c.grad) call.logits_grad = dz.get();
  if (c.grad && c.zt == DType::kFloat16) call.logits_grad_scale = z_factor.data();
  gift::TopKLabels& labels = problem.labels;
  labels.kept = k;
  labels.values = v.get();
  labels.indices = at.get();
  labels.values_stride = labels.indices_stride = k_stride;
  labels.values_group_stride = labels.indices_group_stride = group * k_stride;
  labels.values_type = labels.rest_type = c.vt;
  labels.indices_type = c.it;
  if (c.rest != Rest::kNone) {
    labels.rest = u.get();
    labels.rest_stride = 1;
    labels.rest_group_stride = group;
  }
  const auto before = fibers::launches;
  gift::launch_cuda(problem, c.mean ? workspace.get() : nullptr, nullptr);
  if (fibers::launches - before != (c.mean ? 2 : 1)) return INFINITY;

  const DType loss_type = c.zt == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
  const double sums = c.zt == DType::kFloat64 ? 1e-13 : 2e-6;
  const double stored[] = {1e-15, 1e-7, 4e-3, 5e-4};
  double total = 0, worst_share = 0;
  const auto at_least = [&](double one) { worst_share = std::max(worst_share, one); };
  for (int64_t i = 0; i < c.rows; ++i) {
    std::vector<double> z_row(static_cast<size_t>(n)), got(static_cast<size_t>(n));
    for (int64_t j = 0; j < n; ++j) {
      z_row[size_t(j)] = get(z_rows, c.place(i) * z_stride + j, c.zt);
      const double unit = c.zt == DType::kFloat16 ? double(z_factor[size_t(i)]) : 1;
      if (c.grad) got[size_t(j)] = get(dz.get(), i * n + j, c.zt) * unit;
    }
    const double loss = c.mean ? 0 : get(losses.data(), i, loss_type);
    if (i == ignored) {
      for (const double x : got)
        if (x != 0) at_least(INFINITY);
      if (loss != 0) at_least(INFINITY);
      continue;
    }
    if (i == 0 && c.broken != 0) {
      if (!std::isnan(loss) || !std::isnan(got[0])) at_least(INFINITY);
      continue;
    }
    Expected expected = {0, 0, 0, std::vector<double>(size_t(n), 0.0), {}};
    for (const bool second : {false, true}) {
      const int64_t y = (second ? other : target)[size_t(c.place(i))];
      if (y == -7 || (second && !c.mixed)) continue;
      double weight = c.mean ? 1.0 / double(second ? other_valid : valid) : 1.0;
      const double first_share = share[size_t(c.place(i))];
      if (c.mixed) weight *= second ? 1 - first_share : first_share;
      const Expected term = expected_of(z_row, c.zt, dense[size_t(i)], DType::kFloat64, y, gamma,
                                        alpha, c.others, c.temperature, weight);
      expected.loss += weight * term.loss;
      expected.part_z += term.part_z;
      for (int64_t j = 0; j < n; ++j) expected.dz[size_t(j)] += term.dz[size_t(j)];
    }
    total += expected.loss;
    if (!c.mean) at_least(std::fabs(loss - expected.loss) / (4 * sums));
    if (c.grad)
      at_least(share_of_bound(got, expected.dz, stored[int(c.zt)], sums, expected.part_z));
  }
  if (c.mean) at_least(std::fabs(get(losses.data(), 0, loss_type) - total) / (4 * sums));
  if (!c.grad && uint8_t(dz.get()[0]) != 0xcb) return INFINITY;
  return worst_share;
}

void check(const Case& c) {
  const double share = share_of(c);
  ++cases;
  worst = std::max(worst, share);
  if (share < 1) return;
  ++wrong;
  std::printf(
      "%s values %s %s C=%lld k=%lld N=%lld rest %d T=%g offset %d padding %d group %d gap %d mean "
      "%d others %d mixed %d scale %g opposite %d (%u threads, %zu bytes): %g\n",
      kNames[int(c.zt)], kNames[int(c.vt)], kIndexNames[int(c.it)], (long long)c.classes,
      (long long)c.kept, (long long)c.rows, int(c.rest), c.temperature, c.z_offset, c.padding,
      c.rows_per_group, c.group_gap, c.mean, c.others, c.mixed, c.z_scale, c.opposite, blockDim.x,
      fibers::shared_memory_taken, share);
}

void check_type(DType zt) {
  int i = 0;
  const auto varied = [&](int64_t classes, int64_t kept) {
    ++i;
    Case c = {zt, kTypes[i % 4], classes, std::min(kept, classes)};
    c.it = IndexType(i % 3);
    if (c.it == IndexType::kInt16 && classes > 32767) c.it = IndexType::kInt32;
    c.rest = Rest(i % 5 % 3);
    if (c.rest == Rest::kMinusInfinity || i % 7 == 0) c.temperature = 1.5;
    if (c.rest == Rest::kNone) c.temperature = 0;
    c.rows = classes > 3000 ? 3 : 5;
    c.z_offset = i % 5;
    c.padding = i % 4;
    c.mean = i % 3 != 0;
    c.others = i % 11 == 0 && classes > 1;
    c.mixed = i % 2;
    if (i % 3 == 0) {
      c.rows = 4;
      c.rows_per_group = i % 2 ? 2 : 1;
      c.group_gap = i % 5 ? 1 : 0;
    }
    return c;
  };
  for (const int64_t n : {1, 2, 3, 8, 9, 17, 33, 100, 300, 1000})
    for (const int64_t k : {1, 2, 10, 31, 32, 33, 70, 1000}) check(varied(n, k));
  // What threads hold, and where a row is kept in shared memory or read twice.
  const int size = int(kBytes[int(zt)]), held = 8 * 16 / size, most = 256;
  for (const int threads : {32, 64, most}) {
    const int64_t all = int64_t(threads) * held;
    for (const int64_t n : {all - 1, all, all + 16 / size - 1, all + 16 / size}) {
      check(varied(n, 20));
      const bool is_held = n < all + 16 / size || threads < most;
      if ((fibers::shared_memory_taken != 0) == is_held) ++wrong;
      if (!is_held) {
        fibers::device = 1;  // that has none to spare
        check(varied(n, 40));
        if (fibers::shared_memory_taken != 0) ++wrong;
        fibers::device = 0;
      }
    }
  }
  for (const int64_t n : {10, 300, 4000}) {
    for (const int64_t k : {3, 50}) {
      Case c = varied(n, k);
      c.temperature = 0;
      c.rest = Rest::kGiven;
      c.opposite = true;
      c.vt = DType::kFloat64;
      check(c);
      c.opposite = false;
      c.z_scale = 0;
      check(c);
      c.z_scale = 1e14;
      if (zt != DType::kFloat16) check(c);
      c = varied(n, k);
      c.grad = false;
      check(c);
      for (const double value : {double(NAN), double(INFINITY)}) {
        c = varied(n, k);
        c.z_offset = 0;
        c.mean = false;
        c.mixed = false;
        c.broken = value;
        if (zt == DType::kFloat32) check(c);
      }
    }
  }
  fibers::most_blocks = 2;  // whose memory serves several rows
  for (const int64_t n : {40, 5000}) {
    Case c = varied(n, 7);
    c.rows = 19;
    c.rows_per_group = 0;
    check(c);
  }
  fibers::most_blocks = 4096;
}

void trip_the_assert(const std::string& what) {
  float z[4] = {1, 2, 3, 4}, v[2] = {0.5f, 0.25f}, rest = -INFINITY, loss = 0;
  int32_t indices[2] = {3, 1};
  int64_t target = 1;
  gift::TopKProblem problem = {};
  gift::Problem& call = problem.call;
  call.rows = call.rows_per_group = 1;
  call.classes = 4;
  call.logits = z;
  call.logits_type = DType::kFloat32;
  call.target = &target;
  call.target_is_int64 = true;
  call.hard_label = gift::smoothed_label(4, 0.1, false);
  call.row_losses = &loss;
  problem.labels.kept = 2;
  problem.labels.values = v;
  problem.labels.values_type = problem.labels.rest_type = DType::kFloat32;
  problem.labels.indices = indices;
  problem.labels.indices_type = IndexType::kInt32;
  if (what == "target") target = 4;
  if (what == "index") indices[1] = 4;
  if (what == "negative index") indices[0] = -1;
  if (what == "negative value") v[1] = -0.25f;
  if (what == "sum") v[1] = 0.51f;
  if (what == "rest") problem.labels.rest = &rest;
  gift::launch_cuda(problem, nullptr, nullptr);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) {
    trip_the_assert(argv[1]);
    return 0;
  }
  for (const DType zt : kTypes) check_type(zt);
  std::printf("%d cases, %lld launches: at most %.2f of the bound: %s\n", cases,
              (long long)fibers::launches, worst, wrong == 0 ? "ok" : "WRONG");
  return wrong == 0 ? 0 : 1;
}
