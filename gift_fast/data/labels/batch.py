"""A batch of stored soft labels: its images, their augmentation, and their logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gift_fast.loss import TopKLabels

Box = tuple[int, int, int, int]
"""First row, first column, end row, end column, in pixels."""


@dataclass(frozen=True)
class FkdBatch:
    """One stored batch: its images, their augmentation, and the teacher's logits.

    Attributes:
        index: (B) int64, indices of the images in the distilled set.
        coords: (B, 4) float32 in [0, 1], top, left, height and width of the crops; on the CPU.
        flip: (B) bool, the crops that are mirrored left to right.
        logits: (B, C) soft labels in the dtype of the file, or :class:`~gift_fast.TopKLabels`;
            probabilities if ``temperature`` is given.
        mix_index: (B) int64, the partner of each row, or None.
        lam: weight of the image itself under mixup; under cutmix, its value before the box was
            clipped.
        bbox: the box that cutmix replaces, or None.
        cutout: (B, 7) float32, row and column of the center, height and width as fractions of the
            crop's sides, red, green and blue in [0, 255]; or None.
        temperature: of the softmax, if ``logits`` are probabilities; None for logits.

    Example:
        >>> batch = FkdBatch(
        ...     index=torch.tensor([4, 7]),
        ...     coords=torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(2, 1),
        ...     flip=torch.tensor([False, True]),
        ...     logits=torch.zeros(2, 10),
        ...     mix_index=torch.tensor([1, 0]),
        ...     lam=0.7,
        ...     bbox=(0, 0, 2, 2),
        ... )
        >>> batch.mix_weight(side=4)
        0.75
    """

    index: Tensor
    coords: Tensor
    flip: Tensor
    logits: Tensor | TopKLabels
    mix_index: Tensor | None = None
    lam: float | None = None
    bbox: Box | None = None
    cutout: Tensor | None = None
    temperature: float | None = None

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: torch.device | str) -> FkdBatch:
        """The same batch with its tensors on ``device``, except ``coords``.

        They are converted to pixels in float64 on the CPU, because not every device has float64.
        """
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, Tensor) and name != "coords"
        }
        if isinstance(self.logits, TopKLabels):
            moved["logits"] = map_tensors(
                self.logits, lambda tensor: tensor.to(device, non_blocking=True)
            )
        return replace(self, **moved)

    def soft_labels(self, rows: slice = slice(None)) -> Tensor | TopKLabels:
        """The soft labels of some rows, in float32."""
        if isinstance(self.logits, Tensor):
            return self.logits[rows].float()
        labels = map_tensors(self.logits, lambda tensor: tensor[rows])
        rest = None if labels.rest is None else labels.rest.float()
        return TopKLabels(labels.values.float(), labels.indices, rest)

    def named(self) -> Tensor:
        """(B) int64, the class with the largest value of every row."""
        if isinstance(self.logits, Tensor):
            return self.logits.float().argmax(1)
        largest = self.logits.values.float().argmax(1, keepdim=True)
        return self.logits.indices.gather(1, largest).squeeze(1).long()

    def mix_weight(self, side: int) -> float:
        """The weight w of an image's hard label in w L(y) + (1 - w) L(y[mix_index]).

        This is ``lam`` under mixup, and 1 without mixing. Under cutmix it is the fraction of the
        ``side`` x ``side`` crop that is kept, which is more than ``lam`` if the box was clipped.

        Raises:
            ValueError: the box exceeds the crop.
        """
        if self.mix_index is None or self.lam is None:
            return 1.0
        if self.bbox is None:
            return self.lam
        row, column, end_row, end_column = box_within(self.bbox, side)
        return 1.0 - (end_row - row) * (end_column - column) / side**2


def map_tensors(labels: TopKLabels, change: Callable[[Tensor], Tensor]) -> TopKLabels:
    """Apply a function to each tensor of top-k labels."""
    values, indices, rest = labels
    return TopKLabels(change(values), change(indices), None if rest is None else change(rest))


def box_within(bbox: Box, side: int) -> Box:
    """Return the box; raise ValueError if it exceeds a crop of ``side`` pixels."""
    if max(bbox) > side:
        raise ValueError(
            f"side must be that of the crops that were labeled, at least {max(bbox)} pixels for "
            f"the cutmix box {bbox}, got {side}"
        )
    return bbox
