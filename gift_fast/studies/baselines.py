"""Baselines of a distilled set, and the two scores of DD-Ranking that compare it with them.

DD-Ranking (Li et al., "DD-Ranking: Rethinking the Evaluation of Dataset Distillation", 2025) asks
how much of a student's accuracy is due to the distilled images, and not to soft labels or
augmentation:

- hard label recovery (HLR): full training set minus distilled set, both with hard labels;
- improvement over random (IOR): distilled set minus as many random training images, both with the
  same soft labels;
- label-robust score (LRS): IOR and HLR in one number;
- augmentation-robust score (ARS): IOR with and without augmentation in one number.

DD-Ranking selects the learning rate of every student on the test images. Here both scores are
computed twice: with that learning rate, and with the one that a validation split selects.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from gift_fast.data.classes import ALL
from gift_fast.data.datasets.validation import VALIDATION, split_validation
from gift_fast.evaluation.rules import paper_epochs
from gift_fast.studies.sets import RANDOM, SetSource
from gift_fast.studies.study import Experiment
from gift_fast.training.objectives import build_objective

RATES = (0.001, 0.005, 0.01, 0.05, 0.1)
"""Learning rates that are tried, which are DD-Ranking's."""

HARD_LABELS = "ce"
"""The loss of students that are trained with hard labels alone."""


def normalized(value: float) -> float:
    """A weighted difference of accuracies, from [-1, 1] to [0, 1] by DD-Ranking's exponential.

    Example:
        >>> normalized(-1.0), normalized(1.0), round(normalized(0.0), 4)
        (0.0, 1.0, 0.2689)
    """
    return (math.exp(value) - math.exp(-1.0)) / (math.e - math.exp(-1.0))


def label_robust_score(
    *,
    full_hard: float,
    distilled_hard: float,
    distilled: float,
    random: float,
    weight: float = 0.5,
) -> float:
    """The label-robust score (LRS) of DD-Ranking.

    Args:
        full_hard: accuracy with the whole training set and hard labels, in [0, 1].
        distilled_hard: with the distilled set and hard labels.
        distilled: with the distilled set and soft labels.
        random: with as many random training images and the same kind of labels.
        weight: of the improvement over random, in [0, 1].

    Raises:
        ValueError: an accuracy is not in [0, 1], as a percentage is.

    Example:
        >>> score = label_robust_score(
        ...     full_hard=0.85, distilled_hard=0.45, distilled=0.55, random=0.35
        ... )
        >>> round(score, 4)  # (e^-0.1 - e^-1) / (e - e^-1)
        0.2285
    """
    check_fractions(full_hard, distilled_hard, distilled, random)
    recovery = full_hard - distilled_hard
    return normalized(weight * (distilled - random) - (1.0 - weight) * recovery)


def augmentation_robust_score(
    *,
    distilled: float,
    random: float,
    distilled_plain: float,
    random_plain: float,
    weight: float = 0.5,
) -> float:
    """The augmentation-robust score (ARS) of DD-Ranking.

    Args:
        distilled: accuracy with the distilled set and augmentation, in [0, 1].
        random: with as many random training images and augmentation.
        distilled_plain: with the distilled set and no augmentation.
        random_plain: with the random images and no augmentation.
        weight: of the difference with augmentation, in [0, 1].

    Raises:
        ValueError: an accuracy is not in [0, 1], as a percentage is.

    Example:
        >>> score = augmentation_robust_score(
        ...     distilled=0.55, random=0.35, distilled_plain=0.4, random_plain=0.3
        ... )
        >>> round(score, 4)  # (e^0.15 - e^-1) / (e - e^-1)
        0.3378
    """
    check_fractions(distilled, random, distilled_plain, random_plain)
    plain = distilled_plain - random_plain
    return normalized(weight * (distilled - random) + (1.0 - weight) * plain)


def check_fractions(*accuracies: float) -> None:
    """Raise ValueError unless all accuracies are in [0, 1]."""
    for accuracy in accuracies:
        if not 0.0 <= accuracy <= 1.0:
            raise ValueError(f"accuracies must be fractions in [0, 1], got {accuracy}")


def random_source(source: SetSource) -> SetSource:
    """The random training images that a distilled set is compared with: as many, with its seed."""
    return replace(source, method=RANDOM, seed=source.seed or 0)


def baseline_experiments(experiments: Iterable[Experiment]) -> list[Experiment]:
    """The runs that baselines and both scores need, each at all learning rates.

    For every loss that reads soft labels: the distilled set and random images, with and without
    augmentation; and the distilled set with hard labels. Each run is repeated with its accuracy
    measured on the validation split, if there is one. The full training set is no run of its own:
    its accuracy is that of the student's network trained as the study's teachers are.

    Args:
        experiments: of a study, at its own settings.
    """
    found: list[Experiment] = []
    for experiment in experiments:
        source, config = experiment.source, experiment.config
        if config.classes != ALL or not build_objective(config.loss).reads_soft_labels:
            continue
        plain = replace(config, augmentation="none", mixing="none")
        hard = replace(config, loss=HARD_LABELS)
        other = random_source(source)
        arms = [(source, config), (source, plain), (other, config), (other, plain), (source, hard)]
        splits = ["test", *([VALIDATION] if split_validation(config.dataset)[1] else [])]
        found += [
            Experiment(
                of,
                replace(
                    arm,
                    learning_rate=rate,
                    tested_on=tested_on,
                    eval_every=config.epochs or paper_epochs(config.dataset),
                    eval_after=0.0,
                ),
                purpose="baseline",
            )
            for of, arm in arms
            for rate in RATES
            for tested_on in splits
        ]
    return list(dict.fromkeys(found))


def best_rate(scores: Sequence[tuple[float, float]]) -> float:
    """The learning rate with the highest accuracy; of equals, the smallest.

    Args:
        scores: learning rates with their accuracies.

    Example:
        >>> best_rate([(0.1, 50.0), (0.01, 60.0), (0.001, 60.0)])
        0.001
    """
    return max(scores, key=lambda pair: (pair[1], -pair[0]))[0]
