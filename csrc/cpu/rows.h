// The row kernels, one set for each instruction set that was compiled in.
#pragma once

#include "../gift_loss.h"

namespace gift {

// A row, and where it lies in its group.
struct RowIndex {
  int64_t row, group, member;

  int64_t offset(int64_t stride, int64_t group_stride) const {
    return group * group_stride + member * stride;
  }
  void advance(const Problem& problem) {
    ++row;
    if (++member == problem.rows_per_group) {
      member = 0;
      ++group;
    }
  }
};

inline RowIndex row_index(const Problem& problem, int64_t row) {
  return {row, row / problem.rows_per_group, row % problem.rows_per_group};
}

inline int64_t target_of(const Problem& problem, const RowIndex& at) {
  const int64_t i = at.offset(problem.target_stride, problem.target_group_stride);
  return problem.target_is_int64 ? static_cast<const int64_t*>(problem.target)[i]
                                 : static_cast<const int32_t*>(problem.target)[i];
}

inline int64_t other_target_of(const Problem& problem, const RowIndex& at) {
  const int64_t i = at.offset(problem.other_target_stride, problem.other_target_group_stride);
  return problem.other_target_is_int64 ? static_cast<const int64_t*>(problem.other_target)[i]
                                       : static_cast<const int32_t*>(problem.other_target)[i];
}

inline double target_weight_of(const Problem& problem, const RowIndex& at) {
  const int64_t i = at.offset(problem.target_weight_stride, problem.target_weight_group_stride);
  return problem.target_weight_is_double
             ? static_cast<const double*>(problem.target_weight)[i]
             : double(static_cast<const float*>(problem.target_weight)[i]);
}

// One value for the targets and one for the other targets of mixed labels.
struct ByTarget {
  double target, other;
};

struct RowsResult {
  ByTarget loss;  // sums over the rows, before the division for the mean
  BadRow bad;
};

// Rows [begin, end) of a problem; `weight` is the factor of every row's gradient.
using RowsFunction = RowsResult (*)(const Problem&, ByTarget weight, int64_t begin, int64_t end);
using TopKFunction = RowsResult (*)(const TopKProblem&, ByTarget weight, int64_t begin,
                                    int64_t end);
using ScaleFunction = void (*)(const ScaleProblem&, int64_t begin, int64_t end);

struct RowKernels {
  RowsFunction loss[kDTypes][kDTypes];  // [logits_type][soft_labels_type]
  TopKFunction top_k[kDTypes];          // [logits_type]
  ScaleFunction scale[kDTypes];
};

extern const RowKernels kRowsDefault;  // SSE2 on x86-64, NEON on arm64
#if defined(__x86_64__)
extern const RowKernels kRowsAvx2;
extern const RowKernels kRowsAvx512;
#endif

}  // namespace gift
