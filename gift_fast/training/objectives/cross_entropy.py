"""Cross-entropy losses: CE with the hard label, soft CE, and WSLD with both."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gift_fast.loss import TopKLabels
from gift_fast.training.label_forms import cross_entropy, scaled, top_k_softmax, value_at
from gift_fast.training.objectives.objective import Objective, SoftLabels
from gift_fast.training.objectives.option_checks import (
    require,
    require_temperature,
    require_weights,
)


def ce(*, label_smoothing: float = 0.0) -> Objective:
    """Cross-entropy with the hard label, as in ``F.cross_entropy``; soft labels are not read.

    Args:
        label_smoothing: mass of the hard label that is spread over all C classes (Szegedy et al.,
            CVPR 2016).
    """
    holds = 0.0 <= label_smoothing <= 1.0
    require(holds, "loss 'ce': label_smoothing", label_smoothing, "in [0, 1]")

    def loss(logits: Tensor, soft_labels: SoftLabels, target: Tensor, epoch: int) -> Tensor:
        return F.cross_entropy(logits, target, label_smoothing=label_smoothing)

    return Objective(loss, reads_soft_labels=False)


def softce() -> Objective:
    """Cross-entropy of softmax(z) with softmax(t), the loss of DATM's code."""

    def loss(logits: Tensor, soft_labels: SoftLabels, target: Tensor, epoch: int) -> Tensor:
        if isinstance(soft_labels, TopKLabels):
            return cross_entropy(logits, soft_labels).mean()
        return F.cross_entropy(logits, soft_labels.softmax(dim=-1))

    return Objective(loss, reads_target=False, reads="softmax", takes_top_k=True)


def wsld(*, temperature: float = 2.0, alpha: float = 2.5) -> Objective:
    """Weighted soft labels (Zhou, Song, Chen, Zhou, Wang, Yuan and Zhang, ICLR 2021).

    CE + alpha * T^2 * w * [cross-entropy of softmax(z / T) with softmax(t / T)]. The weight of a
    row, w = 1 - exp(-CE(z, y) / CE(t, y)), at temperature 1 and without gradient, is small if the
    student is better than the teacher. The defaults are the authors' for ImageNet-1K; for
    CIFAR-100, they use ``wsld:temperature=4,alpha=2.25``.

    Args:
        temperature: T.
        alpha: weight of the soft label.
    """
    require_temperature("wsld", temperature)
    require_weights("wsld", alpha=alpha)

    def loss(logits: Tensor, soft_labels: SoftLabels, target: Tensor, epoch: int) -> Tensor:
        hard = F.cross_entropy(logits, target, reduction="none")
        if isinstance(soft_labels, TopKLabels):
            log_sum = top_k_softmax(soft_labels, logits.shape[1]).log_sum
            of_teacher = log_sum - value_at(soft_labels, target)
        else:
            of_teacher = F.cross_entropy(soft_labels, target, reduction="none")
        weight = -torch.expm1(-hard / (of_teacher + 1e-7)).detach()  # 1e-7 as in the authors' code
        soft = cross_entropy(logits / temperature, scaled(soft_labels, temperature))
        return (hard + alpha * temperature**2 * weight * soft).mean()

    return Objective(loss, reads="softmax", takes_top_k=True)
