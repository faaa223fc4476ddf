"""Several runs as one number, and what to say of runs that have diverged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gift_fast.evaluation.results import RunResult

DIVERGED = "†"
"""Marks an accuracy that diverged runs are part of."""


def marked(text: str, runs: Iterable[RunResult]) -> str:
    """An accuracy in words, with a mark where any of its runs has diverged."""
    return text + DIVERGED if any(run.diverged is not None for run in runs) else text


def divergence(runs: Sequence[RunResult]) -> list[str]:
    """A line on how many of some runs have diverged and what to do, or nothing where none has."""
    lost = [run.diverged for run in runs if run.diverged is not None]
    if not lost:
        return []
    epochs = f"{min(lost)}" + (f" to {max(lost)}" if min(lost) < max(lost) else "")
    return [
        f"{DIVERGED} {len(lost)} of {len(runs)} run{'s' * (len(runs) > 1)} diverged: not finite at "
        f"the test after epoch {epochs}. Their accuracy does not measure the loss function; try a "
        "smaller learning rate."
    ]


def outcome(run: RunResult) -> str:
    """What came of a run, for a line of progress."""
    lost = "" if run.diverged is None else f", diverged by epoch {run.diverged}"
    return f"top-1 {run.last.top1:.1f} %{lost}"


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over seeds.

    Attributes:
        mean: the mean.
        population_std: with ddof 0, divided by n: what the paper's code reports.
        sample_std: with ddof 1, divided by n - 1; NaN for a single value.
        n: number of values.

    Example:
        >>> spread([1.0, 3.0])
        Spread(mean=2.0, population_std=1.0, sample_std=1.4142135623730951, n=2)
    """

    mean: float
    population_std: float
    sample_std: float
    n: int


def spread(values: Sequence[float]) -> Spread:
    """Mean and both standard deviations; at least one value is needed, else ValueError."""
    n = len(values)
    if n == 0:
        raise ValueError("values must hold at least one number, got none")
    mean = math.fsum(values) / n
    squares = math.fsum((value - mean) ** 2 for value in values)
    sample_std = math.sqrt(squares / (n - 1)) if n > 1 else math.nan
    return Spread(mean, math.sqrt(squares / n), sample_std, n)


@dataclass(frozen=True)
class LossSummary:
    """The scores of one loss under one optimizer, over all seeds.

    Attributes:
        loss: the specification of the loss.
        optimizer: name of the optimizer.
        last: top-1 after the last epoch, percent: the score.
        best: top-1 of the best test of each run, in percent.
        values: the score of every seed, in the order of the runs.
        seconds: mean wall time of a run.
        diverged: how many of the runs have diverged.
    """

    loss: str
    optimizer: str
    last: Spread
    best: Spread
    values: tuple[float, ...]
    seconds: float
    diverged: int = 0


def summarize(runs: Sequence[RunResult]) -> list[LossSummary]:
    """One summary for every loss and optimizer, in the order in which they first come."""
    groups: dict[tuple[str, str], list[RunResult]] = {}
    for run in runs:
        groups.setdefault((run.config.loss, run.config.optimizer), []).append(run)
    return [
        LossSummary(
            loss=loss,
            optimizer=optimizer,
            last=spread([run.last.top1 for run in group]),
            best=spread([run.best.top1 for run in group]),
            values=tuple(run.last.top1 for run in group),
            seconds=spread([run.seconds for run in group]).mean,
            diverged=sum(run.diverged is not None for run in group),
        )
        for (loss, optimizer), group in groups.items()
    ]
