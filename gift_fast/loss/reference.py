"""The reference implementation of the GIFT loss, in plain PyTorch, for tests of all kernels.

Source: Shang, Sun and Lin, "GIFT: Unlocking Full Potential of Labels in Distilled Dataset at
Near-zero Cost", ICLR 2025. With class count C, student logits z, soft label s and hard label y:

1. smooth the hard label, ``h`` = ``a`` at y and ``b`` elsewhere;
2. refine the soft label, ``t = gamma * h / |h| + (1 - gamma) * s / |s|``;
3. the loss of a row is ``1 - cos(z, t)``.

Everything here is differentiable to any order, in reverse and in forward mode, and runs under
``torch.func``, ``torch.compile`` and on any device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from gift_fast.loss.thresholds import COSINE_EPS, NORMALIZE_EPS, ZERO_ROW_GRADIENT
from gift_fast.loss.top_k_labels import TopKLabels, without_ignored


def smoothed_label_values(
    num_classes: int, label_smoothing: float, smoothing: str
) -> tuple[float, float]:
    """The values of the smoothed one-hot label, scaled to unit norm, on the target and elsewhere.

    ``"uniform"`` spreads alpha over all C classes (Szegedy et al., CVPR 2016, and PyTorch's
    ``label_smoothing``); ``"others"`` spreads it over the C - 1 other classes (GIFT's public code).
    """
    if smoothing == "uniform":
        elsewhere = label_smoothing / num_classes
        on_target = 1.0 - label_smoothing + elsewhere
    else:
        elsewhere = label_smoothing / (num_classes - 1)
        on_target = 1.0 - label_smoothing
    norm = math.sqrt(on_target**2 + (num_classes - 1) * elsewhere**2)
    return on_target / norm, elsewhere / norm


def bounded_norm(rows: Tensor, eps: float) -> Tensor:
    """``max(|row|, eps)`` of every row, (..., C) to (..., 1).

    The bound is applied inside of the square root, so that all derivatives are finite at zero and a
    bounded norm has no derivative, unlike in ``F.cosine_similarity``.
    """
    return (rows * rows).sum(-1, keepdim=True).clamp_min(eps**2).sqrt()


def compute_dtype(logits: Tensor) -> torch.dtype:
    """The dtype of the computation: float64 for float64 logits, otherwise float32."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def widened(rows: Tensor, dtype: torch.dtype, zero_row_factor: float) -> Tensor:
    """Convert rows (..., C) to a wider dtype.

    Only the gradient of an all-zero float16 row is multiplied by ``zero_row_factor``.
    """
    if rows.dtype == dtype:
        return rows
    wide = rows.to(dtype)
    if rows.dtype != torch.float16:
        return wide
    is_zero = (wide == 0).all(-1, keepdim=True)
    return torch.where(is_zero, wide * zero_row_factor, wide)


def widened_top_k(labels: TopKLabels, dtype: torch.dtype, zero_row_factor: float) -> TopKLabels:
    """:func:`widened` for the fields of top-k labels, as if their rows were dense."""
    values, indices, rest = labels
    if torch.float16 not in (values.dtype, labels.rest_dtype) or rest is None:
        return TopKLabels(values.to(dtype), indices, None if rest is None else rest.to(dtype))
    is_zero = (values == 0).all(-1) & (rest == 0)

    def wide(x: Tensor, zero_row: Tensor) -> Tensor:
        y = x.to(dtype)
        return torch.where(zero_row, y * zero_row_factor, y) if x.dtype == torch.float16 else y

    return TopKLabels(wide(values, is_zero.unsqueeze(-1)), indices, wide(rest, is_zero))


def soft_labels_factor(gamma: float, soft_label_temperature: float | None) -> float:
    """The ``zero_row_factor`` of soft labels, whose refined label is then ``gamma * h / |h|``."""
    if soft_label_temperature is not None:
        return 1.0  # a softmax is not all zero
    return NORMALIZE_EPS * ZERO_ROW_GRADIENT * max(gamma, COSINE_EPS)


def refine(
    soft_labels: Tensor,
    target: Tensor,
    gamma: float,
    label_smoothing: float,
    smoothing: str,
    soft_label_temperature: float | None,
) -> Tensor:
    """Steps 1 and 2: the refined label t, (..., C), from soft labels (..., C) and target (...)."""
    if soft_label_temperature is not None:
        soft_labels = torch.softmax(soft_labels / soft_label_temperature, dim=-1)
    on_target, elsewhere = smoothed_label_values(soft_labels.shape[-1], label_smoothing, smoothing)
    # scatter and not a comparison with arange, so that a target out of range raises an error.
    hard = torch.full_like(soft_labels, elsewhere)
    hard = hard.scatter(-1, target.long().unsqueeze(-1), on_target)
    soft = soft_labels / bounded_norm(soft_labels, NORMALIZE_EPS)
    return gamma * hard + (1.0 - gamma) * soft


def valid_rows(target: Tensor, ignore_index: int) -> Tensor:
    """Whether each row is valid, bool (...)."""
    # An ignore_index out of the range of int32 would wrap around to another class.
    return (target if target.dtype == torch.int64 else target.long()) != ignore_index


def reduce_rows(rows: Tensor, valid: Tensor, reduction: str) -> Tensor:
    """Reduce row losses; ``mean`` divides by the number of valid rows (NaN if there are none)."""
    if reduction == "none":
        return rows
    if rows.dim() == 0:  # no sums, which are expensive under torch.func
        return rows / valid if reduction == "mean" else rows
    total = rows.sum()
    return total / valid.sum() if reduction == "mean" else total


def weigh_rows(rows: Tensor, weight: Tensor | float | None, valid: Tensor) -> Tensor:
    """Multiply row losses by the weight of their label; ignored rows do not read it."""
    return rows if weight is None else torch.where(valid, rows * weight, 0.0)


def autocast_off(device_type: str) -> AbstractContextManager[Any]:
    """Disable autocast on devices that have it; ``meta`` does not."""
    # Dynamo in torch 2.10 cannot trace the check; the devices that it compiles for have autocast.
    if torch.compiler.is_compiling() or torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def reference_loss(
    logits: Tensor,
    soft_labels: Tensor | TopKLabels,
    target: Tensor,
    other_target: Tensor | None = None,
    target_weight: Tensor | float | None = None,
    *,
    gamma: float = 0.1,
    label_smoothing: float = 0.1,
    smoothing: str = "uniform",
    soft_label_temperature: float | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Compute the GIFT loss without kernels.

    Takes the arguments of :func:`gift_fast.gift_loss`, but does not check them.

    Args:
        logits: (..., C) student logits z.
        soft_labels: (..., C) soft labels s: probabilities, logits or any other vector. Top-k labels
            are converted to dense labels.
        target: (...) hard labels y.
        other_target: (...) second labels of mixed rows, or ``None``.
        target_weight: w; the loss is ``w L(target) + (1 - w) L(other_target)``. A number, or a
            tensor, 0-d or (...).
        gamma: Weight of the hard label.
        label_smoothing: Mass taken from the hard label.
        smoothing: ``"uniform"`` or ``"others"``.
        soft_label_temperature: Softmax temperature of s, or ``None``.
        ignore_index: Target of rows that are ignored.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        The loss, float64 for float64 logits and float32 otherwise: a scalar, or (...) for
        ``reduction="none"``.

    Example:
        >>> z = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> s = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> reference_loss(z, s, torch.tensor([0, 1]), label_smoothing=0.0).item()
        0.0
    """
    with autocast_off(logits.device.type):

        def row_losses(labels: Tensor, valid: Tensor) -> Tensor:
            return _row_losses(
                logits,
                soft_labels,
                labels,
                valid,
                gamma,
                label_smoothing,
                smoothing,
                soft_label_temperature,
            )

        return reduced_loss(
            row_losses,
            compute_dtype(logits),
            target,
            other_target,
            target_weight,
            ignore_index,
            reduction,
        )


def reduced_loss(
    row_losses: Callable[[Tensor, Tensor], Tensor],
    dtype: torch.dtype,
    target: Tensor,
    other_target: Tensor | None,
    target_weight: Tensor | float | None,
    ignore_index: int,
    reduction: str,
) -> Tensor:
    """The reduced loss for one or two hard labels per row, from their row losses (...).

    ``row_losses`` takes hard labels (...) and whether they are valid; ``dtype`` is that of its
    result.
    """

    def loss(labels: Tensor, weight: Tensor | float | None) -> Tensor:
        valid = valid_rows(labels, ignore_index)
        rows = row_losses(labels, valid)
        return reduce_rows(weigh_rows(rows, weight, valid), valid, reduction)

    if other_target is None or target_weight is None:
        return loss(target, None)
    w = target_weight
    if isinstance(w, Tensor):
        w = w.to(dtype)
    return loss(target, w) + loss(other_target, 1.0 - w)


def _row_losses(
    logits: Tensor,
    soft_labels: Tensor | TopKLabels,
    target: Tensor,
    valid: Tensor,
    gamma: float,
    label_smoothing: float,
    smoothing: str,
    soft_label_temperature: float | None,
) -> Tensor:
    """Step 3: the loss (...) of every row for one label, 0 if it is not valid."""
    dtype = compute_dtype(logits)
    # Ignored rows are replaced before the computation, because NaN in one of them times a zero
    # factor would be NaN in the gradients.
    ignored = ~valid
    row = ignored.unsqueeze(-1)
    z = widened(logits, dtype, COSINE_EPS * ZERO_ROW_GRADIENT).masked_fill(row, 0.0)
    of_labels = soft_labels_factor(gamma, soft_label_temperature)
    if isinstance(soft_labels, TopKLabels):
        top_k = widened_top_k(without_ignored(soft_labels, valid), dtype, of_labels)
        wide = top_k.in_dtype(dtype, logits.shape[-1])
    else:
        wide = widened(soft_labels, dtype, of_labels)
    s = wide.masked_fill(row, 0.0)
    y = target.masked_fill(ignored, 0)
    t = refine(s, y, gamma, label_smoothing, smoothing, soft_label_temperature)
    dot = (z * t).sum(-1)
    norms = bounded_norm(z, COSINE_EPS) * bounded_norm(t, COSINE_EPS)
    return (1.0 - dot / norms.squeeze(-1)).masked_fill(ignored, 0.0)
