// The operators' arguments, checked in the same way for every device, and their outputs allocated.
//
// Errors are std::invalid_argument, a ValueError in Python.
#pragma once

#include <algorithm>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "gift_loss.h"

#if !defined(STABLE_TORCH_ERROR_CODE_CHECK)  // torch 2.10 has it under another name
#define STABLE_TORCH_ERROR_CODE_CHECK(call) TORCH_ERROR_CODE_CHECK(call)
#endif

namespace gift {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class... Parts>
[[noreturn]] inline void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

inline std::string shape_of(const Tensor& x) {
  std::ostringstream shape;
  shape << "(";
  for (int64_t i = 0; i < x.dim(); ++i) shape << (i ? ", " : "") << x.size(i);
  shape << (x.dim() == 1 ? ",)" : ")");
  return shape.str();
}

inline DType dtype_of(const Tensor& x, const char* name) {
  switch (x.scalar_type()) {
    case ScalarType::Double: return DType::kFloat64;
    case ScalarType::Float: return DType::kFloat32;
    case ScalarType::BFloat16: return DType::kBFloat16;
    case ScalarType::Half: return DType::kFloat16;
    default: fail(name, " must be float64, float32, bfloat16 or float16");
  }
}

// Rows may be strided, their elements may not.
inline Tensor with_contiguous_rows(const Tensor& x) {
  const int64_t last = x.dim() - 1;
  return x.size(last) <= 1 || x.stride(last) == 1 ? x : torch::stable::contiguous(x);
}

// Whether x has the first `dim` sizes of y, and no more.
inline bool has_shape_of(const Tensor& x, const Tensor& y, int64_t dim) {
  if (x.dim() != dim) return false;
  for (int64_t i = 0; i < dim; ++i)
    if (x.size(i) != y.size(i)) return false;
  return true;
}

// Where outputs go: the CPU, or one GPU.
struct Place {
  int32_t type, index;
};

// At most three sizes.
struct Shape {
  int64_t sizes[3] = {};
  size_t dim = 0;

  Shape(std::initializer_list<int64_t> given) {
    for (const int64_t size : given) sizes[dim++] = size;
  }
  // The first `count` sizes of x.
  Shape(const Tensor& x, int64_t count) {
    for (; int64_t(dim) < count; ++dim) sizes[dim] = x.size(int64_t(dim));
  }
  size_t size() const { return dim; }
  const int64_t* begin() const { return sizes; }
  int64_t operator[](int64_t i) const { return sizes[i]; }
};

inline Tensor empty(const Shape& shape, ScalarType dtype, Place place) {
  // The C function: torch::stable::empty goes through the dispatcher with a boxed stack, 1 us more.
  int64_t strides[3] = {1, 1, 1};
  const int64_t dim = int64_t(shape.size());
  for (int64_t i = dim - 1; i > 0; --i)
    strides[i - 1] = strides[i] * std::max<int64_t>(shape[i], 1);
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      dim, shape.begin(), strides,
      int32_t(torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype))), place.type,
      place.index, &handle));
  return Tensor(handle);
}

// The options of the operator loss_and_gradients, as its schema in gift_fast/loss/operators.py has
// them.
struct LossOptions {
  double gamma, label_smoothing;
  bool smooth_others;
  std::optional<double> soft_label_temperature;
  int64_t ignore_index, reduction;
  bool logits_grad, soft_labels_grad;
  std::optional<Tensor> other_target = std::nullopt, target_weight = std::nullopt;
};

// A problem to launch, and the tensors that its pointers point into.
struct CheckedProblem {
  Problem problem = {};
  Tensor logits, target;
  std::optional<Tensor> soft_labels = std::nullopt;
  std::optional<Tensor> other_target = std::nullopt, target_weight = std::nullopt;
  std::vector<Tensor> outputs = {};  // a list, since an unused tensor costs 2 us
};

struct CheckedTopKProblem {
  TopKProblem problem = {};
  CheckedProblem checked;
  Tensor values, indices;
  std::optional<Tensor> rest;
};

// The distances between the rows of a group and between groups of x, which has the leading
// dimensions of the logits and may have one more.
inline void set_strides(const Tensor& x, int64_t leading, int64_t& stride, int64_t& group_stride) {
  stride = x.stride(leading - 1);
  group_stride = leading == 2 ? x.stride(0) : 0;
}

inline bool is_int64(const Tensor& target, const char* name) {
  const ScalarType type = target.scalar_type();
  if (type != ScalarType::Long && type != ScalarType::Int) fail(name, " must be int64 or int32");
  return type == ScalarType::Long;
}

inline IndexType index_type_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Long: return IndexType::kInt64;
    case ScalarType::Int: return IndexType::kInt32;
    case ScalarType::Short: return IndexType::kInt16;
    default: fail("indices must be int64, int32 or int16");
  }
}

