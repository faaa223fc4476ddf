"""Real datasets: their splits, their classes and their normalization constants."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gift_fast.data.images.splits import Split


@functools.cache
def channel_constants(
    values: tuple[float, ...], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """One value per channel as (C, 1, 1), cached because the copy to a device is synchronous."""
    return torch.tensor(values, dtype=dtype, device=device).view(-1, 1, 1)


@dataclass(frozen=True)
class ImageDataset:
    """A labeled image dataset.

    Attributes:
        name: its name in the registry.
        train: the training split; None if only the test split was loaded.
        test: the test split.
        validation: the validation split, taken from the training images, or None.
        mean: one value per channel, on the scale of [0, 1].
        std: one value per channel.
        class_names: one name per class, in the order of the labels.
        classes: the classes with images, see :mod:`gift_fast.data.classes`.
        class_folders: names of the class folders, in the order of the labels; empty if the images
            are stored otherwise.
    """

    name: str
    train: Split | None
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    validation: Split | None = None
    classes: str = "all"
    class_folders: tuple[str, ...] = ()

    @property
    def heldout(self) -> Split | None:
        """The former name of ``validation``, kept until version 0.3."""
        message = "ImageDataset.heldout is now ImageDataset.validation"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return self.validation

    @property
    def num_classes(self) -> int:
        """Number of classes; labels are in [0, num_classes)."""
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
            raise ValueError(
                f"dataset must have a training split, but {self.name} was loaded with train=False"
            )
        return self.train

    def normalize(self, images: Tensor) -> Tensor:
        """Normalize images in [0, 1], (..., C, H, W), for the networks."""
        mean, std = (
            channel_constants(values, images.dtype, images.device)
            for values in (self.mean, self.std)
        )
        return (images - mean) / std

    def denormalize(self, images: Tensor) -> Tensor:
        """Convert normalized images (..., C, H, W) back to the scale of [0, 1]."""
        mean, std = (
            channel_constants(values, images.dtype, images.device)
            for values in (self.mean, self.std)
        )
        return images * std + mean

    def to(self, device: torch.device | str) -> ImageDataset:
        """The same dataset with its batches on ``device``."""
        train = None if self.train is None else self.train.to(device)
        return replace(self, train=train, test=self.test.to(device))
