"""The losses a student can be trained with.

z are the student's logits (N, C); t the soft labels (N, C), a teacher's raw logits; y the hard
labels (N). Every loss is a mean over the N rows. Soft labels of which only the largest values are
stored (:class:`~gift_fast.TopKLabels`) give the loss of ``labels.dense(C)``; only the losses
``refine+...`` build that matrix.

A new loss is one function from its options to an :class:`Objective`, one line in ``OBJECTIVES`` and
one in ``DISPLAY_NAMES``. A loss of one's own is such a function too, named by its import path; it
may return a plain function (logits, soft_labels, target, epoch) -> scalar.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from gift_fast.data.labels.stored_labels import Kind
from gift_fast.files import spec
from gift_fast.loss import GIFTLoss, TopKLabels, refine_labels
from gift_fast.loss.arguments import Smoothing
from gift_fast.loss.reference import autocast_off, compute_dtype
from gift_fast.training.label_forms import (
    as_logits,
    cross_entropy,
    divergence,
    expected_logit,
    scaled,
    squared_error,
    top_k_softmax,
    value_at,
    with_rest,
)

SoftLabels = Tensor | TopKLabels
"""Dense (N, C), or the largest values of each row."""

Formula = Callable[[Tensor, Any, Tensor, int], Tensor]
"""(logits (N, C), soft_labels (N, C), target (N), epoch from 1) -> scalar."""

MixedFormula = Callable[[Tensor, Any, Tensor, Tensor, float | Tensor], Tensor]
"""(logits, soft_labels, target, mixed_target (N), weight of target) -> scalar."""

Reads = Literal["softmax", "vector", "logits"]
"""What a loss reads of soft labels: their softmax at some temperature; their direction as a vector;
or their values as logits."""

STUDENT_TEMPERATURES = [k / 100 for k in range(1, 101)]
"""Among which the student's temperature of ``annealed-kl`` is chosen."""

READABLE: dict[Reads, tuple[Kind, ...]] = {
    "softmax": ("logits", "logits without rest", "probabilities"),
    "vector": ("logits", "probabilities"),
    "logits": ("logits",),
}
"""The kinds of stored labels that a loss can be trained on. Probabilities give the logits of their
softmax up to a constant, and a softmax alone does not depend on it."""


class LossState(Protocol):
    """What a loss remembers from epoch to epoch; a part of checkpoints."""

    def end_epoch(self) -> None:
        """Called after the last step of every epoch."""

    def state_dict(self) -> dict[str, Any]:
        """Plain values from which a resumed run continues."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts back what :meth:`state_dict` gave."""


