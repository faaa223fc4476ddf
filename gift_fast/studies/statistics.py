"""Comparison of losses: paired confidence intervals, with Holm's adjustment per table.

The unit of replication is the distilled set. Students with different seeds share the properties of
their set, so their scores are averaged first, and n is the number of sets. Two losses are compared
on the same sets and seeds, by their paired differences.

All scores are accuracies in percent, and all differences are in percentage points. Student's t is
that of scipy.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from scipy import stats

Scores = Mapping[str, Mapping[int, float]]
"""The scores of a loss: name of the distilled set -> seed of the student -> top-1 in percent."""

ALPHA = 0.05
"""The family-wise error rate of a table."""

NEGLIGIBLE = 0.5
"""Differences below this many percentage points are negligible."""

MIN_SETS = 4
"""Minimum number of sets for a test; with fewer sets, only the interval is given."""

Outcome = Literal["significant", "negligible", "not significant", "too few sets"]


@dataclass(frozen=True)
class Sample:
    """Summary statistics of the scores of several runs.

    Attributes:
        mean: mean of the scores, in percent.
        std: standard deviation (ddof 1), in percentage points.
        n: number of scores, at least 2.

    Raises:
        ValueError: a value is out of range.
    """

    mean: float
    std: float
    n: int

    def __post_init__(self) -> None:
        if not math.isfinite(self.mean):
            raise ValueError(f"mean must be finite, got {self.mean}")
        if not 0.0 <= self.std < math.inf:
            raise ValueError(f"std must be 0 or more and finite, got {self.std}")
        if self.n < 2:
            raise ValueError(f"n must be at least 2, got {self.n}")


def sample_of(values: Sequence[float]) -> Sample:
    """Mean and standard deviation (ddof 1) of at least two values.

    Example:
        >>> sample_of([61.0, 63.0, 62.0])
        Sample(mean=62.0, std=1.0, n=3)
    """
    if len(values) < 2:
        raise ValueError(f"values must have at least 2 elements, got {len(values)}")
    return Sample(statistics.fmean(values), statistics.stdev(values), len(values))


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A difference with its confidence interval.

    Attributes:
        difference: the first mean minus the second, in percentage points.
        low: lower end of the interval.
        high: upper end of the interval.
        confidence: confidence level, in (0, 1).
        p: two-sided p-value of the hypothesis that there is no difference.
    """

    difference: float
    low: float
    high: float
    confidence: float
    p: float

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 is outside of the closed interval."""
        return self.low > 0.0 or self.high < 0.0

    def lies_within(self, bound: float) -> bool:
        """Whether the whole interval lies in [-bound, bound]."""
        return -bound <= self.low and self.high <= bound


def t_interval(
    difference: float, standard_error: float, degrees: float, confidence: float
) -> Interval:
    """The interval of Student's t around a difference.

    With a standard error of 0, both ends are the difference, and p is 0, or 1 if the difference is
    0 too.

    Args:
        difference: the difference.
        standard_error: its standard error.
        degrees: degrees of freedom.
        confidence: confidence level of the interval.

    Raises:
        ValueError: the confidence is not in (0, 1).
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    if standard_error == 0.0:
        half_width, p = 0.0, float(difference == 0.0)
    else:
        half_width = float(stats.t.isf((1.0 - confidence) / 2.0, degrees)) * standard_error
        p = 2.0 * float(stats.t.sf(abs(difference) / standard_error, degrees))
    return Interval(
        difference=difference,
        low=difference - half_width,
        high=difference + half_width,
        confidence=confidence,
        p=p,
    )


def paired_interval(first: Scores, second: Scores, *, confidence: float = 0.95) -> Interval:
    """The paired t interval over sets of the difference between two losses, first minus second.

    Args:
        first: scores of the first loss, on at least two sets.
        second: scores of the second loss, on the same sets with the same seeds.
        confidence: confidence level of the interval.

    Raises:
        ValueError: sets or seeds differ or are too few, or a score is not finite. The message names
            the set.

    Example:
        >>> gift = {"a": {0: 61.0, 1: 63.0}, "b": {0: 64.0, 1: 64.0}}
        >>> kl = {"a": {0: 60.0, 1: 60.0}, "b": {0: 61.0, 1: 61.0}}
        >>> interval = paired_interval(gift, kl, confidence=0.5)
        >>> interval.difference, round(interval.low, 6), round(interval.high, 6)
        (2.5, 2.0, 3.0)
    """
    check_pairs(first, second)
    differences = [
        statistics.fmean(first[name].values()) - statistics.fmean(second[name].values())
        for name in first
    ]
    sample = sample_of(differences)
    return t_interval(sample.mean, sample.std / math.sqrt(sample.n), sample.n - 1, confidence)


def check_pairs(first: Scores, second: Scores) -> None:
    """Raise ValueError unless both losses have finite scores on the same two or more sets."""
    for name in [*first, *second]:
        if name not in first or name not in second:
            missing = "first" if name not in first else "second"
            raise ValueError(
                f"first and second must have the same sets, but {missing} does not have {name!r}"
            )
        seeds = sorted(first[name]), sorted(second[name])
        if seeds[0] != seeds[1]:
            raise ValueError(
                f"first and second must have the same seeds on every set, "
                f"got {seeds[0]} and {seeds[1]} on {name!r}"
            )
        if not seeds[0]:
            raise ValueError(f"every set must have at least one seed, got none on {name!r}")
        for scores in (first, second):
            for seed, score in scores[name].items():
                if not math.isfinite(score):
                    raise ValueError(
                        f"scores must be finite, got {score} on {name!r} with seed {seed}"
                    )
    if len(first) < 2:
        raise ValueError(f"first and second must have at least 2 sets, got {len(first)}")


