"""Training images that are taken away before anything is trained, to choose settings by."""

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
    """A dataset's specification without the option, and how many images are taken away.

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
    """The specification of a dataset without so many of its training images.

    Example:
        >>> with_heldout("imagenet-1k:side=64", 5000), with_heldout("digits", 0)
        ('imagenet-1k:side=64,heldout=5000', 'digits')
    """
    if images == 0:
        return dataset
    return f"{dataset}{',' if ':' in dataset else ':'}{HELDOUT}={images}"


def check_heldout(dataset: str, heldout: int, images: int, classes: int) -> None:
    """Raises ValueError unless so many of a dataset's training images may be held out.

    Args:
        dataset: its name.
        heldout: how many are to be taken away.
        images: how many there are.
        classes: how many there are.
    """
    most = (images - 1) // 2
    if not classes <= heldout <= most:
        raise ValueError(
            f"dataset {dataset!r}: {HELDOUT} must be {classes} to {most} of the {images} training "
            f"images, got {heldout} (a study's own number, where --heldout gives no other)"
        )


def hold_out(dataset: ImageDataset, images: int) -> ImageDataset:
    """The dataset without some training images, which are its held-out split.

    They are always the same, and every class has its share.

    Args:
        dataset: with its training split.
        images: how many, fewer than half of all, and at least one a class.

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
