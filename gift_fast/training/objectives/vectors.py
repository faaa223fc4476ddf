"""Losses that compare logits and soft labels as vectors: MSE, cosine and GIFT."""

from __future__ import annotations

from torch import Tensor

from gift_fast.loss import GIFTLoss
from gift_fast.loss.arguments import Smoothing
from gift_fast.training.label_forms import squared_error
from gift_fast.training.objectives.objective import Objective, SoftLabels
from gift_fast.training.objectives.option_checks import require

BLENDS = ("convex", "added")


def mse() -> Objective:
    """(z - t)^2, averaged over rows and classes."""

    def loss(logits: Tensor, soft_labels: SoftLabels, target: Tensor, epoch: int) -> Tensor:
        return squared_error(logits, soft_labels)

    return Objective(loss, reads_target=False, takes_top_k=True)


def cosine() -> Objective:
    """1 - cos(z, t): GIFT without refinement, computed by the same kernels."""
    criterion = GIFTLoss(gamma=0.0)

    def loss(logits: Tensor, soft_labels: SoftLabels, target: Tensor, epoch: int) -> Tensor:
        value: Tensor = criterion(logits, soft_labels, target)
        return value

    return Objective(
        loss, reads_target=False, takes_any_dtype=True, reads="vector", takes_top_k=True
    )


def gift(
    *,
    gamma: float = 0.1,
    label_smoothing: float = 0.1,
    smoothing: Smoothing = "uniform",
    soft_label_temperature: float = 0.0,
    blend: str = "convex",
) -> Objective:
    """GIFT (Shang, Sun and Lin, ICLR 2025), computed by :func:`gift_fast.gift_loss`.

    The loss of the authors' code is ``gift:smoothing=others,blend=added``.

    Args:
        gamma: weight of the hard label in the refined soft label.
        label_smoothing: mass taken from the hard label.
        smoothing: the classes that receive it: ``uniform`` for all, ``others`` for all but the
            target.
        soft_label_temperature: T > 0 replaces t by softmax(t / T); 0 uses t.
        blend: of the two normalized labels: ``convex`` is gamma * h + (1 - gamma) * t, as in the
            paper; ``added`` is gamma * h + t, as in the code, which has the same cosine as
            ``convex`` with gamma / (1 + gamma).
    """
    require(blend in BLENDS, "loss 'gift': blend", repr(blend), f"one of {', '.join(BLENDS)}")
    criterion = GIFTLoss(
        gamma=gamma,
        label_smoothing=label_smoothing,
        smoothing=smoothing,
        soft_label_temperature=soft_label_temperature or None,
    )
    if blend == "added":
        criterion.gamma = gamma / (1.0 + gamma)

    def loss(logits: Tensor, soft_labels: SoftLabels, target: Tensor, epoch: int) -> Tensor:
        value: Tensor = criterion(logits, soft_labels, target)
        return value

    def mixed(
        logits: Tensor,
        soft_labels: SoftLabels,
        target: Tensor,
        other: Tensor,
        weight: float | Tensor,
    ) -> Tensor:
        value: Tensor = criterion(logits, soft_labels, target, other, weight)
        return value

    return Objective(
        loss,
        takes_any_dtype=True,
        mixed_formula=mixed,
        reads="softmax" if soft_label_temperature else "vector",
        takes_top_k=True,
    )
