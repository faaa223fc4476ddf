// Runs the CUDA source on the CPU (host_cuda/), against the definition in double.
//
// The launchers choose the kernel as on a device, so the shapes lie around their boundaries. Every
// tensor ends where its allocation ends, for AddressSanitizer. With an argument, the stride of a
// row of two classes, a target out of range, on which the device's assert has to fire; with a
// second one, the other target of mixed labels.
#include <array>
#include <cstdio>
#include <memory>
#include <random>
#include <vector>

#include "../../csrc/cuda/launch.cu"
#include "expected_row.h"

thread_local uint4 gift::row_memory[232448 / 16];

namespace {

enum class Rows { kHeld, kKept, kStreamed };  // in registers, in shared memory, read twice
constexpr const char* kRowsNames[] = {"held", "kept", "streamed"};

struct Case {
  DType zt, st;
  int64_t classes;
  int64_t rows = 3;
  int z_offset = 0, s_offset = 0;    // elements between a 16-byte boundary and the first row
  int z_padding = 0, s_padding = 0;  // elements between rows
  double temperature = 0;
  bool mean = true, others = false, int32_target = false;
  // The first row and every third after it:
  bool opposite = false;  // soft labels point away from the hard ones, t nearly vanishes
  double z_scale = 1;     // a norm that float has no room for, or zeros
  double s_scale = 1;     // zeros
  double broken = 0;      // NaN or inf, in the first row's logits alone
  bool z_grad = true, s_grad = true;
  bool mixed = false;          // two labels a row
  bool scalar_weight = false;  // of all rows; double, else float
  int rows_per_group = 0;      // 0: one group
  int group_gap = 0;           // rows between groups that are not part of the problem
  // What the launcher has to choose: where rows are, and how many threads a row has. 0: any.
  Rows where = Rows::kHeld;
  int threads = 0;

