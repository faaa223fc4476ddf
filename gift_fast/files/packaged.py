"""YAML files that come with the package, and those of a user: presets and studies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gift_fast.files import spec

if TYPE_CHECKING:
    from importlib.abc import Traversable

T = TypeVar("T")


def packaged_names(folder: Traversable) -> list[str]:
    """The names of the YAML files in a folder of the package, without their ending."""
    suffix = ".yaml"
    return sorted(f.name[: -len(suffix)] for f in folder.iterdir() if f.name.endswith(suffix))


def load_yaml(argument: str, value: str, folder: Traversable, parse: Callable[[str, str], T]) -> T:
    """What ``parse`` makes of a name and a text: those of the package's file, or of the user's.

    Args:
        argument: what the value is for, for the error messages.
        value: a name in ``folder``, or the path of a ``.yaml`` file.
        folder: of the package.
        parse: takes the name and the text of a file; raises ValueError where it is not one.

    Raises:
        ValueError: no such name or file, or one that ``parse`` refuses; the message names it.
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
