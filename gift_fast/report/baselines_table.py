"""The table of baselines and of DD-Ranking's two scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from gift_fast.data.datasets import dataset_title
from gift_fast.data.datasets.validation import VALIDATION, split_validation
from gift_fast.evaluation.summary import spread
from gift_fast.report.reading import Run, StudyRecord
from gift_fast.report.table import EMPTY, Column, Item, Table
from gift_fast.studies.baselines import (
    HARD_LABELS,
    augmentation_robust_score,
    best_rate,
    label_robust_score,
)
from gift_fast.studies.sets import RANDOM
from gift_fast.training.objectives import build_objective, display_name
from gift_fast.training.optimizers import optimizer_name
from gift_fast.training.weights import checkpoint_name

SELECTIONS = {
    VALIDATION: "lr selected on the validation split",
    "test": "lr selected on test images",
}
"""The split on which the learning rate is selected, and its name in the table."""


class Question(NamedTuple):
    """The settings that all arms of a row have in common.

    Attributes:
        dataset: the dataset, with its options.
        ipc: images per class.
        network: the network that the set was distilled on.
        student: the network of the student.
        optimizer: the specification of the optimizer.
    """

    dataset: str
    ipc: int
    network: str
    student: str
    optimizer: str


@dataclass(frozen=True)
class Arm:
    """Runs of a baseline that differ only in learning rate, split and seeds.

    Attributes:
        question: see :class:`Question`.
        method: the method of the set.
        loss: the specification of the loss.
        plain: whether training has no augmentation.
    """

    question: Question
    method: str
    loss: str
    plain: bool


def arm_of(run: Run) -> Arm:
    """The arm that a run belongs to."""
    source, config = run.experiment.source, run.experiment.config
    question = Question(
        config.dataset, source.ipc, source.network, config.student, config.optimizer
    )
    plain = (config.augmentation, config.mixing) == ("none", "none")
    return Arm(question, source.method, config.loss, plain)


def baselines_table(study: StudyRecord) -> Table | None:
    """A table with one row per distilled set and loss, or None if the study has no baselines.

    It has accuracies and both scores for each selection of the learning rate. A score is empty
    until all of its runs have finished.
    """
    scores: dict[Arm, dict[tuple[str, float], list[float]]] = {}
    for run in study.runs:
        if run.experiment.purpose == "baseline":
            config = run.experiment.config
            assert config.learning_rate is not None
            key = (config.tested_on, config.learning_rate)
            of_arm = scores.setdefault(arm_of(run), {})
            of_arm.setdefault(key, []).append(run.result.last.top1)
    if not scores:
        return None
    means = {
        arm: {key: spread(tops).mean for key, tops in of_arm.items()}
        for arm, of_arm in scores.items()
    }
    selections = [
        name
        for name in SELECTIONS
        if any(split == name for of in means.values() for split, _ in of)
    ]
    columns = [
        *(Column(name, numeric=False) for name in ("dataset", "method", "student", "loss")),
        *(Column(name) for name in ("IPC", "full data, %")),
    ]
    for name in selections:
        titles = ("distilled, %", "random, %", "hard labels, %", "LRS", "ARS")
        columns += [Column(title, SELECTIONS[name]) for title in titles]
    rows = []
    for arm in means:
        soft = build_objective(arm.loss).reads_soft_labels
        if arm.method == RANDOM or not soft or (arm.plain and has_augmented(arm, means)):
            continue
        question = arm.question
        teacher = checkpoint_name(question.dataset, question.student)
        full = study.teachers.get(teacher, math.nan)
        items = [
            Item(dataset_title(split_validation(question.dataset)[0])),
            Item(arm.method),
            Item(question.student),
            Item(f"{display_name(arm.loss)}, {optimizer_name(question.optimizer)}"),
            Item(str(question.ipc), question.ipc),
            accuracy_item(full),
        ]
        for selection in selections:
            items += items_of(arm, full, selection, means)
        rows.append(tuple(items))
    notes = (
        "Full data: the student's network trained on all training images with hard labels, like "
        "the teachers. Random: the same number of random training images with soft labels of the "
        "same teacher.",
        "LRS and ARS: label-robust and augmentation-robust score of DD-Ranking, from accuracies as "
        "fractions. DD-Ranking selects the learning rate on the test images, which is optimistic.",
    )
    return Table("Baselines of the distilled sets", tuple(columns), tuple(rows), notes)


Means = dict[Arm, dict[tuple[str, float], float]]
"""The mean top-1 of every arm in percent, by split and learning rate."""


def has_augmented(arm: Arm, means: Means) -> bool:
    """Whether the arm was also run with augmentation, and is part of that row."""
    return Arm(arm.question, arm.method, arm.loss, plain=False) in means


def selected_accuracy(arm: Arm, selection: str, means: Means) -> float:
    """Top-1 on the test images with the learning rate selected on a split; NaN if not known."""
    of_arm = means.get(arm, {})
    curve = [(rate, top1) for (split, rate), top1 in of_arm.items() if split == selection]
    return of_arm.get(("test", best_rate(curve)), math.nan) if curve else math.nan


def items_of(arm: Arm, full: float, selection: str, means: Means) -> list[Item]:
    """The accuracies and scores of a row for one selection of the learning rate."""

    def top1(method: str, loss: str, plain: bool) -> float:
        return selected_accuracy(Arm(arm.question, method, loss, plain), selection, means)

    distilled = top1(arm.method, arm.loss, arm.plain)
    random = top1(RANDOM, arm.loss, arm.plain)
    hard = top1(arm.method, HARD_LABELS, arm.plain)
    items = [accuracy_item(value) for value in (distilled, random, hard)]
    lrs = ars = math.nan
    if not any(map(math.isnan, (full, hard, distilled, random))):
        lrs = label_robust_score(
            full_hard=full / 100.0,
            distilled_hard=hard / 100.0,
            distilled=distilled / 100.0,
            random=random / 100.0,
        )
    plain = top1(arm.method, arm.loss, True), top1(RANDOM, arm.loss, True)
    if not any(map(math.isnan, (distilled, random, *plain))):
        ars = augmentation_robust_score(
            distilled=distilled / 100.0,
            random=random / 100.0,
            distilled_plain=plain[0] / 100.0,
            random_plain=plain[1] / 100.0,
        )
    return [*items, *(EMPTY if math.isnan(x) else Item(f"{x:.3f}", x) for x in (lrs, ars))]


def accuracy_item(top1: float) -> Item:
    """An accuracy in percent, or a dash if it is not known."""
    return EMPTY if math.isnan(top1) else Item(f"{top1:.1f}", top1)
