// The row kernel of top-k labels. Included by rows_kernel.h, once for each instruction set.
//
// A row of the refined label t has k + 2 different values at most: one for each kept class, one for
// the target where it is not kept, and one for all other classes. So |t|^2 needs no sweep and does
// not cancel, and z.t needs the sum of z and the logits at k + 1 classes:
//
//   z.t = sum_i t_i z_i + t_y z_y + t_rest (sum z - sum_i z_i - z_y)
//   dloss/dz_j = q z_j - weight t_j / (n_z n_t)
//
// The first sweep has sum z and |z|^2, the second writes q z_j + r, and k + 1 elements are written
// over. Both read the logits alone. What is of a row is in double.

// Rows with more kept classes than this take memory from the heap.
constexpr int64_t kOnStack = 128;
static_assert(kOnStack % kLanes<double> == 0, "the last vector lies inside the array");

// Room for the labels of one row: k values, the logits at their classes, and the classes. The
// arrays hold whole vectors.
struct TopKMemory {
  double stack[2 * kOnStack];
  int64_t classes_on_stack[kOnStack];
  void* heap = nullptr;
  double *values = stack, *logits = stack + kOnStack;
  int64_t* classes = classes_on_stack;

  explicit TopKMemory(int64_t k) {
    if (k <= kOnStack) return;
    const size_t padded = size_t((k + kOnStack - 1) / kOnStack * kOnStack);
    heap = malloc(padded * (2 * sizeof(double) + sizeof(int64_t)));
    values = static_cast<double*>(heap);
    if (heap == nullptr) return;
    logits = values + padded;
    classes = reinterpret_cast<int64_t*>(logits + padded);
  }
  TopKMemory(const TopKMemory&) = delete;
  TopKMemory& operator=(const TopKMemory&) = delete;
  ~TopKMemory() { free(heap); }
};

// Copies k values into whole vectors, zeros behind them.
template <class T>
void widen_values(const void* from, int64_t offset, int64_t k, double* to) {
  const T* values = static_cast<const T*>(from) + offset;
  for (int64_t i = 0; i < k; i += kLanes<double>)
    store<double>(to + i, collect_lanes<double>(k - i, 0.0, [&](int64_t lane) {
                    return double(widen(values[i + lane]));
                  }));
}

inline void read_values(const void* from, DType type, int64_t offset, int64_t k, double* to) {
  switch (type) {
    case DType::kFloat64: return widen_values<double>(from, offset, k, to);
    case DType::kFloat32: return widen_values<float>(from, offset, k, to);
    case DType::kBFloat16: return widen_values<BFloat16>(from, offset, k, to);
    case DType::kFloat16: return widen_values<Float16>(from, offset, k, to);
  }
}

// Copies k indices into whole vectors, -1 behind them; the first that is no class, or k.
template <class T>
int64_t widen_indices(const void* from, int64_t offset, int64_t k, int64_t classes, int64_t* to) {
  const T* indices = static_cast<const T*>(from) + offset;
  bool good = true;
  for (int64_t i = 0; i < k; i += kLanes<int64_t>) {
    const Vector<int64_t> x = collect_lanes<int64_t>(k - i, -1, [&](int64_t lane) {
      const int64_t index = int64_t(indices[i + lane]);
      good &= uint64_t(index) < uint64_t(classes);
      return index;
    });
    memcpy(to + i, &x, sizeof(x));
  }
  if (good) return k;
  int64_t i = 0;
  while (uint64_t(to[i]) < uint64_t(classes)) ++i;
  return i;
}

inline int64_t read_indices(const TopKLabels& labels, int64_t offset, int64_t classes,
                            int64_t* to) {
  const int64_t k = labels.kept;
  switch (labels.indices_type) {
    case IndexType::kInt64: return widen_indices<int64_t>(labels.indices, offset, k, classes, to);
    case IndexType::kInt32: return widen_indices<int32_t>(labels.indices, offset, k, classes, to);
    case IndexType::kInt16: return widen_indices<int16_t>(labels.indices, offset, k, classes, to);
  }
  return 0;
}

