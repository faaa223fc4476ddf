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

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from gift_fast.data.datasets import ImageDataset
from gift_fast.data.distilled.images import DistilledSet
from gift_fast.data.distilled.labelled import with_fkd_labels
from gift_fast.data.images.class_folders import (
    images_of_classes,
    in_class_order,
    listed,
    simplified,
    visible,
)
from gift_fast.data.images.decoding_progress import followed
from gift_fast.data.images.file_split import decoding_threads
from gift_fast.data.images.image_file import read_image
from gift_fast.data.images.unreadable_files import in_words
from gift_fast.data.labels.fkd import SAMPLER_SEED

FILE_NAME = re.compile(r"class(\d+)_id\d+\.(?:jpg|png)")


@dataclass(frozen=True)
class Layout:
    """How a method names its folders and files.

    Attributes:
        prefix: what stands before the number of a folder.
        digits: of the numbers, in examples.
    """

    prefix: str
    digits: int

    def folder(self, label: int, digits: int | None = None) -> str:
        """The name of a class's folder."""
        return f"{self.prefix}{label:0{digits or self.digits}d}"

    def file(self, label: int, number: int = 0) -> str:
        """The name of an image of a class, by default of its first."""
        return f"class{label:0{self.digits}d}_id{number:0{self.digits}d}.jpg"

    @property
    def pattern(self) -> re.Pattern[str]:
        """What the name of a class's folder matches."""
        return re.compile(re.escape(self.prefix) + r"(\d+)")

    def label(self, folder: Path) -> int:
        """The class that a folder is named by.

        Raises:
            ValueError: the folder has another kind of name.
        """
        named = self.pattern.fullmatch(folder.name)
        if named is None:
            raise ValueError(f"{folder} must be named by its class, like {self.folder(0)}")
        return int(named[1])


DECOUPLED = Layout(prefix="new", digits=3)
RDED = Layout(prefix="", digits=5)


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


def labels_of_folders(
    folders: Sequence[str], dataset: ImageDataset, root: Path, order: str
) -> tuple[dict[str, int], str]:
    """The label of every folder of a distilled set, and how it was found, in words.

    Raises:
        ValueError: the folders are not those of the classes; the error names what is missing.
    """
    classes = dataset.num_classes
    if order == "auto":
        for names, how in (
            (dataset.class_names, "by their classes' names"),
            (dataset.class_folders, f"named as the folders of {dataset.name}"),
        ):
            if found := labels_by_name(folders, names, root):
                return found, how
    numbers = [int(folder) for folder in folders if folder.isdecimal()]
    numbered = order == "auto" and len(numbers) == len(folders) > 0
    first = 1 if numbered and min(numbers) == 1 else 0
    expected = range(first, first + classes)
    missing = [str(number) for number in expected if number not in set(numbers)]
    if len(folders) != classes or (numbered and missing):
        message = (
            f"{root} must hold a folder for each of the {classes} classes of {dataset.name}, "
            f"got {len(folders)}"
        )
        if numbered:
            extra = [str(number) for number in sorted(numbers) if number not in expected]
            message += f" with numbers, which must be {expected[0]} to {expected[-1]}"
            message += f"; missing: {listed(missing)}" if missing else ""
            message += f"; not among them: {listed(extra)}" if extra else ""
        raise ValueError(message)
    ordered = in_class_order(folders, root, order)
    if numbered:
        how = f"in the order of their folders' numbers from {first}"
    else:
        how = f"in the order of their folders' {'numbers' if order == 'number' else 'names'}"
    return {name: label for label, name in enumerate(ordered)}, how


def labels_by_name(folders: Sequence[str], names: Sequence[str], root: Path) -> dict[str, int]:
    """The labels of folders that are named as classes are; empty where none is.

    Raises:
        ValueError: some are and others are not.
    """
    for key in (str, simplified):  # exactly, or but for case and punctuation
        label_of = {key(name): label for label, name in enumerate(names)}
        keys = {key(folder): folder for folder in folders}
        if len(label_of) < len(names) or len(keys) < len(folders):
            continue  # two names are one under this key
        if keys.keys() == label_of.keys():
            return {folder: label_of[k] for k, folder in keys.items()}
    known = keys.keys() & label_of.keys()
    if not known:
        return {}
    strange = [folder for k, folder in sorted(keys.items()) if k not in label_of]
    missing = [name for name in names if key(name) not in keys]
    faults = [
        f"{words} {listed(items)}"
        for words, items in (("there is no folder of", missing), ("no class is called", strange))
        if items
    ]
    raise ValueError(
        f"{root} must hold a folder for each of {len(names)} classes; {len(known)} are named as "
        f"classes are, but {' and '.join(faults) or 'two of them have one name'}"
    )