@dataclass(frozen=True)
class Objective:
    """A loss, with what it reads, in a precision of its own.

    The formula gets logits and soft labels in float32 (float64 for float64 logits) and runs outside
    autocast, so the loss of half-precision logits is that of the same numbers in float32.

    Attributes:
        formula: the loss of a batch whose images have one hard label each.
        reads_target: whether the hard label matters; where not, mixed batches cost no second pass.
        reads_soft_labels: whether the soft label matters; where not, no teacher is needed.
        takes_any_dtype: the formula itself sees to its precision, and nothing is cast for it.
        mixed_formula: the loss of a batch with two hard labels per image in a single call; None
            calls ``formula`` for each of them.
        reads: what is read of the soft labels, which says which kinds of them are accepted.
        state: what the loss remembers from epoch to epoch, or None.
        takes_top_k: whether the formulas take :class:`~gift_fast.TopKLabels`; where not, they get
            the dense labels.

    Example:
        >>> l1 = Objective(lambda z, t, y, epoch: F.l1_loss(z, t), reads_target=False)
        >>> l1(torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2), torch.tensor([0]), 1).item()
        1.5
    """

    formula: Formula
    reads_target: bool = True
    reads_soft_labels: bool = True
    takes_any_dtype: bool = False
    mixed_formula: MixedFormula | None = None
    reads: Reads = "logits"
    takes_top_k: bool = False
    state: LossState | None = None

    def __call__(
        self,
        logits: Tensor,
        soft_labels: Tensor | TopKLabels | None,
        target: Tensor,
        epoch: int,
        *,
        mixed_target: Tensor | None = None,
        weight: float | Tensor = 1.0,
        temperature: float | None = None,
    ) -> Tensor:
        """The loss of a batch, a scalar.

        Args:
            logits: (N, C), the student's, in any floating type.
            soft_labels: (N, C), in any floating type, or the largest of each row as
                :class:`~gift_fast.TopKLabels`; None for a loss that does not read them.
            target: (N) int64 hard labels.
            epoch: from 1; some losses are warmed up.
            mixed_target: (N) int64, the hard labels of what mixup or cutmix mixed in; a loss that
                reads hard labels is then weight * L(target) + (1 - weight) * L(mixed_target).
            weight: of ``target``: mixup's lambda, or the part of the image that cutmix has left.
            temperature: None for soft labels that are logits; else that of the softmax of which
                they are the probabilities.

        Raises:
            ValueError: the soft labels are missing or of another shape than the logits, they are
                probabilities and the loss reads logits, or the formula's loss is no scalar.
        """
        if not self.reads_soft_labels:
            soft_labels = logits  # any tensor would do
        elif soft_labels is None:
            raise ValueError("soft_labels must be a tensor, since the loss reads them; got None")
        else:
            check_shape(soft_labels, logits)
            soft_labels = self.readable(soft_labels, logits, temperature)
        if not self.takes_any_dtype:
            logits = logits.to(compute_dtype(logits))
        mixed = mixed_target if self.reads_target else None
        with autocast_off(logits.device.type):
            if mixed is not None and self.mixed_formula is not None:
                return self.mixed_formula(logits, soft_labels, target, mixed, weight)
            loss = self.formula(logits, soft_labels, target, epoch)
            if loss.ndim:
                raise ValueError(
                    f"the loss must give a scalar, got a tensor of shape {tuple(loss.shape)}"
                )
            if mixed is None:
                return loss
            mixed_in = self.formula(logits, soft_labels, mixed, epoch)
            return weight * loss + (1.0 - weight) * mixed_in

    def readable(
        self, soft_labels: Tensor | TopKLabels, logits: Tensor, temperature: float | None
    ) -> Tensor | TopKLabels:
        """The soft labels in the form and the precision that the formula takes."""
        classes = logits.shape[-1]
        if temperature is not None and self.reads == "logits":
            raise ValueError(
                "soft_labels must be logits for this loss, got probabilities, which determine "
                "logits up to a constant only; losses that read a softmax take them: kl, softce, kd"
            )
        if isinstance(soft_labels, TopKLabels) and not self.takes_top_k:
            soft_labels = soft_labels.dense(classes)
        if not self.takes_any_dtype or (temperature is not None and self.reads == "softmax"):
            dtype = compute_dtype(logits)
            if isinstance(soft_labels, TopKLabels):
                values, indices, rest = soft_labels
                rest = None if rest is None else rest.to(dtype)
                soft_labels = with_rest(TopKLabels(values.to(dtype), indices, rest), classes)
            else:
                soft_labels = soft_labels.to(dtype)
        if temperature is not None and self.reads == "softmax":
            soft_labels = as_logits(soft_labels, temperature)
        return soft_labels


def check_shape(soft_labels: Tensor | TopKLabels, logits: Tensor) -> None:
    """Raises ValueError unless there is a soft label for every row, of as many classes."""
    if isinstance(soft_labels, Tensor):
        if soft_labels.shape != logits.shape:
            raise ValueError(
                f"soft_labels must have the shape of logits {tuple(logits.shape)}, "
                f"got {tuple(soft_labels.shape)}"
            )
        return
    values, indices, rest = soft_labels
    fits = values.shape == indices.shape and values.shape[:-1] == logits.shape[:-1]
    fits = fits and values.dim() == logits.dim() and values.shape[-1] <= logits.shape[-1]
    if not fits or (rest is not None and rest.shape != logits.shape[:-1]):
        raise ValueError(
            f"soft_labels must have values and indices {(*logits.shape[:-1], 'k')}, at most "
            f"k = {logits.shape[-1]}, and rest {tuple(logits.shape[:-1])} or None, for logits "
            f"{tuple(logits.shape)}; got {tuple(values.shape)}, {tuple(indices.shape)} and "
            f"{None if rest is None else tuple(rest.shape)}"
        )


def require(holds: bool, name: str, value: object, expected: str) -> None:
    """Raises ValueError unless ``holds``."""
    if not holds:
        raise ValueError(f"{name} must be {expected}, got {value}")


