"""Tiny-ImageNet (Stanford, CS231n): 200 classes of ImageNet at 64 x 64 pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from gift_fast.data.datasets.folder import scan
from gift_fast.data.datasets.image_dataset import ImageDataset
from gift_fast.data.datasets.locate import locate
from gift_fast.data.datasets.normalization import NORMALIZATIONS
from gift_fast.data.images.class_folders import class_folders
from gift_fast.data.images.decoded_cache import decoded_once
from gift_fast.data.images.file_split import FileSplit
from gift_fast.files.text_files import is_file_name, read_text

CLASSES = 200
SIDE = 64
URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"


def tinyimagenet(root: Path | None = None, train: bool = True) -> ImageDataset:
    """Load Tiny-ImageNet: 100,000 training and 10,000 validation images, uint8 (N, 3, 64, 64).

    Labels are the indices of the sorted folders of ``train``, as in torchvision's ``ImageFolder``
    and in distilled sets; ``wnids.txt`` has another order. The validation images are the test
    split, because the labels of the test images are not published. The files are decoded once, see
    ``decoded_once``.

    Args:
        root: the folder ``tiny-imagenet-200``, or its parent. The validation images can be in
            ``val/images`` with ``val/val_annotations.txt``, as published, or in one folder per
            class in ``val`` or ``val/images``.
        train: whether to load the training split too.

    Raises:
        FileNotFoundError: the data is missing; the message says how to get it.
        ValueError: the data differs from the published files.

    Source: Le and Yang, "Tiny ImageNet Visual Recognition Challenge", 2015.
    """
    advice = f"To get it: unpack {URL} there (unzip tiny-imagenet-200.zip)"
    found = locate("tinyimagenet", root, ["train", "val"], advice, ["tiny-imagenet-200"])
    classes = class_folders(found / "train")
    if len(classes) != CLASSES:
        raise ValueError(
            f"{found / 'train'} must contain {CLASSES} class folders, got {len(classes)}\n{advice}"
        )
    test = validation_files(found / "val", classes)
    training = scan(found / "train", classes, side=SIDE, resize=None) if train else None
    return ImageDataset(
        name="tinyimagenet",
        train=decoded_once(training, "tinyimagenet-train") if training else None,
        test=decoded_once(test, "tinyimagenet-val"),
        mean=NORMALIZATIONS["imagenet"].mean,
        std=NORMALIZATIONS["imagenet"].std,
        class_names=class_names(found / "words.txt", classes),
        class_folders=tuple(classes),
    )


def validation_files(root: Path, classes: Sequence[str]) -> FileSplit:
    """Find the validation images in ``root``, in class folders or by ``val_annotations.txt``."""
    for folder in (root, root / "images"):
        if any((folder / name).is_dir() for name in classes):
            return scan(folder, classes, side=SIDE, resize=None)
    annotations = root / "val_annotations.txt"
    if not annotations.exists():
        raise FileNotFoundError(
            f"{root} must contain val_annotations.txt or a folder for each class, found neither"
        )
    return annotated_files(annotations, classes)


def annotated_files(annotations: Path, classes: Sequence[str]) -> FileSplit:
    """Read the labels of ``images`` from the lines ``file<tab>wnid<tab>box`` of annotations."""
    label_of = {name: label for label, name in enumerate(classes)}
    names, labels = [], []
    for number, line in enumerate(read_text(annotations).splitlines(), 1):
        name, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0]
        if wnid not in label_of:
            raise ValueError(
                f"{annotations}, line {number}, must have a file and the name of a folder in "
                f"train, got {line!r}"
            )
        if not is_file_name(name):
            raise ValueError(f"{annotations}, line {number}, must have a file name, got {name!r}")
        names.append(f"images/{name}")
        labels.append(label_of[wnid])
    return FileSplit(annotations.parent, tuple(names), torch.tensor(labels), side=SIDE)


def class_names(words: Path, classes: Sequence[str]) -> tuple[str, ...]:
    """The first name of each class in ``words.txt``, with lines ``wnid<tab>names``, or its wnid."""
    names = {}
    if words.exists():
        for line in read_text(words).splitlines():
            wnid, _, synonyms = line.partition("\t")
            names[wnid] = synonyms.partition(",")[0]
    return tuple(names.get(name, name) for name in classes)
