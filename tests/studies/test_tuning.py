from __future__ import annotations

import math
from dataclasses import replace

import pytest

from gift_fast.evaluation.results import RunResult
from gift_fast.studies.manifest import Finished
from gift_fast.studies.study import Experiment
from gift_fast.studies.study_files import parse_study
from gift_fast.studies.tuning import MAX_STEPS, choose, half_decade, nearest_step, tune, tuned
from gift_fast.training.eval_result import EvalResult

STUDY = """
title: tuned
sets: [{dataset: digits, method: METHOD, ipc: 1, network: convnet3}]
losses: [kl, gift]
optimizers: [{optimizer: sgd, learning_rate: 0.01, weight_decay: 1.0e-4}]
seeds: [0, 1]
dataset_seeds: [0, 1]
validation: 300
tuning: {weight_decays: [0.0, 5.0e-4], seeds: [100, 101], dataset_seeds: [100]}
"""


def study(method: str = "selected"):
    return parse_study("tuned", STUDY.replace("METHOD", method))


class Landscape:
    """A runner whose accuracies follow from learning rate and weight decay, by loss."""

    def __init__(self, **best: float) -> None:
        self.best = best
        self.calls: list[list[Experiment]] = []

    def __call__(self, experiments) -> list[Finished]:
        self.calls.append(list(experiments))
        return [Finished(experiment, self.result(experiment)) for experiment in experiments]

    def result(self, experiment: Experiment) -> RunResult:
        config = experiment.config
        away = abs(math.log10(config.learning_rate / self.best[config.loss]))
        first = 80 - 10 * away + 1000 * config.weight_decay + config.seed % 2
        # On the second half, which must not be looked at, everything is the other way round.
        top1 = first if config.tested_on == "heldout" else 50.0
        check = EvalResult(1, top1, 99.0, 1.0, 1.0, (first, 100 - first))
        return RunResult(config, {}, (check,), 1.0, 1.0, 1, {})

    @property
    def rates(self) -> dict[str, list[float]]:
        """The learning rates tried for every loss."""
        tried: dict[str, set[float]] = {}
        for config in (e.config for call in self.calls for e in call):
            tried.setdefault(config.loss, set()).add(config.learning_rate)
        return {loss: sorted(rates) for loss, rates in tried.items()}


def tune_on(landscape: Landscape, method: str = "selected"):
    plan = study(method)
    experiments = plan.experiments(published=method != "selected")
    trials, choices = tune(experiments, plan.tuning, landscape)
    return (
        experiments,
        trials,
        {arm.config.loss: choice for arm, choice in choices.items()},
        choices,
    )


@pytest.mark.parametrize("method", ["selected", "rded"])
def test_the_best_learning_rate_and_weight_decay_are_found(method):
    landscape = Landscape(kl=0.0316, gift=0.01)
    _, _, choices, _ = tune_on(landscape, method)
    assert (choices["kl"].learning_rate, choices["gift"].learning_rate) == (0.0316, 0.01)
    assert {choice.weight_decay for choice in choices.values()} == {5e-4}
    assert choices["gift"].top1 == pytest.approx(80 + 0.5 + 0.5)  # weight decay, mean of the seeds
    assert len(landscape.calls) == 1


def test_a_grid_grows_for_all_losses_until_the_best_rate_of_each_lies_inside():
    landscape = Landscape(kl=3.16, gift=0.01)
    _, trials, choices, _ = tune_on(landscape)
    assert choices["kl"].learning_rate == 3.16
    assert all(choice.inside for choice in choices.values())
    assert landscape.rates["kl"] == landscape.rates["gift"]
    assert landscape.rates["kl"] == [half_decade(step) for step in range(-6, 3)]
    assert {choice.trials for choice in choices.values()} == {9 * 2 * 2}
    assert len(trials) == len({e for call in landscape.calls for e in call}) == 2 * 9 * 2 * 2


