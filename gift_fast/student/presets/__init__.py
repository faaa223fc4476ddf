"""Named settings of an evaluation, as data: ``paper``, ``official`` and the methods' own.

A preset is a YAML file with ``title``, ``source``, optional ``notes``, ``settings`` (fields of
:class:`~gift_fast.student.config.EvaluationConfig`) and ``overrides``: a list of settings, each
with a ``when`` that names the dataset, student or format it is for. Later ones win.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from gift_fast.student import spec
from gift_fast.student.config import EvaluationConfig

CONDITIONS = ("dataset", "student", "format")

FIELDS = {field.name for field in dataclasses.fields(EvaluationConfig)} - {"dataset", "ipc"}
"""What a preset may set."""


@dataclass(frozen=True)
class Preset:
    """Settings with their source.

    Attributes:
        name: the file's name without its ending.
        title: what it is, in a line.
        source: where the settings are from.
        notes: what a reader should know, or empty.
        settings: fields of an evaluation's configuration.
        overrides: (condition, settings) pairs, in order.
    """

    name: str
    title: str
    source: str
    notes: str
    settings: Mapping[str, Any]
    overrides: tuple[tuple[Mapping[str, tuple[str, ...]], Mapping[str, Any]], ...]

    def settings_for(self, *, dataset: str, student: str, format: str) -> dict[str, Any]:  # noqa: A002
        """The settings for a dataset, a student and a format, options of their names aside.

        Example:
            >>> load_preset("rded").settings_for(
            ...     dataset="cifar100", student="convnet3:width=32", format="rded"
            ... )["batch_size"]
            25
        """
        names = {
            key: spec.split_spec(value)[0]
            for key, value in {"dataset": dataset, "student": student, "format": format}.items()
        }
        settings = dict(self.settings)
        for condition, override in self.overrides:
            if all(names[key] in allowed for key, allowed in condition.items()):
                settings.update(override)
        return settings


def preset_names() -> list[str]:
    """The presets that come with the package."""
    files = resources.files(__name__).iterdir()
    return sorted(file.name[: -len(".yaml")] for file in files if file.name.endswith(".yaml"))


def load_preset(preset: str) -> Preset:
    """The preset of this name, or in this YAML file.

    Raises:
        ValueError: no such preset or file, or one that is not a preset; the message says why.

    Example:
        >>> load_preset("paper").settings["optimizer"]
        'adamw'
    """
    if preset in preset_names():
        text = resources.files(__name__).joinpath(f"{preset}.yaml").read_text(encoding="utf-8")
        return parse_preset(preset, text)
    path = Path(preset)
    if path.suffix not in (".yaml", ".yml"):
        raise ValueError(
            f"preset must be one of {', '.join(preset_names())}, or a .yaml file; got {preset!r}"
        )
    try:
        return parse_preset(path.stem, path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"preset must be a readable file, got {preset!r}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def parse_preset(name: str, text: str) -> Preset:
    """The preset that a YAML text holds."""
    import yaml

    try:
        contents = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"a preset must be YAML: {error}") from error
    known = {"title", "source", "notes", "settings", "overrides"}
    if not isinstance(contents, dict) or not isinstance(contents.get("settings"), dict):
        raise ValueError("a preset must be a mapping with settings, itself a mapping")
    check_keys("a preset", contents, known)
    check_keys("settings", contents["settings"], FIELDS)
    overrides = []
    for entry in contents.get("overrides", []):
        if not isinstance(entry, dict) or not isinstance(entry.get("when"), dict):
            raise ValueError(f"an override must be a mapping with a mapping `when`, got {entry!r}")
        settings = {key: value for key, value in entry.items() if key != "when"}
        check_keys("when", entry["when"], set(CONDITIONS))
        check_keys("an override", settings, FIELDS)
        condition = {
            key: (value,) if isinstance(value, str) else tuple(value)
            for key, value in entry["when"].items()
        }
        overrides.append((condition, settings))
    for settings in [contents["settings"], *(settings for _, settings in overrides)]:
        try:
            EvaluationConfig.from_dict({"dataset": "digits", **settings})
        except TypeError as error:
            hint = "; YAML takes 1e-3 for a text, 1.0e-3 for a number"
            raise ValueError(f"{error}{hint if 'number' in str(error) else ''}") from error
    return Preset(
        name=name,
        title=contents.get("title", name),
        source=contents.get("source", ""),
        notes=contents.get("notes", "").strip(),
        settings=contents["settings"],
        overrides=tuple(overrides),
    )


def check_keys(place: str, mapping: Mapping[str, Any], known: set[str]) -> None:
    """Raises ValueError where a mapping has a key that is not known."""
    for key in mapping:
        if key not in known:
            raise ValueError(f"{place} may hold {', '.join(sorted(known))}; got {key!r}")
