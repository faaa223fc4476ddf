"""Where a dataset lies on the disk, and what to say when it does not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def locate(
    name: str, root: Path | None, contents: Sequence[str], advice: str, folders: Sequence[str] = ()
) -> Path:
    """The folder of a dataset: ``root``, or the first of ``folders`` in it that holds it.

    Args:
        name: the dataset's name in the registry.
        root: what the user gave.
        contents: files or folders that the dataset's folder must hold.
        advice: how to get the dataset.
        folders: names under which the dataset's folder may lie in ``root``.

    Raises:
        FileNotFoundError: it is in none of them; the error says what was looked for and where, and
            gives the advice.
        ValueError: there is no ``root``.
    """
    if root is None:
        raise ValueError(f"root must be the folder that holds {name}, got None\n{advice}")
    candidates = [root, *(root / folder for folder in folders)]
    for folder in candidates:
        if all((folder / content).exists() for content in contents):
            return folder
    raise FileNotFoundError(
        f"root must hold {name}: looked for {' and '.join(contents)} in "
        f"{', '.join(map(str, candidates))}\n{advice}"
    )
