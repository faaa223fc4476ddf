"""Presets: named settings of published protocols.

A preset is a YAML file with ``title``, ``source``, optional ``notes``, ``settings`` (fields of
:class:`~gift_fast.evaluation.config.EvaluationConfig`) and ``overrides``: a list of settings for
the datasets, students or formats in their ``when``. Later overrides take precedence.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from importlib import resources
from typing import Any

from gift_fast.data.datasets import COPY_OF
from gift_fast.evaluation.config import EvaluationConfig
from gift_fast.files import spec
from gift_fast.files.packaged import load_yaml, packaged_names
from gift_fast.files.text_files import parse_yaml

CONDITIONS = ("dataset", "student", "format")

FIELDS = {f.name for f in dataclasses.fields(EvaluationConfig)} - {
    *("dataset", "ipc", "classes", "seed", "tested_on")
}
"""The settings that a preset can have."""

HINTS = {
    r"number, got '": "YAML reads 1e-3 as a string; write 1.0e-3",
    r"got .*\b(True|False|bool)\b": "YAML reads yes, no, on and off as booleans; quote them",
}
"""Hints about YAML's types, by a pattern of the error messages that they explain."""


@dataclass(frozen=True)
class Preset:
    """Named settings and their source.

    Attributes:
        name: the file's name without its extension.
        title: a short description.
        source: where the settings are from.
        notes: differences and caveats; may be empty.
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
        """The settings for a dataset, a student and a format; options of their names are ignored.

        Lossy copies of a dataset have the settings of the original.

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
        names["dataset"] = COPY_OF.get(names["dataset"], names["dataset"])
        settings = dict(self.settings)
        for condition, override in self.overrides:
            if all(names[key] in allowed for key, allowed in condition.items()):
                settings.update(override)
        return settings


def preset_names() -> list[str]:
    """The names of the package's presets."""
    return packaged_names(resources.files(__name__))


def load_preset(preset: str) -> Preset:
    """Load a preset by its name or from a YAML file.

    Raises:
        ValueError: no such preset or file, or an invalid one; the message says why.

    Example:
        >>> load_preset("paper").settings["optimizer"]
        'adamw'
    """
    return load_yaml("preset", preset, resources.files(__name__), parse_preset)


def parse_preset(name: str, text: str) -> Preset:
    """Parse a preset from YAML."""
    contents = parse_yaml(text)
    known = {"title", "source", "notes", "settings", "overrides"}
    if not isinstance(contents, dict) or not isinstance(contents.get("settings"), dict):
        raise ValueError("a preset must be a mapping with the key settings, also a mapping")
    check_keys("a preset", contents, known)
    for key in ("title", "source", "notes"):
        if not isinstance(contents.get(key, ""), str):
            raise ValueError(hinted(f"{key} must be a string, got {contents[key]!r}"))
    check_settings("settings", contents["settings"])
    entries = contents.get("overrides", [])
    if not isinstance(entries, list):
        raise ValueError(f"overrides must be a list, got {entries!r}")
    overrides = []
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("when"), dict):
            raise ValueError(
                f"an override must be a mapping with the key `when`, also a mapping, got {entry!r}"
            )
        settings = {key: value for key, value in entry.items() if key != "when"}
        check_settings("an override", settings)
        overrides.append((read_condition(entry["when"]), settings))
    return Preset(
        name=name,
        title=contents.get("title", name),
        source=contents.get("source", ""),
        notes=contents.get("notes", "").strip(),
        settings=contents["settings"],
        overrides=tuple(overrides),
    )


def read_condition(when: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The names that each key of a ``when`` allows; a file has one name or a list of names."""
    check_keys("when", when, set(CONDITIONS))
    condition = {}
    for key, value in when.items():
        names = value if isinstance(value, list) else [value]
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError(
                hinted(f"when: {key} must be a name or a list of names, got {value!r}")
            )
        condition[key] = tuple(names)
    return condition


def check_settings(place: str, settings: Mapping[str, Any]) -> None:
    """Raise ValueError unless these are valid fields and values of a configuration."""
    check_keys(place, settings, FIELDS)
    try:
        EvaluationConfig.from_dict({"dataset": "digits", **settings})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place}: {hinted(str(error))}") from error


def hinted(message: str) -> str:
    """Add hints about YAML's types to an error message, if any apply."""
    hints = [hint for pattern, hint in HINTS.items() if re.search(pattern, message)]
    return "; ".join([message, *hints])


def check_keys(place: str, mapping: Mapping[str, Any], known: Set[str]) -> None:
    """Raise ValueError if a mapping has an unknown key."""
    for key in mapping:
        if key not in known:
            raise ValueError(
                f"{place} may contain {', '.join(sorted(known))}, got {key!r}"
                f"{spec.nearest(str(key), sorted(known))}"
            )
