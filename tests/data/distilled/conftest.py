from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gift_fast.data.datasets import ImageDataset, TensorSplit


@pytest.fixture(scope="session")
def animals() -> ImageDataset:
    """Three classes of color images, 8 x 8; the images themselves are of no interest."""
    split = TensorSplit(torch.zeros(3, 3, 8, 8), torch.arange(3))
    return ImageDataset(
        name="animals",
        train=None,
        test=split,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        class_names=("ape", "bee", "cat"),
    )


@pytest.fixture(scope="session")
def gray_animals(animals: ImageDataset) -> ImageDataset:
    return replace(animals, test=TensorSplit(torch.zeros(3, 1, 8, 8), torch.arange(3)))
