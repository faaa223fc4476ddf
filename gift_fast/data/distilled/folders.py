"""Folders of images, one folder a class, as the decoupled methods publish them.

SRe2L, CDA, G-VBSM and label pruning (LPLD) name them ``new{class}/class{class}_id{number}.jpg``;
RDED ``syn_data/{class}/class{class}_id{number}.jpg``. A class is the number of its folder, and
images lie in the order of ``torchvision.datasets.ImageFolder``, which the stored labels of such
sets count by. Sets whose folders and files have other names are read by :func:`any_folder`. What
systems and tools leave behind is passed over, as
:mod:`gift_fast.data.images.class_folders` says.

Decoded images stay in memory: 150 kB each at 224 x 224, so 1.5 GB for ImageNet-1K at 10 images a
class and 30 GB at 200.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from gift_fast.data.datasets import ImageDataset
from gift_fast.data.distilled.class_order import labels_of_folders
from gift_fast.data.distilled.decode import decode_images
from gift_fast.data.distilled.distilled_set import DistilledSet
from gift_fast.data.distilled.fkd_labels import with_fkd_labels
from gift_fast.data.distilled.layout import (
    DECOUPLED,
    RDED,
    Layout,
    class_files,
    class_folders,
    rded_root,
)
from gift_fast.data.images.class_folders import images_of_classes, visible
from gift_fast.data.labels.fkd import SAMPLER_SEED


def decoupled(
    path: Path,
    dataset: ImageDataset,
    labels: Path | None = None,
    *,
    sampler_seed: int = SAMPLER_SEED,
) -> DistilledSet:
    """Reads the images of SRe2L, CDA or G-VBSM, and the labels that were stored for them.

    Args:
        path: holds ``new000``, ``new001`` and so on.
        dataset: whose classes the folders are, in order.
        labels: the FKD folder; None for the images alone.
        sampler_seed: of the order that six-item labels follow; see :class:`FkdLabels`.

    Raises:
        OSError: a folder or file is missing or cannot be opened.
        ValueError: a class is missing or there is one too many; a file has another name, cannot be
            decoded or has another size; the labels are damaged or not for these images.
    """
    distilled = read_folders(path, DECOUPLED, dataset)
    return with_fkd_labels(distilled, labels, dataset, sampler_seed=sampler_seed)


def lpld(
    path: Path,
    dataset: ImageDataset,
    labels: Path | None = None,
    *,
    sampler_seed: int = SAMPLER_SEED,
    at_random: bool = True,
    keep: int = 0,
) -> DistilledSet:
    """Reads the images of label pruning (LPLD), and the labels that are left.

    Args:
        path: as for :func:`decoupled`.
        dataset: likewise.
        labels: likewise.
        sampler_seed: likewise.
        at_random: epochs draw from the batches that are left, as LPLD trains; False takes epochs
            as they were stored.
        keep: prunes to so many batches; 0 takes all that are there.

    Raises:
        OSError, ValueError: as :func:`decoupled`.
    """
    distilled = read_folders(path, DECOUPLED, dataset)
    return with_fkd_labels(
        distilled, labels, dataset, sampler_seed=sampler_seed, at_random=at_random, keep=keep
    )


def rded(path: Path, dataset: ImageDataset, labels: Path | None = None) -> DistilledSet:
    """Reads the images of RDED from ``syn_data`` or the folder that holds it.

    RDED stores no labels, its teacher gives them online; ``labels`` is for an FKD folder that
    somebody made for its images.

    Raises:
        OSError, ValueError: as :func:`decoupled`.
    """
    return with_fkd_labels(read_folders(rded_root(path), RDED, dataset), labels, dataset)


def any_folder(
    path: Path, dataset: ImageDataset, labels: Path | None = None, *, order: str = "auto"
) -> DistilledSet:
    """Reads images from a folder for each class, whatever the names.

    Folders hold the classes that they are named for: by the class's name, such as ``ankle boot``,
    or as the folder of the real images is called, such as a wnid; case, punctuation and spaces do
    not count. Folders that are numbered, from 0 or 1 without a gap, hold the classes in the order
    of their numbers. Any other names are taken in sorted order. ``source`` says which it was.
    Images lie in the order of ``torchvision.datasets.ImageFolder``.

    Args:
        path: holds the folders.
        dataset: whose classes they are.
        labels: an FKD folder that somebody made for these images; None for the images alone.
        order: ``auto``, as above; ``name`` or ``number`` takes the folders in that order, see
            :func:`~gift_fast.data.images.class_folders.in_class_order`.

    Raises:
        OSError: a folder is missing or cannot be opened, or a class has no image.
        ValueError: a class is missing or there is one too many; the order is ambiguous; an image
            cannot be decoded or has another size.
    """
    folders = [folder.name for folder in visible(path) if folder.is_dir()]
    label_of, how = labels_of_folders(folders, dataset, path, order)
    names, places = images_of_classes(path, folders)
    distilled = decoded(
        [path / name for name in names], [label_of[folders[k]] for k in places], dataset, path
    )
    distilled = replace(distilled, source=f"{distilled.source}, {how}")
    return with_fkd_labels(distilled, labels, dataset)


def read_folders(root: Path, layout: Layout, dataset: ImageDataset) -> DistilledSet:
    """The images of every class, at the side of the dataset, with their hard labels."""
    files, labels = [], []
    for label, folder in enumerate(class_folders(root, layout, dataset)):
        found = class_files(folder, label, layout)
        files += found
        labels += [label] * len(found)
    return decoded(files, labels, dataset, root)


def decoded(
    files: Sequence[Path], labels: Sequence[int], dataset: ImageDataset, root: Path
) -> DistilledSet:
    """The images of files, at the side of the dataset.

    Args:
        files: N images, in the order they are wanted in.
        labels: the class of each.
        dataset: gives side and channels.
        root: where the files are.
    """
    images, stored = decode_images(files, dataset.channels, dataset.side)
    source = f"{root}, {len(files)} images of {stored} x {stored}"
    if stored != dataset.side:
        source += f" resized to {dataset.side} x {dataset.side}"
    return DistilledSet(images=images, labels=torch.tensor(labels), source=source)
