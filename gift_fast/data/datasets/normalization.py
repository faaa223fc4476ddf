"""The mean and standard deviation that normalize the images of each dataset.

They are those of the evaluation code of GIFT and of the methods that it compares. CIFAR-10 and
CIFAR-100 have the same constants, as do ImageNet, its subsets and Tiny-ImageNet. Those of
Fashion-MNIST are computed from the 28 x 28 images, before padding.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from gift_fast.data.datasets.image_dataset import ImageDataset
from gift_fast.files import spec

NORMALIZATION = "normalization"
"""The option of every dataset: ``cifar10:normalization=imagenet``."""


class Normalization(NamedTuple):
    """One value per channel, on the scale of [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


NORMALIZATIONS: dict[str, Normalization] = {
    "cifar": Normalization((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "fashion-mnist": Normalization((0.2861,), (0.3530,)),
    "imagenet": Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def split_normalization(dataset: str) -> tuple[str, str | None]:
    """A dataset's specification without the option, and the value of the option, if any.

    Raises:
        ValueError: unknown constants.

    Example:
        >>> split_normalization("cifar10:normalization=imagenet"), split_normalization("cifar10")
        (('cifar10', 'imagenet'), ('cifar10', None))
    """
    rest, name = spec.take_option(dataset, NORMALIZATION)
    if name is not None and name not in NORMALIZATIONS:
        raise ValueError(
            f"dataset {rest!r}: {NORMALIZATION} must be one of {', '.join(NORMALIZATIONS)}, "
            f"got {name!r}{spec.nearest(name, NORMALIZATIONS)}"
        )
    return rest, name


def normalized_like(dataset: ImageDataset, name: str) -> ImageDataset:
    """The dataset with the constants of ``name``, a key of ``NORMALIZATIONS``.

    Raises:
        ValueError: they are for another number of channels.
    """
    constants = NORMALIZATIONS[name]
    if len(constants.mean) != dataset.channels:
        raise ValueError(
            f"dataset {dataset.name!r}: {NORMALIZATION} must be constants for {dataset.channels} "
            f"channels, {name} has {len(constants.mean)}"
        )
    return replace(dataset, mean=constants.mean, std=constants.std)
