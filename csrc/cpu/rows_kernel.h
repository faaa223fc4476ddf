// The row kernels. Included once for each instruction set, by the rows_*.cpp beside it.
//
// A row is read from memory once: the first sweep sums it, the second, out of L1 or L2, writes the
// gradient. Everything is in an anonymous namespace: the same templates compiled for another
// instruction set must not be merged with these by the linker.

namespace gift {
namespace {

#include "vectors.h"

#include "labeled_rows.h"

// Partial sums stay in the accumulator's type over this many elements and are combined in double:
// the constant row of 1,000,000 would otherwise be off by 5e-4 in float. Fewer where a vector is
// short, so that no lane sums more than 256.
constexpr int64_t kBlock = std::min<int64_t>(4096, 2 * 256 * kLanes<float>);

template <DType>
struct StorageOf;
template <>
struct StorageOf<DType::kFloat64> {
  using type = double;
};
template <>
struct StorageOf<DType::kFloat32> {
  using type = float;
};
template <>
struct StorageOf<DType::kBFloat16> {
  using type = BFloat16;
};
template <>
struct StorageOf<DType::kFloat16> {
  using type = Float16;
};

// ---- what a sweep reads ------------------------------------------------------------------------
// full(j): a vector from element j on. part(j, count): fewer, the other lanes zero. last(n, count):
// the last `count` elements of a row of n that has a whole vector, in any order, the other lanes
// zero: a vector read across what was read already costs 2 ns, the way through memory 15.

// A row as it is stored.
template <class A, class T>
struct Stored {
  const T* row;

  Vector<A> full(int64_t j) const { return load<A>(row + j); }
  Vector<A> part(int64_t j, int64_t count) const { return load_part<A>(row + j, count); }
  Vector<A> last(int64_t n, int64_t count) const {
    return keep_lanes<A>(full(n - kLanes<A>), kLanes<A> - count, kLanes<A>);
  }
  double at(int64_t j) const { return double(widen(row[j])); }
};

// exp((s - max s) / T): softmax(s / T) up to a factor, which the normalization of t removes.
template <class A, class T>
struct Softmax {
  Stored<A, T> scores;
  A largest, inverse_temperature;

  Vector<A> weight(Vector<A> s) const {
    return exp_of_nonpositive<A>((s - largest) * inverse_temperature);
  }
  Vector<A> full(int64_t j) const { return weight(scores.full(j)); }
  Vector<A> part(int64_t j, int64_t count) const {
    return keep_lanes<A>(weight(scores.part(j, count)), 0, count);
  }
  Vector<A> last(int64_t n, int64_t count) const {
    return keep_lanes<A>(weight(scores.full(n - kLanes<A>)), kLanes<A> - count, kLanes<A>);
  }
  double at(int64_t j) const { return double(weight(scores.part(j, 1))[0]); }
};

// The largest score; a NaN among them reaches the sums through its own element.
template <class A, class T>
A largest_of(const T* row, int64_t n) {
  constexpr int64_t lanes = kLanes<A>;
  A largest = A(widen(row[0]));
  int64_t j = 0;
  if (n >= lanes) {
    Vector<A> most = load<A>(row);
    for (; j + lanes <= n; j += lanes) {
      const Vector<A> x = load<A>(row + j);
      most = x > most ? x : most;
    }
    for (int i = 0; i < lanes; ++i) largest = most[i] > largest ? most[i] : largest;
  }
  for (; j < n; ++j) largest = A(widen(row[j])) > largest ? A(widen(row[j])) : largest;
  return largest;
}

// ---- what a sweep prefetches -------------------------------------------------------------------
// In the first sweep of a row the core waits for reads, in the second for the lines that it writes.
// So the first prefetches the lines of the gradient, and the second the next row: the transfers
// overlap. Prefetching only one of the two, or all of a row at once, gains nothing.

// Elements j to j + count of a row that is read or written soon.
template <class T>
void prefetch(const T* row, int64_t j, int64_t count) {
  constexpr int64_t line = 64 / sizeof(T);
  for (int64_t i = j; i < j + count; i += line) __builtin_prefetch(row + i);
}

// What to prefetch where there is nothing to gain is what the cache has already: the row itself.
inline RowIndex row_to_prefetch(const Problem& problem, RowIndex at) {
  if (problem.prefetch && at.row + 1 < problem.rows) at.advance(problem);
  return at;
}
template <class T>
const T* gradient_to_prefetch(const Problem& problem, const T* gradient, const T* logits) {
  return problem.prefetch && gradient != nullptr ? gradient : logits;
}

// ---- the sweeps --------------------------------------------------------------------------------

// Two vectors of each sum: ten independent chains of additions hide their latency.
template <class A>
struct Partial {
  Vector<A> z = {}, s = {}, zz = {}, ss = {}, zs = {};

