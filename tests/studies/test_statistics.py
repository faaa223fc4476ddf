from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from gift_fast.studies.statistics import (
    Comparison,
    Interval,
    Pair,
    Sample,
    Scores,
    compare_losses,
    holm,
    paired_interval,
    sample_of,
    welch_interval,
)

SETS = 5
SEEDS = 2
DRAWS = 2000


def draw(generator: np.random.Generator, gain: float = 0.0) -> tuple[Scores, Scores]:
    """Scores of two losses: sets differ, losses differ from set to set, and so do their seeds."""
    of_set = generator.normal(50.0, 3.0, SETS)
    gain_on_set = generator.normal(gain, 0.8, SETS)
    noise = generator.normal(0.0, 0.4, (2, SETS, SEEDS))
    means = (of_set + gain_on_set, of_set)
    first, second = (
        {f"set {i}": {j: mean[i] + noise[k, i, j] for j in range(SEEDS)} for i in range(SETS)}
        for k, mean in enumerate(means)
    )
    return first, second


def set_means(scores: Scores) -> list[float]:
    return [float(np.mean(list(seeds.values()))) for seeds in scores.values()]


def within_chance(rate: float, expected: float, draws: int = DRAWS) -> bool:
    """Whether a rate lies within four standard errors of a binomial's."""
    return abs(rate - expected) < 4.0 * math.sqrt(expected * (1.0 - expected) / draws)


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


# ---- paired --------------------------------------------------------------------------------------


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("gain", [0.0, 1.0, -3.0])
def test_the_paired_interval_is_scipys_of_the_sets_means(generator, gain, confidence):
    first, second = draw(generator, gain)
    found = paired_interval(first, second, confidence=confidence)
    expected = stats.ttest_rel(set_means(first), set_means(second))
    ends = expected.confidence_interval(confidence)
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high), rel=1e-10)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-10)
    assert found.difference == pytest.approx(np.mean(set_means(first)) - np.mean(set_means(second)))
    assert found.confidence == confidence


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95])
def test_the_paired_interval_covers_the_true_difference_as_often_as_it_says(generator, confidence):
    covered = 0
    for _ in range(DRAWS):
        interval = paired_interval(*draw(generator, gain=1.0), confidence=confidence)
        covered += interval.low <= 1.0 <= interval.high
    assert within_chance(covered / DRAWS, confidence)


def test_the_two_losses_trade_places(generator):
    first, second = draw(generator, 1.0)
    there, back = paired_interval(first, second), paired_interval(second, first)
    assert (back.difference, back.low, back.high) == pytest.approx(
        (-there.difference, -there.high, -there.low)
    )
    assert back.p == pytest.approx(there.p)


def test_sets_and_seeds_are_matched_by_name_whatever_their_order(generator):
    first, second = draw(generator)
    turned = {name: dict(reversed(second[name].items())) for name in reversed(second)}
    assert paired_interval(first, turned) == paired_interval(first, second)


def test_more_seeds_on_one_set_do_not_give_it_more_weight():
    first = {"a": {0: 12.0}, "b": dict.fromkeys(range(9), 20.0)}
    second = {"a": {0: 10.0}, "b": dict.fromkeys(range(9), 16.0)}
    assert paired_interval(first, second).difference == 3.0