def require_temperature(loss: str, temperature: float) -> None:
    """Raises ValueError unless the temperature of a loss is one."""
    holds = 0.0 < temperature < math.inf
    require(holds, f"loss {loss!r}: temperature", temperature, "positive and finite")


def require_weights(loss: str, **weights: float) -> None:
    """Raises ValueError unless the weights of a loss are 0 or more."""
    for name, weight in weights.items():
        holds = 0.0 <= weight < math.inf
        require(holds, f"loss {loss!r}: {name}", weight, "0 or more and finite")


# ---- hard labels ---------------------------------------------------------------------------------


def ce(*, label_smoothing: float = 0.0) -> Objective:
    """Cross-entropy with the hard label, as ``F.cross_entropy``; the soft label is not read.

    Args:
        label_smoothing: mass of the hard label that is spread evenly over all C classes (Szegedy et
            al., CVPR 2016).
    """
    holds = 0.0 <= label_smoothing <= 1.0
    require(holds, "loss 'ce': label_smoothing", label_smoothing, "in [0, 1]")

    def loss(logits: Tensor, soft_labels: SoftLabels, target: Tensor, epoch: int) -> Tensor:
        return F.cross_entropy(logits, target, label_smoothing=label_smoothing)

    return Objective(loss, reads_soft_labels=False)


# ---- soft labels ---------------------------------------------------------------------------------


def cosine() -> Objective:
    """1 - cos(z, t): GIFT without the refinement, through the same kernel."""
    criterion = GIFTLoss(gamma=0.0)

    def loss(logits: Tensor, soft_labels: SoftLabels, target: Tensor, epoch: int) -> Tensor:
        value: Tensor = criterion(logits, soft_labels, target)
        return value

    return Objective(
        loss, reads_target=False, takes_any_dtype=True, reads="vector", takes_top_k=True
    )


def kl(*, temperature: float = 20.0, scale_t2: bool = False) -> Objective:
    """KL(softmax(t / T) || softmax(z / T)).

    Args:
        temperature: T.
        scale_t2: multiplies by T^2, which keeps the gradient's scale (Hinton, Vinyals and Dean,
            2015). The code of SRe2L, RDED and GIFT leaves it out, so at T = 20 its gradient is
            about 1/400 of the usual one.
    """
    require_temperature("kl", temperature)
    factor = temperature**2 if scale_t2 else 1.0

    def loss(logits: Tensor, soft_labels: SoftLabels, target: Tensor, epoch: int) -> Tensor:
        return factor * divergence(logits / temperature, scaled(soft_labels, temperature))

    return Objective(loss, reads_target=False, reads="softmax", takes_top_k=True)


class FittedTemperature:
    """A student's temperature that is chosen again after every epoch, on its last batch.

    Attributes:
        value: of the next epoch.
        last: logits, soft labels at their temperature, of the last batch; None before the first.
    """

    def __init__(self) -> None:
        self.value = 1.0
        self.last: tuple[Tensor, SoftLabels] | None = None

    def end_epoch(self) -> None:
        """See :class:`LossState`. The first of equally good temperatures is taken."""
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
    """KL(softmax(t / T) || softmax(z / S)) with a falling T and a fitted S, as LPQLD trains.

    T is multiplied by ``factor`` in every epoch whose number, counted from 1, is a multiple of
    ``every``, from that epoch on, and never falls below ``least``. S is 1 in the first epoch; after
    every epoch, the best of 0.01, 0.02, ..., 1 on the epoch's last batch is taken, by the loss.

    Args:
        temperature: T in the first epochs.
        factor: by which T falls.
        every: epochs.
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


def mse() -> Objective:
    """(z - t)^2, averaged over rows and classes."""

    def loss(logits: Tensor, soft_labels: SoftLabels, target: Tensor, epoch: int) -> Tensor:
        return squared_error(logits, soft_labels)

    return Objective(loss, reads_target=False, takes_top_k=True)


def softce() -> Objective:
    """Cross-entropy of softmax(z) with softmax(t), as DATM's code trains its students."""

    def loss(logits: Tensor, soft_labels: SoftLabels, target: Tensor, epoch: int) -> Tensor:
        if isinstance(soft_labels, TopKLabels):
            return cross_entropy(logits, soft_labels).mean()
        return F.cross_entropy(logits, soft_labels.softmax(dim=-1))

    return Objective(loss, reads_target=False, reads="softmax", takes_top_k=True)


