"""Verdicts on published accuracies: reproduced, not reproduced or inconclusive.

A verdict compares a measured and a published number. Whether both have the same configuration is a
separate field, see :mod:`gift_fast.report.published_comparison`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from gift_fast.studies.published import Reading
from gift_fast.studies.statistics import MIN_SETS, Comparison, Interval, Sample, welch_interval

TOLERANCE = 1.0
"""Percentage points within which a published number counts as reproduced."""

PUBLISHED_RUNS = 3
"""Runs per published number, according to the authors' code; the paper does not state it."""

MIN_STD = 0.05
"""Minimum standard deviation of a published number, in points: it is rounded to a tenth."""

Verdict = Literal["reproduced", "not reproduced", "inconclusive", "not run"]

SignVerdict = Literal["agrees", "disagrees", "undecided", "not run"]


@dataclass(frozen=True)
class NumberVerdict:
    """The verdict on a published number, with its intervals.

    Attributes:
        verdict: see :func:`judge_number`.
        narrow: the 90 % interval of measured minus published; None if there are no runs.
        wide: the 95 % interval of measured minus published; None if there are no runs.
    """

    verdict: Verdict
    narrow: Interval | None = None
    wide: Interval | None = None


def published_sample(reading: Reading) -> Sample:
    """The sample statistics of a published number.

    The published standard deviation has ddof 0 and is multiplied by sqrt(3 / 2), for ddof 1.

    Example:
        >>> published_sample(Reading(table=1, mean=50.6, std=0.0))
        Sample(mean=50.6, std=0.05, n=3)
    """
    correction = math.sqrt(PUBLISHED_RUNS / (PUBLISHED_RUNS - 1))
    return Sample(reading.mean, max(MIN_STD, reading.std * correction), PUBLISHED_RUNS)


def judge_number(measured: Sample | None, reading: Reading) -> NumberVerdict:
    """The verdict on a published number, from Welch's interval of measured minus published.

    - reproduced: the 90 % interval is within one point of 0; this is the equivalence test at the
      5 % level by two one-sided tests (Schuirmann, 1987);
    - not reproduced: the 95 % interval excludes 0, and the difference exceeds one point;
    - inconclusive: neither;
    - not run: ``measured`` is None.

    Args:
        measured: top-1 of the runs, in percent.
        reading: the published number. If readings contradict each other, each has its own verdict.

    Example:
        >>> judge_number(Sample(50.4, 0.3, 5), Reading(table=1, mean=50.6, std=0.3)).verdict
        'reproduced'
        >>> judge_number(Sample(48.4, 0.3, 5), Reading(table=1, mean=50.6, std=0.3)).verdict
        'not reproduced'
    """
    if measured is None:
        return NumberVerdict("not run")
    published = published_sample(reading)
    narrow = welch_interval(measured, published, confidence=0.90)
    wide = welch_interval(measured, published, confidence=0.95)
    verdict: Verdict = "inconclusive"
    if narrow.lies_within(TOLERANCE):
        verdict = "reproduced"
    elif wide.excludes_zero and abs(wide.difference) > TOLERANCE:
        verdict = "not reproduced"
    return NumberVerdict(verdict, narrow, wide)


def judge_sign(measured: Comparison | None, published_difference: float) -> SignVerdict:
    """The verdict on the sign of GIFT minus the native loss.

    The measured sign is known if the interval excludes 0 and there are at least four sets:

    - agrees: the sign is known and is the published one;
    - disagrees: the sign is known and is the opposite;
    - undecided: the sign is not known, or the published means are equal;
    - not run: ``measured`` is None.

    Only signs are compared, so neither the size of the difference nor the standard deviations of
    the published means matter.

    Args:
        measured: GIFT compared with the native loss, in this order, usually with a 95 % interval.
        published_difference: the published mean of GIFT minus that of the native loss, from the
            same table, as the first readings of both are.

    Raises:
        ValueError: the published difference is not a number.
    """
    if math.isnan(published_difference):
        raise ValueError(f"published_difference must be a number, got {published_difference}")
    if measured is None:
        return "not run"
    known = measured.n >= MIN_SETS and measured.excludes_zero
    if not known or published_difference == 0.0:
        return "undecided"
    return "agrees" if measured.difference * published_difference > 0.0 else "disagrees"
