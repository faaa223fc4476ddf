"""The interface of a loss: an :class:`Objective` wraps its formula and prepares the inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor

from gift_fast.data.labels.stored_labels import Kind
from gift_fast.loss import TopKLabels
from gift_fast.loss.reference import autocast_off, compute_dtype
from gift_fast.training.label_forms import as_logits, with_rest

SoftLabels = Tensor | TopKLabels
"""Dense (N, C), or top-k."""

Formula = Callable[[Tensor, Any, Tensor, int], Tensor]
"""(logits (N, C), soft_labels (N, C), target (N), epoch from 1) -> scalar."""

MixedFormula = Callable[[Tensor, Any, Tensor, Tensor, float | Tensor], Tensor]
"""(logits, soft_labels, target, mixed_target (N), weight of target) -> scalar."""

Reads = Literal["softmax", "vector", "logits"]
"""What a loss depends on: the softmax of the soft labels at some temperature, their direction as
vectors, or their values as logits."""

READABLE: dict[Reads, tuple[Kind, ...]] = {
    "softmax": ("logits", "logits without rest", "probabilities"),
    "vector": ("logits", "probabilities"),
    "logits": ("logits",),
}
"""The kinds of stored labels that a loss accepts. Probabilities determine logits up to a constant,
which does not change a softmax."""


class LossState(Protocol):
    """The state of a loss that changes with the epochs; a part of checkpoints."""

    def end_epoch(self) -> None:
        """Called after the last step of every epoch."""

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""


@dataclass(frozen=True)
class Objective:
    """A loss and the inputs that it needs.

    The formula receives logits and soft labels in float32 (float64 for float64 logits) and runs
    outside of autocast, so half-precision logits give the loss of the same numbers in float32.

    Attributes:
        formula: the loss of a batch with one hard label per image.
        reads_target: whether the loss depends on the hard label; if not, mixed batches need no
            second call.
        reads_soft_labels: whether the loss depends on the soft label; if not, no teacher is needed.
        takes_any_dtype: whether the formula handles all floating-point types, so that its inputs
            are not cast.
        mixed_formula: the loss of a batch with two hard labels per image; None calls ``formula``
            for each of them.
        reads: what the loss depends on, which determines the kinds of soft labels it accepts.
        state: what the loss carries from one epoch to the next, or None.
        takes_top_k: whether the formulas accept :class:`~gift_fast.TopKLabels`; if not, they
            receive the dense labels.

    Example:
        >>> import torch
        >>> l1 = Objective(lambda z, t, y, epoch: (z - t).abs().mean(), reads_target=False)
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
        """Compute the loss of a batch, a scalar.

        Args:
            logits: (N, C), the student's, in any floating-point type.
            soft_labels: (N, C), in any floating-point type, or :class:`~gift_fast.TopKLabels`; None
                for a loss that does not read them.
            target: (N) int64 hard labels.
            epoch: from 1; some losses have a warmup.
            mixed_target: (N) int64, the partners' hard labels under mixup or cutmix; a loss that
                reads hard labels is then weight * L(target) + (1 - weight) * L(mixed_target).
            weight: of ``target``: mixup's lambda, or the area that cutmix did not replace.
            temperature: of the softmax, if the soft labels are probabilities; None for logits.

        Raises:
            ValueError: the soft labels are missing or do not have the shape of the logits; they
                are probabilities and the loss reads logits; or the formula returns no scalar.
        """
        if not self.reads_soft_labels:
            soft_labels = logits  # not read
        elif soft_labels is None:
            raise ValueError("soft_labels must be given for this loss, got None")
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
                    f"the loss must return a scalar, got a tensor of shape {tuple(loss.shape)}"
                )
            if mixed is None:
                return loss
            mixed_in = self.formula(logits, soft_labels, mixed, epoch)
            return weight * loss + (1.0 - weight) * mixed_in

    def readable(
        self, soft_labels: Tensor | TopKLabels, logits: Tensor, temperature: float | None
    ) -> Tensor | TopKLabels:
        """The soft labels in the form and the precision that the formula needs."""
        classes = logits.shape[-1]
        if temperature is not None and self.reads == "logits":
            raise ValueError(
                "soft_labels must be logits for this loss, got probabilities, which determine "
                "logits only up to a constant; use a loss that reads a softmax: kl, softce, kd"
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
    """Raise ValueError unless the shape of the soft labels fits that of the logits."""
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