# ---- both labels ---------------------------------------------------------------------------------

BLENDS = ("convex", "added")


def gift(
    *,
    gamma: float = 0.1,
    label_smoothing: float = 0.1,
    smoothing: Smoothing = "uniform",
    soft_label_temperature: float = 0.0,
    blend: str = "convex",
) -> Objective:
    """:func:`gift_fast.gift_loss` (Shang, Sun and Lin, ICLR 2025), through its kernels.

    The authors' code is ``gift:smoothing=others,blend=added``.

    Args:
        gamma: weight of the hard label in the refined one.
        label_smoothing: mass taken from the hard label.
        smoothing: where it goes: ``uniform`` to all classes, ``others`` to the wrong ones.
        soft_label_temperature: T > 0 replaces t with softmax(t / T); 0 takes t as it is.
        blend: of the two normalized labels: ``convex`` is gamma * h + (1 - gamma) * t, as in the
            paper; ``added`` is gamma * h + t, as in the code: the same cosine as the convex one has
            with gamma / (1 + gamma).
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


def dkd(
    *, temperature: float = 4.0, alpha: float = 1.0, beta: float = 8.0, warmup: int = 20
) -> Objective:
    """Decoupled knowledge distillation (Zhao, Cui, Song, Qiu and Liang, CVPR 2022).

    CE + min(epoch / warmup, 1) * T^2 * [alpha * KL of (y, not y) + beta * KL among the classes that
    are not y], both at temperature T. KD's KL is the first plus (1 - p) times the second, p being
    the teacher's probability of y. The defaults are the authors' for CIFAR-100; theirs for
    ImageNet-1K are ``dkd:temperature=1,beta=0.5,warmup=1``.

    Args:
        temperature: T.
        alpha: weight of what the teacher says about y.
        beta: weight of what it says about the other classes.
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
    are not y] at temperature T. The defaults are the authors' for ImageNet-1K; theirs for CIFAR-100
    are ``nkd:temperature=3,gamma=3.5``.

    Args:
        temperature: T, lambda in the paper.
        gamma: weight of what the teacher says about the classes that are not y.
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


