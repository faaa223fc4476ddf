"""Reading of user-supplied text, JSON and YAML files, with limits on their contents.

Errors name the file. A short YAML file can expand to more values than fit into memory, through
aliases of aliases, and deeply nested JSON exhausts Python's stack. Both are rejected.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MAX_YAML_SIZE = 1_000_000
"""Maximum number of values and characters of a YAML document after its aliases are expanded."""


ENTRIES_SHOWN = 5
"""Maximum number of entries that a message lists."""


def first_few(entries: Sequence[object]) -> str:
    """List the first entries and the number of the others, for messages.

    Example:
        >>> first_few(["a", "b", "c", "d", "e", "f", "g"]), first_few([1, 2])
        ('a, b, c, d, e and 2 more', '1, 2')
    """
    others = len(entries) - ENTRIES_SHOWN
    shown = ", ".join(map(str, entries[:ENTRIES_SHOWN]))
    return f"{shown} and {others} more" if others > 0 else shown


def read_text(path: Path) -> str:
    """Read a text file in UTF-8.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not in UTF-8; the error names it.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be a text file in UTF-8, got {error}") from error


def is_file_name(text: str) -> bool:
    """Whether a string is the name of a file, without a folder.

    Example:
        >>> is_file_name("0.png"), is_file_name("../0.png"), is_file_name("")
        (True, False, False)
    """
    return Path(text).name == text and text not in ("", "..") and "\0" not in text


def read_json(path: Path) -> Any:
    """Read a JSON file.

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
    """Parse a YAML document of plain values, lists and mappings.

    Raises:
        ValueError: the text is not YAML, contains a Python object, is nested too deeply, or expands
            to more than ``MAX_YAML_SIZE`` values and characters.

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
        raise ValueError(f"the file must be valid YAML: {error}") from error


def check_size(node: Any) -> None:
    """Raise ValueError if a YAML node expands to too many values, or contains itself."""
    import yaml

    sizes: dict[int, int] = {}

    def size(node: Any) -> int:
        known = sizes.get(id(node))
        if known == 0:
            raise ValueError("a YAML alias must not refer to a node that contains it")
        if known is None:
            sizes[id(node)] = 0  # marks a node that is being counted
            if isinstance(node, yaml.MappingNode):
                known = 1 + sum(size(key) + size(value) for key, value in node.value)
            elif isinstance(node, yaml.SequenceNode):
                known = 1 + sum(map(size, node.value))
            else:
                known = 1 + len(node.value)
            sizes[id(node)] = known
        return known

    if (found := size(node)) > MAX_YAML_SIZE:
        raise ValueError(
            f"the YAML file must expand to at most {MAX_YAML_SIZE:,} values and characters, got "
            f"{found:,} after expanding its aliases"
        )
