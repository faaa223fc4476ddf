"""Datasets with one folder of images per class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from gift_fast.data.datasets.image_dataset import ImageDataset
from gift_fast.data.datasets.locate import locate
from gift_fast.data.datasets.normalization import NORMALIZATIONS
from gift_fast.data.images.class_folders import (
    check_same_classes,
    class_folders,
    images_of_classes,
)
from gift_fast.data.images.decoded_cache import decoded_once
from gift_fast.data.images.file_split import FileSplit, resize_for
from gift_fast.data.images.splits import Split

ADVICE = "It must contain train/<class>/<image> and val/<class>/<image> (or test/<class>/<image>)"


def folder(
    root: Path | None = None,
    train: bool = True,
    *,
    side: int = 224,
    shorter_side: int = 0,
    order: str = "auto",
    in_memory: bool = False,
) -> ImageDataset:
    """Load a dataset with ``train/<class>/*`` and ``val/<class>/*`` (or ``test``) in color.

    Labels are the indices of the sorted folder names, as in torchvision's ``ImageFolder``, or
    follow their numbers; :mod:`gift_fast.data.images.class_folders` has the rules. Images are
    normalized with ImageNet's constants; ``folder:normalization=cifar`` uses CIFAR's.

    Args:
        root: the folder with ``train`` and ``val``, or with ``test`` if there is no ``val``.
        train: whether to scan the training split too.
        side: of the square that is cropped from an image's center, in pixels.
        shorter_side: length to which an image's shorter side is resized before the crop; 0 is 8/7
            of ``side``, rounded down (256 for 224). If it equals ``side``, images of that size are
            unchanged.
        order: of the classes: ``auto``; ``name``, as strings; ``number``, by the folders' numbers.
        in_memory: decode once and keep the pixels in memory, instead of decoding every batch.

    Raises:
        FileNotFoundError: a folder is missing or has no images.
        ValueError: the splits have different classes, or only one class; the order of the folders
            is ambiguous; or an option is out of range.
    """
    called_test = root is not None and (root / "test").is_dir() and not (root / "val").is_dir()
    test = "test" if called_test else "val"
    found = locate("folder", root, [test], ADVICE)
    classes = class_folders(found / test, order)
    if train or (found / "train").is_dir():
        # Sorted by name, so that the warning about the order is only logged once.
        check_same_classes(class_folders(found / "train", "name"), classes, found)
    if len(classes) < 2:
        raise ValueError(
            f"{found / test} must contain folders for at least two classes, got only "
            f"{classes[0]}; are the class folders one level further down?"
        )
    return sorted_into_folders(
        "folder",
        found,
        classes,
        classes,
        test=test,
        train=train,
        side=side,
        shorter_side=shorter_side,
        in_memory=in_memory,
    )


def sorted_into_folders(
    name: str,
    root: Path,
    classes: Sequence[str],
    class_names: Sequence[str],
    *,
    test: str,
    train: bool,
    side: int,
    shorter_side: int = 0,
    in_memory: bool = False,
) -> ImageDataset:
    """Load ``root/train`` and ``root/<test>`` with the classes in the given order."""
    if side < 1:
        raise ValueError(f"side must be at least 1, got {side}")
    if shorter_side != 0 and shorter_side < side:
        raise ValueError(f"shorter_side must be 0 or at least side, {side}, got {shorter_side}")

    def split(part: str) -> Split:
        files = scan(root / part, classes, side=side, resize=shorter_side or resize_for(side))
        return decoded_once(files, f"{name}-{part}-{side}") if in_memory else files

    return ImageDataset(
        name=name,
        train=split("train") if train else None,
        test=split(test),
        mean=NORMALIZATIONS["imagenet"].mean,
        std=NORMALIZATIONS["imagenet"].std,
        class_names=tuple(class_names),
        class_folders=tuple(classes),
    )


def scan(root: Path, classes: Sequence[str], *, side: int, resize: int | None) -> FileSplit:
    """Find the image files in the class folders of ``root``; labels are indices into ``classes``.

    The files of a class can be in subfolders, as in Tiny-ImageNet.

    Raises:
        FileNotFoundError: the folder of a class is missing or has no images.
        ValueError: an image has an unsupported type.
    """
    names, labels = images_of_classes(root, classes)
    return FileSplit(
        root=root, names=tuple(names), labels=torch.tensor(labels), side=side, resize=resize
    )
