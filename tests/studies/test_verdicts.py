"""Verdicts on synthetic numbers, none of which says anything about a loss."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from gift_fast.studies.published import Reading
from gift_fast.studies.statistics import Comparison, Sample, sample_of
from gift_fast.studies.verdicts import judge_number, judge_sign, published_sample

PUBLISHED = Reading(table=1, mean=50.0, std=0.2)
MEASURED = Sample(50.0, 0.3, 5)
DRAWS = 2000


def half_width(confidence: float, measured: Sample = MEASURED) -> float:
    """Half of Welch's interval against PUBLISHED, by scipy, from data with these statistics."""
    data = [
        sample.std * shape / np.std(shape, ddof=1)
        for sample in (measured, Sample(50.0, 0.2 * math.sqrt(1.5), 3))
        for shape in [np.arange(sample.n) - (sample.n - 1) / 2.0]
    ]
    return stats.ttest_ind(*data, equal_var=False).confidence_interval(confidence).high


def verdict_at(difference: float, measured: Sample = MEASURED) -> str:
    return judge_number(replace(measured, mean=50.0 + difference), PUBLISHED).verdict


# ---- the published sample ------------------------------------------------------------------------


def test_the_published_deviation_becomes_that_of_a_sample_of_three():
    runs = [49.0, 50.5, 51.0]
    published = published_sample(Reading(1, 50.0, float(np.std(runs))))
    assert published.std == pytest.approx(np.std(runs, ddof=1))
    assert published.n == 3


@pytest.mark.parametrize(
    ("std", "expected"),
    [(0.0, 0.05), (0.04, 0.05), (0.05 / math.sqrt(1.5) + 1e-9, 0.05), (0.1, 0.1 * 1.5**0.5)],
)
def test_the_published_deviation_is_a_twentieth_of_a_point_at_least(std, expected):
    assert published_sample(Reading(1, 50.0, std)).std == pytest.approx(expected)


# ---- the number ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [1, -1])
def test_a_number_is_reproduced_as_long_as_the_90_percent_interval_is_within_a_point(sign):
    edge = 1.0 - half_width(0.90)
    assert edge > 0.0
    assert verdict_at(sign * (edge - 1e-6)) == "reproduced"
    assert verdict_at(sign * (edge + 1e-6)) == "inconclusive"


@pytest.mark.parametrize("sign", [1, -1])
def test_with_small_spread_a_number_is_not_reproduced_from_a_point_on(sign):
    assert half_width(0.95) < 1.0
    assert verdict_at(sign * (1.0 - 1e-6)) == "inconclusive"
    assert verdict_at(sign * (1.0 + 1e-6)) == "not reproduced"


@pytest.mark.parametrize("sign", [1, -1])
def test_with_large_spread_a_number_is_not_reproduced_once_the_95_percent_interval_leaves_zero(
    sign,
):
    wide = replace(MEASURED, std=3.0)
    edge = half_width(0.95, wide)
    assert edge > 1.0
    assert verdict_at(sign * (edge - 1e-6), wide) == "inconclusive"
    assert verdict_at(sign * (edge + 1e-6), wide) == "not reproduced"


def test_runs_that_vary_too_much_are_inconclusive_even_at_the_published_mean():
    assert verdict_at(0.0, replace(MEASURED, std=3.0)) == "inconclusive"


def test_a_verdict_comes_with_both_intervals_of_measured_minus_published():
    found = judge_number(replace(MEASURED, mean=50.4), PUBLISHED)
    assert found.narrow is not None
    assert found.wide is not None
    assert (found.narrow.confidence, found.wide.confidence) == (0.90, 0.95)
    assert found.narrow.difference == found.wide.difference == pytest.approx(0.4)
    assert found.narrow.high == pytest.approx(0.4 + half_width(0.90))
    assert found.wide.low == pytest.approx(0.4 - half_width(0.95))


def test_what_was_not_run_has_no_interval():
    found = judge_number(None, PUBLISHED)
    assert (found.verdict, found.narrow, found.wide) == ("not run", None, None)


@pytest.mark.parametrize(
    ("true_difference", "std", "wrong"),
    [(1.0, 0.3, "reproduced"), (-1.0, 0.3, "reproduced"), (0.0, 2.0, "not reproduced")],
)
def test_a_verdict_is_wrong_in_one_of_twenty_at_most(true_difference, std, wrong):
    generator = np.random.default_rng(0)
    mistakes = 0
    for _ in range(DRAWS):
        runs = generator.normal(50.0, std, 3)
        published = Reading(1, float(runs.mean()), float(runs.std(ddof=0)))
        measured = sample_of(generator.normal(50.0 + true_difference, std, 5).tolist())
        mistakes += judge_number(measured, published).verdict == wrong
    assert mistakes / DRAWS < 0.05 + 4.0 * math.sqrt(0.05 * 0.95 / DRAWS)


def test_a_number_that_is_right_is_mostly_reproduced_and_one_that_is_off_mostly_not():
    generator = np.random.default_rng(0)
    found = {0.0: [], 3.0: []}
    for difference, verdicts in found.items():
        for _ in range(200):
            runs = generator.normal(50.0, 0.2, 3)
            published = Reading(1, float(runs.mean()), float(runs.std(ddof=0)))
            measured = sample_of(generator.normal(50.0 + difference, 0.2, 5).tolist())
            verdicts.append(judge_number(measured, published).verdict)
    assert found[0.0].count("reproduced") > 180
    assert found[3.0].count("not reproduced") > 180


# ---- the sign ------------------------------------------------------------------------------------

AHEAD = Comparison(
    first="GIFT",
    second="native",
    difference=2.0,
    low=1.0,
    high=3.0,
    confidence=0.95,
    p=0.001,
    p_holm=0.004,
    n=5,
)
BEHIND = replace(AHEAD, difference=-2.0, low=-3.0, high=-1.0)


@pytest.mark.parametrize(
    ("measured", "published_difference", "verdict"),
    [
        (AHEAD, 4.0, "agrees"),
        (AHEAD, 0.1, "agrees"),
        (AHEAD, -0.1, "disagrees"),
        (BEHIND, -4.0, "agrees"),
        (BEHIND, 4.0, "disagrees"),
        (AHEAD, 0.0, "undecided"),
        (replace(AHEAD, low=1e-9), 4.0, "agrees"),
        (replace(AHEAD, low=0.0), 4.0, "undecided"),
        (replace(BEHIND, high=-1e-9), 4.0, "disagrees"),
        (replace(BEHIND, high=0.0), 4.0, "undecided"),
        (replace(AHEAD, n=4), 4.0, "agrees"),
        (replace(AHEAD, n=3), 4.0, "undecided"),
        (replace(AHEAD, difference=0.2, low=0.1, high=0.3), 4.0, "agrees"),
        (None, 4.0, "not run"),
    ],
)
def test_the_sign_of_gift_minus_native_is_judged_where_the_interval_excludes_zero(
    measured, published_difference, verdict
):
    assert judge_sign(measured, published_difference) == verdict


def test_a_published_difference_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="published_difference must be a number, got nan"):
        judge_sign(AHEAD, math.nan)
