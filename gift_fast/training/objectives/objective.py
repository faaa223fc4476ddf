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
"""Dense (N, C), or the largest values of each row."""

Formula = Callable[[Tensor, Any, Tensor, int], Tensor]
"""(logits (N, C), soft_labels (N, C), target (N), epoch from 1) -> scalar."""

MixedFormula = Callable[[Tensor, Any, Tensor, Tensor, float | Tensor], Tensor]
"""(logits, soft_labels, target, mixed_target (N), weight of target) -> scalar."""

Reads = Literal["softmax", "vector", "logits"]
"""What a loss reads of soft labels: their softmax at some temperature; their direction as a vector;
or their values as logits."""

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