def rded_root(path: Path) -> Path:
    """The folder that holds the classes of RDED."""
    inner = path / "syn_data"
    return inner if inner.is_dir() else path


def holds_classes(root: Path, layout: Layout) -> bool:
    """Whether ``root`` holds a folder named like those of ``layout``."""
    return root.is_dir() and any(
        entry.is_dir() and layout.pattern.fullmatch(entry.name) for entry in root.iterdir()
    )


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


def class_folders(root: Path, layout: Layout, dataset: ImageDataset) -> list[Path]:
    """The folder of every class, in the order of the labels.

    Raises:
        ValueError: a folder has another name, a class has none, or there is one too many.
    """
    folders = [path for path in visible(root) if path.is_dir()]
    labels = [layout.label(folder) for folder in folders]
    count = dataset.num_classes
    digits = len(folders[0].name) - len(layout.prefix) if folders else layout.digits
    expected = (
        f"{root} must hold a folder for each of the {count} classes of {dataset.name}, "
        f"{layout.folder(0, digits)} to {layout.folder(count - 1, digits)}"
    )
    missing = sorted(set(range(count)).difference(labels))
    if missing:
        raise ValueError(f"{expected}; {layout.folder(missing[0], digits)} is missing")
    if max(labels) >= count:
        raise ValueError(f"{expected}; {layout.folder(max(labels), digits)} is one too many")
    if labels != list(range(count)):
        raise ValueError(f"{expected}, numbers of one length and each once, so that they sort")
    return folders


def class_files(folder: Path, label: int, layout: Layout) -> list[Path]:
    """The images of one class, in the order of their names.

    Raises:
        ValueError: a file has another name, or there is none.
    """
    files = visible(folder)
    for file in files:
        named = FILE_NAME.fullmatch(file.name)
        if named is None or int(named[1]) != label:
            raise ValueError(
                f"{file} must be an image of class {label}, named like {layout.file(label)} or .png"
            )
    if not files:
        raise ValueError(f"{folder} must hold images like {layout.file(label)}, it is empty")
    return files


def decode_images(files: Sequence[Path], channels: int, side: int) -> tuple[Tensor, int]:
    """Decodes square images of one size, on a pool of threads.

    Pillow decodes and resizes (bilinear, antialiased), as torchvision does with an ``ImageFolder``:
    stored labels were made from exactly these pixels. :func:`read_image` says how images of other
    modes are converted.

    Args:
        files: JPEG or PNG images, in the order they are wanted in.
        channels: 1 for grey, 3 for colour; images of the other kind are converted.
        side: the side they are resized to if they have another, in pixels.

    Returns:
        The images (N, channels, side, side) uint8, and the side that they have in the files.

    Raises:
        OSError: a file may not be read.
        ValueError: images cannot be decoded or converted, are not square, or have another size than
            the first; the first ten are named, with the reason.
    """
    import numpy as np
    from PIL import Image

    images = torch.empty(len(files), channels, side, side, dtype=torch.uint8)
    pixels = images.numpy()

    def decode(index: int) -> tuple[int, int] | str:
        """The size in the file, or what is wrong with it."""
        try:
            image = read_image(files[index], channels)
        except ValueError as error:
            return str(error)
        size = image.size
        if size[0] == size[1]:
            if size != (side, side):
                image = image.resize((side, side), Image.Resampling.BILINEAR)
            pixels[index] = np.asarray(image).reshape(side, side, channels).transpose(2, 0, 1)
        return size

    with ThreadPoolExecutor(decoding_threads()) as threads:
        decoded = threads.map(decode, range(len(files)))
        results = list(followed(decoded, f"decoding {files[0].parent.parent}", len(files)))
    sizes = [result for result in results if not isinstance(result, str)]
    common = sizes[0] if sizes else (side, side)
    if common[0] != common[1]:
        first = next(file for file, size in zip(files, results, strict=True) if size == common)
        raise ValueError(f"{first} must be square, got {common[0]} x {common[1]}")
    faults = []
    for file, result in zip(files, results, strict=True):
        if isinstance(result, str):
            faults.append(result)
        elif result != common:
            faults.append(
                f"{file} must have the size of {files[results.index(common)]}, "
                f"{common[0]} x {common[1]}, got {result[0]} x {result[1]}"
            )
    if faults:
        raise ValueError(in_words(faults, f"{len(files)} images"))
    return images, common[0]