  void add(Vector<A> a, Vector<A> b) {
    z += a;
    s += b;
    zz += a * a;
    ss += b * b;
    zs += a * b;
  }
};

template <class A, class Logits, class Labels, class T>
RowSums sum_row(const Logits& z, const Labels& s, int64_t n, const T* gradient) {
  constexpr int64_t lanes = kLanes<A>;
  RowSums total = {};
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, n);
    Partial<A> even, odd;
    int64_t j = begin;
    for (; j + 2 * lanes <= end; j += 2 * lanes) {
      prefetch(gradient, j, 2 * lanes);
      even.add(z.full(j), s.full(j));
      odd.add(z.full(j + lanes), s.full(j + lanes));
    }
    if (j + lanes <= end) {
      even.add(z.full(j), s.full(j));
      j += lanes;
    }
    if (j < end) {
      // Only at the row's end: a block is a multiple of two vectors.
      if (n >= lanes) {
        odd.add(z.last(n, end - j), s.last(n, end - j));
      } else {
        odd.add(z.part(j, end - j), s.part(j, end - j));
      }
    }
    total.z += sum_of_lanes<A>(even.z + odd.z);
    total.s += sum_of_lanes<A>(even.s + odd.s);
    total.zz += sum_of_lanes<A>(even.zz + odd.zz);
    total.ss += sum_of_lanes<A>(even.ss + odd.ss);
    total.zs += sum_of_lanes<A>(even.zs + odd.zs);
  }
  return total;
}

// z.t and |t|^2 element by element, for a t that nearly vanishes. The target is left to the end:
// with its part of the hard label in and out again, the sums would cancel once more.
template <class A, class Logits, class Labels>
RowProducts sum_refined(const Logits& z, const Labels& s, int64_t n, int64_t target,
                        RefinedLabel t) {
  RowProducts sum = {};
  const auto sweep = [&](int64_t begin, int64_t end) {
    constexpr int64_t lanes = kLanes<A>;
    Vector<A> zt = {}, tt = {};
    for (int64_t j = begin; j < end; j += lanes) {
      const int64_t count = std::min(lanes, end - j);
      const Vector<A> refined = keep_lanes<A>(s.part(j, count) * A(t.scale) + A(t.base), 0, count);
      zt += z.part(j, count) * refined;
      tt += refined * refined;
    }
    sum.zt += sum_of_lanes<A>(zt);
    sum.tt += sum_of_lanes<A>(tt);
  };
  sweep(0, target);
  sweep(target + 1, n);
  const double at_target = s.at(target) * t.scale + (t.base + t.on_target);
  sum.zt += z.at(target) * at_target;
  sum.tt += at_target * at_target;
  return sum;
}

// An element of the gradient at a target, rounded once.
template <class T, class Other, class Own, class Chain>
void write_target(const Other& other, const Own& own, const Chain& chain, int64_t target,
                  const GradientCoefficients& k, T* gradient) {
  const double x = own.at(target);
  const double y = other.at(target) * k.other + x * k.own + (k.all + k.target);
  gradient[target] = narrow<T>(chain(y, x));
}

