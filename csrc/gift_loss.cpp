// The CPU operators: arguments checked, outputs allocated, registered under the stable ABI.
//
// The schemas are in gift_fast/ops.py, which has to exist without this library too. Errors are
// std::invalid_argument (a ValueError in Python) and std::out_of_range (an IndexError).
#include <dlfcn.h>

#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "gift_loss.h"

#define GIFT_STRINGIFY_(x) #x
#define GIFT_STRINGIFY(x) GIFT_STRINGIFY_(x)

namespace gift {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

std::string shape_of(const Tensor& x) {
  std::ostringstream shape;
  shape << "(";
  for (int64_t i = 0; i < x.dim(); ++i) shape << (i ? ", " : "") << x.size(i);
  shape << (x.dim() == 1 ? ",)" : ")");
  return shape.str();
}

DType dtype_of(const Tensor& x, const char* name) {
  switch (x.scalar_type()) {
    case ScalarType::Double: return DType::kFloat64;
    case ScalarType::Float: return DType::kFloat32;
    case ScalarType::BFloat16: return DType::kBFloat16;
    case ScalarType::Half: return DType::kFloat16;
    default: fail(name, " must be float64, float32, bfloat16 or float16");
  }
}

// Rows may be strided, their elements may not.
Tensor with_contiguous_rows(const Tensor& x) {
  return x.size(1) <= 1 || x.stride(1) == 1 ? x : torch::stable::contiguous(x);
}

Tensor empty(std::initializer_list<int64_t> shape, ScalarType dtype) {
  // The C function: torch::stable::empty goes through the dispatcher with a boxed stack, 1 us more.
  int64_t sizes[2] = {}, strides[2] = {1, 1};
  int64_t dim = 0;
  for (const int64_t size : shape) sizes[dim++] = size;
  if (dim == 2) strides[0] = sizes[1] > 0 ? sizes[1] : 1;
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      dim, sizes, strides,
      int32_t(torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype))),
      aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

// See gift_fast/ops.py for the schema. A list, since a tensor that nobody asked for costs 2 us.
std::vector<Tensor> loss_and_gradients(Tensor logits, Tensor soft_labels, Tensor target,
                                       double gamma, double label_smoothing, bool smooth_others,
                                       std::optional<double> soft_label_temperature,
                                       int64_t ignore_index, int64_t reduction, bool logits_grad,
                                       bool soft_labels_grad) {
  if (logits.dim() != 2 || logits.size(1) < 1)
    fail("logits must have the shape (N, C) with C >= 1, got ", shape_of(logits));
  const int64_t rows = logits.size(0), classes = logits.size(1);
  if (soft_labels.dim() != 2 || soft_labels.size(0) != rows || soft_labels.size(1) != classes)
    fail("soft_labels must have the shape of logits ", shape_of(logits), ", got ",
         shape_of(soft_labels));
  if (target.dim() != 1 || target.size(0) != rows)
    fail("target must have the shape (", rows, ",), got ", shape_of(target));
  if (smooth_others && classes == 1) fail("smoothing='others' needs at least 2 classes, got C = 1");
  const ScalarType target_type = target.scalar_type();
  if (target_type != ScalarType::Long && target_type != ScalarType::Int)
    fail("target must be int64 or int32");
  if (!logits.is_cpu() || !soft_labels.is_cpu() || !target.is_cpu())
    fail("logits, soft_labels and target must be on the CPU");

  logits = with_contiguous_rows(logits);
  soft_labels = with_contiguous_rows(soft_labels);

  Problem problem = {};
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
  problem.hard_label = smoothed_label(double(classes), label_smoothing, smooth_others);
  problem.gamma = gamma;
  problem.soft_label_temperature = soft_label_temperature.value_or(0.0);
  problem.ignore_index = ignore_index;
  problem.mean = reduction == 1;

  const ScalarType loss_type =
      problem.logits_type == DType::kFloat64 ? ScalarType::Double : ScalarType::Float;
  const bool logits_scaled = logits_grad && problem.logits_type == DType::kFloat16;
  const bool soft_labels_scaled = soft_labels_grad && problem.soft_labels_type == DType::kFloat16;

  std::vector<Tensor> outputs;
  outputs.reserve(4);
  const auto output = [&](std::initializer_list<int64_t> shape, ScalarType dtype) {
    outputs.push_back(empty(shape, dtype));
    return outputs.back().mutable_data_ptr();
  };
  (reduction == 0 ? problem.row_losses : problem.total) =
      reduction == 0 ? output({rows}, loss_type) : output({}, loss_type);
  if (logits_grad) problem.logits_grad = output({rows, classes}, logits.scalar_type());
  if (soft_labels_grad)
    problem.soft_labels_grad = output({rows, classes}, soft_labels.scalar_type());
  if (logits_scaled)
    problem.logits_grad_scale = static_cast<float*>(output({rows}, ScalarType::Float));
  if (soft_labels_scaled)
    problem.soft_labels_grad_scale = static_cast<float*>(output({rows}, ScalarType::Float));

  const int64_t bad_row = launch_cpu(problem);
  if (bad_row >= 0) {
    const int64_t i = bad_row * problem.target_stride;
    const int64_t value = problem.target_is_int64 ? static_cast<const int64_t*>(problem.target)[i]
                                                  : static_cast<const int32_t*>(problem.target)[i];
    std::ostringstream message;
    message << "target must be a class in [0, " << classes << ") or ignore_index (" << ignore_index
            << "), got " << value << " in row " << bad_row;
    throw std::out_of_range(message.str());
  }
  return outputs;
}

