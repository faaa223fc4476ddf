"""Samples that can be compared on a machine that is not quiet: interleaved, and their quartiles."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from typing import TypeVar

Sample = TypeVar("Sample")


def interleaved(samplers: dict[str, Callable[[], Sample]], repeats: int) -> dict[str, list[Sample]]:
    """So many samples of each. Each repeat takes one of every sampler, in a fresh order.

    A slow moment of the machine slows all of a repeat, and nobody always runs in the wake of the
    same competitor.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in samplers}
    order = list(samplers)
    shuffle = random.Random(0).shuffle
    for _ in range(repeats):
        shuffle(order)
        for name in order:
            samples[name].append(samplers[name]())
    return samples


def quartiles(values: list[float]) -> dict[str, float]:
    """The median and the quartiles around it."""
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "q1": q1, "q3": q3}


def ratios(theirs: list[float], ours: list[float]) -> dict[str, float]:
    """The quartiles of theirs over ours, each taken within a repeat."""
    return quartiles([x / y for x, y in zip(theirs, ours, strict=True)])