// A row of a gradient: full(j) has the vector from element j on, part(count) fewer than a vector;
// ahead(j, count) prefetches what is read next.
template <class A, class T, class Full, class Part, class Ahead>
void store_row(const Full& full, const Part& part, const Ahead& ahead, int64_t n, bool past_cache,
               T* gradient) {
  constexpr int64_t lanes = kLanes<A>;
  const auto write = [&](int64_t j) { store<A>(gradient + j, full(j)); };
  int64_t j = 0;
  if constexpr (kStreams<A, T>) {
    if (past_cache && n >= 2 * lanes) {
      write(0);
      j = floats_to_alignment(gradient);
      for (; j + lanes <= n; j += lanes) stream(gradient + j, full(j));
    }
  }
  for (; j + 2 * lanes <= n; j += 2 * lanes) {
    ahead(j, 2 * lanes);
    write(j);
    write(j + lanes);
  }
  if (j + lanes <= n) {
    write(j);
    j += lanes;
  }
  if (j < n) {
    if (n >= lanes) {
      write(n - lanes);  // writes some elements again
    } else {
      store_part<A>(gradient, part(n), n);
    }
  }
}

// gradient_j = other_j p + own_j q + r, then the target's element. `chain` is the derivative of
// what `own` reads to what is stored: 1, or the softmax weight over its temperature.
template <class A, class T, class Other, class Own, class Chain, class Ahead>
void write_gradient(const Other& other, const Own& own, const Chain& chain, const Ahead& ahead,
                    int64_t n, int64_t target, const GradientCoefficients& k, bool past_cache,
                    T* gradient) {
  const A p = A(k.other), q = A(k.own), r = A(k.all);
  const auto value = [&](Vector<A> y, Vector<A> x) { return chain(y * p + (x * q + r), x); };
  store_row<A>([&](int64_t j) { return value(other.full(j), own.full(j)); },
               [&](int64_t count) { return value(other.part(0, count), own.part(0, count)); },
               ahead, n, past_cache, gradient);
  write_target(other, own, chain, target, k, gradient);
}

// A row without a label that counts.
template <class T>
void write_zeros(T* gradient, float* scale, int64_t row, int64_t n) {
  if (gradient == nullptr) return;
  memset(static_cast<void*>(gradient + row * n), 0, size_t(n) * sizeof(T));
  if (std::is_same_v<T, Float16>) scale[row] = 1.0f;
}

// ---- one row -----------------------------------------------------------------------------------

inline void multiply(GradientCoefficients& k, double factor) {
  k.other *= factor;
  k.own *= factor;
  k.all *= factor;
  k.target *= factor;
}

struct Identity {
  template <class V>
  V operator()(V gradient, V) const {
    return gradient;
  }
};
template <class A>
struct SoftmaxChain {
  double inverse_temperature;
  Vector<A> operator()(Vector<A> gradient, Vector<A> weight) const {
    return gradient * (weight * A(inverse_temperature));
  }
  double operator()(double gradient, double weight) const {
    return gradient * (weight * inverse_temperature);
  }
};

// The types of one instance of the kernel, and how it sees the soft labels.
template <DType logits_type, DType soft_labels_type, bool softmax>
struct Rows {
  using Z = typename StorageOf<logits_type>::type;
  using S = typename StorageOf<soft_labels_type>::type;

  const Problem& problem;
  ByTarget weight;

  // The row's soft labels as the sweeps see them, and what their gradient is multiplied with.
  template <class A>
  auto soft_labels(const S* row) const {
    if constexpr (softmax) {
      return Softmax<A, S>{{row},
                           largest_of<A>(row, problem.classes),
                           A(inverse_temperature<A>(problem.soft_label_temperature))};
    } else {
      return Stored<A, S>{row};
    }
  }
  template <class A>
  auto chain() const {
    if constexpr (softmax) {
      return SoftmaxChain<A>{inverse_temperature<A>(problem.soft_label_temperature)};
    } else {
      return Identity{};
    }
  }

  const Z* logits_row(const RowIndex& at) const {
    return static_cast<const Z*>(problem.logits) +
           at.offset(problem.logits_stride, problem.logits_group_stride);
  }
  const S* soft_labels_row(const RowIndex& at) const {
    return static_cast<const S*>(problem.soft_labels) +
           at.offset(problem.soft_labels_stride, problem.soft_labels_group_stride);
  }

