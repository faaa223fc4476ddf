"""Folders of images, one folder a class, as the decoupled methods publish them.

SRe2L, CDA, G-VBSM and label pruning (LPLD) name them ``new{class}/class{class}_id{number}.jpg``;
RDED ``syn_data/{class}/class{class}_id{number}.jpg``. A class is the place of its folder in sorted
order, and images lie in the order of ``torchvision.datasets.ImageFolder``, which the stored labels
of such sets count by. Sets whose folders and files have other names are read by :func:`any_folder`.

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

from gift_fast.student.datasets import ImageDataset
from gift_fast.student.datasets.files import decoding_threads
from gift_fast.student.datasets.image_formats import IMAGE_FORMATS
from gift_fast.student.distilled.fkd import SAMPLER_SEED
from gift_fast.student.distilled.images import DistilledSet
from gift_fast.student.distilled.labelled import with_fkd_labels

MODES = {1: "L", 3: "RGB"}
"""How Pillow calls images of one and of three channels."""

CHUNK = 64
"""Images that a thread decodes before it takes others."""

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

    def file(self, label: int) -> str:
        """The name of a class's first image."""
        return f"class{label:0{self.digits}d}_id{0:0{self.digits}d}.jpg"

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


def any_folder(path: Path, dataset: ImageDataset, labels: Path | None = None) -> DistilledSet:
    """Reads images from a folder for each class, whatever the names.

    Folders that are named as the dataset's classes are, such as ``ankle boot``, hold those; any
    other names, such as wnids, are taken in sorted order, and ``source`` says so. Images lie in the
    order of ``torchvision.datasets.ImageFolder``.

    Args:
        path: holds the folders.
        dataset: whose classes they are.
        labels: an FKD folder that somebody made for these images; None for the images alone.

    Raises:
        OSError, ValueError: as :func:`decoupled`.
    """
    names = [folder.name for folder in visible(path) if folder.is_dir()]
    if len(names) != dataset.num_classes:
        raise ValueError(
            f"{path} must hold a folder for each of the {dataset.num_classes} classes of "
            f"{dataset.name}, got {len(names)}"
        )
    by_name = set(names) == set(dataset.class_names)
    numbers = [dataset.class_names.index(n) if by_name else k for k, n in enumerate(names)]
    by_class = [image_files(path / name) for name in names]
    how = "by their classes' names" if by_name else "in the order of their folders' names"
    distilled = decoded(by_class, numbers, dataset, path)
    distilled = replace(distilled, source=f"{distilled.source}, {how}")
    return with_fkd_labels(distilled, labels, dataset)


def image_files(folder: Path) -> list[Path]:
    """The images in a folder, in the order of their names.

    Raises:
        ValueError: there is another file, or no image.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS

    files = visible(folder)
    others = [file for file in files if file.suffix.lower() not in IMG_EXTENSIONS]
    if others or not files:
        got = f"got {others[0].name}" if others else "it is empty"
        raise ValueError(f"{folder} must hold images, {', '.join(IMG_EXTENSIONS)}; {got}")
    return files


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
    folders = class_folders(root, layout, dataset)
    by_class = [class_files(folder, label, layout) for label, folder in enumerate(folders)]
    return decoded(by_class, range(len(folders)), dataset, root)


def decoded(
    by_class: Sequence[Sequence[Path]], numbers: Sequence[int], dataset: ImageDataset, root: Path
) -> DistilledSet:
    """The images of files, at the side of the dataset.

    Args:
        by_class: the files of every folder, in the order they are wanted in.
        numbers: the class of every folder.
        dataset: gives side and channels.
        root: where the folders are.
    """
    counts = torch.tensor([len(files) for files in by_class])
    files = [file for files in by_class for file in files]
    images, stored = decode_images(files, dataset.channels, dataset.side)
    source = f"{root}, {len(files)} images of {stored} x {stored}"
    if stored != dataset.side:
        source += f" resized to {dataset.side} x {dataset.side}"
    labels = torch.tensor(numbers).repeat_interleave(counts)
    return DistilledSet(images=images, labels=labels, source=source)


def visible(folder: Path) -> list[Path]:
    """What a folder holds, sorted by name, without the hidden files that systems leave behind."""
    paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return sorted(paths, key=lambda path: path.name)


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
    stored labels were made from exactly these pixels.

    Args:
        files: JPEG or PNG images, in the order they are wanted in.
        channels: 1 for grey, 3 for colour; images of the other kind are converted.
        side: the side they are resized to if they have another, in pixels.

    Returns:
        The images (N, channels, side, side) uint8, and the side that they have in the files.

    Raises:
        ValueError: an image cannot be decoded, is not square, or has another size than the first.
    """
    import numpy as np
    from PIL import Image

    def read(file: Path) -> Image.Image:
        try:
            with Image.open(file, formats=IMAGE_FORMATS) as image:
                converted: Image.Image = image.convert(MODES[channels])
                return converted
        except Exception as error:  # Pillow raises OSError, SyntaxError and more, by the format
            raise ValueError(f"{file} must be an image, reading it raised: {error}") from error

    width, height = read(files[0]).size
    if width != height:
        raise ValueError(f"{files[0]} must be square, got {width} x {height}")
    images = torch.empty(len(files), channels, side, side, dtype=torch.uint8)
    pixels = images.numpy()

    def decode(start: int) -> None:
        for index, file in enumerate(files[start : start + CHUNK], start):
            image = read(file)
            if image.size != (width, height):
                raise ValueError(
                    f"{file} must have the size of {files[0]}, {width} x {height}, "
                    f"got {image.width} x {image.height}"
                )
            if width != side:
                image = image.resize((side, side), Image.Resampling.BILINEAR)
            pixels[index] = np.asarray(image).reshape(side, side, channels).transpose(2, 0, 1)

    with ThreadPoolExecutor(decoding_threads()) as threads:
        for _ in threads.map(decode, range(0, len(files), CHUNK)):  # raises the first error
            pass
    return images, width
