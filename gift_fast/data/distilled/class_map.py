"""Class maps, which put the classes of a distilled set in the order of a dataset.

If teacher, distilled set and test set have different class orders, accuracy is at chance, without
any error. A class map has the class of the dataset for every label of the set.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from gift_fast.data.distilled.distilled_set import DistilledSet
from gift_fast.data.labels.stored_labels import StoredLabels
from gift_fast.files.text_files import read_text


def read_class_map(file: Path | str) -> list[int]:
    """Read a class map, whose entry i is the class of the dataset for label i of the set.

    Args:
        file: a JSON list of integers, or text with one line ``old new`` per class. Empty lines and
            comments, which begin with ``#``, are ignored.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file is neither, or does not have every class once.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "classes.json"
        >>> _ = file.write_text("[1, 0, 2]")
        >>> read_class_map(file)
        [1, 0, 2]
    """
    text = read_text(Path(file))
    try:
        class_map = json.loads(text) if text.lstrip().startswith("[") else map_of_lines(text)
        permutation(class_map)
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{file} must contain a class map: {error}") from error
    return list(class_map)


def map_of_lines(text: str) -> list[int]:
    """Parse a class map in lines of ``old new``."""
    pairs: dict[int, int] = {}
    for line in text.splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or not all(word.isdecimal() for word in words):
            raise ValueError(f"a line must have two classes, old and new, got {line!r}")
        old, new = map(int, words)
        if old in pairs:
            raise ValueError(f"every old class must have one line, {old} has two")
        pairs[old] = new
    missing = set(range(len(pairs))).difference(pairs)
    if missing:
        raise ValueError(f"every old class must have a line, {min(missing)} has none")
    return [pairs[old] for old in range(len(pairs))]


def permutation(class_map: Sequence[int]) -> Tensor:
    """Convert a class map to a tensor (C) int64.

    Raises:
        ValueError: it is not a permutation of 0 to C - 1.
    """
    if not class_map or any(type(new) is not int for new in class_map):
        raise ValueError(f"class_map must be a list of integers, got {class_map!r}")
    missing = set(range(len(class_map))).difference(class_map)
    if missing:
        raise ValueError(
            f"class_map must have every class from 0 to {len(class_map) - 1} once, "
            f"{min(missing)} is missing"
        )
    return torch.tensor(class_map)


def apply_class_map(distilled: DistilledSet, class_map: Sequence[int]) -> DistilledSet:
    """Change the class order of labels, soft labels, stored batches and class names.

    Args:
        distilled: the set; the order of its images does not change.
        class_map: entry i is the new label of label i.

    Raises:
        ValueError: ``class_map`` is not a permutation, or has another number of classes.

    Example:
        >>> one = DistilledSet(
        ...     images=torch.zeros(1, 3, 8, 8),
        ...     labels=torch.tensor([2]),
        ...     soft_labels=torch.tensor([[0.0, 0.1, 0.9]]),
        ... )
        >>> mapped = apply_class_map(one, [1, 2, 0])
        >>> mapped.labels, mapped.soft_labels
        (tensor([0]), tensor([[0.9000, 0.0000, 0.1000]]))
    """
    new_of_old = permutation(class_map)
    classes = len(new_of_old)
    if distilled.labels.max() >= classes:
        raise ValueError(
            f"class_map must have every class of the set, got {classes} classes, but the set has "
            f"label {distilled.labels.max()}"
        )
    old_of_new = new_of_old.argsort()
    labels = new_of_old.to(distilled.labels.device)[distilled.labels]

    soft_labels, names, replay = distilled.soft_labels, distilled.class_names, distilled.replay
    if soft_labels is not None:
        if soft_labels.shape[1:] != (classes,):
            raise ValueError(
                f"class_map must have one class per column of soft_labels "
                f"{tuple(soft_labels.shape)}, got {classes}"
            )
        soft_labels = soft_labels[:, old_of_new.to(soft_labels.device)]
    if names:
        if len(names) != classes:
            raise ValueError(
                f"class_map must have the {len(names)} classes of class_names, got {classes}"
            )
        names = tuple(names[old] for old in old_of_new)
    if replay is not None:
        replay = with_columns(replay, class_map)
        replay.labels = labels.cpu()
    return replace(
        distilled, labels=labels, soft_labels=soft_labels, class_names=names, replay=replay
    )


def with_columns(replay: StoredLabels, class_map: Sequence[int]) -> StoredLabels:
    """Change the order of the columns of stored labels.

    Args:
        replay: the labels.
        class_map: entry i is the class of column i.

    Raises:
        ValueError: ``class_map`` is not a permutation of the classes.
    """
    old_of_new = permutation(class_map).argsort()
    if len(old_of_new) != replay.num_classes:
        raise ValueError(
            f"class_map must have the {replay.num_classes} classes of {replay.folder}, "
            f"got {len(old_of_new)}"
        )
    reordered = copy.copy(replay)
    before = replay.class_map
    reordered.class_map = old_of_new if before is None else before[old_of_new]
    return reordered
