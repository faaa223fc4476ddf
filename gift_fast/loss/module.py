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
    """:func:`gift_loss` as a module, with its options fixed; in the place of a criterion.

    Classes are the last dimension, (..., C). ``torch.nn.CrossEntropyLoss`` has them in the second,
    (N, C, d1, ...): move them with ``logits.movedim(1, -1)``, which copies nothing.

    All options are keyword-only:

    Args:
        gamma: Weight of the hard label in the refined one, in [0, 1].
        label_smoothing: Mass taken from the hard label, in [0, 1].
        smoothing: ``"uniform"`` or ``"others"``.
        soft_label_temperature: Softmax temperature of the soft labels, or ``None``.
        ignore_index: Target of rows to leave out.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        backend: ``"auto"``, or a key of :func:`gift_fast.backends`.
        check_indices: Whether to look for equal indices in a row of top-k labels.

    Raises:
        TypeError: An option of the wrong type.
        ValueError: An option out of its range; as :func:`gift_loss`, but at once.

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
        """The loss of logits (..., C) and soft labels (..., C), under hard labels (...)."""
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