@pytest.mark.parametrize(("gain", "p"), [(0.0, 1.0), (2.0, 0.0)])
def test_a_difference_without_spread_is_an_interval_of_no_width(gain, p):
    second = {"a": {0: 10.0}, "b": {0: 20.0}}
    first = {name: {0: seeds[0] + gain} for name, seeds in second.items()}
    found = paired_interval(first, second)
    assert (found.difference, found.low, found.high, found.p) == (gain, gain, gain, p)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (
            {"a": {0: 1.0}, "b": {0: 1.0}},
            {"a": {0: 1.0}},
            "same sets, but second does not have 'b'",
        ),
        ({"a": {0: 1.0}}, {"a": {0: 1.0}, "c": {0: 1.0}}, "same sets, but first does not have 'c'"),
        (
            {"a": {0: 1.0}, "b": {0: 1.0, 2: 1.0}},
            {"a": {0: 1.0}, "b": {1: 1.0, 0: 1.0}},
            "same seeds on every set, got [0, 2] and [0, 1] on 'b'",
        ),
        ({"a": {}, "b": {0: 1.0}}, {"a": {}, "b": {0: 1.0}}, "at least one seed, got none on 'a'"),
        ({"a": {0: 1.0}}, {"a": {0: 1.0}}, "at least 2 sets, got 1"),
        ({}, {}, "at least 2 sets, got 0"),
        (
            {"a": {0: 1.0}, "b": {7: 1.0}},
            {"a": {0: 1.0}, "b": {7: math.nan}},
            "finite, got nan on 'b' with seed 7",
        ),
    ],
)
def test_scores_that_do_not_match_are_refused_and_what_differs_is_named(first, second, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        paired_interval(first, second)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, math.nan])
def test_a_confidence_that_is_none_is_refused(generator, confidence):
    with pytest.raises(ValueError, match=r"confidence must be in \(0, 1\), got"):
        paired_interval(*draw(generator), confidence=confidence)


# ---- Welch ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("confidence", [0.9, 0.95])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Sample(50.0, 0.4, 5), Sample(49.0, 0.9, 3)),
        (Sample(50.0, 2.0, 2), Sample(52.0, 0.05, 3)),
        (Sample(50.0, 0.001, 5), Sample(50.0, 0.3, 3)),
    ],
)
def test_welchs_interval_is_scipys(first, second, confidence):
    found = welch_interval(first, second, confidence=confidence)
    expected = stats.ttest_ind_from_stats(
        first.mean, first.std, first.n, second.mean, second.std, second.n, equal_var=False
    )
    assert found.difference == first.mean - second.mean
    assert found.p == pytest.approx(expected.pvalue, rel=1e-10)

    # ttest_ind_from_stats has no interval; ttest_ind has, on data with these very statistics
    data = [with_statistics(sample) for sample in (first, second)]
    ends = stats.ttest_ind(*data, equal_var=False).confidence_interval(confidence)
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high), rel=1e-7)


def with_statistics(sample: Sample) -> np.ndarray:
    """Values with the mean and the deviation (ddof 1) of a sample."""
    shape = np.arange(sample.n) - (sample.n - 1) / 2.0
    return sample.mean + sample.std * shape / np.std(shape, ddof=1)


def test_welchs_interval_covers_the_true_difference_about_as_often_as_it_says(generator):
    covered = 0
    for _ in range(DRAWS):
        first = sample_of(generator.normal(51.0, 0.3, 5).tolist())
        second = sample_of(generator.normal(50.0, 0.6, 3).tolist())
        interval = welch_interval(first, second)
        covered += interval.low <= 1.0 <= interval.high
    assert covered / DRAWS == pytest.approx(0.95, abs=0.03)  # Welch's degrees are an approximation


def test_one_sample_may_have_no_spread():
    found = welch_interval(Sample(51.0, 0.0, 5), Sample(50.0, 0.3, 3))
    half_width = stats.t.ppf(0.975, 2) * 0.3 / math.sqrt(3)  # the other sample's interval
    assert (found.low, found.high) == pytest.approx((1.0 - half_width, 1.0 + half_width))


def test_two_samples_without_spread_have_no_interval():
    with pytest.raises(ValueError, match="std must be positive in at least one sample"):
        welch_interval(Sample(50.0, 0.0, 3), Sample(49.0, 0.0, 3))


