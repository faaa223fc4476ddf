"""KL divergence losses: KL, KD, and LPQLD's annealed KL."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gift_fast.training.label_forms import divergence, scaled
from gift_fast.training.objectives.objective import Objective, SoftLabels
from gift_fast.training.objectives.option_checks import (
    require,
    require_temperature,
    require_weights,
)

STUDENT_TEMPERATURES = [k / 100 for k in range(1, 101)]
"""Candidates for the student's temperature in ``annealed-kl``."""


def kl(*, temperature: float = 20.0, scale_t2: bool = False) -> Objective:
    """KL(softmax(t / T) || softmax(z / T)).

    Args:
        temperature: T.
        scale_t2: multiplies by T^2, so that the scale of the gradient does not depend on T (Hinton,
            Vinyals and Dean, 2015). The code of SRe2L, RDED and GIFT does not, so at T = 20 its
            gradient is about 1/400 of the usual one.
    """
    require_temperature("kl", temperature)
    factor = temperature**2 if scale_t2 else 1.0

    def loss(logits: Tensor, soft_labels: SoftLabels, target: Tensor, epoch: int) -> Tensor:
        return factor * divergence(logits / temperature, scaled(soft_labels, temperature))

    return Objective(loss, reads_target=False, reads="softmax", takes_top_k=True)


def kd(*, temperature: float = 4.0, weight: float = 0.9) -> Objective:
    """(1 - w) * CE + w * T^2 * KL at temperature T (Hinton, Vinyals and Dean, 2015).

    Args:
        temperature: T.
        weight: w, of the soft label, in [0, 1].
    """
    require_temperature("kd", temperature)
    require(0.0 <= weight <= 1.0, "loss 'kd': weight", weight, "in [0, 1]")

    def loss(logits: Tensor, soft_labels: SoftLabels, target: Tensor, epoch: int) -> Tensor:
        soft = divergence(logits / temperature, scaled(soft_labels, temperature))
        soft = temperature**2 * soft
        return (1.0 - weight) * F.cross_entropy(logits, target) + weight * soft

    return Objective(loss, reads="softmax", takes_top_k=True)


class FittedTemperature:
    """The student's temperature, chosen after every epoch on the epoch's last batch.

    Attributes:
        value: temperature of the next epoch.
        last: logits and tempered soft labels of the last batch; None before the first.
    """

    def __init__(self) -> None:
        self.value = 1.0
        self.last: tuple[Tensor, SoftLabels] | None = None

    def end_epoch(self) -> None:
        """See :class:`LossState`. Of equally good temperatures, the smallest is chosen."""
        assert self.last is not None
        logits, soft_labels = self.last
        with torch.no_grad():
            losses = [divergence(logits / t, soft_labels) for t in STUDENT_TEMPERATURES]
            self.value = STUDENT_TEMPERATURES[
                int(torch.stack(losses).nan_to_num(torch.inf).argmin())
            ]
        self.last = None

    def state_dict(self) -> dict[str, Any]:
        """See :class:`LossState`."""
        return {"student_temperature": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`LossState`."""
        self.value = float(state["student_temperature"])


def annealed_kl(
    *,
    temperature: float = 20.0,
    factor: float = 0.7,
    every: int = 30,
    least: float = 2.0,
    student_temperature: float = 0.0,
) -> Objective:
    """KL(softmax(t / T) || softmax(z / S)) with decreasing T and fitted S, the loss of LPQLD.

    T is multiplied by ``factor`` at epochs ``every``, 2 * ``every``, ..., counted from 1, but is at
    least ``least``. S is 1 in the first epoch. After every epoch, S is set to the value of 0.01,
    0.02, ..., 1 that has the lowest loss on the epoch's last batch.

    Args:
        temperature: T at the start.
        factor: by which T is multiplied.
        every: number of epochs between decreases of T.
        least: lower bound of T.
        student_temperature: S for the whole run; 0 fits it.
    """
    require_temperature("annealed-kl", temperature)
    require_temperature("annealed-kl", least)
    require(0.0 < factor <= 1.0, "loss 'annealed-kl': factor", factor, "in (0, 1]")
    require(every >= 1, "loss 'annealed-kl': every", every, "1 or more")
    require_weights("annealed-kl", student_temperature=student_temperature)
    fitted = None if student_temperature else FittedTemperature()

    def loss(logits: Tensor, soft_labels: SoftLabels, target: Tensor, epoch: int) -> Tensor:
        teacher = scaled(soft_labels, max(temperature * factor ** (epoch // every), least))
        if fitted is None:
            return divergence(logits / student_temperature, teacher)
        fitted.last = (logits.detach(), teacher)
        return divergence(logits / fitted.value, teacher)

    return Objective(loss, reads_target=False, reads="softmax", takes_top_k=True, state=fitted)
