"""YAML files that come with the package or from the user: presets and studies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gift_fast.files import spec

if TYPE_CHECKING:
    from importlib.abc import Traversable

T = TypeVar("T")


def packaged_names(folder: Traversable) -> list[str]:
    """The names of the YAML files in a folder of the package, without their suffix."""
    suffix = ".yaml"
    return sorted(f.name[: -len(suffix)] for f in folder.iterdir() if f.name.endswith(suffix))


def load_yaml(argument: str, value: str, folder: Traversable, parse: Callable[[str, str], T]) -> T:
    """Read and parse a YAML file of the package or of the user.

    Args:
        argument: name of the argument, for error messages.
        value: a name in ``folder``, or the path of a ``.yaml`` file.
        folder: a folder of the package.
        parse: called with the name and the text of the file; raises ValueError if it is invalid.

    Raises:
        ValueError: the name or file does not exist, or is invalid; the message names it.
    """
    names = packaged_names(folder)
    if value in names:
        return parse(value, folder.joinpath(f"{value}.yaml").read_text(encoding="utf-8"))
    path = Path(value)
    if path.suffix not in (".yaml", ".yml"):
        raise ValueError(
            f"{argument} must be one of {', '.join(names)}, or a .yaml file; got {value!r}"
            f"{spec.nearest(value, names)}"
        )
    try:
        return parse(path.stem, path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{argument} must be a readable file, got {value!r}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