def test_a_samples_deviation_is_divided_by_n_minus_1(generator):
    values = generator.normal(50.0, 1.0, 7)
    sample = sample_of(values.tolist())
    assert (sample.mean, sample.n) == (pytest.approx(values.mean()), 7)
    assert sample.std == pytest.approx(np.std(values, ddof=1))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((math.nan, 1.0, 3), "mean must be finite, got nan"),
        ((50.0, -0.1, 3), "std must be 0 or more and finite, got -0.1"),
        ((50.0, math.nan, 3), "std must be 0 or more and finite, got nan"),
        ((50.0, 1.0, 1), "n must be at least 2, got 1"),
    ],
)
def test_what_is_no_sample_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Sample(*values)


def test_a_single_value_is_no_sample():
    with pytest.raises(ValueError, match="values must have at least 2 elements, got 1"):
        sample_of([50.0])


# ---- intervals -----------------------------------------------------------------------------------


def interval(low: float, high: float) -> Interval:
    return Interval(difference=(low + high) / 2, low=low, high=high, confidence=0.95, p=0.5)


@pytest.mark.parametrize(
    ("low", "high", "excludes"),
    [(0.01, 1, True), (0.0, 1, False), (-1, 0.0, False), (-1, -0.01, True), (-1, 1, False)],
)
def test_an_interval_that_ends_at_zero_does_not_exclude_it(low, high, excludes):
    assert interval(low, high).excludes_zero is excludes


@pytest.mark.parametrize(
    ("low", "high", "within"),
    [(-1.0, 1.0, True), (-1.01, 0, False), (0, 1.01, False), (-3, 3, False), (0.2, 0.9, True)],
)
def test_an_interval_lies_within_a_bound_with_both_its_ends(low, high, within):
    assert interval(low, high).lies_within(1.0) is within


# ---- Holm ----------------------------------------------------------------------------------------


def rejected(p_values: tuple[float, ...], alpha: float) -> set[int]:
    """Holm's procedure as he states it: step down, and stop at the first that is not small."""
    rejected: set[int] = set()
    for k, index in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[index] > alpha / (len(p_values) - k):
            break
        rejected.add(int(index))
    return rejected


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        # Holm's procedure by hand: 4, 3, 2 and 1 times the p-values in rising order
        ((0.01, 0.04, 0.03, 0.005), (0.03, 0.06, 0.06, 0.02)),
        ((0.01, 0.02, 0.03, 0.04, 0.05), (0.05, 0.08, 0.09, 0.09, 0.09)),
        ((0.6, 0.9), (1.0, 1.0)),
        ((0.03,), (0.03,)),
        ((), ()),
        ((0.02, 0.02, 0.02), (0.06, 0.06, 0.06)),
    ],
)
def test_holms_adjustment_is_that_of_worked_examples(p_values, adjusted):
    assert holm(p_values) == pytest.approx(adjusted)


def test_an_adjusted_p_is_below_alpha_exactly_where_holms_procedure_rejects(generator):
    for _ in range(200):
        p_values = tuple((generator.random(6) ** 3).tolist())
        adjusted = holm(p_values)
        for alpha in (0.01, 0.05, 0.2):
            assert {i for i, p in enumerate(adjusted) if p <= alpha} == rejected(p_values, alpha)


def test_holms_adjustment_does_not_depend_on_the_order():
    p_values = (0.01, 0.04, 0.03, 0.005)
    adjusted = dict(zip(p_values, holm(p_values), strict=True))
    for shuffled in permutations(p_values):
        assert holm(shuffled) == tuple(adjusted[p] for p in shuffled)


@pytest.mark.parametrize("p", [-0.01, 1.01, math.nan])
def test_what_is_no_p_value_is_refused(p):
    with pytest.raises(ValueError, match=r"p_values must be in \[0, 1\], got"):
        holm([0.5, p])


# ---- comparisons ---------------------------------------------------------------------------------

CLEAR = Comparison(
    first="GIFT",
    second="KL",
    difference=2.0,
    low=1.0,
    high=3.0,
    confidence=0.95,
    p=0.001,
    p_holm=0.004,
    n=5,
)


