"""A real dataset: its splits, its classes, and the constants that normalize its images."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gift_fast.data.images.splits import Split


@functools.cache
def channel_constants(
    values: tuple[float, ...], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """One number a channel as (C, 1, 1), made once: the copy to a device waits for it."""
    return torch.tensor(values, dtype=dtype, device=device).view(-1, 1, 1)


@dataclass(frozen=True)
class ImageDataset:
    """A labeled image dataset.

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
