"""Selects the backend of a call of the loss: kernels, or the reference implementation."""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from gift_fast.loss import self_check
from gift_fast.loss.arguments import (
    REDUCTIONS,
    MixedLabels,
    Options,
    check_classes,
    check_one_of,
    check_target_range,
    check_tensors,
    weight_operand,
)
from gift_fast.loss.autograd import GiftLossFunction, GiftRowsFunction, RowsCall
from gift_fast.loss.operators import (
    BEST_OPERATORS,
    GPU_DEVICES,
    TRITON_OPERATORS,
    UNAVAILABLE,
    Operators,
    backends,
)
from gift_fast.loss.reference import (
    compute_dtype,
    reduce_rows,
    soft_labels_factor,
    valid_rows,
    weigh_rows,
    widened,
)
from gift_fast.loss.thresholds import COSINE_EPS, ZERO_ROW_GRADIENT
from gift_fast.loss.torch_internals import (
    forward_mode,
    is_tracked,
    only_vmap_and_grad,
    transforms_active,
)

SERVES = {"cpu": ("cpu",), "cuda": ("cuda",), "triton": GPU_DEVICES}


def chosen_backend(name: str, device_type: str) -> str:
    """The backend that was named or, for "auto", the best one for the device."""
    if name == "auto":
        for kernels, devices in SERVES.items():
            if device_type in devices and UNAVAILABLE[kernels] is None:
                return kernels
        return "reference"
    check_one_of("backend", name, ("auto", *UNAVAILABLE))
    reason = backends()[name]
    if reason != "available":
        raise RuntimeError(f"backend={name!r} is not available: {reason}")
    if device_type not in SERVES.get(name, (device_type,)):
        raise ValueError(f"backend={name!r} cannot run on the device of logits, {device_type!r}")
    return name


def _is_distributed(*tensors: Tensor) -> bool:
    """Whether any tensor is a DTensor, for which the operators have no sharding rule."""
    module = sys.modules.get("torch.distributed.tensor")  # imported if there are DTensors
    return module is not None and any(isinstance(tensor, module.DTensor) for tensor in tensors)


def _check_distributed(**tensors: Tensor) -> None:
    """Raise TypeError if only some tensors are DTensors, for which torch has no rule."""
    from torch.distributed.tensor import DTensor

    plain = [name for name, tensor in tensors.items() if not isinstance(tensor, DTensor)]
    if plain:
        distributed = next(name for name in tensors if name not in plain)
        raise TypeError(
            f"{plain[0]} must be a DTensor like {distributed}, got a plain tensor; convert it with "
            f"torch.distributed.tensor.distribute_tensor({plain[0]}, {distributed}.device_mesh, "
            "placements)"
        )


def _transformed(
    logits: Tensor,
    soft_labels: Tensor,
    target: Tensor,
    options: Options,
    operators: Operators,
) -> Tensor:
    """The loss under ``torch.func``: fused rows, and a reduction that is visible to transforms."""
    requested = (is_tracked(logits), is_tracked(soft_labels))
    # 16-bit gradients are rounded by the derivative of the cast, after the upstream factor.
    dtype = compute_dtype(logits)
    z = widened(logits, dtype, COSINE_EPS * ZERO_ROW_GRADIENT)
    s = widened(
        soft_labels, dtype, soft_labels_factor(options.gamma, options.soft_label_temperature)
    )

    call = RowsCall(options._replace(reduction=REDUCTIONS["none"]), requested, operators)
    rows: Tensor = GiftRowsFunction.apply(z, s, target, call)[0]
    valid = valid_rows(target, options.ignore_index)
    if target.dim() == 0 and options.reduction_name == "mean":
        return rows / valid  # the sums of reduce_rows have one term
    return reduce_rows(rows, valid, options.reduction_name)


def _in_two_calls(
    logits: Tensor,
    soft_labels: Tensor,
    target: Tensor,
    other_target: Tensor,
    target_weight: Tensor | float,
    options: Options,
    backend: str,
) -> Tensor:
    """Mixed labels under ``torch.func``, where a kernel takes one label per row."""

    def term(labels: Tensor, weight: Tensor | float) -> Tensor:
        if not isinstance(weight, Tensor) or weight.dim() == 0:
            return weight * dispatch(logits, soft_labels, labels, None, None, options, backend)
        of_rows = options._replace(reduction=REDUCTIONS["none"])
        rows = dispatch(logits, soft_labels, labels, None, None, of_rows, backend)
        valid = valid_rows(labels, options.ignore_index)
        return reduce_rows(weigh_rows(rows, weight, valid), valid, options.reduction_name)

    w = target_weight
    if isinstance(w, Tensor):
        w = w.to(compute_dtype(logits))
    return term(target, w) + term(other_target, 1.0 - w)


