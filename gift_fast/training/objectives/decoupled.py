"""Losses that treat the target class and the other classes separately: DKD and NKD."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gift_fast.loss import TopKLabels
from gift_fast.training.label_forms import (
    divergence,
    expected_logit,
    scaled,
    top_k_softmax,
    value_at,
)
from gift_fast.training.objectives.objective import Objective, SoftLabels
from gift_fast.training.objectives.option_checks import (
    require,
    require_temperature,
    require_weights,
)


def dkd(
    *, temperature: float = 4.0, alpha: float = 1.0, beta: float = 8.0, warmup: int = 20
) -> Objective:
    """Decoupled knowledge distillation (Zhao, Cui, Song, Qiu and Liang, CVPR 2022).

    CE + min(epoch / warmup, 1) * T^2 * [alpha * KL of (y, not y) + beta * KL among the classes that
    are not y], both at temperature T. KD's KL is the first plus (1 - p) times the second, where p
    is the teacher's probability of y. The defaults are the authors' for CIFAR-100; for ImageNet-1K,
    they use ``dkd:temperature=1,beta=0.5,warmup=1``.

    Args:
        temperature: T.
        alpha: weight of the KL of (y, not y).
        beta: weight of the KL among the other classes.
        warmup: epochs, counted from 1, until the soft label has its full weight; 0 for none.
    """
    require_temperature("dkd", temperature)
    require_weights("dkd", alpha=alpha, beta=beta)
    require(warmup >= 0, "loss 'dkd': warmup", warmup, "0 or more")

    def loss(logits: Tensor, soft_labels: SoftLabels, target: Tensor, epoch: int) -> Tensor:
        z, t = logits / temperature, scaled(soft_labels, temperature)
        if isinstance(t, TopKLabels):
            rest = top_k_softmax(t, z.shape[1], target).log_sum
            pair = torch.stack([value_at(t, target), rest], dim=1)
        else:
            pair = target_and_rest(t, target)
        soft = alpha * divergence(target_and_rest(z, target), pair)
        soft = soft + beta * divergence_of_rest(z, t, target)
        warmed_up = min(epoch / warmup, 1.0) if warmup else 1.0
        return F.cross_entropy(logits, target) + warmed_up * temperature**2 * soft

    return Objective(loss, reads="softmax", takes_top_k=True)


def nkd(*, temperature: float = 1.0, gamma: float = 1.5) -> Objective:
    """Normalized knowledge distillation (Yang, Zeng, Li, Zhang, Yuan and Li, ICCV 2023).

    CE + [-p_t(y) log p_z(y)] at temperature 1 + gamma * T^2 * [cross-entropy among the classes that
    are not y] at temperature T. The defaults are the authors' for ImageNet-1K; for CIFAR-100, they
    use ``nkd:temperature=3,gamma=3.5``.

    Args:
        temperature: T, lambda in the paper.
        gamma: weight of the cross-entropy among the other classes.
    """
    require_temperature("nkd", temperature)
    require_weights("nkd", gamma=gamma)

    def loss(logits: Tensor, soft_labels: SoftLabels, target: Tensor, epoch: int) -> Tensor:
        hard = F.cross_entropy(logits, target, reduction="none")
        if isinstance(soft_labels, TopKLabels):
            soft = top_k_softmax(soft_labels, logits.shape[1])
            on_target = (value_at(soft_labels, target) - soft.log_sum).exp()
        else:
            on_target = soft_labels.softmax(dim=-1).gather(-1, target.unsqueeze(-1)).squeeze(-1)
        z, t = logits / temperature, scaled(soft_labels, temperature)
        among_rest = cross_entropy_of_rest(z, t, target)
        return ((1.0 + on_target) * hard + gamma * temperature**2 * among_rest).mean()

    return Objective(loss, reads="softmax", takes_top_k=True)


def divergence_of_rest(logits: Tensor, soft_labels: SoftLabels, target: Tensor) -> Tensor:
    """KL among the classes that are not y, averaged over rows."""
    if isinstance(soft_labels, Tensor):
        rest = log_softmax_of_rest(logits, target)
        return F.kl_div(rest, softmax_of_rest(soft_labels, target), reduction="batchmean")
    soft = top_k_softmax(soft_labels, logits.shape[1], target)
    return (cross_entropy_of_rest(logits, soft_labels, target) - soft.entropy()).mean()


def cross_entropy_of_rest(logits: Tensor, soft_labels: SoftLabels, target: Tensor) -> Tensor:
    """(N) cross-entropy among the classes that are not y; 0 if these have no mass."""
    if isinstance(soft_labels, Tensor):
        rest = log_softmax_of_rest(logits, target)
        return -(softmax_of_rest(soft_labels, target) * rest).sum(dim=-1)
    soft = top_k_softmax(soft_labels, logits.shape[1], target)
    log_sum = target_and_rest(logits, target)[:, 1]
    value = log_sum - expected_logit(soft, logits, target)
    return torch.where(soft.log_sum > -torch.inf, value, 0.0)


def target_and_rest(logits: Tensor, target: Tensor) -> Tensor:
    """The logits (N, 2) of the class y and of all other classes combined, from logits (N, C)."""
    index = target.unsqueeze(-1)
    rest = logits.scatter(-1, index, -torch.inf).logsumexp(dim=-1, keepdim=True)
    return torch.cat([logits.gather(-1, index), rest], dim=-1)


def softmax_of_rest(logits: Tensor, target: Tensor) -> Tensor:
    """The softmax (N, C) over the classes that are not y; 0 on y.

    It is 0 everywhere if all mass is on y, because such a label has no information about the other
    classes. In KD, their part has the weight 1 - p(y) = 0.
    """
    rest = logits.scatter(-1, target.unsqueeze(-1), -torch.inf)
    is_empty = rest.amax(dim=-1, keepdim=True) == -torch.inf
    return F.softmax(rest.masked_fill(is_empty, 0.0), dim=-1).masked_fill(is_empty, 0.0)


def log_softmax_of_rest(logits: Tensor, target: Tensor) -> Tensor:
    """The logarithm of the softmax (N, C) over the classes that are not y; 0 on y, not -inf."""
    index = target.unsqueeze(-1)
    rest = F.log_softmax(logits.scatter(-1, index, -torch.inf), dim=-1)
    return rest.scatter(-1, index, 0.0)  # so that a probability of 0 times it is 0
