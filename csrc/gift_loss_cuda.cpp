// The CUDA operators, registered under the stable ABI. A library of its own: the stream it asks for
// is missing from a torch without CUDA, where this file is not built.
//
// The schemas are in gift_fast/loss/operators.py. Nothing here waits for the device: a target out
// of range trips an assert there, as in torch.nn.functional.cross_entropy.
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <utility>
#include <vector>

#include <pybind11/pybind11.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include "arguments.h"
#include "cuda/launch.h"

#define GIFT_STRINGIFY_(x) #x
#define GIFT_STRINGIFY(x) GIFT_STRINGIFY_(x)

namespace gift {
namespace {

cudaStream_t current_stream(int32_t device) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return static_cast<cudaStream_t>(stream);
}

void check_devices(int32_t device, std::initializer_list<const Tensor*> tensors,
                   std::initializer_list<const std::optional<Tensor>*> given) {
  const auto check = [&](const Tensor& x) {
    if (!x.is_cuda() || x.get_device_index() != device)
      fail("logits, soft labels and targets must be on the same CUDA device");
  };
  for (const Tensor* x : tensors) check(*x);
  for (const std::optional<Tensor>* x : given)
    if (x->has_value()) check(**x);
}

void check_mixed(const Tensor& logits, const std::optional<Tensor>& other_target) {
  if (other_target.has_value() && logits.dim() > 0 && logits.size(logits.dim() - 1) > INT32_MAX)
    fail("the CUDA kernels take mixed labels of fewer than 2^31 classes, got logits ",
         shape_of(logits));
}

void make_contiguous(std::initializer_list<Tensor*> tensors,
                     std::initializer_list<std::optional<Tensor>*> given) {
  for (Tensor* x : tensors) *x = torch::stable::contiguous(*x);
  for (std::optional<Tensor>* x : given)
    if (x->has_value()) *x = torch::stable::contiguous(**x);
}

// `call`: the problem, or the part of it that all problems have.
template <class AnyProblem>
void launch(const AnyProblem& problem, const Problem& call, Place place) {
  std::optional<Tensor> workspace;
  if (call.total != nullptr)
    workspace = empty({int64_t(sizeof(Workspace))}, ScalarType::Byte, place);
  STD_CUDA_CHECK(launch_cuda(
      problem,
      workspace.has_value() ? static_cast<Workspace*>(workspace->mutable_data_ptr()) : nullptr,
      current_stream(place.index)));
}

std::vector<Tensor> loss_and_gradients(Tensor logits, Tensor soft_labels, Tensor target,
                                       double gamma, double label_smoothing, bool smooth_others,
                                       std::optional<double> soft_label_temperature,
                                       int64_t ignore_index, int64_t reduction, bool logits_grad,
                                       bool soft_labels_grad, std::optional<Tensor> other_target,
                                       std::optional<Tensor> target_weight) {
  const int32_t device = logits.get_device_index();
  check_devices(device, {&logits, &soft_labels, &target}, {&other_target, &target_weight});
  check_mixed(logits, other_target);
  const torch::stable::accelerator::DeviceGuard guard(device);
  const Place place = {aoti_torch_device_type_cuda(), device};
  if (logits.dim() == 3 && logits.size(2) > 0 &&
      copies_groups(logits.size(0) * logits.size(1),
                    logits.size(2) * (logits.element_size() + soft_labels.element_size()))) {
    make_contiguous({&logits, &soft_labels, &target}, {&other_target, &target_weight});
  }
  CheckedProblem checked =
      check_problem(logits, soft_labels, target,
                    {gamma, label_smoothing, smooth_others, soft_label_temperature, ignore_index,
                     reduction, logits_grad, soft_labels_grad, other_target, target_weight},
                    place);
  launch(checked.problem, checked.problem, place);
  return std::move(checked.outputs);
}

std::vector<Tensor> top_k_loss_and_gradients(
    Tensor logits, Tensor values, Tensor indices, std::optional<Tensor> rest, Tensor target,
    double gamma, double label_smoothing, bool smooth_others,
    std::optional<double> soft_label_temperature, int64_t ignore_index, int64_t reduction,
    bool logits_grad, std::optional<Tensor> other_target, std::optional<Tensor> target_weight) {
  const int32_t device = logits.get_device_index();
  check_devices(device, {&logits, &values, &indices, &target},
                {&rest, &other_target, &target_weight});
  check_mixed(logits, other_target);
  const torch::stable::accelerator::DeviceGuard guard(device);
  const Place place = {aoti_torch_device_type_cuda(), device};
  if (logits.dim() == 3 && logits.size(0) * logits.size(1) > int64_t(UINT32_MAX))
    make_contiguous({&logits, &values, &indices, &target}, {&rest, &other_target, &target_weight});
  CheckedTopKProblem checked = check_top_k_problem(
      logits, values, indices, rest, target,
      {gamma, label_smoothing, smooth_others, soft_label_temperature, ignore_index, reduction,
       logits_grad, false, other_target, target_weight},
      place);
  launch(checked.problem, checked.problem.call, place);
  return std::move(checked.checked.outputs);
}

void scale_gradient_(Tensor grad, Tensor grad_output, std::optional<Tensor> scale) {
  const int32_t device = grad.get_device_index();
  for (const Tensor* x : {&grad, &grad_output})
    if (!x->is_cuda() || x->get_device_index() != device)
      fail("grad and grad_output must be on the same CUDA device");
  if (scale.has_value() && (!scale->is_cuda() || scale->get_device_index() != device))
    fail("scale must be on the device of grad");
  const torch::stable::accelerator::DeviceGuard guard(device);
  STD_CUDA_CHECK(
      launch_cuda(check_scale_problem(grad, grad_output, scale), current_stream(device)));
}

}  // namespace
}  // namespace gift

// `gift_loss` and `top_k_gift_loss`, the operators of graphs, are implemented in
// gift_fast/loss/operators.py: they check these kernels once, then call them.
STABLE_TORCH_LIBRARY_IMPL(gift_fast, CUDA, m) {
  m.impl("loss_and_gradients", TORCH_BOX(&gift::loss_and_gradients));
  m.impl("top_k_loss_and_gradients", TORCH_BOX(&gift::top_k_loss_and_gradients));
  m.impl("scale_gradient_", TORCH_BOX(&gift::scale_gradient_));
}

PYBIND11_MODULE(_C_cuda, m) {
  m.doc() = "The CUDA operators of gift_fast; importing it registers them with torch.";
  m.def(
      "build_info",
      [] {
        pybind11::dict info;
        info["version"] = GIFT_STRINGIFY(GIFT_FAST_VERSION);
        info["cuda"] = CUDART_VERSION;
        info["architectures"] = GIFT_FAST_CUDA_ARCHITECTURES;
        info["torch_target"] = GIFT_STRINGIFY(GIFT_FAST_TORCH_TARGET);
        info["torch_built_with"] = GIFT_STRINGIFY(GIFT_FAST_TORCH_BUILT_WITH);
        return info;
      },
      "How this library was built.");
}
