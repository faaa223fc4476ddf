"""The operators: allocate what is returned, plan, launch.

Nothing here waits for the device.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
from torch import Tensor

from gift_fast.loss.reference import compute_dtype, smoothed_label_values
from gift_fast.loss.torch_internals import assert_async
from gift_fast.loss.triton_kernels.plan import plan_of
from gift_fast.loss.triton_kernels.reduce_kernel import reduce_kernel
from gift_fast.loss.triton_kernels.rows_kernel import rows_kernel
from gift_fast.loss.triton_kernels.scale_kernel import scale_kernel
from gift_fast.loss.triton_kernels.targets_kernel import targets_kernel


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
    # A copy of a slice's labels, a number a row, if any.
    target = target.reshape(-1)
    labels = [target]
    other_stride: int | None = None
    share_stride: int | None = None
    if other_target is not None and target_weight is not None:
        other_target = other_target.reshape(-1)
        labels.append(other_target)
        other_stride = other_target.stride(0)
        share_stride = 0
        if target_weight.dim() > 0:
            target_weight = target_weight.reshape(-1)
            share_stride = target_weight.stride(0)
    on_target, elsewhere = smoothed_label_values(
        classes, label_smoothing, "others" if smooth_others else "uniform"
    )

    def gradient(x: Tensor, wanted: bool) -> tuple[Tensor | None, Tensor | None]:
        if not wanted:
            return None, None
        grad = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        is_half = x.dtype == torch.float16
        scale = torch.empty(leading, dtype=torch.float32, device=x.device) if is_half else None
        return grad, scale

    z_grad, z_scale = gradient(logits, logits_grad)
    s_grad, s_scale = gradient(soft_labels, soft_labels_grad)
    weight = torch.empty(len(labels), dtype=torch.float64, device=logits.device)
    all_in_range = torch.empty(len(labels), dtype=torch.bool, device=logits.device)
    loss = torch.empty(() if reduction else leading, dtype=dtype, device=logits.device)

    strides = (_row_stride(logits), _row_stride(soft_labels))
    plan = plan_of(
        classes,
        strides,
        (logits.element_size(), soft_labels.element_size()),
        group_strides=tuple(x for x in groups[:2] if x is not None),
        aligned=all(
            x is None or x.data_ptr() % 16 == 0 for x in (logits, soft_labels, z_grad, s_grad)
        ),
        soft_labels_grad=soft_labels_grad,
        add=reduction != 0,
        softmax=soft_label_temperature is not None,
        float64=dtype == torch.float64,
    )
    programs = triton.cdiv(rows, plan.rows)
    losses = loss
    if reduction != 0:
        losses = torch.empty(programs, dtype=torch.float64, device=logits.device)
    with _on_device_of(logits):
        targets_kernel[(len(labels),)](
            target, other_target, weight, all_in_range, rows, classes, target.stride(0),
            other_stride, ignore_index,
            MEAN=reduction == 1, **_one_program(rows),
        )  # fmt: skip
        for i, name in enumerate(("target", "other_target")[: len(labels)]):
            _assert_async(name, all_in_range[i : i + 1], classes, ignore_index)
        if rows > 0:
            rows_kernel[(programs,)](
                logits, soft_labels, target, other_target, target_weight, weight, losses,
                z_grad, s_grad, z_scale, s_scale, rows, classes, *strides, *groups,
                target.stride(0), other_stride, share_stride, ignore_index,
                gamma, on_target, elsewhere, 1.0 / (soft_label_temperature or 1.0),
                PLAN=plan,
                num_warps=plan.warps,
            )  # fmt: skip
        if reduction != 0:
            reduce_kernel[(1,)](
                losses, weight, loss, programs, MIXED=len(labels) == 2, **_one_program(programs)
            )
    return [x for x in (loss, z_grad, s_grad, z_scale, s_scale) if x is not None]


def _assert_async(name: str, all_in_range: Tensor, classes: int, ignore_index: int) -> None:
    """The device assert of PyTorch's own losses; the host waits for nothing.

    Triton compiles ``tl.device_assert`` under ``TRITON_DEBUG=1`` only. Where PyTorch has no
    asynchronous assert (XPU), the loss and gradients of such a row are NaN, as they are everywhere.
    """
    if assert_async is not None and all_in_range.device.type in ("cuda", "cpu"):
        assert_async(
            all_in_range,
            f"{name} must be a class in [0, {classes}) or ignore_index ({ignore_index})",
        )


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