def wsld(*, temperature: float = 2.0, alpha: float = 2.5) -> Objective:
    """Weighted soft labels (Zhou, Song, Chen, Zhou, Wang, Yuan and Zhang, ICLR 2021).

    CE + alpha * T^2 * w * [cross-entropy of softmax(z / T) with softmax(t / T)]. The row's weight
    w = 1 - exp(-CE(z, y) / CE(t, y)), at temperature 1 and not differentiated, is small where the
    student already does better than the teacher. The defaults are the authors' for ImageNet-1K;
    theirs for CIFAR-100 are ``wsld:temperature=4,alpha=2.25``.

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
        weight = -torch.expm1(-hard / (of_teacher + 1e-7)).detach()  # 1e-7: as the authors' code
        soft = cross_entropy(logits / temperature, scaled(soft_labels, temperature))
        return (hard + alpha * temperature**2 * weight * soft).mean()

    return Objective(loss, reads="softmax", takes_top_k=True)


def divergence_of_rest(logits: Tensor, soft_labels: SoftLabels, target: Tensor) -> Tensor:
    """KL among the classes that are not y, averaged over rows."""
    if isinstance(soft_labels, Tensor):
        rest = log_softmax_of_rest(logits, target)
        return F.kl_div(rest, softmax_of_rest(soft_labels, target), reduction="batchmean")
    soft = top_k_softmax(soft_labels, logits.shape[1], target)
    return (cross_entropy_of_rest(logits, soft_labels, target) - soft.entropy()).mean()


def cross_entropy_of_rest(logits: Tensor, soft_labels: SoftLabels, target: Tensor) -> Tensor:
    """(N) cross-entropy among the classes that are not y."""
    if isinstance(soft_labels, Tensor):
        rest = log_softmax_of_rest(logits, target)
        return -(softmax_of_rest(soft_labels, target) * rest).sum(dim=-1)
    soft = top_k_softmax(soft_labels, logits.shape[1], target)
    log_sum = target_and_rest(logits, target)[:, 1]
    return log_sum - expected_logit(soft, logits, target)


def target_and_rest(logits: Tensor, target: Tensor) -> Tensor:
    """The logits (N, 2) of the class y against all others together, from logits (N, C)."""
    index = target.unsqueeze(-1)
    rest = logits.scatter(-1, index, -torch.inf).logsumexp(dim=-1, keepdim=True)
    return torch.cat([logits.gather(-1, index), rest], dim=-1)


def softmax_of_rest(logits: Tensor, target: Tensor) -> Tensor:
    """The softmax (N, C) over the classes that are not y; 0 on y."""
    return F.softmax(logits.scatter(-1, target.unsqueeze(-1), -torch.inf), dim=-1)


def log_softmax_of_rest(logits: Tensor, target: Tensor) -> Tensor:
    """The logarithm of the softmax (N, C) over the classes that are not y; 0 on y, not -inf."""
    index = target.unsqueeze(-1)
    rest = F.log_softmax(logits.scatter(-1, index, -torch.inf), dim=-1)
    return rest.scatter(-1, index, 0.0)  # so that a probability of 0 times it is 0


# ---- compositions --------------------------------------------------------------------------------


def plus_ce(objective: Objective, *, weight: float = 0.1) -> Objective:
    """``X+ce``: X + w * CE, as G-VBSM trains with X = MSE (Shao et al., CVPR 2024).

    Args:
        objective: X.
        weight: w, of the cross-entropy with the hard label.
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
    """``refine+X``: X with GIFT's refined label in the soft label's place.

    Shang, Sun and Lin (ICLR 2025, tables 7 and 13) report it without its form. Here the refined
    label, whose norm is about 1, is multiplied by the norm of the soft label, so that X sees logits
    of the usual scale.

    Args:
        objective: X.
        gamma: weight of the hard label in the refined one.
        label_smoothing: mass taken from the hard label.
        smoothing: where it goes: ``uniform`` to all classes, ``others`` to the wrong ones.
        unit: leaves the refined label at its norm of about 1. A softmax of it is nearly uniform.
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
    """The function that applies ``outer`` to what ``inner`` makes; it has the options of both."""
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


SOFT_LABEL_LOSSES: dict[str, Callable[..., Objective]] = {
    "cosine": cosine,
    "kl": kl,
    "mse": mse,
    "softce": softce,
    "kl+ce": compose(plus_ce, kl),
    "mse+ce": compose(plus_ce, mse),
    "softce+ce": compose(plus_ce, softce),
}
"""The losses that a refined label makes sense for."""

OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "ce": ce,
    **SOFT_LABEL_LOSSES,
    "gift": gift,
    "annealed-kl": annealed_kl,
    "kd": kd,
    "dkd": dkd,
    "nkd": nkd,
    "wsld": wsld,
    **{f"refine+{name}": compose(refine, loss) for name, loss in SOFT_LABEL_LOSSES.items()},
}

DISPLAY_NAMES = {
    "annealed-kl": "annealed KL",
    "ce": "CE",
    "cosine": "cosine",
    "dkd": "DKD",
    "gift": "GIFT",
    "kd": "KD",
    "kl": "KL",
    "mse": "MSE",
    "nkd": "NKD",
    "refine": "refined",
    "softce": "soft CE",
    "wsld": "WSLD",
}
"""How a reader knows the parts of a loss's name."""


def display_name(loss: str) -> str:
    """How a report calls a loss, from its specification.

    Example:
        >>> display_name("kl:temperature=4"), display_name("refine+softce+ce")
        ('KL (temperature=4)', 'refined soft CE + CE')
    """
    name, options = spec.split_spec(loss)
    parts = [DISPLAY_NAMES.get(part, part) for part in name.split("+")]
    written = ", ".join(f"{key}={value}" for key, value in options.items())
    title = " + ".join(parts).replace("refined + ", "refined ")
    return title + (f" ({written})" if written else "")


def build_objective(loss: str) -> Objective:
    """The objective that a specification names, with its options.

    Raises:
        TypeError: the specification is not a string.
        ValueError: no such loss or option, or an option out of its range.

    Example:
        >>> objective = build_objective("mse")
        >>> objective(torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2), torch.tensor([1]), 1).item()
        2.5
    """
    built: Objective | Formula = spec.build("loss", loss, OBJECTIVES)
    return built if isinstance(built, Objective) else Objective(built)