  // Matrices without gaps have several rows a warp, up to 2 kB of a row of both.
  int bytes_a_class() const { return int(kBytes[int(zt)] + kBytes[int(st)]); }
  bool has_gaps() const { return rows_per_group != 0 && group_gap != 0; }
  bool is_tiled() const {
    return z_padding == 0 && s_padding == 0 && !has_gaps() && classes * bytes_a_class() <= 2048;
  }
  // Where row i is, in rows from the first.
  int64_t place(int64_t i) const {
    return rows_per_group == 0 ? i : i + i / rows_per_group * group_gap;
  }
  // As many rows a tile as 4 kB hold of both.
  int lanes() const {
    int lanes = mixed ? 2 : 1;  // one for each label, at least
    while (32 / lanes * classes * bytes_a_class() > 4096) lanes *= 2;
    return lanes;
  }
};

std::mt19937 generator(0);
double worst = 0;
int cases = 0, wrong = 0;

using Memory = std::unique_ptr<char, void (*)(void*)>;

// Exactly as many bytes, at a 16-byte boundary, full of a pattern that is no likely result.
Memory allocate(size_t bytes) {
  void* memory = nullptr;
  if (posix_memalign(&memory, 16, bytes) != 0) std::abort();
  std::memset(memory, 0xcb, bytes);
  return Memory(static_cast<char*>(memory), std::free);
}

// How far a case is from the definition, as a share of what it may be.
double share_of(const Case& c) {
  std::normal_distribution<double> normal;
  const int64_t n = c.classes, z_stride = n + c.z_padding, s_stride = n + c.s_padding;
  // Not the last row, whose end is the allocation's.
  const int64_t ignored = c.rows > 2 ? 1 : c.rows - 2, target_stride = 2;
  const size_t z_size = kBytes[int(c.zt)], s_size = kBytes[int(c.st)];
  const int64_t last = c.place(c.rows - 1);
  const Memory z = allocate(size_t(c.z_offset + last * z_stride + n) * z_size);
  const Memory s = allocate(size_t(c.s_offset + last * s_stride + n) * s_size);
  const Memory dz = allocate(size_t(c.rows * n) * z_size);
  const Memory ds = allocate(size_t(c.rows * n) * s_size);
  char* const z_rows = z.get() + size_t(c.z_offset) * z_size;
  char* const s_rows = s.get() + size_t(c.s_offset) * s_size;
  std::vector<int64_t> target(size_t((last + 1) * target_stride), 1 << 30);
  std::vector<int32_t> short_target(target.size(), 1 << 30);
  std::vector<int64_t> other(target.size(), 1 << 30);
  std::vector<int32_t> short_other(other.size(), 1 << 30);
  std::vector<float> share(other.size(), NAN);
  const double scalar_share = 0.7;
  int64_t valid = 0, other_valid = 0;
  const double gamma = c.opposite ? 0.5 : 0.3, alpha = 0.2;
  for (int64_t i = 0; i < c.rows; ++i) {
    const int64_t y =
        i == ignored ? -7 : std::uniform_int_distribution<int64_t>(0, n - 1)(generator);
    target[size_t(c.place(i) * target_stride)] = y;
    // Every fourth row has one label that counts, every fifth the same one twice.
    int64_t o = i == ignored ? -7 : std::uniform_int_distribution<int64_t>(0, n - 1)(generator);
    if (i % 5 == 4) o = y;
    if (i % 8 == 2) o = -7;
    if (c.mixed && i % 8 == 6) target[size_t(c.place(i) * target_stride)] = -7;
    short_target[size_t(c.place(i) * target_stride)] =
        int32_t(target[size_t(c.place(i) * target_stride)]);
    other[size_t(c.place(i) * target_stride)] = o;
    short_other[size_t(c.place(i) * target_stride)] = int32_t(o);
    share[size_t(c.place(i) * target_stride)] =
        c.scalar_weight ? float(NAN) : 0.25f * float(1 + i % 3);
    valid += target[size_t(c.place(i) * target_stride)] != -7;
    other_valid += o != -7;
    const bool special = i % 3 == 0;
    const double noise = n < 100 ? 1e-2 : 1e-3;
    for (int64_t j = 0; j < n; ++j) {
      const double h = j == y ? 1 - alpha + alpha / double(n) : alpha / double(n);
      put(z_rows, c.place(i) * z_stride + j, (special ? c.z_scale : 1) * 3 * normal(generator),
          c.zt);
      put(s_rows, c.place(i) * s_stride + j,
          c.opposite && special ? -h * (1 + noise * normal(generator))
                                : (special ? c.s_scale : 1) * 2 * normal(generator),
          c.st);
    }
  }
  // An ignored row may hold anything.
  if (ignored > 0 && c.zt == DType::kFloat32) put(z_rows, c.place(1) * z_stride, NAN, c.zt);
  if (c.broken != 0) put(z_rows, n / 2, c.broken, DType::kFloat32);
  std::vector<double> losses(size_t(c.rows), NAN);  // float or double
  std::vector<float> z_factor(size_t(c.rows), NAN), s_factor(size_t(c.rows), NAN);
  const auto workspace = std::make_unique<gift::Workspace>();
  std::memset(workspace.get(), 0xcb, sizeof(gift::Workspace));

  gift::Problem problem = {};
  problem.rows = c.rows;
  problem.rows_per_group = c.rows_per_group != 0 ? c.rows_per_group : c.rows;
  const int64_t group = problem.rows_per_group + c.group_gap;
  problem.logits_group_stride = group * z_stride;
  problem.soft_labels_group_stride = group * s_stride;
  problem.target_group_stride = group * target_stride;
  problem.classes = n;
  problem.logits = z_rows;
  problem.logits_stride = z_stride;
  problem.logits_type = c.zt;
  problem.soft_labels = s_rows;
  problem.soft_labels_stride = s_stride;
  problem.soft_labels_type = c.st;
  problem.target = c.int32_target ? static_cast<void*>(short_target.data()) : target.data();
  problem.target_stride = target_stride;
  problem.target_is_int64 = !c.int32_target;
  if (c.mixed) {
    problem.other_target = c.int32_target ? other.data() : static_cast<void*>(short_other.data());
    problem.other_target_is_int64 = c.int32_target;
    problem.other_target_stride = target_stride;
    problem.other_target_group_stride = group * target_stride;
    problem.target_weight = share.data();
    problem.target_weight_stride = target_stride;
    problem.target_weight_group_stride = group * target_stride;
    if (c.scalar_weight) {
      problem.target_weight = &scalar_share;
      problem.target_weight_stride = problem.target_weight_group_stride = 0;
      problem.target_weight_is_double = true;
    }
  }
  problem.hard_label = gift::smoothed_label(double(n), alpha, c.others);
  problem.gamma = gamma;
  problem.soft_label_temperature = c.temperature;
  problem.ignore_index = -7;
  problem.mean = c.mean;
  (c.mean ? problem.total : problem.row_losses) = losses.data();
  if (c.z_grad) problem.logits_grad = dz.get();
  if (c.s_grad) problem.soft_labels_grad = ds.get();
  if (c.z_grad && c.zt == DType::kFloat16) problem.logits_grad_scale = z_factor.data();
  if (c.s_grad && c.st == DType::kFloat16) problem.soft_labels_grad_scale = s_factor.data();
  const auto before = fibers::launches;
  gift::launch_cuda(problem, c.mean ? workspace.get() : nullptr, nullptr);
  if (fibers::launches - before != (c.mean ? 2 : 1)) return INFINITY;
  if (!c.is_tiled()) {
    if (c.threads != 0 && int(blockDim.x) != c.threads) return INFINITY;
    if ((fibers::shared_memory_taken != 0) != (c.where == Rows::kKept)) return INFINITY;
  } else {
    const int64_t rows = 4 * 32 / c.lanes();  // of a block
    const int64_t blocks = (c.rows + rows - 1) / rows;
    if (gridDim.x != std::min<int64_t>(blocks, fibers::most_blocks)) return INFINITY;
    if (blockDim.x != 32 || blockDim.y != 4 || fibers::shared_memory_taken == 0) return INFINITY;
  }

  const DType loss_type = c.zt == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
  const double sums = c.zt == DType::kFloat64 ? 1e-13 : 2e-6;
  const double stored[] = {1e-15, 1e-7, 4e-3, 5e-4};
  double total = 0, worst_share = 0;
  for (int64_t i = 0; i < c.rows; ++i) {
    std::vector<double> z_row(n), s_row(n), dz_got(n), ds_got(n);
    for (int64_t j = 0; j < n; ++j) {
      z_row[j] = get(z_rows, c.place(i) * z_stride + j, c.zt);
      s_row[j] = get(s_rows, c.place(i) * s_stride + j, c.st);
      const double z_unit = c.zt == DType::kFloat16 ? double(z_factor[i]) : 1;
      const double s_unit = c.st == DType::kFloat16 ? double(s_factor[i]) : 1;
      if (c.z_grad) dz_got[j] = get(dz.get(), i * n + j, c.zt) * z_unit;
      if (c.s_grad) ds_got[j] = get(ds.get(), i * n + j, c.st) * s_unit;
    }
    const double loss = c.mean ? 0 : get(losses.data(), i, loss_type);
    if (i == ignored) {
      for (int64_t j = 0; j < n; ++j)
        if (dz_got[j] != 0 || ds_got[j] != 0) worst_share = INFINITY;
      if (loss != 0) worst_share = INFINITY;
      continue;
    }
    if (i == 0 && c.broken != 0) {  // NaN, in this row and in no other
      if (!std::isnan(loss) || !std::isnan(dz_got[0])) worst_share = INFINITY;
      continue;
    }
    // Of every label that counts, times its share of the row and of the mean.
    Expected expected = {0, 0, 0, std::vector<double>(n, 0.0), std::vector<double>(n, 0.0)};
    const double first_share = c.scalar_weight ? scalar_share : share[c.place(i) * target_stride];
    for (const bool second : {false, true}) {
      const int64_t y = (second ? other : target)[c.place(i) * target_stride];
      if (y == -7 || (second && !c.mixed)) continue;
      double weight = c.mean ? 1.0 / double(second ? other_valid : valid) : 1.0;
      if (c.mixed) weight *= second ? 1 - first_share : first_share;
      const Expected term =
          expected_of(z_row, c.zt, s_row, c.st, y, gamma, alpha, c.others, c.temperature, weight);
      expected.loss += weight * term.loss;
      expected.part_z += term.part_z;
      expected.part_s += term.part_s;
      for (int64_t j = 0; j < n; ++j) {
        expected.dz[j] += term.dz[j];
        expected.ds[j] += term.ds[j];
      }
    }
    total += expected.loss;
    const auto at_least = [&](double one) { worst_share = std::max(worst_share, one); };
    if (!c.mean) at_least(std::fabs(loss - expected.loss) / (4 * sums));
    if (c.z_grad)
      at_least(share_of_bound(dz_got, expected.dz, stored[int(c.zt)], sums, expected.part_z));
    if (c.s_grad)
      at_least(share_of_bound(ds_got, expected.ds, stored[int(c.st)], sums, expected.part_s));
  }
  if (c.mean)
    worst_share =
        std::max(worst_share, std::fabs(get(losses.data(), 0, loss_type) - total) / (4 * sums));
  for (const auto& [asked, memory] : {std::pair(c.z_grad, dz.get()), {c.s_grad, ds.get()}})
    if (!asked && uint8_t(memory[0]) != 0xcb) return INFINITY;
  return worst_share;
}

void check_one(const Case& c) {
  const double share = share_of(c);
  ++cases;
  worst = std::max(worst, share);
  if (share < 1) return;
  ++wrong;
  std::printf(
      "%s %s C=%lld N=%lld offsets %d %d padding %d %d T=%g mean %d others %d opposite %d "
      "mixed %d rows a group %d gap %d gradients %d %d %s, %d threads (%u, %zu bytes): %g\n",
      kNames[int(c.zt)], kNames[int(c.st)], (long long)c.classes, (long long)c.rows, c.z_offset,
      c.s_offset, c.z_padding, c.s_padding, c.temperature, c.mean, c.others, c.opposite, c.mixed,
      c.rows_per_group, c.group_gap, c.z_grad, c.s_grad, kRowsNames[int(c.where)], c.threads,
      blockDim.x, fibers::shared_memory_taken, share);
}

// With one label a row, and with two; and in groups of rows, with and without gaps. Of long rows,
// a few of these.
void check(const Case& c) {
  check_one(c);
  const bool is_long = c.classes > 600;
  if (!is_long || cases % 3 == 0) {
    Case mixed = c;
    mixed.mixed = true;
    mixed.scalar_weight = cases % 4 == 0;
    check_one(mixed);
  }
  if (cases % (is_long ? 7 : 3) != 0) return;
  Case grouped = c;
  grouped.rows = 6;
  grouped.rows_per_group = cases % 2 == 0 ? 2 : cases % 5 == 0 ? 1 : 3;
  grouped.group_gap = cases % 7 == 0 ? 0 : 1;
  grouped.mixed = cases % 4 < 2;
  check_one(grouped);
}

// Every pair of types, around every boundary. Options and offsets vary from case to case with
// periods that have no common divisor.
void check_pair(DType zt, DType st) {
  int i = 0;
  const auto varied = [&](int64_t classes) {
    ++i;
    Case c = {zt, st, classes};
    c.z_offset = i % 5;
    c.s_offset = i % 3;
    c.z_padding = i % 7;
    c.s_padding = i % 2;
    c.temperature = i % 2 ? 0 : 1.5;
    c.mean = i % 3 != 0;
    c.others = i % 7 == 0 && classes > 1;
    c.int32_target = i % 2;
    return c;
  };
  for (const int64_t n : {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 47, 100, 129}) check(varied(n));
  for (const auto& [z_grad, s_grad] : {std::pair(true, false), {false, true}, {false, false}}) {
    for (const int64_t n : {10, 100, 259}) {
      Case c = varied(n);
      c.z_grad = z_grad;
      c.s_grad = s_grad;
      check(c);
    }
  }

  // Tiles of several rows a warp: the longest row for each number of lanes, the one after it, and
  // one that bank conflicts are worst for; full and partial tiles, full and partial blocks.
  for (int lanes = 1; lanes <= 16; lanes *= 2) {
    const int rows = 32 / lanes, most = 128 * lanes / int(kBytes[int(zt)] + kBytes[int(st)]);
    for (const int64_t n : {most, most + 1, std::max(most / 16 * 16, 1)}) {
      Case c = varied(n);
      c.z_padding = c.s_padding = 0;
      c.rows = std::array{1, rows - 1, rows, rows + 1, 4 * rows, 5 * rows + 1}[i % 6];
      check(c);
    }
  }

  // What a thread holds, in elements: packs of as many as 16 bytes hold of the narrower type.
  const int narrower = int(std::min(kBytes[int(zt)], kBytes[int(st)]));
  const int wider = int(std::max(kBytes[int(zt)], kBytes[int(st)]));
  const int pack = 16 / narrower, held = 4 * narrower / wider * pack;
  const int most_threads = wider == 8 ? 256 : 512;
  for (int threads = 32; threads <= most_threads; threads *= 2) {
    const int64_t all = threads * held;
    const bool last = threads == most_threads;
    for (const int64_t n : {all - 1, all, all + pack - 1, all + pack}) {
      Case c = varied(n);
      c.rows = n > 2000 ? 2 : 3;
      c.threads = n < all + pack || last ? threads : 2 * threads;
      c.where = n < all + pack || !last ? Rows::kHeld : Rows::kKept;
      check(c);
      if (c.where == Rows::kHeld) continue;
      for (const double temperature : {0.0, 1.5}) {
        c.temperature = temperature;
        check(c);
        fibers::device = 1;  // that has none to spare
        c.where = Rows::kStreamed;
        check(c);
        fibers::device = 0;
        c.where = Rows::kKept;
      }
    }
  }

  // Rows that are done again in double, among others in tiles; float16 has no such norms.
  for (const int64_t n : {7, 10, 100, 259}) {
    Case c = varied(n);
    c.z_padding = c.s_padding = 0;
    c.rows = 5;
    c.opposite = true;
    if (wider > 2) check(c);
    c = varied(n + 1);
    c.z_padding = c.s_padding = 0;
    c.rows = 7;
    c.z_scale = 1e14;
    c.mean = true;
    if (zt != DType::kFloat16) check(c);
  }
  // Rows of zeros, in tiles, a warp and a block; float16 has a bound of its own for their gradient.
  for (const int64_t n : {10, 259, 2040}) {
    Case c = varied(n);
    c.z_padding = c.s_padding = n == 10 ? 0 : 1;
    c.z_scale = 0;
    check(c);
    c.z_scale = 1;
    c.s_scale = 0;
    c.temperature = 0;
    check(c);
  }
  if (zt == DType::kFloat32) {
    for (const int64_t n : {10, 100, 515}) {
      for (const double value : {double(NAN), double(INFINITY)}) {
        Case c = varied(n);
        c.z_offset = 0;
        if (n < 515) c.z_padding = c.s_padding = 0;
        c.mean = false;
        c.broken = value;
        check(c);
      }
    }
  }
}

// The upstream factor, in place: float16 rows with a factor of their own, and no write for one.
void check_scaling(DType type, int64_t n) {
  const int64_t rows = 3;
  const auto factors = std::vector<float>{0.5f, -2.0f, 3.0f};
  const auto row_factors = std::vector<float>{0.25f, 4.0f, 1.0f};
  for (const bool per_row : {false, true}) {
    const Memory grad = allocate(size_t(rows * n) * kBytes[int(type)]);
    for (int64_t j = 0; j < rows * n; ++j) put(grad.get(), j, double(j % 17), type);
    gift::ScaleProblem problem = {};
    problem.rows = rows;
    problem.classes = n;
    problem.grad = grad.get();
    problem.grad_type = type;
    problem.grad_output = factors.data();
    problem.grad_output_stride = per_row;
    if (type == DType::kFloat16) problem.grad_scale = row_factors.data();
    gift::launch_cuda(problem, nullptr);
    ++cases;
    for (int64_t j = 0; j < rows * n; ++j) {
      const double factor = double(factors[per_row ? j / n : 0]) *
                            (type == DType::kFloat16 ? double(row_factors[j / n]) : 1);
      if (get(grad.get(), j, type) == double(j % 17) * factor) continue;
      std::printf("scaling %s, C=%lld, per row %d\n", kNames[int(type)], (long long)n, per_row);
      ++wrong;
      return;
    }
  }
}

// `stride` 2: of a tile's row; else of a row of its own. `other`: in the other target.
void trip_the_assert(int64_t stride, bool other) {
  float z[2] = {1, 2}, s[2] = {1, 2}, loss[1];
  const int64_t target[1] = {2}, good_target[1] = {1};
  const float weight = 0.5f;
  gift::Problem problem = {};
  problem.rows = problem.rows_per_group = 1;
  problem.classes = 2;
  problem.logits_stride = problem.soft_labels_stride = stride;
  problem.logits = z;
  problem.soft_labels = s;
  problem.logits_type = problem.soft_labels_type = DType::kFloat32;
  problem.target = other ? good_target : target;
  problem.target_is_int64 = true;
  if (other) {
    problem.other_target = target;
    problem.other_target_is_int64 = true;
    problem.target_weight = &weight;
  }
  problem.hard_label = gift::smoothed_label(2, 0.1, false);
  problem.row_losses = loss;
  gift::launch_cuda(problem, nullptr, nullptr);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) {
    trip_the_assert(std::atoi(argv[1]), argc > 2);
    return 0;
  }
  for (const DType zt : kTypes)
    for (const DType st : kTypes) check_pair(zt, st);
  for (const DType type : kTypes)
    for (const int64_t n : {1, 10, 37, 1001, 2049}) check_scaling(type, n);

