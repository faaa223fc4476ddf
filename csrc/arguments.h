// The operators' arguments, checked in the same way for every device, and their outputs allocated.
//
// Errors are std::invalid_argument, a ValueError in Python.
#pragma once

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
  return x.size(1) <= 1 || x.stride(1) == 1 ? x : torch::stable::contiguous(x);
}

// Where outputs go: the CPU, or one GPU.
struct Place {
  int32_t type, index;
};

inline Tensor empty(std::initializer_list<int64_t> shape, ScalarType dtype, Place place) {
  // The C function: torch::stable::empty goes through the dispatcher with a boxed stack, 1 us more.
  int64_t sizes[2] = {}, strides[2] = {1, 1};
  int64_t dim = 0;
  for (const int64_t size : shape) sizes[dim++] = size;
  if (dim == 2) strides[0] = sizes[1] > 0 ? sizes[1] : 1;
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      dim, sizes, strides,
      int32_t(torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype))), place.type,
      place.index, &handle));
  return Tensor(handle);
}

// The options of the operator loss_and_gradients, as its schema in gift_fast/loss/operators.py has them.
struct LossOptions {
  double gamma, label_smoothing;
  bool smooth_others;
  std::optional<double> soft_label_temperature;
  int64_t ignore_index, reduction;
  bool logits_grad, soft_labels_grad;
};

// A problem to launch, and the tensors that its pointers point into.
struct CheckedProblem {
  Problem problem = {};
  Tensor logits, soft_labels, target;
  std::vector<Tensor> outputs;  // a list, since a tensor that nobody asked for costs 2 us
};

inline CheckedProblem check_problem(Tensor logits, Tensor soft_labels, Tensor target,
                                    const LossOptions& options, Place place) {
  if (logits.dim() != 2 || logits.size(1) < 1)
    fail("logits must have the shape (N, C) with C >= 1, got ", shape_of(logits));
  const int64_t rows = logits.size(0), classes = logits.size(1);
  if (soft_labels.dim() != 2 || soft_labels.size(0) != rows || soft_labels.size(1) != classes)
    fail("soft_labels must have the shape of logits ", shape_of(logits), ", got ",
         shape_of(soft_labels));
  if (target.dim() != 1 || target.size(0) != rows)
    fail("target must have the shape (", rows, ",), got ", shape_of(target));
  if (options.smooth_others && classes == 1)
    fail("smoothing='others' needs at least 2 classes, got C = 1");
  const ScalarType target_type = target.scalar_type();
  if (target_type != ScalarType::Long && target_type != ScalarType::Int)
    fail("target must be int64 or int32");

  logits = with_contiguous_rows(logits);
  soft_labels = with_contiguous_rows(soft_labels);

  CheckedProblem checked = {{}, logits, soft_labels, target, {}};
  Problem& problem = checked.problem;
  problem.rows = rows;
  problem.classes = classes;
  problem.logits = logits.const_data_ptr();
  problem.logits_stride = logits.stride(0);
  problem.logits_type = dtype_of(logits, "logits");
  problem.soft_labels = soft_labels.const_data_ptr();
  problem.soft_labels_stride = soft_labels.stride(0);
  problem.soft_labels_type = dtype_of(soft_labels, "soft_labels");
  problem.target = target.const_data_ptr();
  problem.target_stride = target.stride(0);
  problem.target_is_int64 = target_type == ScalarType::Long;
  problem.hard_label =
      smoothed_label(double(classes), options.label_smoothing, options.smooth_others);
  problem.gamma = options.gamma;
  problem.soft_label_temperature = options.soft_label_temperature.value_or(0.0);
  problem.ignore_index = options.ignore_index;
  problem.mean = options.reduction == 1;

  const ScalarType loss_type =
      problem.logits_type == DType::kFloat64 ? ScalarType::Double : ScalarType::Float;
  checked.outputs.reserve(4);
  const auto output = [&](std::initializer_list<int64_t> shape, ScalarType dtype) {
    checked.outputs.push_back(empty(shape, dtype, place));
    return checked.outputs.back().mutable_data_ptr();
  };
  if (options.reduction == 0) {
    problem.row_losses = output({rows}, loss_type);
  } else {
    problem.total = output({}, loss_type);
  }
  if (options.logits_grad) problem.logits_grad = output({rows, classes}, logits.scalar_type());
  if (options.soft_labels_grad)
    problem.soft_labels_grad = output({rows, classes}, soft_labels.scalar_type());
  if (options.logits_grad && problem.logits_type == DType::kFloat16)
    problem.logits_grad_scale = static_cast<float*>(output({rows}, ScalarType::Float));
  if (options.soft_labels_grad && problem.soft_labels_type == DType::kFloat16)
    problem.soft_labels_grad_scale = static_cast<float*>(output({rows}, ScalarType::Float));
  return checked;
}

inline ScaleProblem check_scale_problem(Tensor& grad, const Tensor& grad_output,
                                        const std::optional<Tensor>& scale) {
  if (grad.dim() != 2 || !grad.is_contiguous())
    fail("grad must be a contiguous matrix, got ", shape_of(grad));
  const bool per_row = grad_output.dim() == 1;
  if (grad_output.dim() > 1 || (per_row && grad_output.size(0) != grad.size(0)))
    fail("grad_output must be a scalar or have the shape (", grad.size(0), ",), got ",
         shape_of(grad_output));
  const ScalarType type = grad_output.scalar_type();
  if (type != ScalarType::Double && type != ScalarType::Float)
    fail("grad_output must be float64 or float32");

  ScaleProblem problem = {};
  problem.rows = grad.size(0);
  problem.classes = grad.size(1);
  problem.grad = grad.mutable_data_ptr();
  problem.grad_type = dtype_of(grad, "grad");
  problem.grad_output = grad_output.const_data_ptr();
  problem.grad_output_stride = per_row ? grad_output.stride(0) : 0;
  problem.grad_output_is_double = type == ScalarType::Double;
  if (scale.has_value()) {
    if (scale->dim() != 1 || scale->size(0) != problem.rows || !scale->is_contiguous() ||
        scale->scalar_type() != ScalarType::Float)
      fail("scale must be float32 of the shape (", problem.rows, ",), got ", shape_of(*scale));
    problem.grad_scale = static_cast<const float*>(scale->const_data_ptr());
  }
  return problem;
}

}  // namespace gift
