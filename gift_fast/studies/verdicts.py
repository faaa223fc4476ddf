"""The verdict on a published accuracy that was measured again.

A verdict compares two numbers. Whether the configurations are the same, which makes a reproduced
number a reproduction, is a second field, see :mod:`gift_fast.report.published_comparison`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from gift_fast.studies.published import Reading
from gift_fast.studies.statistics import FEWEST_SETS, Comparison, Interval, Sample, welch_interval

TOLERANCE = 1.0
"""Points within which a published number counts as reproduced."""

PUBLISHED_RUNS = 3
"""Runs behind a published number, by the authors' code; the paper does not say."""

LEAST_STD = 0.05
"""Points; published deviations are rounded to a tenth, so that 0.0 is anything below this."""

Verdict = Literal["reproduced", "not reproduced", "inconclusive", "not run"]

SignVerdict = Literal["agrees", "disagrees", "undecided", "not run"]


@dataclass(frozen=True)
class NumberVerdict:
    """The verdict on a published number and what it rests on.

    Attributes:
        verdict: see :func:`judge_number`.
        narrow: the 90 % interval of measured minus published; None where nothing was run.
        wide: the 95 % interval, likewise.
    """

    verdict: Verdict
    narrow: Interval | None = None
    wide: Interval | None = None


def published_sample(reading: Reading) -> Sample:
    """The runs behind a published number.

    The published deviation is divided by n = 3; times sqrt(3 / 2) it is the one divided by n - 1.

    Example:
        >>> published_sample(Reading(table=1, mean=50.6, std=0.0))
        Sample(mean=50.6, std=0.05, n=3)
    """
    correction = math.sqrt(PUBLISHED_RUNS / (PUBLISHED_RUNS - 1))
    return Sample(reading.mean, max(LEAST_STD, reading.std * correction), PUBLISHED_RUNS)


def judge_number(measured: Sample | None, reading: Reading) -> NumberVerdict:
    """The verdict on a published number, by Welch's interval of measured minus published.

    - reproduced: the 90 % interval lies within one point of 0, which is the test of equivalence at
      5 % by two one-sided tests (Schuirmann, 1987);
    - not reproduced: the 95 % interval excludes 0, and the difference exceeds one point;
    - inconclusive: neither;
    - not run: ``measured`` is None.

    Args:
        measured: top-1 of the runs, percent.
        reading: the published number; of one that contradicts itself, each reading has its verdict.

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
    """The verdict on which of two losses is better, GIFT or the method's native one.

    The measured sign is known if the interval excludes 0 and there are at least four sets:

    - agrees: it is known and is the published one;
    - disagrees: it is known and is the opposite;
    - undecided: it is not known, or the published means are equal;
    - not run: ``measured`` is None.

    The size of the difference does not matter: a negligible difference may have a sign. Nor does
    the standard deviation of the published means, since only signs are compared.

    Args:
        measured: GIFT compared with the native loss, in this order, best at 95 %.
        published_difference: GIFT's published mean minus the native loss's, of the same table;
            the first readings of both always are.

    Raises:
        ValueError: the published difference is not a number.
    """
    if math.isnan(published_difference):
        raise ValueError(f"published_difference must be a number, got {published_difference}")
    if measured is None:
        return "not run"
    known = measured.n >= FEWEST_SETS and measured.excludes_zero
    if not known or published_difference == 0.0:
        return "undecided"
    return "agrees" if measured.difference * published_difference > 0.0 else "disagrees"
