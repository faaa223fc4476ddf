// The CPU launcher: picks the instruction set, spreads the rows over torch's threads, reduces.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include <torch/csrc/stable/ops.h>

#include "rows.h"

// ThreadSanitizer does not see how torch's OpenMP threads begin and end: a build for it is told.
#if defined(__SANITIZE_THREAD__)
extern "C" void __tsan_release(void*);
extern "C" void __tsan_acquire(void*);
#define GIFT_HAPPENS_BEFORE(mark) __tsan_release(&(mark))
#define GIFT_HAPPENS_AFTER(mark) __tsan_acquire(&(mark))
#else
#define GIFT_HAPPENS_BEFORE(mark) static_cast<void>(mark)
#define GIFT_HAPPENS_AFTER(mark) static_cast<void>(mark)
#endif

namespace gift {
namespace {

// Rows are cut into this many pieces at most, however many threads there are, and the pieces' sums
// are added in order: the loss has the same bits for any number of threads.
constexpr int64_t kChunks = 256;
// Elements a thread should have before another is woken: at::internal::GRAIN_SIZE.
constexpr int64_t kGrain = 32768;

// Gradients from this size on are written past the cache: they would not be in it any more when
// somebody reads them. On a Zen 3 with 32 MiB of L3, 256 x 21841 floats (22 MB) take 4.2 ms through
// the cache and 3.5 ms past it; 1024 x 1000 (4 MB) 0.29 ms and 0.64 ms.
constexpr int64_t kStreamBytes = 16 << 20;

// Rows of floats up to this size are prefetched. On Emerald Rapids (AVX-512, one thread) a step of
// 1024 x 1000 takes 0.83 to 0.90 of the time without, with AVX2 0.85 to 0.89, and 512 x 2000 0.93
// to 0.99; 256 x 4000 takes up to 1.15, and with stores past the cache 1.2 to 1.9.
constexpr int64_t kPrefetchedRowBytes = 8 << 10;

struct Capability {
  const char* name;
  const RowKernels* kernels;
  bool supported;
};

// Best first. GIFT_FAST_CPU_CAPABILITY names one to use instead, as ATEN_CPU_CAPABILITY does. A
// name that is unknown, or that this processor lacks, is std::invalid_argument at every call.
const Capability& capability() {
  static const Capability& chosen = []() -> const Capability& {
    static const Capability all[] = {
#if defined(__x86_64__)
        {"avx512", &kRowsAvx512,
         __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")},
        {"avx2", &kRowsAvx2,
         __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("f16c")},
#endif
        {"default", &kRowsDefault, true},
    };
    const char* wanted = std::getenv("GIFT_FAST_CPU_CAPABILITY");
    const bool any = wanted == nullptr || *wanted == '\0';
    std::string supported;
    for (const Capability& one : all) {
      if (!one.supported) continue;
      if (any || std::strcmp(wanted, one.name) == 0) return one;
      supported += (supported.empty() ? "" : ", ") + std::string(one.name);
    }
    throw std::invalid_argument("GIFT_FAST_CPU_CAPABILITY must be one of " + supported +
                                ", which this processor and this build have, got \"" + wanted +
                                "\"; without the variable the first of them is taken");
  }();
  return chosen;
}

// Whether this process was forked from one that had started torch's threads: GNU OpenMP would wait
// for them forever. (So do torch's own operators, unless torch.set_num_threads(1) is called.)
bool threads_were_left_behind() {
  static std::atomic<pid_t> owner{0};
  const pid_t self = getpid();
  pid_t first = 0;
  return !owner.compare_exchange_strong(first, self) && first != self;
}

// begin, end and body of a loop over chunks of rows, on torch's threads where there is enough work.
template <class Body>
void for_each_chunk(int64_t rows, int64_t classes, const Body& body) {
  if (rows == 0) return;
  const int64_t chunks = std::min(rows, kChunks);
  const auto run = [&](int64_t first, int64_t last) {
    for (int64_t chunk = first; chunk < last; ++chunk)
      body(chunk, rows * chunk / chunks, rows * (chunk + 1) / chunks);
  };
  const int64_t elements_per_chunk = std::max<int64_t>(rows * classes / chunks, 1);
  const int64_t grain = std::max<int64_t>(kGrain / elements_per_chunk, 1);
  if (chunks <= grain || threads_were_left_behind()) {
    run(0, chunks);
  } else {
    char begun = 0, ended = 0;
    GIFT_HAPPENS_BEFORE(begun);
    torch::stable::parallel_for(0, chunks, grain, [&](int64_t first, int64_t last) {
      GIFT_HAPPENS_AFTER(begun);
      run(first, last);
      GIFT_HAPPENS_BEFORE(ended);
    });
    GIFT_HAPPENS_AFTER(ended);
  }
}

// What the mean divides by: the numbers of valid targets.
ByTarget count_valid(const Problem& problem) {
  int64_t valid = 0, valid_others = 0;
  if (problem.rows > 0) {
    for (RowIndex at = row_index(problem, 0); at.row < problem.rows; at.advance(problem)) {
      valid += target_of(problem, at) != problem.ignore_index;
      if (problem.other_target != nullptr)
        valid_others += other_target_of(problem, at) != problem.ignore_index;
    }
  }
  return {double(valid), double(valid_others)};
}

bool streams(const Problem& problem) {
  return problem.rows * problem.classes * int64_t(sizeof(float)) >= kStreamBytes;
}

bool prefetches(const Problem& problem) {
  return !streams(problem) && problem.classes * int64_t(sizeof(float)) <= kPrefetchedRowBytes;
}

// All rows, and the reduction. loss_of_rows(weight, begin, end) has the results of some of them.
template <class LossOfRows>
BadRow launch_rows(const Problem& problem, const LossOfRows& loss_of_rows) {
  const ByTarget divisor = problem.mean ? count_valid(problem) : ByTarget{1.0, 1.0};
  const ByTarget weight = {1.0 / divisor.target, 1.0 / divisor.other};

  // Workers never throw: a bad row is recorded, the caller raises.
  RowsResult results[kChunks];
  const int64_t chunks = std::min(problem.rows, kChunks);
  for_each_chunk(problem.rows, problem.classes, [&](int64_t chunk, int64_t begin, int64_t end) {
    results[chunk] = loss_of_rows(weight, begin, end);
  });

  ByTarget total = {0.0, 0.0};
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    if (results[chunk].bad.row >= 0) return results[chunk].bad;
    total.target += results[chunk].loss.target;
    total.other += results[chunk].loss.other;
  }
  if (problem.total != nullptr) {
    // No valid row: 0 / 0, as F.cross_entropy has it.
    double loss = total.target / divisor.target;
    if (problem.other_target != nullptr) loss += total.other / divisor.other;
    if (problem.logits_type == DType::kFloat64) {
      *static_cast<double*>(problem.total) = loss;
    } else {
      *static_cast<float*>(problem.total) = float(loss);
    }
  }
  return {-1, BadRow::kTarget, 0.0, 0.0};
}

}  // namespace

BadRow launch_cpu(const Problem& given) {
  Problem problem = given;
  problem.stream = streams(given);
  problem.prefetch = prefetches(given);
  const RowsFunction loss_of_rows =
      capability().kernels->loss[int(problem.logits_type)][int(problem.soft_labels_type)];
  return launch_rows(problem, [&](ByTarget weight, int64_t begin, int64_t end) {
    return loss_of_rows(problem, weight, begin, end);
  });
}

BadRow launch_cpu(const TopKProblem& given) {
  TopKProblem problem = given;
  problem.call.stream = streams(given.call);
  problem.call.prefetch = prefetches(given.call);
  const TopKFunction loss_of_rows = capability().kernels->top_k[int(given.call.logits_type)];
  return launch_rows(problem.call, [&](ByTarget weight, int64_t begin, int64_t end) {
    return loss_of_rows(problem, weight, begin, end);
  });
}

void launch_cpu(const ScaleProblem& problem) {
  const ScaleFunction scale_rows = capability().kernels->scale[int(problem.grad_type)];
  for_each_chunk(problem.rows, problem.classes,
                 [&](int64_t, int64_t begin, int64_t end) { scale_rows(problem, begin, end); });
}

const char* cpu_capability() { return capability().name; }

const char* cpu_capabilities_built() {
#if defined(__x86_64__)
  return "default avx2 avx512";
#else
  return "default";
#endif
}

}  // namespace gift
