"""The loss as a module: :class:`GIFTLoss`."""

from __future__ import annotations

import torch
from torch import Tensor

from gift_fast.loss.arguments import (
    Backend,
    Reduction,
    Smoothing,
    check_one_of,
    checked_options,
)
from gift_fast.loss.functional import gift_loss
from gift_fast.loss.operators import UNAVAILABLE
from gift_fast.loss.top_k_labels import TopKLabels


class GIFTLoss(torch.nn.Module):
    """:func:`gift_loss` as a module that holds the options, for use as a criterion.

    Classes are the last dimension, (..., C). :class:`torch.nn.CrossEntropyLoss` expects them in the
    second dimension, (N, C, d1, ...); ``logits.movedim(1, -1)`` converts without a copy.

    All options are keyword-only and are described in :func:`gift_loss`.

    Args:
        gamma: Weight of the hard label in the refined label, in [0, 1].
        label_smoothing: Amount of smoothing of the hard label, in [0, 1].
        smoothing: ``"uniform"`` or ``"others"``.
        soft_label_temperature: Softmax temperature of the soft labels, or ``None``.
        ignore_index: Target of rows that are ignored.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        backend: ``"auto"`` or a key of :func:`gift_fast.backends`.
        check_indices: Whether to raise an error if a row of top-k labels contains an index twice.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is out of range.

    Example:
        >>> import torch
        >>> from gift_fast import GIFTLoss
        >>> criterion = GIFTLoss(gamma=0.1)
        >>> criterion(torch.eye(3), torch.eye(3), torch.arange(3)).shape
        torch.Size([])
    """

    def __init__(
        self,
        *,
        gamma: float = 0.1,
        label_smoothing: float = 0.1,
        smoothing: Smoothing = "uniform",
        soft_label_temperature: float | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        backend: Backend = "auto",
        check_indices: bool = False,
    ) -> None:
        super().__init__()
        checked_options(
            gamma, label_smoothing, smoothing, soft_label_temperature, ignore_index, reduction
        )
        check_one_of("backend", backend, ("auto", *UNAVAILABLE))
        self.gamma = gamma
        self.label_smoothing = label_smoothing
        self.smoothing: Smoothing = smoothing
        self.soft_label_temperature = soft_label_temperature
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction
        self.backend: Backend = backend
        self.check_indices = check_indices

    def forward(
        self,
        logits: Tensor,
        soft_labels: Tensor | TopKLabels,
        target: Tensor | None = None,
        other_target: Tensor | None = None,
        target_weight: Tensor | float | None = None,
    ) -> Tensor:
        """Compute the loss; see :func:`gift_loss` for the arguments."""
        return gift_loss(
            logits,
            soft_labels,
            target,
            other_target,
            target_weight,
            gamma=self.gamma,
            label_smoothing=self.label_smoothing,
            smoothing=self.smoothing,
            soft_label_temperature=self.soft_label_temperature,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            backend=self.backend,
            check_indices=self.check_indices,
        )

    def extra_repr(self) -> str:
        """The options, for ``print``."""
        return (
            f"gamma={self.gamma}, label_smoothing={self.label_smoothing}, "
            f"smoothing={self.smoothing!r}, "
            f"soft_label_temperature={self.soft_label_temperature}, "
            f"ignore_index={self.ignore_index}, reduction={self.reduction!r}, "
            f"backend={self.backend!r}"
        )