  const DType f32 = DType::kFloat32, bf16 = DType::kBFloat16;
  // Several blocks that count the valid rows.
  check({bf16, f32, 10, 4100});
  // More rows than blocks take at once, so that a block's memory serves several: of tiles of 32
  // rows and of 2, and of one row a warp and a block.
  fibers::most_blocks = 2;
  check({bf16, f32, 10, 600});
  check({DType::kFloat64, bf16, 200, 41});
  Case gaps = {f32, f32, 300, 19};
  gaps.z_padding = 1;
  check(gaps);
  check({f32, f32, 516, 7});
  fibers::most_blocks = 4096;
  // As much as an RTX's shared memory holds, to the class, and a wide vocabulary.
  Case c = {bf16, bf16, 25095, 2};
  c.where = Rows::kKept;
  check(c);
  c.classes = 25096;
  c.where = Rows::kStreamed;
  check(c);
  c.classes = 50257;
  c.z_padding = 47;  // a vocabulary padded to a multiple of 64, and sliced
  check(c);
  // A kernel asks each device once for the shared memory that it may have.
  if (fibers::asked_for_memory.empty()) ++wrong;
  for (const auto& [kernel, times] : fibers::asked_for_memory) wrong += times != 1;
  std::printf("%d cases, %lld launches: at most %.2f of the bound: %s\n", cases,
              (long long)fibers::launches, worst, wrong == 0 ? "ok" : "WRONG");
  return wrong == 0 ? 0 : 1;
}
