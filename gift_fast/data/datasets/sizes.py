"""The size of a training split, without decoding any image."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from gift_fast.data.datasets import DATASETS
from gift_fast.data.datasets.normalization import split_normalization
from gift_fast.data.datasets.resize import split_resize
from gift_fast.data.datasets.validation import check_validation_size, split_validation
from gift_fast.files import spec


class Size(NamedTuple):
    """The numbers of images and classes of a training split."""

    images: int
    classes: int


PUBLISHED = {
    "digits": Size(1_297, 10),
    "fashion-mnist": Size(60_000, 10),
    "cifar10": Size(50_000, 10),
    "cifar100": Size(50_000, 100),
    "tinyimagenet": Size(100_000, 200),
    "imagenet-1k": Size(1_281_167, 1_000),
}
"""The sizes of datasets with a fixed size."""

SHARE = 10
"""By default, the validation split has one in ``SHARE`` training images."""


def training_size(dataset: str, root: Path | None) -> Size:
    """The size of a dataset's training split, including the validation split.

    Args:
        dataset: a specification, see :func:`~gift_fast.data.datasets.load_dataset`.
        root: the folder with the data. It is only read, to count files, if the size is not fixed.

    Raises:
        FileNotFoundError: the data is missing.
        ValueError: an unknown dataset or option.

    Example:
        >>> training_size("cifar100:validation=5000", None)
        Size(images=50000, classes=100)
    """
    rest = split_resize(split_validation(dataset)[0])[0]
    name, _ = spec.split_spec(rest)
    if name in PUBLISHED:
        return PUBLISHED[name]
    if name in DATASETS:
        rest, _ = spec.take_option(rest, "in_memory")  # which would decode
    # Not with load_dataset, which decodes every file once to find damaged ones.
    data_root = None if root is None else root.expanduser()
    loaded = spec.build("dataset", split_normalization(rest)[0], DATASETS, data_root, True)
    return Size(len(loaded.training_split), loaded.num_classes)


def check_validation_fits(dataset: str, root: Path | None) -> None:
    """Raise ValueError if the validation split of a specification is too small or too large."""
    rest, validation = split_validation(dataset)
    if validation:
        check_validation_size(spec.split_spec(rest)[0], validation, *training_size(dataset, root))


def default_validation_size(dataset: str, most: int, root: Path | None = None) -> int:
    """The default size of a dataset's validation split.

    A tenth of the images, but at least one per class and at most ``most``.

    Args:
        dataset: a specification.
        most: the maximum size.
        root: see :func:`training_size`.

    Example:
        >>> default_validation_size("cifar100", 5000), default_validation_size("digits", 5000)
        (5000, 129)
    """
    size = training_size(dataset, root)
    return min(most, max(size.images // SHARE, size.classes))
