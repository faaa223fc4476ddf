"""The operators: allocate what is returned, plan, launch.

Nothing here waits for the device.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from gift_fast.loss.reference import compute_dtype, smoothed_label_values
from gift_fast.loss.top_k_checks import mass_limit
from gift_fast.loss.torch_internals import assert_async
from gift_fast.loss.triton_kernels.plan import kept_plan_of, plan_of
from gift_fast.loss.triton_kernels.reduce_kernel import reduce_kernel
from gift_fast.loss.triton_kernels.rows_kernel import rows_kernel
from gift_fast.loss.triton_kernels.scale_kernel import scale_kernel
from gift_fast.loss.triton_kernels.targets_kernel import targets_kernel
from gift_fast.loss.triton_kernels.top_k_kernel import top_k_kernel


def _one_program(items: int) -> dict[str, int]:
    """The block and warps of a program that goes over so many items by itself."""
    block = min(max(triton.next_power_of_2(items), 128), 4096)
    return {"BLOCK": block, "num_warps": max(1, block // 512)}


def _on_device_of(x: Tensor) -> AbstractContextManager[Any]:
    """Makes the device of x the current one; Triton launches there, on its current stream."""
    if x.device.type == "cpu":  # Triton's interpreter
        return nullcontext()
    guard: AbstractContextManager[Any] = torch.get_device_module(x.device).device_of(x)
    return guard


def _with_contiguous_rows(x: Tensor) -> Tensor:
    return x if x.shape[-1] <= 1 or x.stride(-1) == 1 else x.contiguous()


def _row_stride(x: Tensor) -> int:
    return x.stride(-2) if x.shape[-2] > 1 else x.shape[-1]


def _one_stride(x: Tensor) -> bool:
    """Whether the rows of all groups are one distance apart."""
    return x.dim() == 2 or x.shape[0] <= 1 or x.stride(0) == x.shape[1] * _row_stride(x)


class _Targets(NamedTuple):
    """The hard labels as the kernels take them, a number a row; a slice's are copied, if any."""

    target: Tensor
    other: Tensor | None
    share: Tensor | None  # of the first of two labels
    strides: tuple[int, int | None, int | None]

    @property
    def by_name(self) -> dict[str, Tensor]:
        labels = {"target": self.target, "other_target": self.other}
        return {name: x for name, x in labels.items() if x is not None}


def _targets(target: Tensor, other: Tensor | None, share: Tensor | None) -> _Targets:
    target = target.reshape(-1)
    if other is None or share is None:
        return _Targets(target, None, None, (target.stride(0), None, None))
    other = other.reshape(-1)
    share_stride = 0
    if share.dim() > 0:
        share = share.reshape(-1)
        share_stride = share.stride(0)
    return _Targets(target, other, share, (target.stride(0), other.stride(0), share_stride))


def _count(
    targets: _Targets, classes: int, ignore_index: int, reduction: int, fits: Tensor | None = None
) -> Tensor:
    """The weights of valid rows, one for each label; asserts that targets are in range."""
    labels, device = targets.by_name, targets.target.device
    rows = targets.target.numel()
    weight = torch.empty(len(labels), dtype=torch.float64, device=device)
    all_in_range = torch.empty(len(labels), dtype=torch.bool, device=device)
    targets_kernel[(len(labels),)](
        targets.target, targets.other, weight, all_in_range, fits, rows, classes,
        *targets.strides[:2], ignore_index,
        MEAN=reduction == 1, **_one_program(rows),
    )  # fmt: skip
    for i, name in enumerate(labels):
        allowed = f"a class in [0, {classes}) or ignore_index ({ignore_index})"
        _assert_async(all_in_range[i : i + 1], f"{name} must be {allowed}")
    return weight


def _losses(loss: Tensor, reduction: int, programs: int) -> Tensor:
    """What the programs write: the losses of rows, or one to be added up of each program."""
    if reduction == 0:
        return loss
    return torch.empty(programs, dtype=torch.float64, device=loss.device)