// exp((x - largest) / T) in place, in whole vectors, zeros behind them.
inline void exponentials(double* x, int64_t k, double largest, double inverse_temperature) {
  for (int64_t i = 0; i < k; i += kLanes<double>) {
    const Vector<double> exponents = (load<double>(x + i) - largest) * inverse_temperature;
    store<double>(x + i, keep_lanes<double>(exp_of_nonpositive<double>(exponents), 0, k - i));
  }
}

// The soft label of one row: the values at `classes`, `rest` at `others` other classes.
struct TopKRow {
  const double* values;
  const int64_t* classes;
  int64_t kept, others;
  double rest;
};

using Classes = Vector<int64_t>;

inline Classes load_classes(const int64_t* from) {
  Classes x;
  memcpy(&x, from, sizeof(x));
  return x;
}

// The kept part of z.t and |t|^2 for one target, and the target's value where it is a kept class.
struct KeptProducts {
  double zt, tt, s_target;
  bool has_target;
};

inline KeptProducts kept_products(const TopKRow& s, const double* logits, int64_t target,
                                  const RefinedLabel& t) {
  constexpr int64_t lanes = kLanes<double>;
  const Vector<double> zero = {}, on_target = zero + t.on_target;
  Vector<double> zt = {}, tt = {}, at = {};
  Classes found = {};
  for (int64_t i = 0; i < s.kept; i += lanes) {
    const Classes is_target = load_classes(s.classes + i) == target;
    const Vector<double> value = load<double>(s.values + i);
    Vector<double> refined = value * t.scale + t.base;
    refined = keep_lanes<double>(refined + (is_target ? on_target : zero), 0, s.kept - i);
    at += is_target ? value : zero;
    found |= is_target;
    zt += refined * load<double>(logits + i);
    tt += refined * refined;
  }
  int64_t any = 0;
  for (int i = 0; i < lanes; ++i) any |= found[i];
  return {sum_of_lanes<double>(zt), sum_of_lanes<double>(tt), sum_of_lanes<double>(at), any != 0};
}

// Whether the values can be probabilities, and their sum. A NaN passes: it stays in its row.
inline bool are_probabilities(const double* values, int64_t k, double most, double& sum) {
  Vector<double> total = {}, lowest = {};
  for (int64_t i = 0; i < k; i += kLanes<double>) {
    const Vector<double> value = load<double>(values + i);
    total += value;
    lowest = value < lowest ? value : lowest;
  }
  sum = sum_of_lanes<double>(total);
  return !(sum_of_lanes<double>(lowest) < 0.0 || sum > most);
}

// sum z and |z|^2. Four vectors of each: eight independent chains of additions.
template <class A, class Logits, class T>
RowSums sum_logits(const Logits& z, int64_t n, const T* gradient) {
  constexpr int64_t lanes = kLanes<A>;
  RowSums total = {};
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, n);
    Vector<A> sum[4] = {}, square[4] = {};
    const auto add = [&](int i, Vector<A> x) {
      sum[i] += x;
      square[i] += x * x;
    };
    int64_t j = begin;
    for (; j + 4 * lanes <= end; j += 4 * lanes) {
      prefetch(gradient, j, 4 * lanes);
      for (int i = 0; i < 4; ++i) add(i, z.full(j + i * lanes));
    }
    for (; j + lanes <= end; j += lanes) add(0, z.full(j));
    if (j < end) add(1, n >= lanes ? z.last(n, end - j) : z.part(j, end - j));
    total.z += sum_of_lanes<A>((sum[0] + sum[1]) + (sum[2] + sum[3]));
    total.zz += sum_of_lanes<A>((square[0] + square[1]) + (square[2] + square[3]));
  }
  return total;
}

template <DType logits_type>
struct TopKRows {
  using Z = typename StorageOf<logits_type>::type;
  using Loss = std::conditional_t<logits_type == DType::kFloat64, double, float>;

  const TopKLabels& labels;
  const Problem& problem;
  ByTarget weight;
  TopKMemory& memory;

