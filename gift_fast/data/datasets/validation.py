"""The validation split: training images on which hyperparameters are chosen."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from gift_fast.data.datasets.image_dataset import ImageDataset
from gift_fast.files import spec
from gift_fast.files.record_names import record_name

VALIDATION = record_name("validation")
"""The split, and the option of every dataset: ``digits:validation=300``, as records spell it."""

SPLIT_SEED = 0


def split_validation(dataset: str) -> tuple[str, int]:
    """A dataset's specification without the option, and the size of its validation split.

    Raises:
        ValueError: not a number of images.

    Example:
        >>> split_validation("imagenet-1k:side=64,validation=5000")
        ('imagenet-1k:side=64', 5000)
        >>> split_validation("digits:validation=300")
        ('digits', 300)
        >>> split_validation("digits")
        ('digits', 0)
    """
    rest, text = spec.take_option(record_name(dataset), VALIDATION)
    if text is None:
        return dataset, 0
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"dataset {rest!r}: validation must be a number of images, got {text!r}")
    return rest, int(text)


def with_validation(dataset: str, images: int) -> str:
    """A dataset's specification, as records spell it, with a validation split of this size.

    Example:
        >>> with_validation("imagenet-1k:side=64", 5000), with_validation("digits", 0)
        ('imagenet-1k:side=64,heldout=5000', 'digits')
    """
    if images == 0:
        return dataset
    return f"{dataset}{',' if ':' in dataset else ':'}{VALIDATION}={images}"


def check_validation_size(dataset: str, validation: int, images: int, classes: int) -> None:
    """Raise ValueError unless a validation split of this size is possible.

    Args:
        dataset: name of the dataset.
        validation: size of the validation split.
        images: number of training images.
        classes: number of classes.
    """
    most = (images - 1) // 2
    if not classes <= validation <= most:
        raise ValueError(
            f"dataset {dataset!r}: validation must be {classes} to {most} of the {images} training "
            f"images, got {validation} (from the study, unless --validation gives another number)"
        )


def with_validation_split(dataset: ImageDataset, images: int) -> ImageDataset:
    """Take a validation split from the training images; always the same, stratified by class.

    Args:
        dataset: with its training split.
        images: size of the validation split: at least one image per class, less than half of all.

    Raises:
        ValueError: ``images`` is out of range.
    """
    from sklearn.model_selection import train_test_split

    split = dataset.training_split
    check_validation_size(dataset.name, images, len(split), dataset.num_classes)
    kept, taken = train_test_split(
        torch.arange(len(split)).numpy(),
        test_size=images,
        stratify=split.labels.cpu().numpy(),
        random_state=SPLIT_SEED,
    )
    return replace(
        dataset,
        train=split.subset(sorted_index(kept)),
        validation=split.subset(sorted_index(taken)),
    )


def sorted_index(index: object) -> Tensor:
    """Convert an array of indices to a tensor in ascending order."""
    return torch.as_tensor(index).sort().values
