"""Methods that generate distilled sets; ``gift-fast distill`` runs them.

A new method is one file with a function and one line in ``METHODS``. The function is called with
the dataset, the teacher, an existing folder, the images per class and the seed. It writes a set to
the folder in a format that :func:`~gift_fast.data.distilled.read_distilled` recognizes. Its
keyword-only parameters are options of the specification, such as ``rded:factor=2``.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

import gift_fast
from gift_fast.data.datasets import ImageDataset
from gift_fast.data.distilled import DistilledSet, read_distilled
from gift_fast.data.distilled.native import write_distilled
from gift_fast.distillation.random_images import random_images
from gift_fast.distillation.rded import rded, rded_images
from gift_fast.distillation.selection import select_crops
from gift_fast.files import spec
from gift_fast.files.checks import check_integer
from gift_fast.files.fingerprint import fingerprint

__all__ = ["METHODS", "check_request", "distill", "is_made", "rded", "rded_images"]

RECORD = "made.json"
"""The file with the settings of a set. It is written last, so a set without it is incomplete."""

LIBRARIES = ("torch", "torchvision", "pillow")
"""Packages whose versions may change the pixels of a set."""


def selected(
    dataset: ImageDataset,
    teacher: nn.Module,
    path: Path,
    ipc: int,
    seed: int,
    *,
    crops_per_image: int = 10,
) -> None:
    """Write a set of :func:`select_crops` in gift-fast's own format."""
    distilled = select_crops(dataset, teacher, ipc=ipc, crops_per_image=crops_per_image, seed=seed)
    source = f"{distilled.source}, seed {seed}"
    write_distilled(path / "selected", replace(distilled, source=source), dataset)


METHODS: dict[str, Callable[..., None]] = {
    "random": random_images,
    "rded": rded,
    "selected": selected,
}


def distill(
    method: str,
    dataset: ImageDataset,
    teacher: nn.Module,
    path: Path | str,
    *,
    ipc: int,
    seed: int = 0,
    force: bool = False,
) -> DistilledSet:
    """Generate a distilled set in a new folder, or read it if it has been generated before.

    The folder also contains ``made.json``, with all settings of the set and a digest of its
    contents.

    Args:
        method: a name in ``METHODS`` with its options, or the import path of such a function.
        dataset: the dataset, with its training split.
        teacher: maps normalized images (N, C, S, S) to logits; it is left in eval mode.
        path: the folder, which is created atomically.
        ipc: images per class.
        seed: seed of all random numbers.
        force: whether to replace a different set in ``path``.

    Raises:
        OSError: the folder cannot be written.
        ValueError: the method or an option is unknown or out of range, or ``path`` contains
            anything else than the same set.

    Example:
        >>> import tempfile
        >>> from gift_fast.data.datasets import load_dataset
        >>> from gift_fast.training.models import build_model
        >>> digits = load_dataset("digits")
        >>> teacher = build_model("convnet3", channels=1, side=8, num_classes=10, seed=0)
        >>> path = Path(tempfile.mkdtemp()) / "digits_rded_ipc1"
        >>> len(distill("rded:images_per_class=10", digits, teacher, path, ipc=1))
        10
    """
    path = Path(path)
    check_request(method, ipc, seed)
    record: dict[str, Any] = {
        "method": spec.with_defaults("method", method, METHODS),
        "dataset": dataset.name,
        "normalization": {"mean": list(dataset.mean), "std": list(dataset.std)},
        "training images": dataset.training_split.fingerprint(),
        "teacher": fingerprint(teacher.state_dict().values()),
        "ipc": ipc,
        "seed": seed,
    }
    if path.exists():
        if is_made(path) and has_settings(path, record):
            return read_distilled("auto", path, dataset)
        check_replaceable(path, force)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    temporary.mkdir()
    try:
        spec.build("method", method, METHODS, dataset, teacher.eval(), temporary, ipc, seed)
        distilled = read_distilled("auto", temporary, dataset)
        versions = {name: version(name) for name in LIBRARIES}
        contents = {
            **record,
            "set": distilled.fingerprint(),
            "versions": {"gift-fast": gift_fast.__version__, **versions},
        }
        (temporary / RECORD).write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")
        if force and path.exists():
            shutil.rmtree(path)
        try:
            os.replace(temporary, path)
        except OSError:  # another process may have generated the same set meanwhile
            if not (is_made(path) and has_settings(path, record)):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return replace(distilled, source=distilled.source.replace(str(temporary), str(path)))


def check_request(method: str, ipc: int, seed: int = 0) -> None:
    """Check the arguments of :func:`distill` before any data is loaded.

    Raises:
        TypeError: ``ipc`` or ``seed`` is not an integer.
        ValueError: the method or an option is unknown, or ``ipc`` or ``seed`` is out of range.
    """
    spec.resolve("method", method, METHODS)
    check_integer("ipc", ipc, 1)
    check_integer("seed", seed, 0)


def check_replaceable(path: Path, force: bool) -> None:
    """Raise ValueError unless ``path`` contains a set and ``force`` allows to replace it."""
    if not (force and is_made(path)):
        advice = "--force replaces it" if is_made(path) else "choose another folder"
        raise ValueError(
            f"out must be a new folder or contain a set generated with the same settings, but "
            f"{path} has other contents; {advice}"
        )


def is_made(path: Path) -> bool:
    """Whether a folder contains a complete set of :func:`distill`."""
    return (path / RECORD).is_file()


def has_settings(path: Path, record: Mapping[str, Any]) -> bool:
    """Whether the set in a folder was generated with the settings of ``record``.

    Raises:
        ValueError: the folder's record is damaged.
    """
    file = path / RECORD
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {name: found.get(name) for name in record} == record
    except (AttributeError, ValueError) as error:
        raise ValueError(f"{file} must be the record of a distilled set, but {error!r}") from error
