"""Splits of a dataset: labeled images that are read in batches, and those in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gift_fast.files.fingerprint import fingerprint

LARGEST_BYTE = 255.0


def to_unit_range(images: Tensor) -> Tensor:
    """Convert images to float32; uint8 is divided by 255, floating-point values are unchanged.

    Example:
        >>> to_unit_range(torch.tensor([0, 255], dtype=torch.uint8))
        tensor([0., 1.])
    """
    return images.float().div_(LARGEST_BYTE) if images.dtype == torch.uint8 else images.float()


class Split(Protocol):
    """Labeled images, in memory or in files, that are read in batches.

    Attributes:
        labels: (N) int64, on the CPU or on the device given to :meth:`to`.
        shape: (C, H, W) of every image.
    """

    @property
    def labels(self) -> Tensor:
        """The label of every image."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""

    def __len__(self) -> int: ...

    def batches(self, indices: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images (B, C, H, W), float32 in [0, 1], and labels (B) for every index tensor (B).

        Both are on the device of the split.
        """

    def to(self, device: torch.device | str) -> Split:
        """The same split with its batches on ``device``."""

    def subset(self, index: Tensor) -> Split:
        """The images at ``index``, int64 (M), as a split in that order."""

    def with_labels(self, labels: Tensor) -> Split:
        """The same images with other labels (N) int64."""

    def fingerprint(self) -> str:
        """A digest of everything that determines the batches."""


@dataclass(frozen=True)
class TensorSplit:
    """Labeled images in memory.

    Attributes:
        images: (N, C, H, W), uint8 in [0, 255] or float32 in [0, 1].
        labels: (N) int64.

    Raises:
        ValueError: the shapes disagree, or there are no images.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        n = self.images.shape[0]
        if self.images.dim() != 4 or n == 0:
            raise ValueError(f"images must be (N, C, H, W), N >= 1, got {tuple(self.images.shape)}")
        if self.labels.shape != (n,):
            raise ValueError(f"labels must have shape ({n},), got {tuple(self.labels.shape)}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, indices: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """See :class:`Split`."""
        for index in indices:
            here = index.to(self.images.device)
            yield to_unit_range(self.images[here]), self.labels[here]

    def to(self, device: torch.device | str) -> TensorSplit:
        """See :class:`Split`."""
        return TensorSplit(self.images.to(device), self.labels.to(device))

    def subset(self, index: Tensor) -> TensorSplit:
        """See :class:`Split`."""
        here = index.to(self.images.device)
        return TensorSplit(self.images[here], self.labels[here])

    def with_labels(self, labels: Tensor) -> TensorSplit:
        """See :class:`Split`."""
        return TensorSplit(self.images, labels.to(self.labels.device))

    def fingerprint(self) -> str:
        """See :class:`Split`."""
        return fingerprint([self.images, self.labels])