def _add_up(losses: Tensor, weight: Tensor, loss: Tensor) -> None:
    reduce_kernel[(1,)](
        losses, weight, loss, len(losses), MIXED=len(weight) == 2, **_one_program(len(losses))
    )


def _gradient(x: Tensor, wanted: bool) -> tuple[Tensor | None, Tensor | None]:
    """An empty gradient of x, and the factors of its rows where it is float16."""
    if not wanted:
        return None, None
    scale = None
    if x.dtype == torch.float16:
        scale = torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)
    return torch.empty(x.shape, dtype=x.dtype, device=x.device), scale


def _aligned(*tensors: Tensor | None) -> bool:
    return all(x is None or x.data_ptr() % 16 == 0 for x in tensors)


def loss_and_gradients(
    logits: Tensor,
    soft_labels: Tensor,
    target: Tensor,
    gamma: float,
    label_smoothing: float,
    smooth_others: bool,
    soft_label_temperature: float | None,
    ignore_index: int,
    reduction: int,
    logits_grad: bool,
    soft_labels_grad: bool,
    other_target: Tensor | None = None,
    target_weight: Tensor | None = None,
) -> list[Tensor]:
    """The operator ``gift_fast::loss_and_gradients``; see :mod:`~gift_fast.loss.operators`."""
    logits, soft_labels = _with_contiguous_rows(logits), _with_contiguous_rows(soft_labels)
    leading, classes = target.shape, logits.shape[-1]
    rows = target.numel()
    dtype = compute_dtype(logits)
    matrices = logits, soft_labels
    groups: tuple[int | None, int | None, int | None] = (None, None, None)
    if not all(map(_one_stride, matrices)):
        groups = logits.stride(0), soft_labels.stride(0), leading[-1]
    targets = _targets(target, other_target, target_weight)
    hard_label = smoothed_label_values(
        classes, label_smoothing, "others" if smooth_others else "uniform"
    )
    z_grad, z_scale = _gradient(logits, logits_grad)
    s_grad, s_scale = _gradient(soft_labels, soft_labels_grad)
    loss = torch.empty(() if reduction else leading, dtype=dtype, device=logits.device)

    strides = (_row_stride(logits), _row_stride(soft_labels))
    plan = plan_of(
        classes,
        strides,
        (logits.element_size(), soft_labels.element_size()),
        group_strides=tuple(x for x in groups[:2] if x is not None),
        aligned=_aligned(logits, soft_labels, z_grad, s_grad),
        soft_labels_grad=soft_labels_grad,
        add=reduction != 0,
        softmax=soft_label_temperature is not None,
        float64=dtype == torch.float64,
    )
    programs = triton.cdiv(rows, plan.rows)
    losses = _losses(loss, reduction, programs)
    with _on_device_of(logits):
        weight = _count(targets, classes, ignore_index, reduction)
        if rows > 0:
            rows_kernel[(programs,)](
                logits, soft_labels, *targets[:3], weight, losses, z_grad, s_grad, z_scale, s_scale,
                rows, classes, *strides, *groups, *targets.strides, ignore_index,
                gamma, *hard_label, 1.0 / (soft_label_temperature or 1.0),
                PLAN=plan,
                num_warps=plan.warps,
            )  # fmt: skip
        if reduction != 0:
            _add_up(losses, weight, loss)
    return [x for x in (loss, z_grad, s_grad, z_scale, s_scale) if x is not None]


