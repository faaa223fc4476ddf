"""Distilled sets with one folder of images per class.

SRe2L, CDA, G-VBSM and label pruning (LPLD) use ``new{class}/class{class}_id{number}.jpg``, RDED
``syn_data/{class}/class{class}_id{number}.jpg``. The number of a folder is its class. Images are in
the order of ``torchvision.datasets.ImageFolder``, to which the stored labels of such sets refer.
:func:`any_folder` reads sets with other names. Files of operating systems and tools are ignored;
see :mod:`gift_fast.data.images.class_folders`.

Decoded images are kept in memory: 150 kB each at 224 x 224, so 1.5 GB for ImageNet-1K at 10 images
per class and 30 GB at 200.
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
from gift_fast.data.distilled.folder_names import (
    DECOUPLED,
    RDED,
    Layout,
    class_files,
    class_folders,
    rded_root,
)
from gift_fast.data.distilled.labels_of_set import layout_of, with_stored_labels
from gift_fast.data.images.class_folders import images_of_classes, visible
from gift_fast.data.labels import FkdImageLabels, FkdLabels, HaldLabels, LpqldLabels
from gift_fast.data.labels.image_order import SAMPLER_SEED


def decoupled(
    path: Path,
    dataset: ImageDataset,
    labels: Path | None = None,
    *,
    sampler_seed: int = SAMPLER_SEED,
) -> DistilledSet:
    """Read the images of SRe2L, CDA or G-VBSM, and the labels that were stored for them.

    Labels in the format of another project are detected.

    Args:
        path: contains ``new000``, ``new001`` and so on.
        dataset: the real dataset, with the classes of the folders, in order.
        labels: the folder of the labels; None without stored labels.
        sampler_seed: seed of the order of six-item labels; see :class:`FkdLabels`.

    Raises:
        OSError: a folder or file is missing or cannot be opened.
        ValueError: there are too few or too many classes; a file has another name, cannot be
            decoded or has another size; or the labels are damaged or not for these images.
    """
    distilled = read_folders(path, DECOUPLED, dataset)
    if labels is not None and layout_of(labels) in ("lpqld", "fkd"):  # files with their order
        return with_stored_labels(distilled, labels, dataset)
    return with_stored_labels(distilled, labels, dataset, seed=sampler_seed)


def lpld(
    path: Path,
    dataset: ImageDataset,
    labels: Path | None = None,
    *,
    sampler_seed: int = SAMPLER_SEED,
    at_random: bool = True,
    keep: int = 0,
) -> DistilledSet:
    """Read the images of label pruning (LPLD), and the remaining labels.

    Args:
        path: see :func:`decoupled`.
        dataset: see :func:`decoupled`.
        labels: see :func:`decoupled`.
        sampler_seed: see :func:`decoupled`.
        at_random: draws the batches of every epoch from the remaining ones, as in LPLD's training;
            False replays epochs as stored.
        keep: number of batches to keep; 0 keeps all.

    Raises:
        OSError, ValueError: as :func:`decoupled`.
    """
    distilled = read_folders(path, DECOUPLED, dataset)
    return with_stored_labels(
        distilled,
        labels,
        dataset,
        FkdLabels,
        seed=sampler_seed,
        at_random=at_random,
        keep=keep or None,
    )


def lpqld(
    path: Path,
    dataset: ImageDataset,
    labels: Path | None = None,
    *,
    rest: str = "mr",
    at_random: bool = True,
    keep: int = 0,
) -> DistilledSet:
    """Read images as :func:`decoupled`, and the quantized labels of LPQLD.

    Args:
        path: see :func:`decoupled`.
        dataset: see :func:`decoupled`.
        labels: the folder with ``sampler_indices_batch.json``.
        rest: value of the classes that are not stored; see :class:`LpqldLabels`.
        at_random: draws the batches of every epoch from the stored ones, as in LPQLD's training.
        keep: number of batches to keep; 0 keeps all.

    Raises:
        OSError, ValueError: as :func:`decoupled`.
    """
    distilled = read_folders(path, DECOUPLED, dataset)
    return with_stored_labels(
        distilled, labels, dataset, LpqldLabels, rest=rest, at_random=at_random, keep=keep or None
    )


def hald(
    path: Path,
    dataset: ImageDataset,
    labels: Path | None = None,
    *,
    temperature: float = 20.0,
    sampler_seed: int = SAMPLER_SEED,
    at_random: bool = True,
) -> DistilledSet:
    """Read images as :func:`decoupled`, and HALD's labels, one file per epoch.

    Args:
        path: see :func:`decoupled`.
        dataset: see :func:`decoupled`.
        labels: the folder with ``epoch_0.tar``.
        temperature: of the softmax of the stored probabilities.
        sampler_seed: see :func:`decoupled`; also the seed of the order of the batches.
        at_random: draws the batches of an epoch from those of all stored epochs; False replays the
            epochs as stored.

    Raises:
        OSError, ValueError: as :func:`decoupled`.
    """
    distilled = read_folders(path, DECOUPLED, dataset)
    options = {"temperature": temperature, "seed": sampler_seed, "at_random": at_random}
    return with_stored_labels(distilled, labels, dataset, HaldLabels, **options)


def fkd(
    path: Path, dataset: ImageDataset, labels: Path | None = None, *, rest: str = "auto"
) -> DistilledSet:
    """Read images as :func:`any_folder`, and FKD's labels, one file per image.

    Args:
        path: contains one folder per class.
        dataset: the real dataset, with the same classes.
        labels: the folder of the labels, with one folder per class.
        rest: value of the classes that are not stored; see :class:`FkdImageLabels`.

    Raises:
        OSError, ValueError: as :func:`any_folder`.
    """
    return with_stored_labels(any_folder(path, dataset), labels, dataset, FkdImageLabels, rest=rest)


def rded(path: Path, dataset: ImageDataset, labels: Path | None = None) -> DistilledSet:
    """Read the images of RDED from ``syn_data`` or its parent.

    RDED stores no labels, because its teacher computes them during training; ``labels`` is for FKD
    labels that were computed separately.

    Raises:
        OSError, ValueError: as :func:`decoupled`.
    """
    return with_stored_labels(read_folders(rded_root(path), RDED, dataset), labels, dataset)


def any_folder(
    path: Path, dataset: ImageDataset, labels: Path | None = None, *, order: str = "auto"
) -> DistilledSet:
    """Read images from one folder per class, with any names.

    The class of a folder is determined from its name: the name of a class, such as ``ankle boot``,
    or of the folder of the real images, such as a wnid; case, punctuation and spaces are ignored.
    Folders numbered from 0 or 1 without gaps are the classes in that order. Other names are sorted.
    ``source`` states the rule that was used. Images are in the order of
    ``torchvision.datasets.ImageFolder``.

    Args:
        path: contains the folders.
        dataset: the real dataset, with the same classes.
        labels: the folder of FKD labels; None without stored labels.
        order: ``auto``, as above; ``name`` or ``number`` sorts the folders, see
            :func:`~gift_fast.data.images.class_folders.in_class_order`.

    Raises:
        OSError: a folder is missing or cannot be opened, or a class has no images.
        ValueError: there are too few or too many classes; the order is ambiguous; or an image
            cannot be decoded or has another size.
    """
    folders = [folder.name for folder in visible(path) if folder.is_dir()]
    label_of, how = labels_of_folders(folders, dataset, path, order)
    names, places = images_of_classes(path, folders)
    distilled = decoded(
        [path / name for name in names], [label_of[folders[k]] for k in places], dataset, path
    )
    distilled = replace(distilled, source=f"{distilled.source}, {how}")
    return with_stored_labels(distilled, labels, dataset)


def read_folders(root: Path, layout: Layout, dataset: ImageDataset) -> DistilledSet:
    """Read the images of every class, in the size of the dataset, with their hard labels."""
    files, labels = [], []
    for label, folder in enumerate(class_folders(root, layout, dataset)):
        found = class_files(folder, label, layout)
        files += found
        labels += [label] * len(found)
    return decoded(files, labels, dataset, root)


def decoded(
    files: Sequence[Path], labels: Sequence[int], dataset: ImageDataset, root: Path
) -> DistilledSet:
    """Decode images, in the size of the dataset.

    Args:
        files: N images, in the order of the set.
        labels: the class of each image.
        dataset: the real dataset, with the image size and the channels.
        root: the folder of the files.
    """
    images, stored = decode_images(files, dataset.channels, dataset.side)
    source = f"{root}, {len(files)} images of {stored} x {stored}"
    if stored != dataset.side:
        source += f" resized to {dataset.side} x {dataset.side}"
    return DistilledSet(images=images, labels=torch.tensor(labels), source=source)
