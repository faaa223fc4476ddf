"""The loss of top-k labels in plain PyTorch, from sums over the logits.

A row t of the refined label has k + 2 different values at most: one for each kept class, one for
the target, and one for all other classes. With these values the loss needs the sums of z and of
z^2, and z at the kept classes and the target; no dense label is built. Differentiable to any order;
it gives the gradients to ``values`` and ``rest``, and the loss under ``torch.func``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gift_fast.loss.arguments import Options
from gift_fast.loss.reference import (
    autocast_off,
    compute_dtype,
    reduced_loss,
    smoothed_label_values,
    soft_labels_factor,
    widened,
    widened_top_k,
)
from gift_fast.loss.thresholds import COSINE_EPS, NORMALIZE_EPS, ZERO_ROW_GRADIENT
from gift_fast.loss.top_k_labels import TopKLabels, without_ignored


def top_k_loss(
    logits: Tensor,
    labels: TopKLabels,
    target: Tensor,
    other_target: Tensor | None,
    target_weight: Tensor | float | None,
    options: Options,
) -> Tensor:
    """The loss of :func:`gift_fast.gift_loss` with top-k labels; the arguments are trusted."""
    with autocast_off(logits.device.type):

        def row_losses(hard: Tensor, valid: Tensor) -> Tensor:
            return _row_losses(logits, labels, hard, valid, options)

        return reduced_loss(
            row_losses,
            compute_dtype(logits),
            target,
            other_target,
            target_weight,
            options.ignore_index,
            options.reduction_name,
        )


def _row_losses(
    logits: Tensor, labels: TopKLabels, target: Tensor, valid: Tensor, options: Options
) -> Tensor:
    """The loss (...) of every row under one label, 0 where it is not valid."""
    dtype = compute_dtype(logits)
    num_classes = logits.shape[-1]
    gamma, temperature = options.gamma, options.soft_label_temperature
    z = widened(logits, dtype, COSINE_EPS * ZERO_ROW_GRADIENT)
    z = torch.where(valid.unsqueeze(-1), z, 0.0)
    y = torch.where(valid, target, 0).long().unsqueeze(-1)
    kept = widened_top_k(
        without_ignored(labels, valid), dtype, soft_labels_factor(gamma, temperature)
    )
    indices = kept.indices.long()
    others = num_classes - indices.shape[-1]  # classes that are not kept

    v, u = kept.values, kept.rest_in_dtype(dtype, num_classes).unsqueeze(-1)
    if temperature is not None:
        # The softmax up to a factor, which the norm of s removes.
        largest = v.amax(-1, keepdim=True)
        if others > 0:
            largest = torch.maximum(largest, u)
            u = ((u - largest.detach()) / temperature).exp()
        v = ((v - largest.detach()) / temperature).exp()
    square = (v * v).sum(-1, keepdim=True)
    if others > 0:
        square = square + others * u * u

    on_target, elsewhere = smoothed_label_values(
        num_classes, options.label_smoothing, options.smoothing_name
    )
    at_target = gamma * (on_target - elsewhere)
    is_target = (indices == y).to(dtype)
    # 1 where the target is a class of its own; there are none but the kept ones where k = C.
    alone = 1.0 - is_target.sum(-1, keepdim=True)
    soft = (1.0 - gamma) / square.clamp_min(NORMALIZE_EPS**2).sqrt()
    t = gamma * elsewhere + soft * v + at_target * is_target
    z_kept, z_target = z.gather(-1, indices), z.gather(-1, y)
    dot = (t * z_kept).sum(-1, keepdim=True)
    norm = (t * t).sum(-1, keepdim=True)
    if others > 0:
        t_rest = gamma * elsewhere + soft * u
        t_target = t_rest + at_target
        z_rest = z.sum(-1, keepdim=True) - z_kept.sum(-1, keepdim=True) - alone * z_target
        dot = dot + alone * t_target * z_target + t_rest * z_rest
        norm = norm + alone * t_target * t_target + (others - alone) * t_rest * t_rest
    else:  # the rest has a gradient of zero, not none
        dot = dot + u.masked_fill(torch.ones_like(u, dtype=torch.bool), 0.0)
    norms = (z * z).sum(-1, keepdim=True).clamp_min(COSINE_EPS**2).sqrt()
    norms = norms * norm.clamp_min(COSINE_EPS**2).sqrt()
    return torch.where(valid, 1.0 - (dot / norms).squeeze(-1), 0.0)