def top_k_loss_and_gradients(
    logits: Tensor,
    values: Tensor,
    indices: Tensor,
    rest: Tensor | None,
    target: Tensor,
    gamma: float,
    label_smoothing: float,
    smooth_others: bool,
    soft_label_temperature: float | None,
    ignore_index: int,
    reduction: int,
    logits_grad: bool,
    other_target: Tensor | None = None,
    target_weight: Tensor | None = None,
) -> list[Tensor]:
    """The operator ``gift_fast::top_k_loss_and_gradients``."""
    logits = _with_contiguous_rows(logits)
    leading, classes, kept = target.shape, logits.shape[-1], values.shape[-1]
    rows = target.numel()
    dtype = compute_dtype(logits)
    groups = (None, None) if _one_stride(logits) else (logits.stride(0), leading[-1])
    # A copy of a slice's labels, k numbers a row, if any.
    values, indices = (_with_contiguous_rows(x.reshape(rows, kept)) for x in (values, indices))
    probabilities = rest is None
    rest = None if rest is None or kept == classes else rest.reshape(-1)
    targets = _targets(target, other_target, target_weight)
    hard_label = smoothed_label_values(
        classes, label_smoothing, "others" if smooth_others else "uniform"
    )
    grad, scale = _gradient(logits, logits_grad)
    fits = torch.empty(2, dtype=torch.bool, device=logits.device)
    loss = torch.empty(() if reduction else leading, dtype=dtype, device=logits.device)

    stride = _row_stride(logits)
    plan = plan_of(
        classes,
        (stride,),
        (logits.element_size(),),
        group_strides=tuple(x for x in groups[:1] if x is not None),
        aligned=_aligned(logits, grad),
        soft_labels_grad=False,
        add=reduction != 0,
        softmax=soft_label_temperature is not None,
        float64=dtype == torch.float64,
    )
    programs = triton.cdiv(rows, plan.rows)
    losses = _losses(loss, reduction, programs)
    with _on_device_of(logits):
        weight = _count(targets, classes, ignore_index, reduction, fits)
        if rows > 0:
            top_k_kernel[(programs,)](
                logits, values, indices, rest, *targets[:3], weight, fits, losses, grad, scale,
                rows, classes, kept, stride, _row_stride(values), _row_stride(indices),
                None if rest is None else rest.stride(0), *groups, *targets.strides, ignore_index,
                gamma, *hard_label, 1.0 / (soft_label_temperature or 1.0),
                mass_limit(values.dtype),
                PLAN=plan,
                KEPT=kept_plan_of(plan, classes, kept, probabilities=probabilities),
                num_warps=plan.warps,
            )  # fmt: skip
            _assert_labels(fits, classes, probabilities)
        if reduction != 0:
            _add_up(losses, weight, loss)
    return [x for x in (loss, grad, scale) if x is not None]


def _assert_labels(fits: Tensor, classes: int, probabilities: bool) -> None:
    _assert_async(fits[:1], f"indices must be classes in [0, {classes})")
    what = "values must be probabilities for rest=None"
    if not probabilities:
        what = "rest must be finite without soft_label_temperature"
    _assert_async(fits[1:], what)


def _assert_async(condition: Tensor, message: str) -> None:
    """The device assert of PyTorch's own losses; the host waits for nothing.

    Triton compiles ``tl.device_assert`` under ``TRITON_DEBUG=1`` only. Where PyTorch has no
    asynchronous assert (XPU), the loss and gradients of such a row are NaN, as they are everywhere.
    """
    if assert_async is not None and condition.device.type in ("cuda", "cpu"):
        assert_async(condition, message)


_SCALE_BLOCK, _SCALE_PROGRAMS = 2048, 1024


def scale_gradient_(grad: Tensor, grad_output: Tensor, scale: Tensor | None) -> None:
    """The operator ``gift_fast::scale_gradient_``; see :mod:`~gift_fast.loss.operators`."""
    if grad.numel() == 0:
        return
    classes = grad.shape[-1]
    rows = grad.numel() // classes
    grad_output = grad_output.reshape(-1) if grad_output.dim() > 0 else grad_output
    stride = grad_output.stride(0) if grad_output.dim() > 0 and rows > 1 else 0
    tiles = triton.cdiv(grad.numel(), _SCALE_BLOCK)
    with _on_device_of(grad):
        # As many programs as run at once on a large device: the usual factor of one sends them all
        # home after a single read.
        scale_kernel[(min(tiles, _SCALE_PROGRAMS),)](
            grad, grad_output, scale, tiles, grad.numel(), rows, classes, stride,
            PER_ROW=scale is not None or stride != 0,
            SHORT=classes < _SCALE_BLOCK,
            BLOCK=_SCALE_BLOCK,
            num_warps=4,
        )  # fmt: skip