inline int64_t checked_leading(const Tensor& logits) {
  const int64_t leading = logits.dim() - 1;
  if ((leading != 1 && leading != 2) || logits.size(leading) < 1)
    fail("logits must have the shape (N, C) or (B, T, C) with C >= 1, got ", shape_of(logits));
  return leading;
}

// All of a call but its soft labels and outputs.
inline CheckedProblem check_call(const Tensor& given_logits, const Tensor& target,
                                 const LossOptions& options) {
  const int64_t leading = given_logits.dim() - 1;
  const int64_t classes = given_logits.size(leading);
  if (!has_shape_of(target, given_logits, leading))
    fail("target must have the shape of logits ", shape_of(given_logits),
         " without its last dimension, got ", shape_of(target));
  if (options.smooth_others && classes == 1)
    fail("smoothing='others' needs at least 2 classes, got C = 1");

  CheckedProblem checked = {{}, with_contiguous_rows(given_logits), target};
  const Tensor& logits = checked.logits;
  Problem& problem = checked.problem;
  problem.rows = leading == 2 ? logits.size(0) * logits.size(1) : logits.size(0);
  problem.rows_per_group = std::max<int64_t>(logits.size(leading - 1), 1);
  problem.classes = classes;
  problem.logits = logits.const_data_ptr();
  set_strides(logits, leading, problem.logits_stride, problem.logits_group_stride);
  problem.logits_type = dtype_of(logits, "logits");
  problem.target = target.const_data_ptr();
  set_strides(target, leading, problem.target_stride, problem.target_group_stride);
  problem.target_is_int64 = is_int64(target, "target");
  if (options.other_target.has_value() != options.target_weight.has_value())
    fail("other_target and target_weight must be given together");
  if (options.other_target.has_value()) {
    const Tensor &other = *options.other_target, &weight = *options.target_weight;
    if (!has_shape_of(other, logits, leading))
      fail("other_target must have the shape of target ", shape_of(target), ", got ",
           shape_of(other));
    const ScalarType type = weight.scalar_type();
    if (type != ScalarType::Double && type != ScalarType::Float)
      fail("target_weight must be float64 or float32");
    if (weight.dim() != 0 && !has_shape_of(weight, logits, leading))
      fail("target_weight must be a scalar or have the shape of target ", shape_of(target),
           ", got ", shape_of(weight));
    checked.other_target = other;
    checked.target_weight = weight;
    problem.other_target = other.const_data_ptr();
    set_strides(other, leading, problem.other_target_stride, problem.other_target_group_stride);
    problem.other_target_is_int64 = is_int64(other, "other_target");
    problem.target_weight = weight.const_data_ptr();
    if (weight.dim() > 0)
      set_strides(weight, leading, problem.target_weight_stride,
                  problem.target_weight_group_stride);
    problem.target_weight_is_double = type == ScalarType::Double;
  }
  problem.hard_label =
      smoothed_label(double(classes), options.label_smoothing, options.smooth_others);
  problem.gamma = options.gamma;
  problem.soft_label_temperature = options.soft_label_temperature.value_or(0.0);
  problem.ignore_index = options.ignore_index;
  problem.mean = options.reduction == 1;
  return checked;
}

inline void allocate_outputs(CheckedProblem& checked, const LossOptions& options, Place place) {
  Problem& problem = checked.problem;
  const Tensor& logits = checked.logits;
  const Shape rows_shape(logits, logits.dim() - 1), full_shape(logits, logits.dim());
  const ScalarType loss_type =
      problem.logits_type == DType::kFloat64 ? ScalarType::Double : ScalarType::Float;
  checked.outputs.reserve(4);
  const auto output = [&](const Shape& shape, ScalarType dtype) {
    checked.outputs.push_back(empty(shape, dtype, place));
    return checked.outputs.back().mutable_data_ptr();
  };
  if (options.reduction == 0) {
    problem.row_losses = output(rows_shape, loss_type);
  } else {
    problem.total = output({}, loss_type);
  }
  if (options.logits_grad) problem.logits_grad = output(full_shape, logits.scalar_type());
  if (options.soft_labels_grad)
    problem.soft_labels_grad = output(full_shape, checked.soft_labels->scalar_type());
  if (options.logits_grad && problem.logits_type == DType::kFloat16)
    problem.logits_grad_scale = static_cast<float*>(output(rows_shape, ScalarType::Float));
  if (options.soft_labels_grad && problem.soft_labels_type == DType::kFloat16)
    problem.soft_labels_grad_scale = static_cast<float*>(output(rows_shape, ScalarType::Float));
}

