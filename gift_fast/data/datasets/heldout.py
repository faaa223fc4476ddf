"""The validation split: training images that are set aside to choose hyperparameters."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from gift_fast.data.datasets.image_dataset import ImageDataset
from gift_fast.files import spec
from gift_fast.files.record_names import recorded

HELDOUT = "heldout"
"""The option ``validation`` of every dataset, ``digits:validation=300``, as records spell it."""

SPLIT_SEED = 0


def split_heldout(dataset: str) -> tuple[str, int]:
    """A dataset's specification without the option, and the size of its validation split.

    Raises:
        ValueError: not a number of images.

    Example:
        >>> split_heldout("imagenet-1k:side=64,heldout=5000")
        ('imagenet-1k:side=64', 5000)
        >>> split_heldout("digits:validation=300")
        ('digits', 300)
        >>> split_heldout("digits")
        ('digits', 0)
    """
    rest, text = spec.take_option(recorded(dataset), HELDOUT)
    if text is None:
        return dataset, 0
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"dataset {rest!r}: {HELDOUT} must be a number of images, got {text!r}")
    return rest, int(text)


def with_heldout(dataset: str, images: int) -> str:
    """The specification of a dataset with a validation split of so many training images.

    Example:
        >>> with_heldout("imagenet-1k:side=64", 5000), with_heldout("digits", 0)
        ('imagenet-1k:side=64,heldout=5000', 'digits')
    """
    if images == 0:
        return dataset
    return f"{dataset}{',' if ':' in dataset else ':'}{HELDOUT}={images}"


def check_heldout(dataset: str, heldout: int, images: int, classes: int) -> None:
    """Raises ValueError unless a validation split of this size is possible.

    Args:
        dataset: name of the dataset.
        heldout: size of the validation split.
        images: number of training images.
        classes: number of classes.
    """
    most = (images - 1) // 2
    if not classes <= heldout <= most:
        raise ValueError(
            f"dataset {dataset!r}: {HELDOUT} must be {classes} to {most} of the {images} training "
            f"images, got {heldout} (from the study, unless --validation gives another number)"
        )


def hold_out(dataset: ImageDataset, images: int) -> ImageDataset:
    """The dataset with some of its training images as validation split.

    They are always the same, and stratified by class.

    Args:
        dataset: with its training split.
        images: size of the validation split, less than half of all, and at least one per class.

    Raises:
        ValueError: another number.
    """
    from sklearn.model_selection import train_test_split

    split = dataset.training_split
    check_heldout(dataset.name, images, len(split), dataset.num_classes)
    kept, taken = train_test_split(
        torch.arange(len(split)).numpy(),
        test_size=images,
        stratify=split.labels.cpu().numpy(),
        random_state=SPLIT_SEED,
    )
    return replace(
        dataset, train=split.subset(sorted_index(kept)), heldout=split.subset(sorted_index(taken))
    )


def sorted_index(index: object) -> Tensor:
    """An array of indices as a tensor, in rising order."""
    return torch.as_tensor(index).sort().values