def test_a_loss_that_has_collapsed_in_the_middle_is_followed_to_where_it_learns():
    """As KL under SGD: chance around the protocol's rate, a little more below it by accident."""

    class Collapse(Landscape):
        def result(self, experiment):
            result = super().result(experiment)
            rate = experiment.config.learning_rate
            if experiment.config.loss == "kl" and rate < 0.3:
                top1 = {0.001: 13.0, 0.1: 12.0}.get(rate, 10.0)
                result = replace(result, checks=(EvalResult(1, top1, 50.0, 1.0, 1.0),))
            return result

    landscape = Collapse(kl=3.16, gift=0.01)
    _, _, choices, _ = tune_on(landscape)
    assert choices["kl"].learning_rate == 3.16
    assert landscape.rates["kl"] == landscape.rates["gift"]
    assert (landscape.rates["kl"][0], landscape.rates["kl"][-1]) == (0.000316, 10.0)


def test_a_grid_ends_somewhere_and_says_that_the_optimum_may_lie_beyond():
    landscape = Landscape(kl=1e30, gift=0.01)
    _, _, choices, _ = tune_on(landscape)
    assert choices["kl"].learning_rate == half_decade(-4 + MAX_STEPS)
    assert not choices["kl"].inside
    assert choices["gift"].inside


def test_of_equal_trials_the_middle_one_is_chosen():
    landscape = Landscape(kl=0.01, gift=0.01)
    _, trials, _, _ = tune_on(landscape)
    level = [
        Finished(t.experiment, replace(t.result, checks=(EvalResult(1, 10.0, 50.0, 1.0, 1.0),)))
        for t in trials
        if t.experiment.config.loss == "kl"
    ]
    assert (choose(level).learning_rate, choose(level).inside) == (0.01, True)


def test_no_trial_shares_a_seed_or_an_image_with_a_reported_run():
    experiments, trials, _, _ = tune_on(Landscape(kl=0.01, gift=0.01))
    assert {t.experiment.config.tested_on for t in trials} == {"heldout"}
    assert {t.experiment.purpose for t in trials} == {"trial"}
    for name, seeds in (("config", {100, 101}), ("source", {100})):
        assert {getattr(t.experiment, name).seed for t in trials} == seeds
        assert not {getattr(e, name).seed for e in experiments} & seeds
    assert {e.config.tested_on for e in experiments} == {"test"}
    assert {e.source.dataset for e in experiments} == {"digits:heldout=300"}


def test_on_a_foreign_set_the_first_half_of_the_test_images_chooses():
    experiments, trials, choices, _ = tune_on(Landscape(kl=0.0316, gift=0.01), "rded")
    assert {t.experiment.config.tested_on for t in trials} == {"test"}
    assert {t.experiment.source for t in trials} == {e.source for e in experiments}
    assert choices["kl"].learning_rate == 0.0316


def test_the_tuned_experiments_are_the_protocols_with_what_was_chosen():
    experiments, _, _, choices = tune_on(Landscape(kl=0.0316, gift=0.01))
    again = tuned(experiments, choices)
    for before, after in zip(experiments, again, strict=True):
        rate = 0.0316 if before.config.loss == "kl" else 0.01
        config = replace(before.config, learning_rate=rate, weight_decay=5e-4)
        assert after == Experiment(before.source, config, "tuned")


def test_the_grid_holds_half_decades_to_three_digits():
    for step in range(-12, 4):
        assert half_decade(step) == pytest.approx(10 ** (step / 2), rel=2e-3)
        assert nearest_step(half_decade(step)) == step


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "[100, 101]",
            "[1, 2]",
            r"tuning: seeds must differ from the study's seeds, got \[1\] in both",
        ),
        ("[100]}", "[0]}", r"tuning: dataset_seeds must differ from .*, got \[0\]"),
        (
            "validation: 300",
            "validation: 0",
            "validation must be at least 1 for a study with tuning, got 0",
        ),
        ("[0.0, 5.0e-4]", "[-1.0]", "tuning: weight_decays must be 0 or more, got -1.0"),
        ("dataset_seeds: [100]", "rates: 3", "got 'rates'"),
    ],
)
def test_tuning_that_cannot_be_is_refused(old, new, message):
    assert old in STUDY
    with pytest.raises(ValueError, match=message):
        parse_study("bad", STUDY.replace("METHOD", "selected").replace(old, new))