  // Reads the labels of a row into `memory`, in whole vectors: behind the kept classes, values of
  // zero, which have no part in a sum, and the class -1, which is no target. False: they are no
  // labels.
  bool read(const RowIndex& at, TopKRow& row, BadRow& bad) const {
    const int64_t k = labels.kept;
    double* values = memory.values;
    if (values == nullptr) {
      bad = {at.row, BadRow::kMemory, 0.0, 0.0};
      return false;
    }
    row = {values, memory.classes, k, problem.classes - k, 0.0};
    read_values(labels.values, labels.values_type,
                at.offset(labels.values_stride, labels.values_group_stride), k, values);
    const int64_t good =
        read_indices(labels, at.offset(labels.indices_stride, labels.indices_group_stride),
                     problem.classes, memory.classes);
    if (good < k) {
      bad = {at.row, BadRow::kIndex, double(memory.classes[good]), 0.0};
      return false;
    }
    const bool softmax = problem.soft_label_temperature > 0.0;
    if (labels.rest == nullptr) {
      double sum = 0.0;
      if (!are_probabilities(values, k, largest_mass(labels.values_type), sum)) {
        double smallest = values[0];
        for (int64_t i = 1; i < k; ++i) smallest = values[i] < smallest ? values[i] : smallest;
        bad = {at.row, BadRow::kProbabilities, smallest, sum};
        return false;
      }
      const double missing = 1.0 - sum;
      if (row.others > 0) row.rest = (missing < 0.0 ? 0.0 : missing) / double(row.others);
    } else if (row.others > 0) {
      double rest[kLanes<double>];
      read_values(labels.rest, labels.rest_type,
                  at.offset(labels.rest_stride, labels.rest_group_stride), 1, rest);
      row.rest = rest[0];
      if (!softmax && row.rest == -HUGE_VAL) {
        bad = {at.row, BadRow::kRest, row.rest, 0.0};
        return false;
      }
    }
    if (softmax) {
      double largest = row.others > 0 ? row.rest : values[0];
      for (int64_t i = 0; i < k; ++i) largest = values[i] > largest ? values[i] : largest;
      const double inverse = inverse_temperature<double>(problem.soft_label_temperature);
      exponentials(values, k, largest, inverse);
      if (row.others > 0) {
        const Vector<double> rest = Vector<double>{} + (row.rest - largest) * inverse;
        row.rest = exp_of_nonpositive<double>(rest)[0];
      }
    }
    return true;
  }

  const Z* logits_row(const RowIndex& at) const {
    return static_cast<const Z*>(problem.logits) +
           at.offset(problem.logits_stride, problem.logits_group_stride);
  }

