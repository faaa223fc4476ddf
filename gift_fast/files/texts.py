"""Reads text, JSON and YAML files of users, with errors that name the file and limits on contents.

A short YAML text can expand to more values than fit into memory, through aliases of aliases, and
deeply nested JSON exhausts Python's stack. Both are refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LARGEST_YAML = 1_000_000
"""Limit of the values and characters of a YAML text after its aliases are expanded."""


ENTRIES_SHOWN = 5
"""Entries that a message names before it counts the others."""


def first_few(entries: Sequence[object]) -> str:
    """The first entries, and the number of the others, for messages.

    Example:
        >>> first_few(["a", "b", "c", "d", "e", "f", "g"]), first_few([1, 2])
        ('a, b, c, d, e and 2 more', '1, 2')
    """
    more = len(entries) - ENTRIES_SHOWN
    shown = ", ".join(map(str, entries[:ENTRIES_SHOWN]))
    return f"{shown} and {more} more" if more > 0 else shown


def read_text(path: Path) -> str:
    """The text of a file in UTF-8.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not in UTF-8; the error names it.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be a text file in UTF-8, got {error}") from error


def is_file_name(text: str) -> bool:
    """Whether a text is the name of a file, without any folder.

    Example:
        >>> is_file_name("0.png"), is_file_name("../0.png"), is_file_name("")
        (True, False, False)
    """
    return Path(text).name == text and text not in ("", "..") and "\0" not in text


def read_json(path: Path) -> Any:
    """The contents of a JSON file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a JSON file in UTF-8, or nested too deeply; the error names it.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{path} must be a JSON file, got: {error}") from error


def parse_yaml(text: str) -> Any:
    """The contents of a YAML text: plain values, lists and mappings.

    Raises:
        ValueError: the text is not YAML, names a Python object, is nested too deeply, or expands to
            more than ``LARGEST_YAML`` values and characters.

    Example:
        >>> parse_yaml("losses: [gift, ce]")
        {'losses': ['gift', 'ce']}
    """
    import yaml

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None:
            check_size(node)
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"the text must be YAML: {error}") from error


def check_size(node: Any) -> None:
    """Raises ValueError if a YAML node expands to too many values, or contains itself."""
    import yaml

    sizes: dict[int, int] = {}

    def size(node: Any) -> int:
        known = sizes.get(id(node))
        if known == 0:
            raise ValueError("an alias must not stand for what it lies in")
        if known is None:
            sizes[id(node)] = 0  # it is being counted
            if isinstance(node, yaml.MappingNode):
                known = 1 + sum(size(key) + size(value) for key, value in node.value)
            elif isinstance(node, yaml.SequenceNode):
                known = 1 + sum(map(size, node.value))
            else:
                known = 1 + len(node.value)
            sizes[id(node)] = known
        return known

    if (found := size(node)) > LARGEST_YAML:
        raise ValueError(
            f"the text must stand for at most {LARGEST_YAML:,} values and characters, got "
            f"{found:,}: aliases repeat what they name"
        )
