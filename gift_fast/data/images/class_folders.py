"""Rules for reading one folder of images per class, for real datasets and distilled sets.

Labels, and therefore every accuracy, depend on which folders count as classes and on their order.
All readers of class folders follow the rules in this file:

- Files of operating systems and tools are neither classes nor images: :func:`left_behind`.
- Folders are sorted by name, as torchvision's ``ImageFolder`` sorts them, unless their names are
  numbers: :func:`in_class_order`.
- Within a class, images are in the order of ``ImageFolder``, including those in subfolders:
  :func:`images_of_classes`.
"""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from gift_fast.files.text_files import first_few

logger = logging.getLogger(__name__)

LEFT_BEHIND = frozenset(
    {
        "$recycle.bin",  # Windows
        "desktop.ini",
        "ehthumbs.db",
        "system volume information",
        "thumbs.db",
        "__macosx",  # macOS, in archives
        "icon\r",
        "lost+found",  # Linux
        "@eadir",  # Synology
        "#recycle",
        "#snapshot",
        "__pycache__",  # Python
    }
)
"""Files and folders of operating systems and tools, in lower case; hidden ones need no entry."""

SIDECARS = frozenset({".txt", ".xml", ".json", ".csv", ".tsv", ".md", ".html", ".yaml", ".yml"})
"""Suffixes of files that are published with images, such as Tiny-ImageNet's boxes."""

UNREAD_IMAGES = frozenset(
    {
        ".apng",
        ".avif",
        ".dng",
        ".gif",
        ".heic",
        ".heif",
        ".ico",
        ".jfif",
        ".jp2",
        ".jpe",
        ".npy",
        ".tga",
    }
)
"""Suffixes of images that ``ImageFolder`` silently ignores."""

ORDERS = ("auto", "number", "name")
"""Orders of class folders, see :func:`in_class_order`."""

NUMBERED = re.compile(r"([^0-9]*)([0-9]+)")
LEADING_NUMBER = re.compile(r"([0-9]+)[^0-9].*")


def left_behind(name: str) -> bool:
    """Whether a file or folder is hidden, or created by an operating system or a tool.

    Example:
        >>> [left_behind(name) for name in (".ipynb_checkpoints", "._0.png", "Thumbs.db", "0.png")]
        [True, True, True, False]
    """
    return name.startswith(".") or name.lower() in LEFT_BEHIND


def visible(folder: Path) -> list[Path]:
    """The contents of a folder, sorted by name, without files of operating systems and tools."""
    paths = [path for path in folder.iterdir() if not left_behind(path.name)]
    return sorted(paths, key=lambda path: path.name)


def class_folders(root: Path, order: str = "auto") -> list[str]:
    """The names of the class folders in ``root``, in the order of their labels.

    Args:
        root: the folder that contains them.
        order: see :func:`in_class_order`.

    Raises:
        FileNotFoundError: ``root`` is missing or has no class folders.
        ValueError: the order of the folders is ambiguous.
    """
    names = [path.name for path in visible(root) if path.is_dir()] if root.is_dir() else []
    if not names:
        raise FileNotFoundError(f"{root} must contain a folder for each class, found none")
    return in_class_order(names, root, order)


def in_class_order(names: Sequence[str], root: Path, order: str = "auto") -> list[str]:
    """The names of class folders in the order of their labels.

    By default, names are sorted as strings, as in torchvision's ``ImageFolder``. Names that are
    numbers, with a common prefix or none, are sorted by number, because as strings, folder 10 comes
    before folder 2. If the two orders differ, a warning is logged.

    Args:
        names: names of the folders.
        root: the folder that contains them, for messages.
        order: ``auto``, as above; ``name`` always sorts as strings; ``number`` sorts by the number
            that a name begins with or consists of.

    Raises:
        ValueError: two names have the same number; with ``auto``, names begin with a number
            (``10_pear``) and the two orders differ; or an unknown order.

    Example:
        >>> in_class_order(["10", "9", "2"], Path("val"), "name")
        ['10', '2', '9']
        >>> in_class_order(["10", "9", "2"], Path("val"), "number")
        ['2', '9', '10']
    """
    if order not in ORDERS:
        raise ValueError(f"order must be {', '.join(ORDERS)}, got {order!r}")
    warn_of_case(names, root)
    as_text = sorted(names)
    if order == "name":
        return as_text
    numbers = numbers_of(names)
    leading = [LEADING_NUMBER.fullmatch(name) for name in names]
    starts = [int(match[1]) for match in leading if match]
    if numbers is None and len(starts) == len(names):
        numbers = starts
    if numbers is None:
        if order == "number":
            raise ValueError(
                f"{root} must contain folders named by numbers for order=number, "
                f"got {first_few(as_text)}"
            )
        return as_text
    by_number = [name for _, name in sorted(zip(numbers, names, strict=True))]
    if len(set(numbers)) < len(numbers):
        ordered = sorted(numbers)
        twice = next(a for a, b in pairwise(ordered) if a == b)
        same = [name for number, name in zip(numbers, names, strict=True) if number == twice]
        raise ValueError(
            f"{root} must contain one folder for each number, "
            f"got {first_few(sorted(same))} for {twice}"
        )
    if by_number == as_text or order == "number":
        return by_number
    if numbers == starts:
        raise ValueError(
            f"{root} must contain class folders with one order, but their numbers and their names "
            f"give different ones: {first_few(by_number)} by number, {first_few(as_text)} by name, "
            "as in torchvision's ImageFolder. Choose with the option order=number or order=name, "
            "or pad the numbers with zeros"
        )
    logger.warning(
        "%s: classes are in the order of the folders' numbers (%s); torchvision's ImageFolder "
        "would sort them as strings (%s), as does the option order=name",
        root,
        first_few(by_number),
        first_few(as_text),
    )
    return by_number


