"""Finds the folder of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def locate(
    name: str, root: Path | None, contents: Sequence[str], advice: str, folders: Sequence[str] = ()
) -> Path:
    """Find the folder of a dataset: ``root``, or the first of ``folders`` in it that exists.

    Args:
        name: the dataset's name in the registry.
        root: the folder that the user gave.
        contents: files or folders that the dataset's folder must contain.
        advice: how to get the dataset.
        folders: possible names of the dataset's folder in ``root``.

    Raises:
        FileNotFoundError: the dataset is in none of them; the message says what was looked for,
            where, and how to get it.
        ValueError: ``root`` is None.
    """
    if root is None:
        raise ValueError(f"root must be the folder that contains {name}, got None\n{advice}")
    candidates = [root, *(root / folder for folder in folders)]
    for folder in candidates:
        if all((folder / content).exists() for content in contents):
            return folder
    raise FileNotFoundError(
        f"root must contain {name}: looked for {' and '.join(contents)} in "
        f"{', '.join(map(str, candidates))}\n{advice}"
    )
