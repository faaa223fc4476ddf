"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009): color images of 32 x 32 pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from gift_fast.data.datasets.image_dataset import ImageDataset
from gift_fast.data.datasets.locate import locate
from gift_fast.data.datasets.normalization import NORMALIZATIONS
from gift_fast.data.images.splits import TensorSplit


def cifar10(root: Path | None = None, train: bool = True) -> ImageDataset:
    """Load CIFAR-10: 50,000 training and 10,000 test images, uint8 (N, 3, 32, 32), 10 classes.

    Args:
        root: the folder ``cifar-10-batches-py`` of the "python version", or its parent.
        train: whether to load the training split too.

    Raises:
        FileNotFoundError: the data is missing; the message says how to get it.
        ValueError: a file differs from the published one.

    Source: https://www.cs.toronto.edu/~kriz/cifar.html, read by torchvision.
    """
    from torchvision.datasets import CIFAR10

    return load("cifar10", CIFAR10, root, train)


def cifar100(root: Path | None = None, train: bool = True) -> ImageDataset:
    """Load CIFAR-100: 50,000 training and 10,000 test images, uint8 (N, 3, 32, 32), 100 classes.

    The labels are the fine ones, in alphabetical order.

    Args:
        root: the folder ``cifar-100-python`` of the "python version", or its parent.
        train: whether to load the training split too.

    Raises:
        FileNotFoundError: the data is missing; the message says how to get it.
        ValueError: a file differs from the published one.

    Source: https://www.cs.toronto.edu/~kriz/cifar.html, read by torchvision.
    """
    from torchvision.datasets import CIFAR100

    return load("cifar100", CIFAR100, root, train)


def load(name: str, reader: Any, root: Path | None, train: bool) -> ImageDataset:
    """Load a dataset with ``reader``, a class of torchvision."""
    folder: str = reader.base_folder
    if root is not None and root.name == folder:
        root = root.parent
    advice = (
        f"To get it: unpack {reader.url} there (tar xzf {reader.filename}), or run\n"
        f'  python -c "from torchvision.datasets import {reader.__name__}; '
        f"{reader.__name__}('{root or 'ROOT'}', download=True)\""
    )
    root = locate(name, root, [folder], advice)
    test, class_names = read_split(reader, root, train=False)
    return ImageDataset(
        name=name,
        train=read_split(reader, root, train=True)[0] if train else None,
        test=test,
        mean=NORMALIZATIONS["cifar"].mean,
        std=NORMALIZATIONS["cifar"].std,
        class_names=class_names,
    )


def read_split(reader: Any, root: Path, train: bool) -> tuple[TensorSplit, tuple[str, ...]]:
    """Read one split and the names of the classes."""
    try:
        dataset = reader(str(root), train=train, download=False)
    except RuntimeError as error:
        raise ValueError(
            f"{root / reader.base_folder} must contain the published files, but one is missing or "
            f"has another MD5 checksum; unpack {reader.url} again"
        ) from error
    images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
    return TensorSplit(images, torch.tensor(dataset.targets)), tuple(dataset.classes)
