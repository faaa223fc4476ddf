"""The operators in plain PyTorch, for graphs on devices without kernels, or whose kernels failed.

The derivatives are written out, because autograd does not record inside of an operator.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gift_fast.loss.arguments import OperatorArguments, TopKOperatorArguments
from gift_fast.loss.reference import (
    bounded_norm,
    compute_dtype,
    reduce_rows,
    refine,
    soft_labels_factor,
    valid_rows,
    weigh_rows,
)
from gift_fast.loss.thresholds import COSINE_EPS, NORMALIZE_EPS, ZERO_ROW_GRADIENT
from gift_fast.loss.top_k_labels import TopKLabels, without_ignored


def loss_and_gradients(
    logits: Tensor, soft_labels: Tensor, target: Tensor, *arguments: Any
) -> list[Tensor]:
    """The operator of :mod:`gift_fast.loss.operators`, on any device."""
    call = OperatorArguments(*arguments)
    if call.other_target is None or call.target_weight is None:
        loss, *gradients = _of_one_label(logits, soft_labels, target, None, call)
    else:
        w = call.target_weight.to(compute_dtype(logits))
        loss, *gradients = _of_one_label(logits, soft_labels, target, w, call)
        others = _of_one_label(logits, soft_labels, call.other_target, 1.0 - w, call)
        loss = loss + others[0]
        gradients = [one + other for one, other in zip(gradients, others[1:], strict=True)]
    outputs, units = [loss], list[Tensor]()
    of_labels = soft_labels_factor(call.gamma, call.soft_label_temperature)
    rows = iter(gradients)
    if call.logits_grad:
        _append(next(rows), logits, COSINE_EPS * ZERO_ROW_GRADIENT, outputs, units)
    if call.soft_labels_grad:
        _append(next(rows), soft_labels, of_labels, outputs, units)
    return [*outputs, *units]


def top_k_loss_and_gradients(
    logits: Tensor,
    values: Tensor,
    indices: Tensor,
    rest: Tensor | None,
    target: Tensor,
    *arguments: Any,
) -> list[Tensor]:
    """The operator of top-k labels, on any device, computed from dense labels."""
    call = TopKOperatorArguments(*arguments)
    valid = valid_rows(target, call.ignore_index)
    if call.other_target is not None:
        valid = valid | valid_rows(call.other_target, call.ignore_index)
    labels = without_ignored(TopKLabels(values, indices, rest), valid)
    dense = labels.in_dtype(compute_dtype(logits), logits.shape[-1])
    mixed = call.other_target, call.target_weight
    return loss_and_gradients(logits, dense, target, *call[:7], False, *mixed)


def _of_one_label(
    logits: Tensor,
    soft_labels: Tensor,
    target: Tensor,
    share: Tensor | None,
    call: OperatorArguments,
) -> list[Tensor]:
    """The loss for one label, times its share, and the requested gradients before rounding."""
    options = call.options
    dtype = compute_dtype(logits)
    valid = valid_rows(target, call.ignore_index)
    in_batch = valid.unsqueeze(-1)
    z = torch.where(in_batch, logits.to(dtype), 0.0)
    scores = torch.where(in_batch, soft_labels.to(dtype), 0.0)
    temperature = call.soft_label_temperature
    s = scores if temperature is None else torch.softmax(scores / temperature, -1)
    t = refine(
        s,
        torch.where(valid, target, 0),
        call.gamma,
        call.label_smoothing,
        options.smoothing_name,
        None,
    )

    z_norm, s_norm = bounded_norm(z, COSINE_EPS), bounded_norm(s, NORMALIZE_EPS)
    t_norm = bounded_norm(t, COSINE_EPS)
    z_unit, s_unit, t_unit = z / z_norm, s / s_norm, t / t_norm
    cosine = (z_unit * t_unit).sum(-1, keepdim=True)
    rows = torch.where(valid, 1.0 - cosine.squeeze(-1), 0.0)
    outputs = [reduce_rows(weigh_rows(rows, share, valid), valid, options.reduction_name)]

    # A norm at its lower bound is a constant, without a derivative.
    def free(norm: Tensor, eps: float) -> Tensor:
        return (norm > eps * (1 + 1e-6)).to(dtype)

    weight = valid.to(dtype)
    if call.reduction == 1:
        weight = torch.where(valid, 1.0 / valid.sum().to(dtype), 0.0)
    weight = weigh_rows(weight, share, valid).unsqueeze(-1)
    if call.logits_grad:
        outputs.append(-weight * (t_unit - free(z_norm, COSINE_EPS) * cosine * z_unit) / z_norm)
    if call.soft_labels_grad:
        of_t = -weight * (z_unit - free(t_norm, COSINE_EPS) * cosine * t_unit) / t_norm
        along = free(s_norm, NORMALIZE_EPS) * (of_t * s_unit).sum(-1, keepdim=True)
        grad = (1.0 - call.gamma) * (of_t - along * s_unit) / s_norm
        if temperature is not None:
            grad = s * (grad - (s * grad).sum(-1, keepdim=True)) / temperature
        outputs.append(grad)
    return outputs


def _append(
    grad: Tensor, x: Tensor, zero_row_factor: float, outputs: list[Tensor], units: list[Tensor]
) -> None:
    """Append the gradient in the dtype of x; for float16, scaled by a power of two per row."""
    if x.dtype != torch.float16:
        outputs.append(grad.to(x.dtype))
        return
    is_zero = (x == 0).all(-1, keepdim=True)
    grad = torch.where(is_zero, grad * zero_row_factor, grad)
    largest = grad.abs().amax(-1, keepdim=True)
    shift = (14 - torch.frexp(largest).exponent).clamp(-120, 120)
    shift = torch.where(largest.isfinite() & (largest > 0), shift, 0)
    outputs.append(torch.ldexp(grad, shift).to(torch.float16))
    units.append(torch.ldexp(torch.ones_like(largest), -shift).to(torch.float32).squeeze(-1))
