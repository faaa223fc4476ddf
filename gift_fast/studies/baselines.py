"""Baselines of a distilled set, and the two scores of DD-Ranking.

DD-Ranking (Li et al., "DD-Ranking: Rethinking the Evaluation of Dataset Distillation", 2025)
measures how much of a student's accuracy comes from the distilled images rather than from soft
labels or augmentation:

- hard label recovery (HLR): full training set minus distilled set, both with hard labels;
- improvement over random (IOR): distilled set minus the same number of random training images, both
  with the same soft labels;
- label-robust score (LRS): combines IOR and HLR;
- augmentation-robust score (ARS): combines IOR with and without augmentation.

DD-Ranking selects the learning rate of every student on the test images. Both scores are computed
here with that learning rate and with the one that the validation split selects.
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

LEARNING_RATES = (0.001, 0.005, 0.01, 0.05, 0.1)
"""The learning rates of DD-Ranking, all of which are tried."""

HARD_LABELS = "ce"
"""The loss of students that are trained with hard labels only."""


def normalized(value: float) -> float:
    """Map a difference of accuracies from [-1, 1] to [0, 1] with DD-Ranking's exponential.

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
        full_hard: accuracy with the full training set and hard labels, in [0, 1].
        distilled_hard: accuracy with the distilled set and hard labels.
        distilled: accuracy with the distilled set and soft labels.
        random: accuracy with the same number of random training images and the same soft labels.
        weight: weight of the improvement over random, in [0, 1].

    Raises:
        ValueError: an accuracy is outside [0, 1], for example in percent.

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
        random: accuracy with the same number of random training images and augmentation.
        distilled_plain: accuracy with the distilled set and no augmentation.
        random_plain: accuracy with the random images and no augmentation.
        weight: weight of the difference with augmentation, in [0, 1].

    Raises:
        ValueError: an accuracy is outside [0, 1], for example in percent.

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
    """The random training images for a distilled set: the same number of images and seed."""
    return replace(source, method=RANDOM, seed=source.seed or 0)


def baseline_experiments(experiments: Iterable[Experiment]) -> list[Experiment]:
    """The runs that the baselines and both scores need, with all learning rates.

    For every loss that reads soft labels: the distilled set and random images, with and without
    augmentation, and the distilled set with hard labels. If there is a validation split, each run
    is repeated and tested on it. The accuracy with the full training set needs no run here: it is
    that of the student's network trained as a teacher of the study.

    Args:
        experiments: the study's experiments, with the protocol's hyperparameters.
    """
    found: list[Experiment] = []
    for experiment in experiments:
        source, config = experiment.source, experiment.config
        if config.classes != ALL or not build_objective(config.loss).reads_soft_labels:
            continue
        plain = replace(config, augmentation="none", mixing="none")
        hard = replace(config, loss=HARD_LABELS)
        random = random_source(source)
        arms = [
            *((source, config), (source, plain), (source, hard)),
            *((random, config), (random, plain)),
        ]
        splits = ["test", *([VALIDATION] if split_validation(config.dataset)[1] else [])]
        found += [
            Experiment(
                arm_source,
                replace(
                    arm,
                    learning_rate=rate,
                    tested_on=tested_on,
                    eval_every=config.epochs or paper_epochs(config.dataset),
                    eval_after=0.0,
                ),
                purpose="baseline",
            )
            for arm_source, arm in arms
            for rate in LEARNING_RATES
            for tested_on in splits
        ]
    return list(dict.fromkeys(found))


def best_rate(scores: Sequence[tuple[float, float]]) -> float:
    """The learning rate with the highest accuracy; the smallest one in case of a tie.

    Args:
        scores: pairs of learning rate and accuracy.

    Example:
        >>> best_rate([(0.1, 50.0), (0.01, 60.0), (0.001, 60.0)])
        0.001
    """
    return max(scores, key=lambda pair: (pair[1], -pair[0]))[0]
