// The row kernels, one set for each instruction set that was compiled in.
#pragma once

#include "../gift_loss.h"

namespace gift {

inline int64_t target_of(const Problem& problem, int64_t row) {
  const int64_t i = row * problem.target_stride;
  return problem.target_is_int64 ? static_cast<const int64_t*>(problem.target)[i]
                                 : static_cast<const int32_t*>(problem.target)[i];
}

struct RowsResult {
  double loss;      // sum over the rows, before the division for the mean
  int64_t bad_row;  // the first row with a target out of range, or -1
};

// Rows [begin, end) of a problem; `weight` is the factor of every row's gradient.
using RowsFunction = RowsResult (*)(const Problem&, double weight, int64_t begin, int64_t end);
using ScaleFunction = void (*)(const ScaleProblem&, int64_t begin, int64_t end);

struct RowKernels {
  RowsFunction loss[kDTypes][kDTypes];  // [logits_type][soft_labels_type]
  ScaleFunction scale[kDTypes];
};

extern const RowKernels kRowsDefault;  // SSE2 on x86-64, NEON on arm64
#if defined(__x86_64__)
extern const RowKernels kRowsAvx2;
extern const RowKernels kRowsAvx512;
#endif

}  // namespace gift
