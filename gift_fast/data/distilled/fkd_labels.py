"""Adds the soft labels in a folder of FKD labels to a distilled set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gift_fast.data.datasets import ImageDataset
from gift_fast.data.distilled.distilled_set import DistilledSet
from gift_fast.data.labels.fkd import SAMPLER_SEED, FkdLabels


def with_fkd_labels(
    distilled: DistilledSet,
    labels: Path | None,
    dataset: ImageDataset,
    *,
    sampler_seed: int = SAMPLER_SEED,
    at_random: bool = False,
    keep: int = 0,
) -> DistilledSet:
    """The set with the labels of an FKD folder, not yet compared with the images' classes.

    Args:
        distilled: the set, with its images in the order to which the labels refer.
        labels: the folder that holds ``epoch_0``, ``epoch_1`` and so on; None changes nothing.
        dataset: the real dataset, with the classes of the labels.
        sampler_seed: ``seed`` of :class:`FkdLabels`.
        at_random: see :class:`FkdLabels`.
        keep: see :class:`FkdLabels`; 0 keeps all.

    Raises:
        OSError: a file is missing or cannot be opened.
        ValueError: the set has soft labels of its own, or the labels are not for it.
    """
    if labels is None:
        return distilled
    if distilled.soft_labels is not None:
        raise ValueError(f"labels must be None for a set that stores soft labels, got {labels}")
    replay = FkdLabels(
        labels,
        distilled.labels,
        dataset.num_classes,
        seed=sampler_seed,
        at_random=at_random,
        keep=keep or None,
        verify=False,
    )
    return replace(distilled, replay=replay, source=f"{distilled.source}; soft labels of {labels}")
