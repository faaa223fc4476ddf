"""The operators ``torch.ops.gift_fast.*``: schemas, tracing, gradients and available backends.

The schemas are defined here and not in the C++ libraries, so that the operators exist even if those
were not built; each backend adds its implementation. ``torch.compile`` and ``torch.export`` use
these operators; eager code calls them through :mod:`gift_fast.loss.autograd`.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gift_fast.loss import plain_operator
from gift_fast.loss.arguments import OperatorArguments, TopKOperatorArguments
from gift_fast.loss.installation import why_not_built
from gift_fast.loss.reference import compute_dtype, valid_rows
from gift_fast.loss.torch_internals import TAGS

_LIBRARY = torch.library.Library("gift_fast", "DEF")

# Logits and soft labels are (N, C) and target is (N,), or (B, T, C) and (B, T). smooth_others is
# `smoothing="others"`. reduction is 0 for none, 1 for mean and 2 for sum, as in ATen. other_target,
# like target, and target_weight, float32 or float64, a scalar or like target, are both or neither
# given.
# Returns a list of what was requested, in this order: the loss; the gradient of the logits; the
# gradient of the soft labels, contiguous; and for each of these two that is float16, float32
# factors (N,). A float16 row is stored multiplied by a power of two, because an upstream factor of
# 2^16 could not restore elements that were rounded to zero; its factor is the inverse.
#
# Both operators run the same kernels. `gift_loss` is differentiable and is used in graphs. Its
# derivative is written in Python, which would cost eager mode 7 us per call even if no gradient is
# needed, so eager code calls `loss_and_gradients` from its own autograd function.
_ARGUMENTS = (
    "(Tensor logits, Tensor soft_labels, Tensor target, float gamma, float label_smoothing, "
    "bool smooth_others, float? soft_label_temperature, int ignore_index, int reduction, "
    "bool logits_grad, bool soft_labels_grad, Tensor? other_target=None, "
    "Tensor? target_weight=None) -> Tensor[]"
)
# The same with top-k labels: values and indices (N, k), rest (N,), which is None for probabilities.
# Returns the loss and the gradient of the logits only, with its factors; the gradients of values
# and rest are computed in gift_fast/loss/top_k_autograd.py.
_TOP_K_ARGUMENTS = (
    "(Tensor logits, Tensor values, Tensor indices, Tensor? rest, Tensor target, float gamma, "
    "float label_smoothing, bool smooth_others, float? soft_label_temperature, int ignore_index, "
    "int reduction, bool logits_grad, Tensor? other_target=None, Tensor? target_weight=None) "
    "-> Tensor[]"
)
# Multiplies grad (N, C) in place by grad_output, a scalar or (N,), and by the factors (N,) above;
# likewise with more leading dimensions. Does nothing if the product is one.
_SCALE_ARGUMENTS = "(Tensor(a!) grad, Tensor grad_output, Tensor? scale) -> ()"

# Without a prefix, an operator runs the best available kernels for the tensors' device, so a graph
# with it can be exported on one machine and run on another. With the prefix, it runs the Triton
# kernels, even if the CUDA kernels are built.
_PREFIXES = ("", "triton_")
for _prefix in _PREFIXES:
    for _schema in (
        "loss_and_gradients" + _ARGUMENTS,
        "gift_loss" + _ARGUMENTS,
        "scale_gradient_" + _SCALE_ARGUMENTS,
        "top_k_loss_and_gradients" + _TOP_K_ARGUMENTS,
        "top_k_gift_loss" + _TOP_K_ARGUMENTS,
    ):
        _LIBRARY.define(_prefix + _schema, tags=TAGS)


class Operators(NamedTuple):
    """The operators of one set of kernels."""

    loss_and_gradients: Callable[..., list[Tensor]]
    gift_loss: Callable[..., list[Tensor]]
    scale_gradient_: Callable[..., None]
    top_k_loss_and_gradients: Callable[..., list[Tensor]]
    top_k_gift_loss: Callable[..., list[Tensor]]


def _operators(prefix: str) -> Operators:
    names = (prefix + name for name in Operators._fields)
    return Operators(*(getattr(torch.ops.gift_fast, name).default for name in names))


BEST_OPERATORS, TRITON_OPERATORS = map(_operators, _PREFIXES)


def _load(library: str, how: str) -> tuple[ModuleType | None, str | None]:
    """Import a compiled library; return it or the reason why it is missing.

    Warns if it was built, but cannot be loaded.
    """
    try:
        return importlib.import_module(f"gift_fast.{library}"), None
    except ModuleNotFoundError:
        return None, f"not built when gift-fast was installed: {how}"
    except ImportError as error:
        reason = f"built, but cannot be loaded: {error}"
        warnings.warn(
            f"gift_fast.{library} was {reason}. The reference implementation in plain PyTorch is "
            "used instead; reinstall gift-fast to rebuild it.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None, reason


CPU_LIBRARY, _why_not_cpu = _load("_C", why_not_built())
if torch.version.cuda is None:
    _why_not_cuda: str | None = "this torch was built without CUDA"
else:
    _, _why_not_cuda = _load("_C_cuda", "build it with FORCE_CUDA=1")

GPU_DEVICES = ("cuda", "xpu")  # AMD's devices are "cuda" to torch
_GPU_KEYS = ("CUDA", "XPU")


def _checked(
    kernels: str,
    named: bool,
    operator: Callable[..., list[Tensor]],
    definition: Callable[..., list[Tensor]],
) -> Callable[..., list[Tensor]]:
    """The operator of graphs on GPUs, whose first run checks the kernels that it calls.

    Eager code calls :mod:`gift_fast.loss.self_check` itself; a graph cannot while it is traced.
    """

    def checked(logits: Tensor, *arguments: Any) -> list[Tensor]:
        from gift_fast.loss import self_check  # which imports this module

        if (kernels, logits.device) in self_check.TRUSTED or self_check.trusts(kernels, logits):
            return operator(logits, *arguments)
        self_check.reject(kernels, logits.device, named=named)
        return definition(logits, *arguments)

    return checked


def _register_triton() -> str | None:
    """Register the Triton kernels for GPUs; return why they are not available, or None.

    They are registered for the operators with the prefix and, without CUDA kernels, for the others.
    """
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"

    # Imported at the first call, because the import takes half a second and is rarely needed.
    def loss_and_gradients(*arguments: Any) -> list[Tensor]:
        from gift_fast.loss import triton_kernels

        return triton_kernels.loss_and_gradients(*arguments)

    def top_k_loss_and_gradients(*arguments: Any) -> list[Tensor]:
        from gift_fast.loss import triton_kernels

        return triton_kernels.top_k_loss_and_gradients(*arguments)

    def scale_gradient_(grad: Tensor, grad_output: Tensor, scale: Tensor | None) -> None:
        from gift_fast.loss import triton_kernels

        triton_kernels.scale_gradient_(grad, grad_output, scale)

    for prefix in _PREFIXES if _why_not_cuda is not None else ("triton_",):
        named = prefix == "triton_"
        kernels = {
            "loss_and_gradients": loss_and_gradients,
            "gift_loss": _checked(
                "triton", named, loss_and_gradients, plain_operator.loss_and_gradients
            ),
            "top_k_loss_and_gradients": top_k_loss_and_gradients,
            "top_k_gift_loss": _checked(
                "triton", named, top_k_loss_and_gradients, plain_operator.top_k_loss_and_gradients
            ),
            "scale_gradient_": scale_gradient_,
        }
        for (name, kernel), key in itertools.product(kernels.items(), _GPU_KEYS):
            _LIBRARY.impl(prefix + name, kernel, key)
    return None


if _why_not_cuda is None:
    # In a graph, "auto" and "cuda" are the same operator, so both fall back.
    for _name, _kernels, _definition in (
        ("gift_loss", BEST_OPERATORS.loss_and_gradients, plain_operator.loss_and_gradients),
        (
            "top_k_gift_loss",
            BEST_OPERATORS.top_k_loss_and_gradients,
            plain_operator.top_k_loss_and_gradients,
        ),
    ):
        _LIBRARY.impl(_name, _checked("cuda", False, _kernels, _definition), "CUDA")

for _prefix in _PREFIXES:
    for _name in ("top_k_loss_and_gradients", "top_k_gift_loss"):
        # For devices without kernels, so that a graph runs on every machine.
        _LIBRARY.impl(
            _prefix + _name, plain_operator.top_k_loss_and_gradients, "CompositeExplicitAutograd"
        )

UNAVAILABLE: dict[str, str | None] = {
    "cpu": _why_not_cpu,
    "cuda": _why_not_cuda,
    "triton": _register_triton(),
    "reference": None,
}
"""Why the kernels of a backend are not installed; None if they are, even without a device."""


def backends() -> dict[str, str]:
    """The backends of the loss on this machine, each with ``"available"`` or why it is not.

    They are in the order of preference: ``backend="auto"`` uses the first one that is available and
    supports the tensors' device. That is ``cpu`` for CPU tensors, ``cuda`` or otherwise ``triton``
    for GPU tensors, and ``reference``, which supports every device, if there are no kernels.

    Returns:
        A dictionary with the keys ``cpu``, ``cuda``, ``triton`` and ``reference``.

    Example:
        >>> list(backends())
        ['cpu', 'cuda', 'triton', 'reference']
        >>> backends()["reference"]
        'available'
    """
    reasons = dict(UNAVAILABLE)
    if not torch.accelerator.is_available():
        for name in ("cuda", "triton"):
            reasons[name] = reasons[name] or "the kernels are installed, but there is no GPU"
    return {name: reason or "available" for name, reason in reasons.items()}


def _loss_and_gradients_fake(
    logits: Tensor, soft_labels: Tensor, target: Tensor, *arguments: Any
) -> list[Tensor]:
    call = OperatorArguments(*arguments)
    requested = [
        x
        for x, wanted in ((logits, call.logits_grad), (soft_labels, call.soft_labels_grad))
        if wanted
    ]
    return _fake_outputs(logits, call.reduction, requested)


def _top_k_loss_and_gradients_fake(
    logits: Tensor,
    values: Tensor,
    indices: Tensor,
    rest: Tensor | None,
    target: Tensor,
    *arguments: Any,
) -> list[Tensor]:
    call = TopKOperatorArguments(*arguments)
    return _fake_outputs(logits, call.reduction, [logits] if call.logits_grad else [])


def _fake_outputs(logits: Tensor, reduction: int, requested: list[Tensor]) -> list[Tensor]:
    """A loss, and a gradient for each of the requested tensors."""
    rows = logits.shape[:-1]
    outputs = [logits.new_empty(rows if reduction == 0 else (), dtype=compute_dtype(logits))]
    outputs += [x.new_empty(logits.shape) for x in requested]
    outputs += [
        x.new_empty(rows, dtype=torch.float32) for x in requested if x.dtype == torch.float16
    ]
    return outputs


def _scale_gradient_fake(grad: Tensor, grad_output: Tensor, scale: Tensor | None) -> None:
    return None


for _prefix in _PREFIXES:
    for _name, _fake in (
        ("loss_and_gradients", _loss_and_gradients_fake),
        ("gift_loss", _loss_and_gradients_fake),
        ("top_k_loss_and_gradients", _top_k_loss_and_gradients_fake),
        ("top_k_gift_loss", _top_k_loss_and_gradients_fake),
        ("scale_gradient_", _scale_gradient_fake),
    ):
        torch.library.register_fake(f"gift_fast::{_prefix}{_name}", _fake, lib=_LIBRARY)


def scaled_gradient(grad: Tensor, grad_output: Tensor, scale: Tensor | None) -> Tensor:
    """``scale_gradient_`` out of place, in operations that a compiler can fuse."""
    factor = grad_output
    if scale is not None:
        # float16: both factors are applied in float32 and rounded once.
        factor = factor * scale
    if factor.dim() > 0:
        factor = factor.unsqueeze(-1)
    # float64 soft labels of float32 logits keep their dtype, as with the in-place operator.
    return (grad.to(torch.promote_types(grad.dtype, factor.dtype)) * factor).to(grad.dtype)


def unpack_gradients(
    outputs: Sequence[Tensor], logits_grad: bool, soft_labels_grad: bool
) -> tuple[tuple[Tensor, Tensor | None] | None, tuple[Tensor, Tensor | None] | None]:
    """Split the outputs of ``loss_and_gradients`` after the loss into (gradient, scale) or None."""
    rest = iter(outputs[1:])
    grads = [next(rest) if wanted else None for wanted in (logits_grad, soft_labels_grad)]
    pairs = [
        None if grad is None else (grad, next(rest) if grad.dtype == torch.float16 else None)
        for grad in grads
    ]
    return pairs[0], pairs[1]


def ignored_rows(ignore_index: int, target: Tensor, other_target: Tensor | None = None) -> Tensor:
    """The rows without a valid label, bool (...)."""
    ignored = ~valid_rows(target, ignore_index)
    if other_target is not None:
        ignored = ignored & ~valid_rows(other_target, ignore_index)
    return ignored


# ---- the derivatives of gift_loss and top_k_gift_loss --------------------------------------------


def _save(ctx: Any, call: Any, target: Tensor, output: list[Tensor]) -> None:
    # With reduction="none", the upstream gradient of an ignored row may be NaN or inf.
    ignored = (
        [ignored_rows(call.ignore_index, target, call.other_target)] if call.reduction == 0 else []
    )
    ctx.of_rows = len(ignored)
    ctx.save_for_backward(*ignored, *output[1:])


def _scaled_in_graph(grad_output: Tensor, grad: Tensor, scale: Tensor | None) -> Tensor:
    """Multiply the gradient by the upstream one, in a graph that may run again."""
    if not grad.is_cpu:
        return scaled_gradient(grad, grad_output, scale)
    # If nothing else reads the saved gradient, Inductor reuses its memory for the copy. The copy is
    # then a loop that stores what it has loaded, which gcc 12 removes, so an upstream gradient of
    # one costs nothing.
    copy = grad.clone()
    BEST_OPERATORS.scale_gradient_(copy, grad_output, scale)
    return copy


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    call = OperatorArguments(*inputs[3:])
    ctx.requested = call.logits_grad, call.soft_labels_grad
    _save(ctx, call, inputs[2], output)


def _top_k_setup_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    call = TopKOperatorArguments(*inputs[5:])
    ctx.requested = call.logits_grad, False
    _save(ctx, call, inputs[4], output)


def _gradients(ctx: Any, grad_outputs: Sequence[Tensor]) -> list[Tensor | None]:
    if torch.is_grad_enabled():  # create_graph=True; the second derivative would be zero
        raise RuntimeError(
            "gift_loss has no second derivative in a compiled or exported graph; for "
            "create_graph=True, call it in eager mode"
        )
    grad_output, saved = grad_outputs[0], ctx.saved_tensors
    if ctx.of_rows:
        grad_output = grad_output.masked_fill(saved[0], 0.0)
    pairs = unpack_gradients([grad_output, *saved[ctx.of_rows :]], *ctx.requested)
    return [None if pair is None else _scaled_in_graph(grad_output, *pair) for pair in pairs]


def _backward(ctx: Any, grad_outputs: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    grads = _gradients(ctx, grad_outputs)
    # The dispatcher omits trailing arguments that have their defaults.
    return (*grads, *(None,) * (len(ctx.needs_input_grad) - len(grads)))


def _top_k_backward(ctx: Any, grad_outputs: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    if ctx.needs_input_grad[1] or ctx.needs_input_grad[3]:
        raise RuntimeError(
            "gift_loss has no gradient of values and rest in an exported graph; call it in eager "
            "mode, or detach them"
        )
    grads = _gradients(ctx, grad_outputs)
    return (grads[0], *(None,) * (len(ctx.needs_input_grad) - 1))


for _prefix in _PREFIXES:
    for _name, _derivative, _setup in (
        ("gift_loss", _backward, _setup_context),
        ("top_k_gift_loss", _top_k_backward, _top_k_setup_context),
    ):
        torch.library.register_autograd(
            f"gift_fast::{_prefix}{_name}", _derivative, setup_context=_setup, lib=_LIBRARY
        )


class _LossOnCPU(torch.autograd.Function):
    """``gift_loss`` on the CPU, which is traced as ``loss_and_gradients``.

    A compiled graph then calls the kernel directly. ``register_autograd`` registers Python code
    that every call executes, even in a graph with its own backward pass.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        output = BEST_OPERATORS.loss_and_gradients(*inputs)
        ctx.mark_non_differentiable(*output[1:])
        _setup_context(ctx, inputs, output)
        return tuple(output)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return _backward(ctx, grad_outputs)


def _loss_on_cpu(*inputs: Any) -> list[Tensor]:
    if torch.is_grad_enabled() and any(x.requires_grad for x in inputs[:2]):
        return list(_LossOnCPU.apply(*inputs))
    return BEST_OPERATORS.loss_and_gradients(*inputs)


_LIBRARY.impl("gift_loss", _loss_on_cpu, "AutogradCPU")