inline CheckedProblem check_problem(const Tensor& logits, const Tensor& soft_labels,
                                    const Tensor& target, const LossOptions& options, Place place) {
  const int64_t leading = checked_leading(logits);
  if (!has_shape_of(soft_labels, logits, leading + 1))
    fail("soft_labels must have the shape of logits ", shape_of(logits), ", got ",
         shape_of(soft_labels));
  CheckedProblem checked = check_call(logits, target, options);
  const Tensor& s = checked.soft_labels.emplace(with_contiguous_rows(soft_labels));
  Problem& problem = checked.problem;
  problem.soft_labels = s.const_data_ptr();
  set_strides(s, leading, problem.soft_labels_stride, problem.soft_labels_group_stride);
  problem.soft_labels_type = dtype_of(s, "soft_labels");
  allocate_outputs(checked, options, place);
  return checked;
}

inline CheckedTopKProblem check_top_k_problem(const Tensor& logits, const Tensor& values,
                                              const Tensor& indices,
                                              const std::optional<Tensor>& rest,
                                              const Tensor& target, const LossOptions& options,
                                              Place place) {
  const int64_t leading = checked_leading(logits);
  const int64_t classes = logits.size(leading);
  bool same_rows = values.dim() == leading + 1;
  for (int64_t i = 0; same_rows && i < leading; ++i) same_rows = values.size(i) == logits.size(i);
  if (!same_rows || values.size(leading) < 1 || values.size(leading) > classes)
    fail("values must have the shape (..., k) with the leading dimensions of logits ",
         shape_of(logits), " and 1 <= k <= C, got ", shape_of(values));
  if (!has_shape_of(indices, values, leading + 1))
    fail("indices must have the shape of values ", shape_of(values), ", got ", shape_of(indices));
  if (rest.has_value() && !has_shape_of(*rest, values, leading))
    fail("rest must have the shape of values ", shape_of(values),
         " without its last dimension, got ", shape_of(*rest));
  if (!rest.has_value() && options.soft_label_temperature.has_value())
    fail("soft_label_temperature needs rest: without it the values are probabilities");
  CheckedTopKProblem checked = {{},
                                check_call(logits, target, options),
                                with_contiguous_rows(values),
                                with_contiguous_rows(indices),
                                rest};
  allocate_outputs(checked.checked, options, place);
  checked.problem.call = checked.checked.problem;
  TopKLabels& labels = checked.problem.labels;
  labels.kept = values.size(leading);
  labels.values = checked.values.const_data_ptr();
  set_strides(checked.values, leading, labels.values_stride, labels.values_group_stride);
  labels.values_type = dtype_of(values, "values");
  labels.indices = checked.indices.const_data_ptr();
  set_strides(checked.indices, leading, labels.indices_stride, labels.indices_group_stride);
  labels.indices_type = index_type_of(indices);
  if (rest.has_value()) {
    labels.rest = rest->const_data_ptr();
    set_strides(*rest, leading, labels.rest_stride, labels.rest_group_stride);
    labels.rest_type = dtype_of(*rest, "rest");
  }
  return checked;
}

inline ScaleProblem check_scale_problem(Tensor& grad, Tensor& grad_output,
                                        const std::optional<Tensor>& scale) {
  const int64_t leading = grad.dim() - 1;
  if (leading < 1 || !grad.is_contiguous())
    fail("grad must be contiguous with the shape (..., C), got ", shape_of(grad));
  const bool per_row = grad_output.dim() > 0;
  if (per_row && !has_shape_of(grad_output, grad, leading))
    fail("grad_output must be a scalar or have the shape of grad ", shape_of(grad),
         " without its last dimension, got ", shape_of(grad_output));
  bool one_value = true;  // a scalar, or one that was expanded
  for (int64_t i = 0; i < grad_output.dim(); ++i)
    one_value = one_value && grad_output.stride(i) == 0;
  // Several leading dimensions are one in a contiguous tensor.
  if (leading > 1 && !one_value) grad_output = torch::stable::contiguous(grad_output);
  const ScalarType type = grad_output.scalar_type();
  if (type != ScalarType::Double && type != ScalarType::Float)
    fail("grad_output must be float64 or float32");

  ScaleProblem problem = {};
  problem.rows = 1;
  for (int64_t i = 0; i < leading; ++i) problem.rows *= grad.size(i);
  problem.classes = grad.size(leading);
  problem.grad = grad.mutable_data_ptr();
  problem.grad_type = dtype_of(grad, "grad");
  problem.grad_output = grad_output.const_data_ptr();
  problem.grad_output_stride = one_value ? 0 : grad_output.stride(leading - 1);
  problem.grad_output_is_double = type == ScalarType::Double;
  if (scale.has_value()) {
    if (!has_shape_of(*scale, grad, leading) || !scale->is_contiguous() ||
        scale->scalar_type() != ScalarType::Float)
      fail("scale must be contiguous and float32, with the shape of grad ", shape_of(grad),
           " without its last dimension, got ", shape_of(*scale));
    problem.grad_scale = static_cast<const float*>(scale->const_data_ptr());
  }
  return problem;
}

}  // namespace gift