  // The losses of one row under one label or two, and the sum of their gradients, each times its
  // weight. False: the accumulator A is not good enough for the row, and nothing was written.
  template <class A, int hard>
  bool one(const RowIndex& at, const TopKRow& s, const int64_t (&targets)[hard],
           const double (&weights)[hard], double (&losses)[hard]) const {
    constexpr bool in_float = std::is_same_v<A, float>;
    const int64_t n = problem.classes;
    const SmoothedLabel h = problem.hard_label;
    const double gamma = problem.gamma;
    const Stored<A, Z> z = {logits_row(at)};
    Z* gradient = static_cast<Z*>(problem.logits_grad);
    if (gradient != nullptr) gradient += at.row * n;
    const RowSums sums = sum_logits<A>(z, n, gradient_to_prefetch(problem, gradient, z.row));
    double* logits = memory.logits;
    Vector<double> squares = {}, kept_sum = {};
    for (int64_t i = 0; i < s.kept; i += kLanes<double>) {
      const Vector<double> value = load<double>(s.values + i);
      const Vector<double> logit = collect_lanes<double>(
          s.kept - i, 0.0, [&](int64_t lane) { return z.at(s.classes[i + lane]); });
      store<double>(logits + i, logit);
      squares += value * value;
      kept_sum += logit;
    }
    const double kept_logits = sum_of_lanes<double>(kept_sum);
    const InverseNorm s_norm = inverse_norm(
        sum_of_lanes<double>(squares) + double(s.others) * s.rest * s.rest, kNormalizeEps);
    const RefinedLabel t = refined_label(s_norm, h, gamma);
    const double t_rest = t.base + t.scale * s.rest, t_alone = t_rest + t.on_target;

    double s_target[hard];   // the soft label at the target
    double towards_t[hard];  // the gradient along t
    double own = 0.0, all_towards_t = 0.0, steepest = 0.0, bound = 1.0;
    for (int l = 0; l < hard; ++l) {
      const double z_target = z.at(targets[l]);
      const KeptProducts kept = kept_products(s, logits, targets[l], t);
      double zt = kept.zt, tt = kept.tt;
      const bool alone = !kept.has_target;
      s_target[l] = alone ? s.rest : kept.s_target;
      if (s.others > 0) {
        double rest_logits = sums.z - kept_logits;
        double rest_classes = double(s.others);
        if (alone) {
          zt += t_alone * z_target;
          tt += t_alone * t_alone;
          rest_logits -= z_target;
          rest_classes -= 1.0;
        }
        zt += t_rest * rest_logits;
        tt += t_rest * t_rest * rest_classes;
      }
      const Row k = finish_row(sums, s_norm, {zt, tt});
      if (in_float && !is_ordinary(k.z)) return false;
      losses[l] = 1.0 - k.cosine;
      towards_t[l] = -weights[l] * k.z.value * k.t.value;
      all_towards_t += towards_t[l];
      if (!k.z.bounded) own += weights[l] * k.cosine * k.z.value * k.z.value;
      steepest += std::fabs(weights[l]) * k.z.value;
      if constexpr (std::is_same_v<Z, Float16>) bound = half_logits_unit(k, 1.0);
    }
    if (gradient == nullptr) return true;

    if constexpr (std::is_same_v<Z, Float16>) {
      const double scale = half_gradient_factor(steepest);
      own *= scale;
      all_towards_t *= scale;
      for (int l = 0; l < hard; ++l) towards_t[l] *= scale;
      problem.logits_grad_scale[at.row] = float(bound) * float(inverse_of_power_of_two(scale));
    }
    const Z* next = logits_row(row_to_prefetch(problem, at));
    const A q = A(own), r = A(all_towards_t * t_rest);
    store_row<A>([&](int64_t j) { return z.full(j) * q + r; },
                 [&](int64_t count) { return z.part(0, count) * q + r; },
                 [&](int64_t j, int64_t count) { prefetch(next, j, count); }, n, problem.stream,
                 gradient);
    // Both labels have the same t but at their targets.
    for (int64_t i = 0; i < s.kept; i += kLanes<double>) {
      const Vector<double> along_t =
          (load<double>(s.values + i) * t.scale + t.base) * all_towards_t;
      store<double>(logits + i, load<double>(logits + i) * own + along_t);
    }
    for (int64_t i = 0; i < s.kept; ++i) gradient[s.classes[i]] = narrow<Z>(logits[i]);
    for (int l = 0; l < hard; ++l) {
      double along_t = 0.0;
      for (int m = 0; m < hard; ++m) {
        const double on_target = targets[m] == targets[l] ? t.on_target : 0.0;
        along_t += towards_t[m] * (t.base + t.scale * s_target[l] + on_target);
      }
      gradient[targets[l]] = narrow<Z>(own * z.at(targets[l]) + along_t);
    }
    return true;
  }

  template <int hard>
  bool row(const RowIndex& at, const int64_t (&targets)[hard], const double (&weights)[hard],
           double (&losses)[hard], BadRow& bad) const {
    TopKRow s;
    if (!read(at, s, bad)) return false;
    // Of a few other classes the logits are a small difference of large sums.
    const bool few_others = s.others > 0 && s.others < s.kept;
    if constexpr (logits_type != DType::kFloat64)
      if (!few_others && one<float>(at, s, targets, weights, losses)) return true;
    one<double>(at, s, targets, weights, losses);
    return true;
  }

  void ignored(int64_t row) const {
    write_zeros(static_cast<Z*>(problem.logits_grad), problem.logits_grad_scale, row,
                problem.classes);
  }
};

template <DType logits_type>
RowsResult top_k_loss_of_rows(const TopKProblem& problem, ByTarget weight, int64_t begin,
                              int64_t end) {
  TopKMemory memory(problem.labels.kept);
  const TopKRows<logits_type> rows = {problem.labels, problem.call, weight, memory};
  return run_rows<typename TopKRows<logits_type>::Loss>(rows, begin, end);
}
