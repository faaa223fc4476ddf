"""What a dataset is to the evaluation: two splits, and the constants that go with them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from gift_fast.files.fingerprint import fingerprint

LARGEST_BYTE = 255.0


def to_unit_range(images: Tensor) -> Tensor:
    """Images as float32: uint8 is divided by 255, floating images are taken as they are.

    Example:
        >>> to_unit_range(torch.tensor([0, 255], dtype=torch.uint8))
        tensor([0., 1.])
    """
    return images.float().div_(LARGEST_BYTE) if images.dtype == torch.uint8 else images.float()


@functools.cache
def channel_constants(
    values: tuple[float, ...], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """One number a channel as (C, 1, 1), made once: the copy to a device waits for it."""
    return torch.tensor(values, dtype=dtype, device=device).view(-1, 1, 1)


class Split(Protocol):
    """Labelled images, in memory or in files, that are read a batch at a time.

    Attributes:
        labels: (N) int64, on the CPU or where :meth:`to` has put them.
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
        """For every index tensor (B), the images (B, C, H, W), float32 in [0, 1], and labels (B).

        Both lie on the device of the split.
        """

    def to(self, device: torch.device | str) -> Split:
        """The same split, which gives its batches on ``device``."""

    def subset(self, index: Tensor) -> Split:
        """The split of the images that ``index`` (M) int64 names, in its order."""

    def with_labels(self, labels: Tensor) -> Split:
        """The same images with other labels (N) int64."""

    def fingerprint(self) -> str:
        """A digest of everything that the batches depend on."""


@dataclass(frozen=True)
class TensorSplit:
    """Labelled images in memory.

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


@dataclass(frozen=True)
class ImageDataset:
    """A labelled image dataset.

    Attributes:
        name: its name in the registry.
        train: the training split; None where only the test split was asked for.
        test: the test split.
        heldout: training images that were taken away from the training split, if any were.
        mean: one number a channel, on the scale of [0, 1].
        std: one number a channel.
        class_names: one a class, in the order of the labels.
        classes: which of its classes its images are of, see :mod:`gift_fast.data.classes`.
        class_folders: the folders that hold the images of each class, in the order of the labels;
            empty where the images lie otherwise.
    """

    name: str
    train: Split | None
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    heldout: Split | None = None
    classes: str = "all"
    class_folders: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes; labels lie in [0, num_classes)."""
        return len(self.class_names)

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self.test.shape[0]

    @property
    def side(self) -> int:
        """Side of the square images, in pixels."""
        return self.test.shape[2]

    @property
    def training_split(self) -> Split:
        """The training split.

        Raises:
            ValueError: the dataset was loaded without it.
        """
        if self.train is None:
            raise ValueError(f"dataset must have a training split, {self.name} was loaded without")
        return self.train

    def normalize(self, images: Tensor) -> Tensor:
        """Images in [0, 1], (..., C, H, W), to the scale that the networks are fed."""
        mean, std = (
            channel_constants(values, images.dtype, images.device)
            for values in (self.mean, self.std)
        )
        return (images - mean) / std

    def denormalize(self, images: Tensor) -> Tensor:
        """Images on the scale that the networks are fed, (..., C, H, W), back to that of [0, 1]."""
        mean, std = (
            channel_constants(values, images.dtype, images.device)
            for values in (self.mean, self.std)
        )
        return images * std + mean

    def to(self, device: torch.device | str) -> ImageDataset:
        """The same dataset, which gives its batches on ``device``."""
        train = None if self.train is None else self.train.to(device)
        return replace(self, train=train, test=self.test.to(device))
