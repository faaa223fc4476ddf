"""What a dataset is to the evaluation: four tensors and the constants that go with them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageDataset:
    """A labelled image dataset with a training and a test split, in memory.

    Attributes:
        name: its name in the registry.
        train_images: (N, C, S, S) float32 in [0, 1].
        train_labels: (N) int64.
        test_images: (M, C, S, S) float32 in [0, 1].
        test_labels: (M) int64.
        mean: one number a channel, on the scale of the images.
        std: one number a channel.
        num_classes: number of classes; labels lie in [0, num_classes).
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_classes: int

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self.train_images.shape[1]

    @property
    def side(self) -> int:
        """Side of the square images, in pixels."""
        return self.train_images.shape[-1]

    def normalize(self, images: Tensor) -> Tensor:
        """Images in [0, 1], (..., C, S, S), to the scale that the networks are fed."""
        mean, std = (
            torch.tensor(values, dtype=images.dtype, device=images.device).view(-1, 1, 1)
            for values in (self.mean, self.std)
        )
        return (images - mean) / std

    def to(self, device: torch.device | str) -> ImageDataset:
        """The same dataset with its tensors on ``device``."""
        return replace(
            self,
            train_images=self.train_images.to(device),
            train_labels=self.train_labels.to(device),
            test_images=self.test_images.to(device),
            test_labels=self.test_labels.to(device),
        )