def welch_interval(first: Sample, second: Sample, *, confidence: float = 0.95) -> Interval:
    """Welch's t interval (1947) of the first mean minus the second, for unequal variances.

    Raises:
        ValueError: both standard deviations are 0.

    Example:
        >>> interval = welch_interval(Sample(62.0, 1.0, 3), Sample(60.0, 1.0, 3), confidence=0.9)
        >>> round(interval.low, 2), round(interval.high, 2)
        (0.26, 3.74)
    """
    errors = first.std**2 / first.n, second.std**2 / second.n
    variance = sum(errors)
    if variance == 0.0:
        raise ValueError("std must be positive in at least one sample, got 0 in both")
    degrees = variance**2 / (errors[0] ** 2 / (first.n - 1) + errors[1] ** 2 / (second.n - 1))
    return t_interval(first.mean - second.mean, math.sqrt(variance), degrees, confidence)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's adjustment of p-values, which controls the family-wise error rate.

    The k-th smallest of m p-values, with k from 0, is multiplied by m - k. The results are made
    monotonic and are at most 1 (Holm, Scandinavian Journal of Statistics, 1979).

    Args:
        p_values: the p-values of one table, each in [0, 1].

    Returns:
        The adjusted p-values, in the order of ``p_values``.

    Raises:
        ValueError: a p-value is out of range.

    Example:
        >>> holm([0.25, 0.125, 0.5])
        (0.5, 0.375, 0.5)
    """
    for p in p_values:
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"p_values must be in [0, 1], got {p}")
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for k, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - k) * p_values[index]))
        adjusted[index] = largest
    return tuple(adjusted)


@dataclass(frozen=True)
class Pair:
    """Two losses to be compared in a table.

    Attributes:
        first: display name of the first loss.
        second: display name of the second loss.
        first_scores: scores of the first loss.
        second_scores: scores of the second loss, on the same sets with the same seeds.
    """

    first: str
    second: str
    first_scores: Scores
    second_scores: Scores


@dataclass(frozen=True, kw_only=True)
class Comparison(Interval):
    """A comparison of two losses over distilled sets, with the outcome of the test.

    The outcome is the first rule that applies:

    1. too few sets: there are fewer than four; the difference is not tested;
    2. negligible: the difference is below half a point, regardless of p;
    3. significant: p is below 0.05 after Holm's adjustment;
    4. not significant: otherwise.

    The interval is not adjusted for multiple comparisons, so it can exclude 0 although the
    difference is not significant.

    Attributes:
        first: display name of the first loss.
        second: display name of the second loss.
        n: number of distilled sets.
        p_holm: ``p`` after Holm's adjustment within the table.
    """

    first: str
    second: str
    n: int
    p_holm: float

    @property
    def outcome(self) -> Outcome:
        """The outcome according to the rules above."""
        if self.n < MIN_SETS:
            return "too few sets"
        if abs(self.difference) < NEGLIGIBLE:
            return "negligible"
        return "significant" if self.p_holm < ALPHA else "not significant"

    @property
    def better(self) -> str | None:
        """The loss that is significantly better, or None."""
        if self.outcome != "significant":
            return None
        return self.first if self.difference > 0.0 else self.second

    @property
    def summary(self) -> str:
        """The comparison as a sentence."""
        interval = (
            f"{self.first} minus {self.second}: {self.difference:+.2f} points, "
            f"{100.0 * self.confidence:g} % interval {self.low:+.2f} to {self.high:+.2f}, "
            f"{self.n} distilled sets"
        )
        p = f"p = {self.p_holm:.2g} after Holm"
        conclusions = {
            "significant": f"{p}; {self.better} is significantly better.",
            "negligible": "the difference is negligible.",
            "not significant": f"{p}; not significant.",
            "too few sets": "too few for a test.",
        }
        return f"{interval}; {conclusions[self.outcome]}"


def compare_losses(table: Sequence[Pair], *, confidence: float = 0.95) -> tuple[Comparison, ...]:
    """Compare the pairs of a table, with Holm's adjustment over all of them.

    Raises:
        ValueError: see :func:`paired_interval`; the message also names the pair.

    Example:
        >>> gift = {"a": {0: 62.0}, "b": {0: 64.0}, "c": {0: 63.0}, "d": {0: 65.0}}
        >>> kl = {"a": {0: 60.0}, "b": {0: 61.5}, "c": {0: 60.0}, "d": {0: 62.5}}
        >>> comparison, = compare_losses([Pair("GIFT", "KL", gift, kl)])
        >>> comparison.better, comparison.difference, round(comparison.p_holm, 4)
        ('GIFT', 2.5, 0.0012)
    """
    intervals = []
    for pair in table:
        try:
            interval = paired_interval(pair.first_scores, pair.second_scores, confidence=confidence)
        except ValueError as error:
            raise ValueError(f"{pair.first} and {pair.second}: {error}") from error
        intervals.append(interval)
    adjusted = holm([interval.p for interval in intervals])
    return tuple(
        Comparison(
            **asdict(interval),
            first=pair.first,
            second=pair.second,
            n=len(pair.first_scores),
            p_holm=p_holm,
        )
        for pair, interval, p_holm in zip(table, intervals, adjusted, strict=True)
    )
