// The CPU operators, registered under the stable ABI.
//
// The schemas are in gift_fast/loss/operators.py, which has to exist without this library too.
// Errors are std::invalid_argument (a ValueError in Python) and std::out_of_range (an IndexError).
#include <dlfcn.h>

#include <new>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <utility>
#include <vector>

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/stable/library.h>

#include "arguments.h"
#include "cpu/rows.h"

#define GIFT_STRINGIFY_(x) #x
#define GIFT_STRINGIFY(x) GIFT_STRINGIFY_(x)

namespace gift {
namespace {

// Throws for a row with an out-of-range target.
void check_targets(const Problem& problem, int64_t row) {
  const RowIndex at = row_index(problem, row);
  const auto check = [&](const char* name, int64_t value) {
    if (value == problem.ignore_index || (value >= 0 && value < problem.classes)) return;
    std::ostringstream message;
    message << name << " must be a class in [0, " << problem.classes << ") or ignore_index ("
            << problem.ignore_index << "), got " << value << " in row " << row;
    throw std::out_of_range(message.str());
  };
  check("target", target_of(problem, at));
  if (problem.other_target != nullptr) check("other_target", other_target_of(problem, at));
}

// Throws for a row that the kernels rejected.
void check_row(const Problem& problem, const BadRow& bad) {
  if (bad.row < 0) return;
  std::ostringstream message;
  switch (bad.reason) {
    case BadRow::kTarget: check_targets(problem, bad.row); break;
    case BadRow::kIndex:
      message << "indices must be classes in [0, " << problem.classes << "), got "
              << int64_t(bad.value) << " in row " << bad.row;
      throw std::out_of_range(message.str());
    case BadRow::kProbabilities:
      fail("values must be probabilities for rest=None, got a smallest value of ", bad.value,
           " and a sum of ", bad.sum, " in row ", bad.row, "; give rest for other values");
    case BadRow::kRest:
      fail("rest must be finite without soft_label_temperature, got -inf in row ", bad.row);
    case BadRow::kMemory: throw std::bad_alloc();
  }
}

void check_on_cpu(const std::optional<Tensor>& x, const char* names) {
  if (x.has_value() && !x->is_cpu()) fail(names, " must be on the CPU");
}

// See gift_fast/loss/operators.py for the schemas.
std::vector<Tensor> loss_and_gradients(Tensor logits, Tensor soft_labels, Tensor target,
                                       double gamma, double label_smoothing, bool smooth_others,
                                       std::optional<double> soft_label_temperature,
                                       int64_t ignore_index, int64_t reduction, bool logits_grad,
                                       bool soft_labels_grad, std::optional<Tensor> other_target,
                                       std::optional<Tensor> target_weight) {
  if (!logits.is_cpu() || !soft_labels.is_cpu() || !target.is_cpu())
    fail("logits, soft_labels and target must be on the CPU");
  check_on_cpu(other_target, "other_target and target_weight");
  check_on_cpu(target_weight, "other_target and target_weight");
  CheckedProblem checked =
      check_problem(logits, soft_labels, target,
                    {gamma, label_smoothing, smooth_others, soft_label_temperature, ignore_index,
                     reduction, logits_grad, soft_labels_grad, other_target, target_weight},
                    {aoti_torch_device_type_cpu(), 0});
  check_row(checked.problem, launch_cpu(checked.problem));
  return std::move(checked.outputs);
}

std::vector<Tensor> top_k_loss_and_gradients(
    Tensor logits, Tensor values, Tensor indices, std::optional<Tensor> rest, Tensor target,
    double gamma, double label_smoothing, bool smooth_others,
    std::optional<double> soft_label_temperature, int64_t ignore_index, int64_t reduction,
    bool logits_grad, std::optional<Tensor> other_target, std::optional<Tensor> target_weight) {
  if (!logits.is_cpu() || !values.is_cpu() || !indices.is_cpu() || !target.is_cpu())
    fail("logits, values, indices and target must be on the CPU");
  check_on_cpu(rest, "rest");
  check_on_cpu(other_target, "other_target and target_weight");
  check_on_cpu(target_weight, "other_target and target_weight");
  CheckedTopKProblem checked = check_top_k_problem(
      logits, values, indices, rest, target,
      {gamma, label_smoothing, smooth_others, soft_label_temperature, ignore_index, reduction,
       logits_grad, false, other_target, target_weight},
      {aoti_torch_device_type_cpu(), 0});
  check_row(checked.problem.call, launch_cpu(checked.problem));
  return std::move(checked.checked.outputs);
}

void scale_gradient_(Tensor grad, Tensor grad_output, std::optional<Tensor> scale) {
  const ScaleProblem problem = check_scale_problem(grad, grad_output, scale);
  if (problem.grad_scale == nullptr && problem.grad_output_stride == 0 && problem.rows > 0) {
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

Tensor tensor_from_python(pybind11::handle object, const char* name) {
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(from_python(object.ptr(), &handle));
  Tensor tensor(handle);
  // The dispatcher would have no kernel for any other. Asked before the sizes: some have none.
  int32_t layout = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_layout(handle, &layout));
  if (layout != aoti_torch_layout_strided()) fail(name, " must be a dense tensor");
  return tensor;
}

pybind11::list list_to_python(const std::vector<Tensor>& outputs) {
  pybind11::list result(outputs.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    void* object = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(to_python(outputs[i].get(), nullptr, &object));
    result[i] = pybind11::reinterpret_steal<pybind11::object>(static_cast<PyObject*>(object));
  }
  return result;
}

pybind11::list loss_and_gradients_of_python(
    pybind11::handle logits, pybind11::handle soft_labels, pybind11::handle target, double gamma,
    double label_smoothing, bool smooth_others, std::optional<double> soft_label_temperature,
    int64_t ignore_index, int64_t reduction, bool logits_grad, bool soft_labels_grad,
    pybind11::handle other_target, pybind11::handle target_weight) {
  std::optional<Tensor> other, weight;
  if (!other_target.is_none()) other = tensor_from_python(other_target, "other_target");
  if (!target_weight.is_none()) weight = tensor_from_python(target_weight, "target_weight");
  const Tensor z = tensor_from_python(logits, "logits"),
               s = tensor_from_python(soft_labels, "soft_labels"),
               y = tensor_from_python(target, "target");
  std::vector<Tensor> outputs;
  {
    pybind11::gil_scoped_release released;
    outputs =
        loss_and_gradients(z, s, y, gamma, label_smoothing, smooth_others, soft_label_temperature,
                           ignore_index, reduction, logits_grad, soft_labels_grad, other, weight);
  }
  return list_to_python(outputs);
}

pybind11::list top_k_loss_and_gradients_of_python(pybind11::handle logits, pybind11::handle values,
                                                  pybind11::handle indices, pybind11::handle rest,
                                                  pybind11::handle target, double gamma,
                                                  double label_smoothing, bool smooth_others,
                                                  std::optional<double> soft_label_temperature,
                                                  int64_t ignore_index, int64_t reduction,
                                                  bool logits_grad, pybind11::handle other_target,
                                                  pybind11::handle target_weight) {
  std::optional<Tensor> u, other, weight;
  if (!rest.is_none()) u = tensor_from_python(rest, "rest");
  if (!other_target.is_none()) other = tensor_from_python(other_target, "other_target");
  if (!target_weight.is_none()) weight = tensor_from_python(target_weight, "target_weight");
  const Tensor z = tensor_from_python(logits, "logits"), v = tensor_from_python(values, "values"),
               i = tensor_from_python(indices, "indices"), y = tensor_from_python(target, "target");
  std::vector<Tensor> outputs;
  {
    pybind11::gil_scoped_release released;
    outputs = top_k_loss_and_gradients(z, v, i, u, y, gamma, label_smoothing, smooth_others,
                                       soft_label_temperature, ignore_index, reduction, logits_grad,
                                       other, weight);
  }
  return list_to_python(outputs);
}

}  // namespace
}  // namespace gift

STABLE_TORCH_LIBRARY_IMPL(gift_fast, CPU, m) {
  m.impl("loss_and_gradients", TORCH_BOX(&gift::loss_and_gradients));
  m.impl("gift_loss", TORCH_BOX(&gift::loss_and_gradients));
  m.impl("top_k_loss_and_gradients", TORCH_BOX(&gift::top_k_loss_and_gradients));
  m.impl("top_k_gift_loss", TORCH_BOX(&gift::top_k_loss_and_gradients));
  m.impl("scale_gradient_", TORCH_BOX(&gift::scale_gradient_));
}

PYBIND11_MODULE(_C, m) {
  m.doc() = "The CPU operators of gift_fast; importing it registers them with torch.";
  if (gift::from_python != nullptr && gift::to_python != nullptr) {
    using pybind11::arg;
    m.def("loss_and_gradients", &gift::loss_and_gradients_of_python, arg("logits"),
          arg("soft_labels"), arg("target"), arg("gamma"), arg("label_smoothing"),
          arg("smooth_others"), arg("soft_label_temperature"), arg("ignore_index"),
          arg("reduction"), arg("logits_grad"), arg("soft_labels_grad"),
          arg("other_target") = pybind11::none(), arg("target_weight") = pybind11::none(),
          "torch.ops.gift_fast.loss_and_gradients for plain CPU tensors, without the dispatcher.");
    m.def("top_k_loss_and_gradients", &gift::top_k_loss_and_gradients_of_python, arg("logits"),
          arg("values"), arg("indices"), arg("rest"), arg("target"), arg("gamma"),
          arg("label_smoothing"), arg("smooth_others"), arg("soft_label_temperature"),
          arg("ignore_index"), arg("reduction"), arg("logits_grad"),
          arg("other_target") = pybind11::none(), arg("target_weight") = pybind11::none(),
          "The same for torch.ops.gift_fast.top_k_loss_and_gradients.");
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
        info["openmp"] = "none of its own: rows run on torch's threads";
        info["cuda"] = GIFT_FAST_CUDA;
        info["cpu_capability"] = gift::cpu_capability();
        info["cpu_capabilities_built"] = gift::cpu_capabilities_built();
        return info;
      },
      "How this library was built and which instruction set it runs here.");
}
