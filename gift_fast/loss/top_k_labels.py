"""Soft labels of which the k largest values are stored: :class:`TopKLabels`."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from gift_fast.loss.top_k_checks import (
    Rest,
    check_dense_labels,
    check_probabilities,
    check_top_k_indices,
    check_top_k_labels,
    may_read,
)


class TopKLabels(NamedTuple):
    r"""Soft labels of which k values per row are stored, instead of a dense (..., C) matrix.

    A row stands for the dense label with ``values`` at ``indices`` and ``rest`` at all other
    classes. :func:`gift_fast.gift_loss` and :class:`gift_fast.GIFTLoss` accept it as
    ``soft_labels`` and give the same result as with the dense label, without building it.

    Args:
        values: The stored values, (..., k); float64, float32, bfloat16 or float16.
        indices: Their classes, (..., k), each in [0, C) and no two of a row equal; int64, int32 or
            int16.
        rest: The value of all other classes, (...), of any of the types of ``values``. ``None``
            means that ``values`` are probabilities and that the remaining mass is spread evenly
            over the other C - k classes. With ``soft_label_temperature``, -inf leaves them no mass.

    If k = C, ``rest`` is not read. All tensors must be on one device.

    Example:
        >>> import torch
        >>> from gift_fast import TopKLabels, gift_loss
        >>> teacher = torch.tensor([[3.0, 1.0, 0.5, 0.0]]).softmax(-1)
        >>> labels = TopKLabels.from_dense(teacher, k=2)
        >>> labels.indices
        tensor([[0, 1]], dtype=torch.int16)
        >>> labels.dense(4)
        tensor([[0.7891, 0.1068, 0.0520, 0.0520]])
        >>> loss = gift_loss(torch.eye(4)[:1], labels, torch.tensor([0]))
    """

    values: Tensor
    indices: Tensor
    rest: Tensor | None = None

    def dense(self, num_classes: int) -> Tensor:
        """The dense labels, (..., C); float64 where ``values`` or ``rest`` are, otherwise float32.

        Differentiable in ``values`` and ``rest``.

        Args:
            num_classes: C, at least k.

        Raises:
            TypeError: If a field has the wrong type or dtype.
            ValueError: If shapes or devices do not match, or a row has more than C values.
            IndexError: If an index is out of range, on the CPU. GPUs raise a device-side assert.

        Example:
            >>> labels = TopKLabels(torch.tensor([[0.75]]), torch.tensor([[2]]))
            >>> labels.dense(3)
            tensor([[0.1250, 0.1250, 0.7500]])
        """
        check_top_k_labels(self, num_classes)
        if may_read(self.indices):
            check_top_k_indices(self.indices, num_classes)
        is_double = torch.float64 in (self.values.dtype, self.rest_dtype)
        return self.in_dtype(torch.float64 if is_double else torch.float32, num_classes)

    @property
    def rest_dtype(self) -> torch.dtype:
        """The dtype of ``rest``; without one, that of ``values``."""
        return self.values.dtype if self.rest is None else self.rest.dtype

    def rest_in_dtype(self, dtype: torch.dtype, num_classes: int) -> Tensor:
        """The value of the classes that are not kept, (...); computed where ``rest`` is None."""
        if self.rest is not None:
            return self.rest.to(dtype)
        others = num_classes - self.values.shape[-1]
        mass = self.values.to(dtype).sum(-1)
        return (1.0 - mass).clamp_min(0.0) / others if others > 0 else torch.zeros_like(mass)

    def in_dtype(self, dtype: torch.dtype, num_classes: int) -> Tensor:
        """The dense labels (..., C) in this dtype, without checks."""
        rest = self.rest_in_dtype(dtype, num_classes).unsqueeze(-1)
        everywhere = rest.expand(*self.values.shape[:-1], num_classes)
        return everywhere.scatter(-1, self.indices.long(), self.values.to(dtype))

    @classmethod
    def from_dense(
        cls, labels: Tensor, k: int, rest: Rest = "uniform", temperature: float | None = None
    ) -> TopKLabels:
        r"""The k largest values of each row of dense labels, and what stands for the others.

        Args:
            labels: Dense labels, (..., C): probabilities for ``rest="uniform"``; probabilities,
                logits or any other vector for the others. float64, float32, bfloat16 or float16.
            k: How many values of a row are kept, from 1 to C.
            rest: What stands for the classes that are not kept. ``"uniform"``: the mass that is
                missing to 1, evenly, as in FKD's marginal smoothing; ``rest`` is then ``None``.
                ``"zero"``: 0. ``"min"``: the smallest value of the row. ``"logmeanexp"``: for
                logits, ``T log mean exp(s/T)`` over the classes that are not kept, which keeps
                their mass under a softmax at the temperature T, and at that temperature only.
            temperature: T of ``"logmeanexp"``; refused for the others.

        Returns:
            ``values`` and ``rest`` in the dtype of ``labels``; ``indices`` in int16 up to 32,768
            classes, otherwise int32.

        Raises:
            TypeError: If an argument has the wrong type or dtype.
            ValueError: If an argument is out of range, or ``rest="uniform"`` and rows are not
                probabilities.

        Source of ``"uniform"``: Shen and Xing, "A Fast Knowledge Distillation Framework for Visual
        Recognition", ECCV 2022.

        Example:
            >>> logits = torch.tensor([[4.0, 1.0, 0.0]])
            >>> labels = TopKLabels.from_dense(logits, 1, rest="logmeanexp", temperature=2.0)
            >>> dense = labels.dense(3)
            >>> torch.allclose((dense / 2).softmax(-1)[:, 0], (logits / 2).softmax(-1)[:, 0])
            True
        """
        check_dense_labels(labels, k, rest, temperature)
        num_classes = labels.shape[-1]
        values, indices = labels.topk(k, dim=-1)
        others: Tensor | None = None
        if rest == "uniform":
            if may_read(labels):
                remedy = "logits become probabilities by softmax(-1)"
                check_probabilities("labels", labels, "rest='uniform'", remedy)
        elif rest == "zero" or k == num_classes:
            others = torch.zeros_like(values[..., 0])
        elif rest == "min":
            others = labels.amin(-1)
        elif temperature is not None:
            wide = labels.to(torch.promote_types(labels.dtype, torch.float32)) / temperature
            mass = wide.scatter(-1, indices, -math.inf).logsumexp(-1)
            others = (temperature * (mass - math.log(num_classes - k))).to(labels.dtype)
        fits = num_classes - 1 <= torch.iinfo(torch.int16).max
        return cls(values, indices.to(torch.int16 if fits else torch.int32), others)


def without_ignored(labels: TopKLabels, valid: Tensor) -> TopKLabels:
    """The labels with harmless values in the rows that are not valid (...)."""
    row = valid.unsqueeze(-1)
    values, indices, rest = labels
    return TopKLabels(
        torch.where(row, values, 0.0),
        torch.where(row, indices, 0),
        None if rest is None else torch.where(valid, rest, 0.0),
    )