def running_backend(
    backend: str, tensors: dict[str, Tensor], target_weight: Tensor | float | None
) -> str:
    """The backend of a call; "reference" if no kernel supports it.

    ``tensors`` are given by name, with logits first.
    """
    logits = tensors["logits"]
    chosen = chosen_backend(backend, logits.device.type)
    compiling = torch.compiler.is_compiling()
    if not compiling and _is_distributed(*tensors.values()):
        if isinstance(target_weight, Tensor) and target_weight.dim() > 0:
            tensors = {**tensors, "target_weight": target_weight}
        _check_distributed(**tensors)
        if backend not in ("auto", "reference"):
            raise ValueError(
                f"backend={backend!r} does not support DTensor; use backend='reference'"
            )
        chosen = "reference"
    # There is no fused rule for forward mode, where a kernel's derivative would be zero. In a
    # compiled graph, torch.func's transforms do not support an operator with a derivative.
    dual = not compiling and forward_mode._current_level >= 0
    no_rule = transforms_active() and (compiling or not only_vmap_and_grad())
    # The first call on a GPU checks its kernels. Graphs check them when they run: operators.py.
    if (
        not compiling
        and chosen in self_check.CHECKED
        and (chosen, logits.device) not in self_check.TRUSTED
        and not self_check.trusts(chosen, logits)
    ):
        self_check.reject(chosen, logits.device, named=backend != "auto")
        chosen = "reference"
    return "reference" if dual or no_rule else chosen


def matrix_of(x: Tensor, groups: bool, trailing: int) -> Tensor:
    """Reshape the leading dimensions of a tensor for the kernels; ``trailing`` others are kept.

    With ``groups``, a slice of (B, T, C) is not copied; otherwise it becomes a matrix.
    """
    if groups:
        return x if x.dim() == 2 + trailing else x.flatten(0, -2 - trailing)
    return x.reshape(-1, x.shape[-1]) if trailing else x.reshape(-1)


def dispatch(
    logits: Tensor,
    soft_labels: Tensor,
    target: Tensor,
    other_target: Tensor | None,
    target_weight: Tensor | float | None,
    options: Options,
    backend: str,
) -> Tensor:
    """Compute the loss for any shape, backend and transform, and in compiled code.

    ``other_target`` and ``target_weight`` are both None or both given. They are already checked,
    except for the dtype and shape of ``other_target``.
    """
    labels = {"target": target}
    if other_target is not None:
        labels["other_target"] = other_target
    check_tensors(logits=logits, soft_labels=soft_labels, **labels)
    num_classes = logits.shape[-1]
    check_classes(num_classes, options.smooth_others)
    device_type = logits.device.type
    compiling, transformed = torch.compiler.is_compiling(), transforms_active()
    chosen = running_backend(
        backend, {"logits": logits, "soft_labels": soft_labels, **labels}, target_weight
    )
    if chosen == "reference":
        if device_type == "cpu" and not compiling and not transformed:
            for name in ("target", "other_target"):
                if name in labels:
                    check_target_range(name, labels[name], num_classes, options.ignore_index)
        return options.reference(logits, soft_labels, target, other_target, target_weight)

    operators = TRITON_OPERATORS if backend == "triton" else BEST_OPERATORS
    mixed: MixedLabels = ()
    if other_target is not None and target_weight is not None:
        if transformed:
            return _in_two_calls(
                logits, soft_labels, target, other_target, target_weight, options, backend
            )
        mixed = (other_target, weight_operand(target_weight, target))

    leading = target.shape
    groups = not transformed and len(leading) > 1
    if leading or not transformed:  # under vmap, a single row is already a row of a matrix
        logits, soft_labels = (matrix_of(x, groups, 1) for x in (logits, soft_labels))
        target = matrix_of(target, groups, 0)
    if mixed:
        mixed = tuple(matrix_of(x, groups, 0) if x.dim() > 0 or not leading else x for x in mixed)
    if compiling:
        grad = torch.is_grad_enabled()
        requested = (grad and logits.requires_grad, grad and soft_labels.requires_grad)
        if torch.compiler.is_exporting():  # the loaded graph may be used for training
            requested = (True, True)
        loss: Tensor = operators.gift_loss(
            logits, soft_labels, target, *options, *requested, *mixed
        )[0]
    elif transformed:
        loss = _transformed(logits, soft_labels, target, options, operators)
    elif torch.is_grad_enabled():
        loss = GiftLossFunction.apply(logits, soft_labels, target, mixed, options, operators)
    else:
        loss = operators.loss_and_gradients(
            logits, soft_labels, target, *options, False, False, *mixed
        )[0]
    return loss.reshape(leading) if options.reduction == REDUCTIONS["none"] else loss
