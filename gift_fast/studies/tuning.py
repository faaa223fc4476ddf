"""Tuning of learning rate and weight decay, with the same number of trials for every loss.

All losses of a table are tried on the same grid of learning rates, in steps of half a decade, and
weight decays. The grid is extended for all losses until the accuracy of each loss falls towards
both ends. The criterion is the mean top-1 after the last epoch. Trials have other seeds than
reported runs, and other test images: the validation split for generated sets, and one half of the
test images for published sets (see :func:`gift_fast.training.predict.second_half`). Other options
of a loss are not tuned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gift_fast.data.datasets.validation import VALIDATION
from gift_fast.evaluation.config import EvaluationConfig
from gift_fast.evaluation.results import RunResult
from gift_fast.evaluation.rules import paper_epochs, paper_learning_rate
from gift_fast.evaluation.summary import spread
from gift_fast.studies.baselines import baseline_experiments
from gift_fast.studies.manifest import Finished, results_in
from gift_fast.studies.sets import SetSource
from gift_fast.studies.study import Experiment, Study, Tuning

INITIAL_STEPS = 2
"""Steps of the initial grid on either side of the protocol's learning rate."""

MAX_STEPS = 8
"""Maximum number of steps of a grid on either side of the protocol's learning rate."""

Runner = Callable[[Sequence[Experiment]], list[Finished]]
"""Runs experiments and returns the results in the same order."""


@dataclass(frozen=True)
class Arm:
    """A loss, optimizer and student on sets of one kind, which are tuned together.

    Attributes:
        source: the set, without its seed.
        config: the configuration with the protocol's hyperparameters and seed 0.
        generated: whether the sets are generated.
    """

    source: SetSource
    config: EvaluationConfig
    generated: bool

    @property
    def table(self) -> Arm:
        """The key of the arm's table; losses of a table have the same key and share a grid."""
        return replace(self, config=replace(self.config, loss="gift"))


@dataclass(frozen=True)
class Choice:
    """The hyperparameters chosen for an arm.

    Attributes:
        learning_rate: the best learning rate on the grid.
        weight_decay: the best weight decay with that learning rate.
        top1: mean accuracy of the trials with both, in percent, on the images used for tuning.
        inside: whether the learning rate is not at an end of the grid; at an end, a better one may
            be outside of the grid.
        trials: number of trials on the whole grid.
    """

    learning_rate: float
    weight_decay: float
    top1: float
    inside: bool
    trials: int


def arm_of(experiment: Experiment) -> Arm:
    """The arm of an experiment with the protocol's hyperparameters."""
    source = replace(experiment.source, seed=None)
    return Arm(source, replace(experiment.config, seed=0), experiment.source.generated)


def half_decade(step: int) -> float:
    """The learning rate of a step of the grid, rounded to three digits.

    Example:
        >>> [half_decade(step) for step in (-6, -5, -4)]
        [0.001, 0.00316, 0.01]
    """
    return float(f"{10.0 ** (step / 2):.3g}")


def nearest_step(learning_rate: float) -> int:
    """The step of the grid that is nearest to a learning rate.

    Example:
        >>> nearest_step(0.001), nearest_step(0.05)
        (-6, -3)
    """
    return round(2.0 * math.log10(learning_rate))


def trials_of(arm: Arm, tuning: Tuning, steps: Iterable[int]) -> list[Experiment]:
    """The trials of an arm on some steps of the grid, with all weight decays."""
    source, config = arm.source, arm.config
    sources, tested_on = [source], "test"
    if arm.generated:
        sources, tested_on = (
            [replace(source, seed=seed) for seed in tuning.dataset_seeds],
            VALIDATION,
        )
    return [
        Experiment(
            each,
            replace(
                config,
                learning_rate=half_decade(step),
                weight_decay=weight_decay,
                seed=seed,
                tested_on=tested_on,
                eval_every=config.epochs or paper_epochs(config.dataset),  # test only at the end
            ),
            purpose="trial",
        )
        for each in sources
        for step in steps
        for weight_decay in tuning.weight_decays
        for seed in tuning.seeds
    ]


def trial_score(result: RunResult) -> float:
    """The accuracy of a trial, on the validation split or on the first half of the test images."""
    last = result.last
    return last.top1 if result.config.tested_on == VALIDATION else last.halves[0]


def means_of(trials: Sequence[Finished]) -> dict[tuple[float, float], float]:
    """The mean score of every pair of learning rate and weight decay, in ascending order."""
    scores: dict[tuple[float, float], list[float]] = {}
    for trial in trials:
        config = trial.experiment.config
        assert config.learning_rate is not None
        point = (config.learning_rate, config.weight_decay)
        scores.setdefault(point, []).append(trial_score(trial.result))
    return {point: spread(values).mean for point, values in sorted(scores.items())}


