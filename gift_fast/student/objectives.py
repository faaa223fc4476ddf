"""The losses a student can be trained with.

An objective takes student logits (N, C), soft labels (N, C), hard labels (N) and the epoch, counted
from 1, and gives a scalar. Soft labels are the teacher's logits unless said otherwise.

A new loss is one function that returns an objective, and one line in ``OBJECTIVES``.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from gift_fast import gift_loss
from gift_fast.student import spec

Objective = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def ce() -> Objective:
    """Cross-entropy with the hard label; the soft label is not read."""

    def loss(logits: Tensor, soft_labels: Tensor, target: Tensor, epoch: int) -> Tensor:
        return F.cross_entropy(logits, target)

    return loss


def softce() -> Objective:
    """Cross-entropy with the softmax of the soft label, at temperature 1."""

    def loss(logits: Tensor, soft_labels: Tensor, target: Tensor, epoch: int) -> Tensor:
        return F.cross_entropy(logits, soft_labels.softmax(dim=-1))

    return loss


def mse() -> Objective:
    """The squared difference of the logits, averaged over rows and classes."""

    def loss(logits: Tensor, soft_labels: Tensor, target: Tensor, epoch: int) -> Tensor:
        return F.mse_loss(logits, soft_labels)

    return loss


def kl(*, temperature: float = 20.0, scale_t2: bool = False) -> Objective:
    """KL(softmax(soft / T) || softmax(logits / T)), averaged over rows.

    The code of SRe2L, RDED and GIFT leaves out the factor T^2 of Hinton et al. (2015), so at T = 20
    its gradient is about 1/400 of the usual one; ``scale_t2`` puts the factor back.
    """
    if not temperature > 0:
        raise ValueError(f"loss 'kl': temperature must be positive, got {temperature}")
    factor = temperature**2 if scale_t2 else 1.0

    def loss(logits: Tensor, soft_labels: Tensor, target: Tensor, epoch: int) -> Tensor:
        student = F.log_softmax(logits / temperature, dim=-1)
        teacher = F.log_softmax(soft_labels / temperature, dim=-1)
        return factor * F.kl_div(student, teacher, reduction="batchmean", log_target=True)

    return loss


def cosine() -> Objective:
    """1 - cos(logits, soft label), averaged over rows: GIFT without the refinement."""

    def loss(logits: Tensor, soft_labels: Tensor, target: Tensor, epoch: int) -> Tensor:
        return 1.0 - F.cosine_similarity(logits, soft_labels, dim=-1).mean()

    return loss


def gift(*, gamma: float = 0.1, label_smoothing: float = 0.1) -> Objective:
    """:func:`gift_fast.gift_loss` (Shang, Sun and Lin, ICLR 2025)."""

    def loss(logits: Tensor, soft_labels: Tensor, target: Tensor, epoch: int) -> Tensor:
        return gift_loss(logits, soft_labels, target, gamma=gamma, label_smoothing=label_smoothing)

    return loss


OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "ce": ce,
    "cosine": cosine,
    "gift": gift,
    "kl": kl,
    "mse": mse,
    "softce": softce,
}


def build_objective(loss: str) -> Objective:
    """The objective that a specification names, with its options.

    Example:
        >>> import torch
        >>> objective = build_objective("kl:temperature=4,scale_t2=true")
        >>> z = torch.tensor([[1.0, 2.0]])
        >>> objective(z, z, torch.tensor([1]), 1).item()
        0.0
    """
    return spec.build("loss", loss, OBJECTIVES)
