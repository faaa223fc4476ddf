// What gift_loss.cpp checks and allocates, and every backend computes.
#pragma once

#include <cstdint>

#include "gift_row.h"

namespace gift {

enum class DType : int8_t { kFloat64, kFloat32, kBFloat16, kFloat16 };
constexpr int kDTypes = 4;

// One call of the loss. Rows are contiguous inside; a stride is the distance between two rows of a
// group, in elements, and a group stride the one between two groups: a slice of (B, T, C) has B
// groups of T rows. Sums are taken in double for float64 logits, in float otherwise.
struct Problem {
  int64_t rows;            // N
  int64_t rows_per_group;  // >= 1
  int64_t classes;         // C >= 1

  const void* logits;  // [N, C] of logits_type
  int64_t logits_stride, logits_group_stride;
  DType logits_type;

  const void* soft_labels;  // [N, C] of soft_labels_type
  int64_t soft_labels_stride, soft_labels_group_stride;
  DType soft_labels_type;

  const void* target;  // [N] of int64_t or int32_t
  int64_t target_stride, target_group_stride;
  bool target_is_int64;

  // Mixed labels; null: every row has one. A row's loss is w of that of its target and 1 - w of
  // that of its other target, each of them divided by its own number of valid rows for the mean.
  const void* other_target;  // [N] of int64_t or int32_t
  int64_t other_target_stride, other_target_group_stride;
  bool other_target_is_int64;
  const void* target_weight;  // w, [N] of double or float; strides of 0: one value
  int64_t target_weight_stride, target_weight_group_stride;
  bool target_weight_is_double;

  SmoothedLabel hard_label;
  double gamma;
  double soft_label_temperature;  // 0: the soft labels are taken as they are
  int64_t ignore_index;
  bool mean;  // divide by the number of valid rows

  // The loss: double for float64 logits, else float. Exactly one of the two is given.
  void* row_losses;  // [N], for reduction "none"
  void* total;       // scalar

  // Contiguous, in the type of what they are the gradient of, and beginning at a 16-byte boundary,
  // as torch allocates; null: not requested.
  void* logits_grad;       // [N, C]
  void* soft_labels_grad;  // [N, C]
  // A float16 gradient is stored times a power of two a row; these are its inverses. Null
  // otherwise.
  float* logits_grad_scale;       // [N]
  float* soft_labels_grad_scale;  // [N]

  // Set by the CPU launcher.
  bool stream;    // gradients are written past the cache
  bool prefetch;  // sweeps prefetch what the next one needs
};

enum class IndexType : int8_t { kInt64, kInt32, kInt16 };

// Soft labels with k stored values a row and one value for all other classes. Strides as above.
struct TopKLabels {
  int64_t kept;  // k, 1 <= k <= C

  const void* values;  // [N, k] of values_type
  int64_t values_stride, values_group_stride;
  DType values_type;

  const void* indices;  // [N, k] of indices_type: the classes of the values, in any order
  int64_t indices_stride, indices_group_stride;
  IndexType indices_type;

  // Null: the values are probabilities, and the mass that is missing is spread evenly over the
  // other classes. Not read where k = C. -inf is valid with a temperature only.
  const void* rest;  // [N] of rest_type
  int64_t rest_stride, rest_group_stride;
  DType rest_type;
};

// One call of the loss with top-k labels. The soft labels of `call` are null, and so is their
// gradient.
struct TopKProblem {
  Problem call;
  TopKLabels labels;
};

// What the values of a row may sum to if they are probabilities.
inline double largest_mass(DType type) {
  constexpr double eps[kDTypes] = {0x1p-52, 0x1p-23, 0x1p-7, 0x1p-10};
  return 1.0 + kMassRounding + eps[int(type)];
}

// The first row that the loss cannot be computed of, and why. Gradients and losses are unspecified
// when there is one.
struct BadRow {
  enum Reason : int8_t { kTarget, kIndex, kProbabilities, kRest, kMemory };

  int64_t row;  // -1: none
  Reason reason;
  double value;  // the index; or the smallest value
  double sum;    // of the values
};

// A stored gradient times the upstream one, in place.
struct ScaleProblem {
  int64_t rows;
  int64_t classes;
  void* grad;  // [N, C] contiguous
  DType grad_type;
  const void* grad_output;  // [N], or one value with stride 0
  int64_t grad_output_stride;
  bool grad_output_is_double;
  const float* grad_scale;  // [N] or null
};

// A row of which a target is neither a class nor ignore_index, or the top-k labels are no labels.
BadRow launch_cpu(const Problem& problem);
BadRow launch_cpu(const TopKProblem& problem);
void launch_cpu(const ScaleProblem& problem);

// The instruction set that launch_cpu runs on this machine, and all that this build holds.
const char* cpu_capability();
const char* cpu_capabilities_built();

}  // namespace gift