def choose(trials: Sequence[Finished]) -> Choice:
    """Choose the best hyperparameters of one arm; in case of a tie, the middle ones."""
    means = means_of(trials)
    best = [point for point, mean in means.items() if mean == max(means.values())]
    rate, weight_decay = best[(len(best) - 1) // 2]
    rates = [point[0] for point in means]
    inside = min(rates) < rate < max(rates)
    return Choice(rate, weight_decay, means[rate, weight_decay], inside, len(trials))


def tune(
    experiments: Sequence[Experiment], tuning: Tuning, run: Runner
) -> tuple[list[Finished], dict[Arm, Choice]]:
    """Run trials until the accuracy of every arm falls towards both ends of its grid.

    Args:
        experiments: experiments with the protocol's hyperparameters.
        tuning: the settings of tuning.
        run: runs the trials.

    Returns:
        All trials, and the choice for every arm.
    """
    tables: dict[Arm, dict[Arm, list[Finished]]] = {}
    for arm in dict.fromkeys(map(arm_of, experiments)):
        tables.setdefault(arm.table, {})[arm] = []
    new_steps: dict[Arm, set[int]] = {}
    centers: dict[Arm, int] = {}
    for table in tables:
        config = table.config
        center = nearest_step(config.learning_rate or paper_learning_rate(config.student))
        centers[table] = center
        new_steps[table] = set(range(center - INITIAL_STEPS, center + INITIAL_STEPS + 1))
    grids: dict[Arm, set[int]] = {table: set() for table in tables}
    while any(new_steps.values()):
        batch = {
            arm: trials_of(arm, tuning, sorted(new_steps[table]))
            for table, arms in tables.items()
            for arm in arms
        }
        finished = iter(run([trial for trials in batch.values() for trial in trials]))
        for table, arms in tables.items():
            grids[table] |= new_steps[table]
            for arm, trials in arms.items():
                trials += [next(finished) for _ in batch[arm]]
            new_steps[table] = {
                step
                for step in steps_to_add(grids[table], arms.values())
                if abs(step - centers[table]) <= MAX_STEPS
            }
    all_trials = [t for arms in tables.values() for trials in arms.values() for t in trials]
    choices = {arm: choose(t) for arms in tables.values() for arm, t in arms.items()}
    return all_trials, choices


def steps_to_add(grid: set[int], arms: Iterable[Sequence[Finished]]) -> set[int]:
    """The steps by which a grid must be extended, because an arm's accuracy rises towards an end.

    This includes a loss that is best in the middle, or has collapsed there, and improves again at
    an end: its optimum may be outside of the grid.

    Args:
        grid: the steps that were tried.
        arms: the trials of every arm on the grid.
    """
    steps = sorted(grid)
    added = set()
    for trials in arms:
        curve = curve_of(trials)
        scores = [curve[half_decade(step)] for step in steps]
        if scores[0] > scores[1]:
            added.add(steps[0] - 1)
        if scores[-1] > scores[-2]:
            added.add(steps[-1] + 1)
    return added


def curve_of(trials: Sequence[Finished]) -> dict[float, float]:
    """The mean score of every learning rate, with the best weight decay for each."""
    curve: dict[float, float] = {}
    for (rate, _), mean in means_of(trials).items():
        curve[rate] = max(mean, curve.get(rate, -math.inf))
    return curve


def tuned(experiments: Sequence[Experiment], choices: dict[Arm, Choice]) -> list[Experiment]:
    """The experiments with their chosen hyperparameters."""
    found = []
    for experiment in experiments:
        choice = choices[arm_of(experiment)]
        config = replace(
            experiment.config,
            learning_rate=choice.learning_rate,
            weight_decay=choice.weight_decay,
        )
        found.append(replace(experiment, config=config, purpose="tuned"))
    return found


def expected_runs(study: Study, experiments: Sequence[Experiment], out: Path) -> list[Experiment]:
    """The runs of a study, as far as they are known from the finished runs in a folder.

    The trials are those of the grids so far. Until all of them have finished, tuned experiments are
    included without a learning rate.
    """
    baselines = baseline_experiments(experiments) if study.baselines else []
    if study.tuning is None:
        return [*experiments, *baselines]
    trials: list[Experiment] = []
    tuned_experiments = [
        replace(e, config=replace(e.config, learning_rate=None), purpose="tuned")
        for e in experiments
    ]

    def read(batch: Sequence[Experiment]) -> list[Finished]:
        trials.extend(batch)
        results = results_in(batch, out)
        return [Finished(experiment, results[experiment]) for experiment in batch]

    try:
        _, choices = tune(experiments, study.tuning, read)
        tuned_experiments = tuned(experiments, choices)
    except KeyError:  # a trial has not finished
        pass
    return [*experiments, *trials, *tuned_experiments, *baselines]
