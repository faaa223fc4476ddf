"""Learning rate and weight decay of every loss, chosen with equal trials for each.

The losses of a table are tried on one grid: half decades of the learning rate times a few weight
decays. It is extended for all of them until the curve of each falls towards both ends, so that no
loss has a trial more than another. What chooses is the mean top-1 after the last epoch, over seeds
that no reported run has, on images that no reported number is of: the validation split where
sets are generated, one half of the test images (see
:func:`gift_fast.training.predict.second_half`) where they are not. Everything else of a loss stays
at its default.
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

SPAN = 2
"""Half decades on either side of the protocol's learning rate, to begin with."""

FARTHEST = 8
"""Half decades from the protocol's learning rate at which a grid ends whatever was best."""

Runner = Callable[[Sequence[Experiment]], list[Finished]]
"""Gives the results of experiments, in their order."""


@dataclass(frozen=True)
class Arm:
    """What is tuned on its own: a loss with an optimizer, for a student on sets of one kind.

    Attributes:
        source: the set, without its seed.
        config: at the protocol's settings, with seed 0.
        generated: whether the sets are generated.
    """

    source: SetSource
    config: EvaluationConfig
    generated: bool

    @property
    def table(self) -> Arm:
        """The same for all losses that are compared: they share a grid."""
        return replace(self, config=replace(self.config, loss="gift"))


@dataclass(frozen=True)
class Choice:
    """What was chosen for an arm.

    Attributes:
        learning_rate: the best on the grid.
        weight_decay: the best with it.
        top1: mean over the trials with both, percent, on the images that chose.
        inside: whether the best rate has neighbors on both sides; if not, a better may lie beyond.
        trials: runs on the whole grid.
    """

    learning_rate: float
    weight_decay: float
    top1: float
    inside: bool
    trials: int


def arm_of(experiment: Experiment) -> Arm:
    """The arm that an experiment at the protocol's settings is of."""
    source = replace(experiment.source, seed=None)
    return Arm(source, replace(experiment.config, seed=0), experiment.source.generated)


def half_decade(step: int) -> float:
    """A learning rate on the grid, to three digits.

    Example:
        >>> [half_decade(step) for step in (-6, -5, -4)]
        [0.001, 0.00316, 0.01]
    """
    return float(f"{10.0 ** (step / 2):.3g}")


def nearest_step(learning_rate: float) -> int:
    """The step of the grid that a learning rate is nearest to.

    Example:
        >>> nearest_step(0.001), nearest_step(0.05)
        (-6, -3)
    """
    return round(2.0 * math.log10(learning_rate))


def trials_of(arm: Arm, tuning: Tuning, steps: Iterable[int]) -> list[Experiment]:
    """The trials of an arm at some learning rates, with every weight decay."""
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
                eval_every=config.epochs or paper_epochs(config.dataset),  # the last alone counts
            ),
            purpose="trial",
        )
        for each in sources
        for step in steps
        for weight_decay in tuning.weight_decays
        for seed in tuning.seeds
    ]


def trial_score(result: RunResult) -> float:
    """The images of a trial's accuracy: validation split or first half of the test images."""
    last = result.last
    return last.top1 if result.config.tested_on == VALIDATION else last.halves[0]


def means_of(trials: Sequence[Finished]) -> dict[tuple[float, float], float]:
    """The mean score of every learning rate and weight decay, in rising order."""
    scores: dict[tuple[float, float], list[float]] = {}
    for trial in trials:
        config = trial.experiment.config
        assert config.learning_rate is not None
        place = (config.learning_rate, config.weight_decay)
        scores.setdefault(place, []).append(trial_score(trial.result))
    return {place: spread(values).mean for place, values in sorted(scores.items())}


def choose(trials: Sequence[Finished]) -> Choice:
    """The best of the trials of one arm; of equals the middle one, by learning rate first."""
    means = means_of(trials)
    best = [place for place, mean in means.items() if mean == max(means.values())]
    rate, weight_decay = best[(len(best) - 1) // 2]
    rates = [place[0] for place in means]
    inside = min(rates) < rate < max(rates)
    return Choice(rate, weight_decay, means[rate, weight_decay], inside, len(trials))


def tune(
    experiments: Sequence[Experiment], tuning: Tuning, run: Runner
) -> tuple[list[Finished], dict[Arm, Choice]]:
    """Run trials until the curve of every arm falls towards both ends of its grid.

    Args:
        experiments: at the protocol's settings.
        tuning: what is tried.
        run: gives the results of trials.

    Returns:
        All trials, and what they choose for every arm.
    """
    tables: dict[Arm, dict[Arm, list[Finished]]] = {}
    for arm in dict.fromkeys(map(arm_of, experiments)):
        tables.setdefault(arm.table, {})[arm] = []
    wanted: dict[Arm, set[int]] = {}
    centres: dict[Arm, int] = {}
    for table in tables:
        config = table.config
        centres[table] = nearest_step(config.learning_rate or paper_learning_rate(config.student))
        wanted[table] = {centres[table] + step for step in range(-SPAN, SPAN + 1)}
    grids: dict[Arm, set[int]] = {table: set() for table in tables}
    while any(wanted.values()):
        batch = {
            arm: trials_of(arm, tuning, sorted(wanted[table]))
            for table, arms in tables.items()
            for arm in arms
        }
        finished = iter(run([trial for trials in batch.values() for trial in trials]))
        for table, arms in tables.items():
            grids[table] |= wanted[table]
            for arm, trials in arms.items():
                trials += [next(finished) for _ in batch[arm]]
            wanted[table] = beyond(grids[table], arms.values())
            wanted[table] = {s for s in wanted[table] if abs(s - centres[table]) <= FARTHEST}
    all_trials = [t for arms in tables.values() for trials in arms.values() for t in trials]
    choices = {arm: choose(t) for arms in tables.values() for arm, t in arms.items()}
    return all_trials, choices


def beyond(grid: set[int], arms: Iterable[Sequence[Finished]]) -> set[int]:
    """The steps to add to a grid: past an end towards which the curve of an arm rises.

    That is so where the end is the best, and also where a loss that has collapsed in the middle
    begins to learn at the end: its optimum may lie beyond however good the middle is.

    Args:
        grid: the steps that were tried.
        arms: the trials of every arm on them.
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
    """The mean score at every learning rate, with the best weight decay at each."""
    curve: dict[float, float] = {}
    for (rate, _), mean in means_of(trials).items():
        curve[rate] = max(mean, curve.get(rate, -math.inf))
    return curve


def tuned(experiments: Sequence[Experiment], choices: dict[Arm, Choice]) -> list[Experiment]:
    """The experiments with what was chosen for them."""
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
    """The runs of a study, as far as the finished runs in a folder determine them.

    Trials are those of the grids that are known to be needed; before all of them have finished, a
    tuned experiment stands in the list without a learning rate.
    """
    baselines = baseline_experiments(experiments) if study.baselines else []
    if study.tuning is None:
        return [*experiments, *baselines]
    trials: list[Experiment] = []
    again = [
        replace(e, config=replace(e.config, learning_rate=None), purpose="tuned")
        for e in experiments
    ]

    def read(batch: Sequence[Experiment]) -> list[Finished]:
        trials.extend(batch)
        results = results_in(batch, out)
        return [Finished(experiment, results[experiment]) for experiment in batch]

    try:
        _, choices = tune(experiments, study.tuning, read)
        again = tuned(experiments, choices)
    except KeyError:  # of a trial that has not finished
        pass
    return [*experiments, *trials, *again, *baselines]
