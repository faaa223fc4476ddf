"""The registry of formats of distilled sets, and the function that reads any of them.

A new format is one file with a function that returns a :class:`DistilledSet`, one line in
``FORMATS`` and, to be detected by ``auto``, one in ``MARKS``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn import functional as F

from gift_fast.data.datasets import ImageDataset
from gift_fast.data.distilled import datm, folder_names, folders, gift_data, native
from gift_fast.data.distilled.class_map import apply_class_map, read_class_map, with_columns
from gift_fast.data.distilled.distilled_set import DistilledSet
from gift_fast.data.distilled.labels_of_set import layout_of
from gift_fast.files import spec

logger = logging.getLogger(__name__)

CHUNK = 256
"""Images that are resized at once."""

MARKS: dict[str, tuple[Callable[[Path], bool], str]] = {
    "sre2l": (
        lambda path: folder_names.holds_classes(path, folder_names.DECOUPLED),
        "folders new000, new001, ... with images class000_id000.jpg (also cda, gvbsm, lpld, ...)",
    ),
    "rded": (
        lambda path: folder_names.holds_classes(folder_names.rded_root(path), folder_names.RDED),
        "syn_data, with folders 00000, 00001, ... of images class00000_id00000.jpg",
    ),
    "datm": (
        lambda path: (path / datm.IMAGES).is_file(),
        f"{datm.IMAGES} and {datm.LABELS}",
    ),
    "gift": (
        lambda path: (path / gift_data.FILE).is_file() or (path.is_file() and path.suffix == ".pt"),
        f"{gift_data.FILE}, or the path of such a file",
    ),
    "gift-fast": (
        native.is_pair,
        "NAME.safetensors and NAME.json, or the path of either",
    ),
}
"""For each format, a function that detects it and a description of its files."""


def recognize(path: Path, labels: Path | None = None) -> str:
    """Detect the format of the set at ``path`` and return its name.

    Raises:
        ValueError: no format matches, or several do.
    """
    found = [name for name, (holds, _) in MARKS.items() if holds(path)]
    if found == ["sre2l"] and labels is not None:
        return layout_of(labels)
    if len(found) == 1:
        return found[0]
    if not found and not path.exists():
        raise ValueError(f"path must be a distilled set, but {path} does not exist")
    needs = "".join(f"\n  {name}: {needed}" for name, (_, needed) in MARKS.items())
    state = "fits " + " and ".join(found) if found else "fits none"
    needs += "\n  other folders, one per class: --format folder reads them"
    raise ValueError(f"path must have one of these formats, {path} {state}:{needs}")


def auto(path: Path, dataset: ImageDataset, labels: Path | None = None) -> DistilledSet:
    """Detect the format, read the set, and add the format to ``source``.

    Raises:
        OSError, ValueError: as :func:`recognize`, and as the reader of the format.
    """
    name = recognize(path, labels)
    distilled = FORMATS[name](path, dataset, labels)
    return replace(distilled, source=f"{distilled.source}; detected format {name}")


FORMATS: dict[str, Callable[..., DistilledSet]] = {
    "auto": auto,
    "sre2l": folders.decoupled,
    "cda": folders.decoupled,
    "gvbsm": folders.decoupled,
    "lpld": folders.lpld,
    "lpqld": folders.lpqld,
    "hald": folders.hald,
    "fkd": folders.fkd,
    "rded": folders.rded,
    "folder": folders.any_folder,
    "datm": datm.datm,
    "gift": gift_data.gift_data,
    "gift-fast": native.native,
}
"""Readers by name, called with the path, the dataset and the folder of labels or None."""


def read_distilled(
    format_spec: str,
    path: Path | str,
    dataset: ImageDataset,
    *,
    labels: Path | str | None = None,
    class_map: Path | str | Sequence[int] | None = None,
    labels_class_map: Path | str | Sequence[int] | None = None,
    verify: bool = True,
) -> DistilledSet:
    """Read a distilled set and check that it fits ``dataset``.

    Images of another size are resized (bilinear, antialiased), which ``source`` mentions. If the
    set names another dataset, a warning is logged.

    Args:
        format_spec: a name in ``FORMATS`` with options, such as ``sre2l:sampler_seed=42``; ``auto``
            to detect the format; or the import path of a reader.
        path: the folder or file of the set.
        dataset: the real dataset; the set must have its classes and channels.
        labels: the folder of stored soft labels, or None.
        class_map: the class of the dataset for each label of the set, as a list or a file for
            :func:`read_class_map`; None for the same class order.
        labels_class_map: the same for the columns of ``labels`` only, if their teacher had another
            class order than the images' folders.
        verify: whether to compare the labels in ``labels`` with the images' classes.

    Raises:
        OSError: a file is missing or cannot be opened.
        TypeError: ``format_spec`` is not a string.
        ValueError: an unknown format or option, or files that are not such a set.

    Example:
        >>> import tempfile
        >>> from gift_fast.data.datasets import load_dataset
        >>> digits = load_dataset("digits")
        >>> path = Path(tempfile.mkdtemp()) / "data.pt"
        >>> contents = {"data": torch.rand(10, 1, 8, 8), "label": torch.arange(10)}
        >>> torch.save({"dataset": "digits", **contents}, path)
        >>> len(read_distilled("auto", path, digits))
        10
    """
    reader, options = spec.resolve("format", format_spec, FORMATS)
    path, labels = Path(path), None if labels is None else Path(labels)
    if labels_class_map is not None and labels is None:
        raise ValueError("labels_class_map must be None if labels is None")
    try:
        distilled = reader(path, dataset, labels, **options)
        if distilled.dataset and letters(distilled.dataset) != letters(dataset.name):
            logger.warning(
                "%s was made for %s and is read for %s", path, distilled.dataset, dataset.name
            )
        if labels_class_map is not None and distilled.replay is not None:
            replay = with_columns(distilled.replay, class_map_of(labels_class_map))
            distilled = replace(distilled, replay=replay)
        if class_map is not None:
            new_of_old = class_map_of(class_map)
            if len(new_of_old) != dataset.num_classes:
                raise ValueError(
                    f"class_map must have the {dataset.num_classes} classes of {dataset.name}, "
                    f"got {len(new_of_old)}"
                )
            distilled = apply_class_map(distilled, new_of_old)
        distilled.check_against(dataset)
        if verify and distilled.replay is not None:
            distilled.replay.verify()
        return resized(distilled, dataset.side)
    except ValueError as error:
        name = spec.split_spec(format_spec)[0]
        raise ValueError(f"{path} must be readable as {name}: {error}") from error


def class_map_of(class_map: Path | str | Sequence[int]) -> Sequence[int]:
    """A class map, read from its file if it is a path."""
    return read_class_map(class_map) if isinstance(class_map, Path | str) else class_map


def letters(name: str) -> str:
    """A dataset's name without case and punctuation: ``Tiny-ImageNet`` is ``tinyimagenet``."""
    return re.sub(r"[\W_]", "", name).lower()


def resized(distilled: DistilledSet, side: int) -> DistilledSet:
    """Resize the images of a set to ``side`` pixels.

    Raises:
        ValueError: the images are whitened; resizing would undo it.
    """
    stored = distilled.side
    if stored == side:
        return distilled
    if distilled.whitened:
        raise ValueError(f"whitened images must have the dataset's side {side}, got {stored}")
    images = torch.cat(
        [
            F.interpolate(part, (side, side), mode="bilinear", antialias=True)
            for part in distilled.images.split(CHUNK)
        ]
    )
    source = f"{distilled.source}; resized from {stored} x {stored} to {side} x {side}"
    return replace(distilled, images=images, source=source)
