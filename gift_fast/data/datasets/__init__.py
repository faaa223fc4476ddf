"""The registry of real datasets, on which teachers are trained and students are tested.

A new dataset is one file with a function that returns an :class:`ImageDataset`, and one line in
``DATASETS``. The function takes the folder with the data (or None) and whether to load the training
split, ``function(root, train)``; its keyword-only parameters are the options of a specification,
such as ``imagenet-1k:side=64``. Every dataset has the options ``validation``, see
:mod:`gift_fast.data.datasets.validation`, ``resize``, see
:mod:`gift_fast.data.datasets.resize`, and ``normalization``, see
:mod:`gift_fast.data.datasets.normalization`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gift_fast.data.datasets.cifar import cifar10, cifar100
from gift_fast.data.datasets.cifar_jpeg import cifar10_jpeg
from gift_fast.data.datasets.digits import digits
from gift_fast.data.datasets.fashion_mnist import fashion_mnist
from gift_fast.data.datasets.folder import folder
from gift_fast.data.datasets.image_dataset import ImageDataset
from gift_fast.data.datasets.imagenet import (
    imagenet_1k,
    imagenet_10,
    imagenet_100,
    imagenet_nette,
    imagenet_subset,
    imagenet_woof,
)
from gift_fast.data.datasets.normalization import normalized_like, split_normalization
from gift_fast.data.datasets.resize import resize, split_resize
from gift_fast.data.datasets.tinyimagenet import tinyimagenet
from gift_fast.data.datasets.validation import split_validation, with_validation_split
from gift_fast.data.images.file_split import FileSplit
from gift_fast.data.images.splits import Split, TensorSplit
from gift_fast.data.images.unreadable_files import check_readable
from gift_fast.files import spec
from gift_fast.files.record_names import current_name

__all__ = [
    "COPY_OF",
    "DATASETS",
    "FileSplit",
    "ImageDataset",
    "Split",
    "TensorSplit",
    "check_dataset",
    "dataset_title",
    "load_dataset",
]

DATASETS: dict[str, Callable[..., ImageDataset]] = {
    "digits": digits,
    "fashion-mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar10-jpeg": cifar10_jpeg,
    "cifar100": cifar100,
    "tinyimagenet": tinyimagenet,
    "imagenet-1k": imagenet_1k,
    "imagenet-nette": imagenet_nette,
    "imagenet-woof": imagenet_woof,
    "imagenet-10": imagenet_10,
    "imagenet-100": imagenet_100,
    "imagenet-subset": imagenet_subset,
    "folder": folder,
}

COPY_OF = {"cifar10-jpeg": "cifar10"}
"""Lossy copies of datasets, which use the settings of the original."""

TITLES = {"cifar10-jpeg": "CIFAR-10 (JPEG copies)"}
"""Display names of datasets whose registry name would be misleading."""


def dataset_title(dataset: str) -> str:
    """The display name of a dataset, for reports.

    Example:
        >>> dataset_title("cifar10-jpeg:normalization=imagenet"), dataset_title("digits:heldout=9")
        ('CIFAR-10 (JPEG copies), normalization=imagenet', 'digits:validation=9')
    """
    name, colon, options = current_name(dataset).partition(":")
    return (
        f"{TITLES[name]}{', ' if colon else ''}{options}"
        if name in TITLES
        else current_name(dataset)
    )


def check_dataset(dataset: str) -> None:
    """Raise ValueError unless a specification names a known dataset and known options."""
    rest = split_resize(split_validation(dataset)[0])[0]
    spec.resolve("dataset", split_normalization(rest)[0], DATASETS)


def load_dataset(
    dataset: str, root: Path | str | None = None, *, train: bool = True
) -> ImageDataset:
    """Load the dataset that a specification names, on the CPU.

    Image files that are decoded batch by batch are all decoded once first, to find unreadable ones;
    see :mod:`gift_fast.data.images.unreadable_files`.

    Args:
        dataset: a name in ``DATASETS`` with its options, or the import path of a user-defined
            function, which is called with ``root`` and ``train``.
        root: the folder with the data; the function of each dataset describes its contents.
        train: whether to load the training split too; testing a student needs only the test split.

    Raises:
        FileNotFoundError: the data is missing; the message says what was expected, where, and how
            to get it.
        ValueError: an unknown dataset or option, data that differs from the published files, or
            images that cannot be decoded.

    Example:
        >>> digits = load_dataset("digits", train=False)
        >>> digits.num_classes, len(digits.test), digits.train
        (10, 500, None)
    """
    data_root = None if root is None else Path(root).expanduser()
    rest, validation = split_validation(dataset)
    rest, side = split_resize(rest)
    name, normalization = split_normalization(rest)
    loaded = spec.build("dataset", name, DATASETS, data_root, train)
    if isinstance(loaded, ImageDataset):  # a user-defined function may return anything
        for split in (loaded.test, loaded.train):
            if isinstance(split, FileSplit):
                check_readable(split)
    if normalization is not None:
        loaded = normalized_like(loaded, normalization)
    if train and validation:
        loaded = with_validation_split(loaded, validation)
    return resize(loaded, side) if side else loaded