void scale_gradient_(Tensor grad, Tensor grad_output, std::optional<Tensor> scale) {
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
  } else if (problem.grad_output_stride == 0 && problem.rows > 0) {
    // Almost always the loss is what backward() was called on, and there is nothing to do.
    const double upstream = problem.grad_output_is_double
                                ? *static_cast<const double*>(problem.grad_output)
                                : double(*static_cast<const float*>(problem.grad_output));
    if (upstream == 1.0) return;
  }
  launch_cpu(problem);
}

// ---- the same from Python without the dispatcher ----------------------------------------------
// A call of an operator from Python boxes its arguments twice, 4 us of the 7 that the loss of a
// 10 x 10 batch takes. Torch 2.14 has the two functions that make a direct binding possible; the
// library itself is built for older ones too, so they are looked up.

using FromPython = AOTITorchError (*)(void* object, AtenTensorHandle* tensor);
using ToPython = AOTITorchError (*)(AtenTensorHandle tensor, void* type, void** object);

template <class Function>
Function torch_function(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, name));
}

const FromPython from_python = torch_function<FromPython>("torch_tensor_from_pyobject");
const ToPython to_python = torch_function<ToPython>("torch_tensor_to_pyobject");

Tensor tensor_from_python(pybind11::handle object) {
  AtenTensorHandle tensor = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(from_python(object.ptr(), &tensor));
  return Tensor(tensor);
}

pybind11::list loss_and_gradients_of_python(pybind11::handle logits, pybind11::handle soft_labels,
                                            pybind11::handle target, double gamma,
                                            double label_smoothing, bool smooth_others,
                                            std::optional<double> soft_label_temperature,
                                            int64_t ignore_index, int64_t reduction,
                                            bool logits_grad, bool soft_labels_grad) {
  const Tensor z = tensor_from_python(logits), s = tensor_from_python(soft_labels),
               y = tensor_from_python(target);
  std::vector<Tensor> outputs;
  {
    pybind11::gil_scoped_release released;
    outputs =
        loss_and_gradients(z, s, y, gamma, label_smoothing, smooth_others, soft_label_temperature,
                           ignore_index, reduction, logits_grad, soft_labels_grad);
  }
  pybind11::list result(outputs.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    void* object = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(to_python(outputs[i].get(), nullptr, &object));
    result[i] = pybind11::reinterpret_steal<pybind11::object>(static_cast<PyObject*>(object));
  }
  return result;
}

}  // namespace
}  // namespace gift

STABLE_TORCH_LIBRARY_IMPL(gift_fast, CPU, m) {
  m.impl("loss_and_gradients", TORCH_BOX(&gift::loss_and_gradients));
  m.impl("gift_loss", TORCH_BOX(&gift::loss_and_gradients));
  m.impl("scale_gradient_", TORCH_BOX(&gift::scale_gradient_));
}

PYBIND11_MODULE(_C, m) {
  m.doc() = "The CPU operators of gift_fast; importing it registers them with torch.";
  if (gift::from_python != nullptr && gift::to_python != nullptr) {
    m.def("loss_and_gradients", &gift::loss_and_gradients_of_python,
          "torch.ops.gift_fast.loss_and_gradients for plain CPU tensors, without the dispatcher.");
  }
  m.def(
      "build_info",
      [] {
        pybind11::dict info;
        info["version"] = GIFT_STRINGIFY(GIFT_FAST_VERSION);
        info["compiler"] =
#if defined(__clang__)
            "clang " __clang_version__;
#else
            "gcc " __VERSION__;
#endif
        info["torch_target"] = GIFT_STRINGIFY(GIFT_FAST_TORCH_TARGET);
        info["torch_built_with"] = GIFT_STRINGIFY(GIFT_FAST_TORCH_BUILT_WITH);
        info["threads"] = "torch's intra-op pool";
        info["cpu_capability"] = gift::cpu_capability();
        info["cpu_capabilities_built"] = gift::cpu_capabilities_built();
        return info;
      },
      "How this library was built and which instruction set it runs here.");
}
