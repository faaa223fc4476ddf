"""Losses built from another loss: ``X+ce`` and ``refine+X``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gift_fast.loss import GIFTLoss, refine_labels
from gift_fast.loss.arguments import Smoothing
from gift_fast.training.objectives.objective import Objective, SoftLabels
from gift_fast.training.objectives.option_checks import require_weights


def plus_ce(objective: Objective, *, weight: float = 0.1) -> Objective:
    """``X+ce``: X + w * CE; with X = MSE, the loss of G-VBSM (Shao et al., CVPR 2024).

    Args:
        objective: X.
        weight: w, the weight of the cross-entropy with the hard label.
    """
    require_weights("+ce", weight=weight)

    def loss(logits: Tensor, soft_labels: SoftLabels, target: Tensor, epoch: int) -> Tensor:
        soft = objective(logits, soft_labels, target, epoch)
        return soft + weight * F.cross_entropy(logits, target)

    return Objective(loss, reads=objective.reads, takes_top_k=objective.takes_top_k)


def refine(
    objective: Objective,
    *,
    gamma: float = 0.1,
    label_smoothing: float = 0.1,
    smoothing: Smoothing = "uniform",
    unit: bool = False,
) -> Objective:
    """``refine+X``: X with GIFT's refined soft label instead of the soft label.

    Shang, Sun and Lin (ICLR 2025, tables 7 and 13) report results, but do not define it. Here the
    refined soft label, whose norm is about 1, is multiplied by the norm of the soft label, so that
    X receives logits of the usual scale.

    Args:
        objective: X.
        gamma: weight of the hard label in the refined soft label.
        label_smoothing: mass taken from the hard label.
        smoothing: the classes that receive it: ``uniform`` for all, ``others`` for all but the
            target.
        unit: keeps the norm of about 1, with which a softmax is nearly uniform.
    """
    GIFTLoss(
        gamma=gamma, label_smoothing=label_smoothing, smoothing=smoothing
    )  # checks the options

    def loss(logits: Tensor, soft_labels: SoftLabels, target: Tensor, epoch: int) -> Tensor:
        refined = refine_labels(
            soft_labels, target, gamma=gamma, label_smoothing=label_smoothing, smoothing=smoothing
        )
        if not unit:
            refined = refined * torch.linalg.vector_norm(soft_labels, dim=-1, keepdim=True)
        return objective(logits, refined, target, epoch)

    return Objective(loss)


def compose(
    outer: Callable[..., Objective], inner: Callable[..., Objective]
) -> Callable[..., Objective]:
    """A function that applies ``outer`` to the result of ``inner`` and has the options of both."""
    parameters = inspect.signature(outer).parameters.values()
    own = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}
    signature = inspect.signature(inner)

    def composed(**options: Any) -> Objective:
        of_outer = {name: options.pop(name) for name in own if name in options}
        return outer(inner(**options), **of_outer)

    composed.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), *own.values()]
    )
    composed.__doc__ = outer.__doc__
    return composed