def warn_of_case(names: Sequence[str], root: Path) -> None:
    """Warn of folders whose names differ only in case."""
    by_key: dict[str, list[str]] = {}
    for name in sorted(names):
        by_key.setdefault(unicodedata.normalize("NFC", name).casefold(), []).append(name)
    alike = [" and ".join(map(repr, same)) for same in by_key.values() if len(same) > 1]
    if alike:
        logger.warning(
            "%s: class folders differ only in case (%s). They are read as different classes; "
            "a copy on a case-insensitive file system, as on macOS and Windows, merges them",
            root,
            first_few(alike),
        )


def numbers_of(names: Iterable[str]) -> list[int] | None:
    """The numbers in names that consist of a common prefix and a number; None for other names.

    Example:
        >>> numbers_of(["new000", "new010"]), numbers_of(["7", "x8"]), numbers_of(["ant"])
        ([0, 10], None, None)
    """
    matches = [NUMBERED.fullmatch(name) for name in names]
    if not all(matches) or len({match[1] for match in matches if match}) > 1:
        return None
    return [int(match[2]) for match in matches if match]


def images_of_classes(root: Path, classes: Sequence[str]) -> tuple[list[str], list[int]]:
    """The image files in class folders and their labels, which are indices into ``classes``.

    Files are in the order of torchvision's ``ImageFolder``: by class name, then by path, including
    subfolders of the class folder. Text files are ignored. A warning names other files whose suffix
    is not that of an image.

    Args:
        root: contains the folders.
        classes: their names, in the order of their labels.

    Returns:
        The paths relative to ``root`` with forward slashes, and the labels.

    Raises:
        FileNotFoundError: a class has no folder, or its folder has no images.
        ValueError: a file is an image of an unsupported type, such as GIF.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

    absent = [name for name in classes if not (root / name).is_dir()]
    if absent:
        raise FileNotFoundError(
            f"{root} must contain a folder for each of {len(classes)} classes, "
            f"missing: {first_few(absent)}"
        )
    start = len(os.path.join(root, ""))
    unread: list[str] = []

    def is_image(path: str) -> bool:
        name = path[start:]
        if any(left_behind(part) for part in name.split(os.sep)[1:]):
            return False
        suffix = os.path.splitext(name)[1].lower()
        if suffix in IMG_EXTENSIONS:
            return True
        if suffix not in SIDECARS:
            unread.append(name)
        return False

    labels = {name: label for label, name in enumerate(classes)}
    samples = make_dataset(str(root), labels, is_valid_file=is_image, allow_empty=True)
    others = [name for name in unread if os.path.splitext(name)[1].lower() in UNREAD_IMAGES]
    if others:
        raise ValueError(
            f"{root} must contain images of the types {', '.join(IMG_EXTENSIONS)}, got "
            f"{len(others)} of other types: {first_few(others)}; convert them or move them away"
        )
    empty = sorted(set(classes).difference(classes[label] for _, label in samples))
    if empty:
        got = (
            f"; found {first_few(unread)}, which do not have the suffix of an image"
            if unread
            else ""
        )
        raise FileNotFoundError(
            f"{root} must contain images of every class, found none of {first_few(empty)}{got}. "
            f"Images have the suffixes {', '.join(IMG_EXTENSIONS)}"
        )
    if unread:
        logger.warning(
            "%s: %d files do not have the suffix of an image and are not read: %s",
            root,
            len(unread),
            first_few(unread),
        )
    names = [path[start:].replace(os.sep, "/") for path, _ in samples]
    return names, [label for _, label in samples]


def check_same_classes(train: Sequence[str], test: Sequence[str], root: Path) -> None:
    """Raise ValueError unless both splits of ``root`` have folders with the same names.

    A class that is missing in one split would shift the labels of all later classes.
    """
    for split, other, odd, rest in (
        ("training", "test", set(train) - set(test), test),
        ("test", "training", set(test) - set(train), train),
    ):
        if odd:
            alike = [
                f"{name!r} and {twin!r}"
                for name in sorted(odd)
                for twin in rest
                if simplified(name) == simplified(twin)
            ]
            hint = f"; {first_few(alike)} may be the same, rename one of them" if alike else ""
            raise ValueError(
                f"{root} must have the same classes in both splits, "
                f"but only the {split} split has {first_few(sorted(odd))}, "
                f"not the {other} split{hint}"
            )


def simplified(name: str) -> str:
    """A class name without case, punctuation and spaces, in Unicode form NFC.

    Example:
        >>> simplified("T-shirt/top") == simplified("t_shirt top")
        True
    """
    composed = unicodedata.normalize("NFC", name).casefold()
    return re.sub(r"[\W_]+", "", composed)
