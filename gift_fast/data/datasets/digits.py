"""The handwritten digits that come with scikit-learn: 1,797 gray images of 8 x 8 pixels."""

from __future__ import annotations

from pathlib import Path

import torch

from gift_fast.data.datasets.image_dataset import ImageDataset
from gift_fast.data.images.splits import TensorSplit

TEST_IMAGES = 500
SPLIT_SEED = 0
LARGEST_VALUE = 16.0
"""A value is the number of black pixels in a block of 4 x 4, so values are 0 to 16."""


def digits(root: Path | None = None, train: bool = True) -> ImageDataset:
    """Load scikit-learn's digits: 1,297 training and 500 test images, (N, 1, 8, 8).

    The split is ``train_test_split(test_size=500, stratify=labels, random_state=0)``: always the
    same, and stratified by class. Three 2x2 poolings reduce the images of 8 x 8 to one pixel. Mean
    and std are those of the training images. Nothing is downloaded.

    Args:
        root: not used; the images are part of scikit-learn.
        train: whether to load the training split too.

    Source: Alpaydin and Kaynak, UCI "Optical Recognition of Handwritten Digits". scikit-learn has
    its test part, which is unrelated to the test split here.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    source = load_digits()
    images = torch.from_numpy(source.images).float().div(LARGEST_VALUE).unsqueeze(1)
    labels = torch.from_numpy(source.target).long()
    first, second = train_test_split(
        torch.arange(len(labels)).numpy(),
        test_size=TEST_IMAGES,
        stratify=labels.numpy(),
        random_state=SPLIT_SEED,
    )
    return ImageDataset(
        name="digits",
        train=TensorSplit(images[first], labels[first]) if train else None,
        test=TensorSplit(images[second], labels[second]),
        mean=(images[first].mean().item(),),
        std=(images[first].std().item(),),
        class_names=tuple(map(str, source.target_names)),
    )
