"""Resized images, for students that require another size than the dataset's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from gift_fast.data.datasets.image_dataset import ImageDataset
from gift_fast.data.images.splits import Split
from gift_fast.files import spec
from gift_fast.files.fingerprint import fingerprint

RESIZE = "resize"
"""The option of every dataset: ``tinyimagenet:resize=224``."""


def split_resize(dataset: str) -> tuple[str, int]:
    """A dataset's specification without the option, and the side in pixels; 0 if not given.

    Raises:
        ValueError: not a number of pixels.

    Example:
        >>> split_resize("tinyimagenet:resize=224"), split_resize("tinyimagenet")
        (('tinyimagenet', 224), ('tinyimagenet', 0))
    """
    rest, text = spec.take_option(dataset, RESIZE)
    if text is None:
        return dataset, 0
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"dataset {rest!r}: {RESIZE} must be a number of pixels, got {text!r}")
    return rest, int(text)


def resize(dataset: ImageDataset, side: int) -> ImageDataset:
    """The dataset with all its images resized to ``side`` x ``side`` pixels."""
    train, validation = (
        None if split is None else ResizedSplit(split, side)
        for split in (dataset.train, dataset.validation)
    )
    return replace(
        dataset, train=train, test=ResizedSplit(dataset.test, side), validation=validation
    )


@dataclass(frozen=True)
class ResizedSplit:
    """The images of a split, resized in batches: bilinear, and antialiased if they shrink.

    Attributes:
        split: of square images.
        side: of the resized images, in pixels.
    """

    split: Split
    side: int

    @property
    def labels(self) -> Tensor:
        """See :class:`~gift_fast.data.images.splits.Split`."""
        return self.split.labels

    @property
    def shape(self) -> tuple[int, int, int]:
        """See :class:`~gift_fast.data.images.splits.Split`."""
        return self.split.shape[0], self.side, self.side

    def __len__(self) -> int:
        return len(self.split)

    def batches(self, indices: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """See :class:`~gift_fast.data.images.splits.Split`."""
        size = (self.side, self.side)
        for images, labels in self.split.batches(indices):
            yield F.interpolate(images, size, mode="bilinear", antialias=True), labels

    def to(self, device: torch.device | str) -> ResizedSplit:
        """See :class:`~gift_fast.data.images.splits.Split`."""
        return replace(self, split=self.split.to(device))

    def subset(self, index: Tensor) -> ResizedSplit:
        """See :class:`~gift_fast.data.images.splits.Split`."""
        return replace(self, split=self.split.subset(index))

    def with_labels(self, labels: Tensor) -> ResizedSplit:
        """See :class:`~gift_fast.data.images.splits.Split`."""
        return replace(self, split=self.split.with_labels(labels))

    def fingerprint(self) -> str:
        """See :class:`~gift_fast.data.images.splits.Split`."""
        return fingerprint([self.split.fingerprint(), f"resized to {self.side}"])
