"""Images sorted into a folder for each class, which is how most datasets are kept."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from gift_fast.student.datasets.decoded import decoded_once
from gift_fast.student.datasets.files import FileSplit, resize_for
from gift_fast.student.datasets.images import ImageDataset, Split
from gift_fast.student.datasets.locate import locate
from gift_fast.student.datasets.normalization import NORMALIZATIONS

NAMES_SHOWN = 5
"""Folders that an error names before it goes over to their number."""

ADVICE = "It must hold train/<class>/<image> and val/<class>/<image> (or test/<class>/<image>)"


def folder(
    root: Path | None = None,
    train: bool = True,
    *,
    side: int = 224,
    shorter_side: int = 0,
    in_memory: bool = False,
) -> ImageDataset:
    """Any dataset with ``train/<class>/*`` and ``val/<class>/*`` (or ``test``), as colour images.

    Labels follow the sorted names of the folders, as torchvision's ``ImageFolder`` gives them. The
    images are normalised with ImageNet's constants; ``folder:normalization=cifar`` takes CIFAR's.

    Args:
        root: the folder that holds ``train`` and ``val``, or ``test`` where there is no ``val``.
        train: whether to scan the training split too.
        side: of the square that is cropped from an image's centre, in pixels.
        shorter_side: what an image's shorter side is resized to before; 0 is 8/7 of ``side``,
            rounded down (256 for 224). The same number as ``side`` keeps images of that size as
            they are.
        in_memory: decode once and keep the pixels in memory, instead of decoding every batch.

    Raises:
        FileNotFoundError: a folder is missing or holds no image.
        ValueError: the splits have different classes, or an option is out of range.
    """
    called_test = root is not None and (root / "test").is_dir() and not (root / "val").is_dir()
    test = "test" if called_test else "val"
    found = locate("folder", root, [test], ADVICE)
    classes = class_folders(found / test)
    if train or (found / "train").is_dir():
        check_same_classes(class_folders(found / "train"), classes, found)
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
    """The dataset of ``root/train`` and ``root/<test>`` with the classes in the order given."""
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
    )


def scan(root: Path, classes: Sequence[str], *, side: int, resize: int | None) -> FileSplit:
    """The image files in the class folders of ``root``; a label is a place in ``classes``.

    The files of a class may lie in folders of their own within its folder, as Tiny-ImageNet's do.

    Raises:
        FileNotFoundError: a folder of a class is missing or holds no image.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

    absent = [name for name in classes if not (root / name).is_dir()]
    if absent:
        raise FileNotFoundError(
            f"{root} must hold a folder for each of {len(classes)} classes, "
            f"missing are {listed(absent)}"
        )
    labels = {name: label for label, name in enumerate(classes)}
    try:
        samples = make_dataset(str(root), labels, extensions=IMG_EXTENSIONS)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{root} must hold images of every class: {error}") from error
    start = len(os.path.join(root, ""))
    return FileSplit(
        root=root,
        names=tuple(path[start:].replace(os.sep, "/") for path, _ in samples),
        labels=torch.tensor([label for _, label in samples]),
        side=side,
        resize=resize,
    )


def class_folders(root: Path) -> list[str]:
    """The sorted names of the folders in ``root``.

    Raises:
        FileNotFoundError: there is no ``root``, or no folder in it.
    """
    names = (
        sorted(entry.name for entry in root.iterdir() if entry.is_dir()) if root.is_dir() else []
    )
    if not names:
        raise FileNotFoundError(f"{root} must hold a folder for each class, found none")
    return names


def check_same_classes(train: Sequence[str], test: Sequence[str], root: Path) -> None:
    """Raises ValueError unless both splits of ``root`` have folders of the same names.

    A class that one of them lacks would shift the labels of all that follow.
    """
    for split, other, odd in (
        ("training", "test", sorted(set(train) - set(test))),
        ("test", "training", sorted(set(test) - set(train))),
    ):
        if odd:
            raise ValueError(
                f"{root} must have the same classes in both splits, "
                f"but the {split} split alone has {listed(odd)}, which the {other} split lacks"
            )


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are.

    Example:
        >>> listed(["a", "b", "c", "d", "e", "f", "g"])
        'a, b, c, d, e and 2 more'
    """
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