  // The losses of one row under one label or two, and the sum of their gradients, each times its
  // weight. False: the accumulator A is not good enough for the row, and nothing was written.
  template <class A, int labels>
  bool one(const RowIndex& at, const int64_t (&targets)[labels], const double (&weights)[labels],
           double (&losses)[labels]) const {
    constexpr bool in_float = std::is_same_v<A, float>;
    const int64_t n = problem.classes;
    const SmoothedLabel h = problem.hard_label;
    const double gamma = problem.gamma;
    const Stored<A, Z> z = {logits_row(at)};
    const auto s = soft_labels<A>(soft_labels_row(at));
    Z* gradient = static_cast<Z*>(problem.logits_grad);
    if (gradient != nullptr) gradient += at.row * n;

    // Two labels share every sum of the sweep: they differ in z_y and s_y alone.
    RowSums sums[labels];
    Row k[labels];
    sums[0] = sum_row<A>(z, s, n, gradient_to_prefetch(problem, gradient, z.row));
    if constexpr (labels == 2) sums[1] = sums[0];
    const InverseNorm s_norm = inverse_norm(sums[0].ss, kNormalizeEps);
    for (int i = 0; i < labels; ++i) {
      sums[i].z_at = z.at(targets[i]);
      sums[i].s_at = s.at(targets[i]);
      RowProducts products = row_products(sums[i], s_norm, h, gamma);
      if (in_float && !(products.tt >= kCancellation && std::isfinite(sums[i].zs))) return false;
      if (products.tt < kCancellation)
        products = sum_refined<A>(z, s, n, targets[i], refined_label(s_norm, h, gamma));
      k[i] = finish_row(sums[i], s_norm, products);
      if (in_float && !(is_ordinary(k[i].z) && is_ordinary(k[i].s))) return false;
      losses[i] = 1.0 - k[i].cosine;
    }

    GradientCoefficients coefficients[labels];
    if (gradient != nullptr) {
      for (int i = 0; i < labels; ++i)
        coefficients[i] = logits_gradient(k[i], h, gamma, weights[i]);
      if constexpr (std::is_same_v<Z, Float16>) {
        double steepest = std::fabs(weights[0]) * k[0].z.value;
        if constexpr (labels == 2) steepest += std::fabs(weights[1]) * k[1].z.value;
        const double scale = half_gradient_factor(steepest);
        for (int i = 0; i < labels; ++i) multiply(coefficients[i], scale);
        problem.logits_grad_scale[at.row] = half_logits_unit(k[0], scale);
      }
      const RowIndex next = row_to_prefetch(problem, at);
      const auto ahead = [s_row = soft_labels_row(next), z_row = logits_row(next)](int64_t j,
                                                                                   int64_t count) {
        prefetch(s_row, j, count);
        prefetch(z_row, j, count);
      };
      write<A>(s, z, Identity{}, ahead, targets, coefficients, gradient);
    }
    if (problem.soft_labels_grad != nullptr) {
      for (int i = 0; i < labels; ++i)
        coefficients[i] = soft_labels_gradient(sums[i], k[i], h, gamma, weights[i]);
      if constexpr (std::is_same_v<S, Float16>) {
        const double chained = softmax ? 1.0 / problem.soft_label_temperature : 1.0;
        const auto steepest_of = [&](int i) {
          return chained * std::fabs(weights[i]) * (1.0 - gamma) * k[i].s.value * k[i].t.value;
        };
        double steepest = steepest_of(0);
        if constexpr (labels == 2) steepest += steepest_of(1);
        const double scale = half_gradient_factor(steepest);
        for (int i = 0; i < labels; ++i) multiply(coefficients[i], scale);
        problem.soft_labels_grad_scale[at.row] = half_soft_labels_unit(k[0], scale);
      }
      const auto nothing = [](int64_t, int64_t) {};
      write<A>(z, s, chain<A>(), nothing, targets, coefficients,
               static_cast<S*>(problem.soft_labels_grad) + at.row * n);
    }
    return true;
  }

