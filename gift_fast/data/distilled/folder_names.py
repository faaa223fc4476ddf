"""The names of folders and files by method, such as ``new000/class000_id000.jpg``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from gift_fast.data.datasets import ImageDataset
from gift_fast.data.images.class_folders import visible

FILE_NAME = re.compile(r"class(\d+)_id\d+\.(?:jpg|png)")


@dataclass(frozen=True)
class Layout:
    """The names of a method's folders and files.

    Attributes:
        prefix: prefix of the number of a folder.
        digits: number of digits, in examples.
    """

    prefix: str
    digits: int

    def folder(self, label: int, digits: int | None = None) -> str:
        """The name of a class's folder."""
        return f"{self.prefix}{label:0{digits or self.digits}d}"

    def file(self, label: int, number: int = 0) -> str:
        """The file name of an image of a class, by default the first."""
        return f"class{label:0{self.digits}d}_id{number:0{self.digits}d}.jpg"

    @property
    def pattern(self) -> re.Pattern[str]:
        """The pattern of the names of class folders."""
        return re.compile(re.escape(self.prefix) + r"(\d+)")

    def label(self, folder: Path) -> int:
        """The class of a folder, from its name.

        Raises:
            ValueError: the folder's name has another form.
        """
        named = self.pattern.fullmatch(folder.name)
        if named is None:
            raise ValueError(f"{folder} must be named after its class, like {self.folder(0)}")
        return int(named[1])


DECOUPLED = Layout(prefix="new", digits=3)
RDED = Layout(prefix="", digits=5)


def rded_root(path: Path) -> Path:
    """The folder that contains the class folders of RDED."""
    inner = path / "syn_data"
    return inner if inner.is_dir() else path


def holds_classes(root: Path, layout: Layout) -> bool:
    """Whether ``root`` contains a folder named like those of ``layout``."""
    return root.is_dir() and any(
        entry.is_dir() and layout.pattern.fullmatch(entry.name) for entry in root.iterdir()
    )


def class_folders(root: Path, layout: Layout, dataset: ImageDataset) -> list[Path]:
    """The folder of every class, in the order of the labels.

    Raises:
        ValueError: a folder has another name, or there are too few or too many.
    """
    folders = [path for path in visible(root) if path.is_dir()]
    labels = [layout.label(folder) for folder in folders]
    count = dataset.num_classes
    digits = len(folders[0].name) - len(layout.prefix) if folders else layout.digits
    expected = (
        f"{root} must contain a folder for each of the {count} classes of {dataset.name}, "
        f"{layout.folder(0, digits)} to {layout.folder(count - 1, digits)}"
    )
    missing = sorted(set(range(count)).difference(labels))
    if missing:
        raise ValueError(f"{expected}; {layout.folder(missing[0], digits)} is missing")
    if max(labels) >= count:
        raise ValueError(f"{expected}; {layout.folder(max(labels), digits)} is one too many")
    if labels != list(range(count)):
        raise ValueError(f"{expected}; the numbers must be unique and have the same length")
    return folders


def class_files(folder: Path, label: int, layout: Layout) -> list[Path]:
    """The images of one class, in the order of their names.

    Raises:
        ValueError: a file has another name, or there are no files.
    """
    files = visible(folder)
    for file in files:
        named = FILE_NAME.fullmatch(file.name)
        if named is None or int(named[1]) != label:
            raise ValueError(
                f"{file} must be an image of class {label}, named like {layout.file(label)} or .png"
            )
    if not files:
        raise ValueError(f"{folder} must contain images like {layout.file(label)}, it is empty")
    return files