@pytest.mark.parametrize(
    ("changes", "outcome", "better"),
    [
        ({}, "significant", "GIFT"),
        ({"difference": -2.0}, "significant", "KL"),
        ({"n": 3}, "too few sets", None),
        ({"n": 4}, "significant", "GIFT"),
        ({"n": 3, "difference": 0.1}, "too few sets", None),
        ({"difference": 0.49}, "negligible", None),
        ({"difference": -0.49}, "negligible", None),
        ({"difference": 0.5}, "significant", "GIFT"),
        ({"difference": -0.5}, "significant", "KL"),
        ({"difference": 0.49, "p_holm": 1e-9}, "negligible", None),
        ({"difference": 0.49, "p_holm": 1.0}, "negligible", None),
        ({"p_holm": 0.049}, "significant", "GIFT"),
        ({"p_holm": 0.05}, "not significant", None),
        ({"p_holm": 0.051}, "not significant", None),
    ],
)
def test_the_outcome_follows_the_rules(changes, outcome, better):
    comparison = replace(CLEAR, **changes)
    assert (comparison.outcome, comparison.better) == (outcome, better)


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        ({}, "; p = 0.004 after Holm; GIFT is significantly better."),
        ({"p_holm": 0.2}, "; p = 0.2 after Holm; not significant."),
        ({"difference": 0.2}, "; the difference is negligible."),
        ({"n": 3}, "; too few for a test."),
    ],
)
def test_a_comparison_in_words(changes, end):
    words = replace(CLEAR, **changes).summary
    n, difference = changes.get("n", 5), changes.get("difference", 2.0)
    assert words == (
        f"GIFT minus KL: {difference:+.2f} points, 95 % interval +1.00 to +3.00, "
        f"{n} distilled sets{end}"
    )


def test_a_tables_comparisons_are_adjusted_together(generator):
    pairs = [Pair("GIFT", f"loss {k}", *draw(generator, gain=k / 2)) for k in range(4)]
    together = compare_losses(pairs)
    alone = [paired_interval(pair.first_scores, pair.second_scores) for pair in pairs]
    assert [c.p for c in together] == [interval.p for interval in alone]
    assert [(c.low, c.high) for c in together] == [(i.low, i.high) for i in alone]
    assert tuple(c.p_holm for c in together) == holm([i.p for i in alone])
    assert [(c.second, c.n) for c in together] == [(f"loss {k}", SETS) for k in range(4)]


def test_a_pair_that_wins_alone_may_not_in_a_table():
    kl = {name: {0: 60.0} for name in "abcde"}
    gift = {name: {0: 60.0 + gain} for name, gain in zip("abcde", (0.1, 1, 1, 2, 1), strict=True)}
    pair = Pair("GIFT", "KL", gift, kl)
    assert 0.025 < compare_losses([pair])[0].p < 0.05
    assert compare_losses([pair])[0].better == "GIFT"
    assert [c.outcome for c in compare_losses([pair, pair])] == [
        "not significant",
        "not significant",
    ]


def test_a_table_of_losses_that_do_not_differ_names_a_winner_in_one_of_twenty(generator):
    tables = DRAWS // 4
    named = 0
    for _ in range(tables):
        comparisons = compare_losses([Pair("a", "b", *draw(generator)) for _ in range(4)])
        named += any(c.p_holm < 0.05 for c in comparisons)
    assert within_chance(named / tables, 0.05, tables)


def test_the_confidence_of_a_table_is_that_of_its_intervals(generator):
    (comparison,) = compare_losses([Pair("a", "b", *draw(generator))], confidence=0.9)
    assert comparison.confidence == 0.9
    assert "90 % interval" in comparison.summary


def test_a_pair_that_cannot_be_compared_is_named(generator):
    first, second = draw(generator)
    with pytest.raises(ValueError, match="GIFT and KL: first and second must have the same sets"):
        compare_losses([Pair("GIFT", "KL", first, {**second, "extra": {0: 1.0}})])
