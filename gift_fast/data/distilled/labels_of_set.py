"""Adds the soft labels in a folder to a distilled set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from gift_fast.data.datasets import ImageDataset
from gift_fast.data.distilled.distilled_set import DistilledSet
from gift_fast.data.labels import FkdImageLabels, FkdLabels, HaldLabels, LpqldLabels, StoredLabels
from gift_fast.data.labels.folder import batch_path
from gift_fast.data.labels.image_order import BATCH_ORDER_FILE, ORDER_FILE


def layout_of(labels: Path) -> str:
    """Detect the format of a folder of stored labels from the names of its files."""
    if (labels / BATCH_ORDER_FILE).is_file():
        return "lpqld"
    if batch_path(labels, 0, 0).is_file():
        return "lpld" if (labels / ORDER_FILE).is_file() else "sre2l"
    if (labels / "epoch_0.tar").is_file():
        return "hald"
    if next(labels.glob("*/*.tar"), None) is None or (labels / "epoch_0").exists():
        return "sre2l"
    return "fkd"


READERS: dict[str, Callable[..., StoredLabels]] = {
    "sre2l": FkdLabels,
    "lpld": FkdLabels,
    "lpqld": LpqldLabels,
    "hald": HaldLabels,
    "fkd": FkdImageLabels,
}
"""Readers by the name that :func:`layout_of` returns."""


def with_stored_labels(
    distilled: DistilledSet,
    labels: Path | None,
    dataset: ImageDataset,
    reader: Callable[..., StoredLabels] | None = None,
    **options: object,
) -> DistilledSet:
    """Add the labels of a folder to a set, without comparing them with the images' classes.

    Args:
        distilled: the set, with its images in the order that the labels refer to.
        labels: the folder of the labels; None returns the set unchanged.
        dataset: the real dataset, with the classes of the labels.
        reader: of the labels; None detects it from the names of the files.
        options: of the reader.

    Raises:
        OSError: a file is missing or cannot be opened.
        ValueError: the set already has soft labels, or the labels are not for it.
    """
    if labels is None:
        return distilled
    if distilled.soft_labels is not None:
        raise ValueError(f"labels must be None for a set that stores soft labels, got {labels}")
    read = reader or READERS[layout_of(labels)]
    replay = read(labels, distilled.labels, dataset.num_classes, verify=False, **options)
    return replace(distilled, replay=replay, source=f"{distilled.source}; soft labels of {labels}")
