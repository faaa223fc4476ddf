"""Summaries of several runs, and messages about diverged ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gift_fast.evaluation.results import RunResult

DIVERGED = "†"
"""Marks accuracies that include diverged runs."""


def marked(text: str, runs: Iterable[RunResult]) -> str:
    """Mark the text of an accuracy if any of its runs has diverged."""
    return text + DIVERGED if any(run.diverged is not None for run in runs) else text


def divergence(runs: Sequence[RunResult]) -> list[str]:
    """Explain how many runs have diverged and what to do, in at most one line."""
    lost = [run.diverged for run in runs if run.diverged is not None]
    if not lost:
        return []
    epochs = f"{min(lost)}" + (f" to {max(lost)}" if min(lost) < max(lost) else "")
    return [
        f"{DIVERGED} {len(lost)} of {len(runs)} run{'s' * (len(runs) > 1)} diverged: not finite at "
        f"the test after epoch {epochs}. Their accuracy does not measure the loss function; try a "
        "lower learning rate."
    ]


def outcome(run: RunResult) -> str:
    """Summarize a run in a few words, for progress."""
    lost = "" if run.diverged is None else f", diverged by epoch {run.diverged}"
    return f"top-1 {run.last.top1:.1f} %{lost}"


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over seeds.

    Attributes:
        mean: the mean.
        population_std: standard deviation with ddof 0, as in the paper's code.
        sample_std: standard deviation with ddof 1; NaN for a single value.
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
    """Compute the mean and both standard deviations; raises ValueError without values."""
    n = len(values)
    if n == 0:
        raise ValueError("values must contain at least one number, got none")
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
        best: highest top-1 of each run's tests, percent.
        values: the score of every seed, in the order of the runs.
        seconds: mean wall time of a run.
        diverged: number of diverged runs.
    """

    loss: str
    optimizer: str
    last: Spread
    best: Spread
    values: tuple[float, ...]
    seconds: float
    diverged: int = 0


def summarize(runs: Sequence[RunResult]) -> list[LossSummary]:
    """Summarize the runs of every loss and optimizer, in the order of their first run."""
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