  // The sum of the labels' gradients, linear in z and s like each of them.
  template <class A, int labels, class T, class Other, class Own, class Chain, class Ahead>
  void write(const Other& other, const Own& own, const Chain& chain, const Ahead& ahead,
             const int64_t (&targets)[labels], const GradientCoefficients (&coefficients)[labels],
             T* gradient) const {
    GradientCoefficients sum = coefficients[0];
    if constexpr (labels == 2) {
      sum.other += coefficients[1].other;
      sum.own += coefficients[1].own;
      sum.all += coefficients[1].all;
      if (targets[1] == targets[0]) sum.target += coefficients[1].target;
    }
    write_gradient<A>(other, own, chain, ahead, problem.classes, targets[0], sum, problem.stream,
                      gradient);
    if constexpr (labels == 2) {
      if (targets[1] != targets[0]) {
        sum.target = coefficients[1].target;
        write_target(other, own, chain, targets[1], sum, gradient);
      }
    }
  }

  template <int labels>
  bool row(const RowIndex& at, const int64_t (&targets)[labels], const double (&weights)[labels],
           double (&losses)[labels], BadRow&) const {
    if constexpr (logits_type != DType::kFloat64)
      if (one<float>(at, targets, weights, losses)) return true;
    one<double>(at, targets, weights, losses);
    return true;
  }

  void ignored(int64_t row) const {
    const int64_t n = problem.classes;
    write_zeros(static_cast<Z*>(problem.logits_grad), problem.logits_grad_scale, row, n);
    write_zeros(static_cast<S*>(problem.soft_labels_grad), problem.soft_labels_grad_scale, row, n);
  }
};

template <DType logits_type, DType soft_labels_type>
RowsResult loss_of_rows(const Problem& problem, ByTarget weight, int64_t begin, int64_t end) {
  using Loss = std::conditional_t<logits_type == DType::kFloat64, double, float>;
  if (problem.soft_label_temperature > 0.0)
    return run_rows<Loss>(Rows<logits_type, soft_labels_type, true>{problem, weight}, begin, end);
  return run_rows<Loss>(Rows<logits_type, soft_labels_type, false>{problem, weight}, begin, end);
}

#include "top_k_kernel.h"

template <DType type>
void scale_rows(const ScaleProblem& problem, int64_t begin, int64_t end) {
  using T = typename StorageOf<type>::type;
  using A = std::conditional_t<type == DType::kFloat64, double, float>;
  constexpr int64_t lanes = kLanes<A>;
  const int64_t n = problem.classes;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t i = row * problem.grad_output_stride;
    const double upstream = problem.grad_output_is_double
                                ? static_cast<const double*>(problem.grad_output)[i]
                                : double(static_cast<const float*>(problem.grad_output)[i]);
    const double stored = problem.grad_scale != nullptr ? double(problem.grad_scale[row]) : 1.0;
    const A factor = A(upstream * stored);
    T* gradient = static_cast<T*>(problem.grad) + row * n;
    int64_t j = 0;
    for (; j + lanes <= n; j += lanes) store<A>(gradient + j, load<A>(gradient + j) * factor);
    if (j < n) store_part<A>(gradient + j, load_part<A>(gradient + j, n - j) * factor, n - j);
  }
}

}  // namespace

#define GIFT_ROW(Z)                                                    \
  {loss_of_rows<Z, DType::kFloat64>, loss_of_rows<Z, DType::kFloat32>, \
   loss_of_rows<Z, DType::kBFloat16>, loss_of_rows<Z, DType::kFloat16>}
extern const RowKernels GIFT_ROWS;
const RowKernels GIFT_ROWS = {
    {GIFT_ROW(DType::kFloat64), GIFT_ROW(DType::kFloat32), GIFT_ROW(DType::kBFloat16),
     GIFT_ROW(DType::kFloat16)},
    {top_k_loss_of_rows<DType::kFloat64>, top_k_loss_of_rows<DType::kFloat32>,
     top_k_loss_of_rows<DType::kBFloat16>, top_k_loss_of_rows<DType::kFloat16>},
    {scale_rows<DType::kFloat64>, scale_rows<DType::kFloat32>, scale_rows<DType::kBFloat16>,
     scale_rows<DType::kFloat16>},
};
#undef GIFT_ROW

}  // namespace gift
