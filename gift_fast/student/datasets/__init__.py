"""The datasets that a student is tested on.

A new dataset is one file with a function that returns an :class:`ImageDataset`, and one line in
``DATASETS``.
"""

from __future__ import annotations

from collections.abc import Callable

from gift_fast.student import spec
from gift_fast.student.datasets.digits import digits
from gift_fast.student.datasets.images import ImageDataset

__all__ = ["DATASETS", "ImageDataset", "load_dataset"]

DATASETS: dict[str, Callable[..., ImageDataset]] = {
    "digits": digits,
}


def load_dataset(dataset: str) -> ImageDataset:
    """The dataset that a specification names, on the CPU."""
    return spec.build("dataset", dataset, DATASETS)
