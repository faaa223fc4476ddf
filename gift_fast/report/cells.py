"""The runs of a study in order: condition, setting, loss, and the scores of a cell."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gift_fast.data.classes import ALL
from gift_fast.data.datasets import dataset_title
from gift_fast.data.datasets.validation import split_validation
from gift_fast.evaluation.config import EvaluationConfig
from gift_fast.evaluation.results import RunResult
from gift_fast.evaluation.summary import Spread, spread
from gift_fast.files import spec
from gift_fast.report.reading import Run
from gift_fast.studies.sets import NATIVE_LOSSES, SetSource
from gift_fast.studies.tuning import trial_score
from gift_fast.training.objectives import display_name
from gift_fast.training.optimizers import optimizer_name

NUM_CLASSES = {
    **dict.fromkeys(("digits", "fashion-mnist", "cifar10", "cifar10-jpeg"), 10),
    **dict.fromkeys(("imagenet-nette", "imagenet-woof", "imagenet-10"), 10),
    **{"cifar100": 100, "imagenet-100": 100, "tinyimagenet": 200, "imagenet-1k": 1000},
}
"""Of the datasets with a fixed number: what chance is, and the protocol's batch size, follow."""

Replicate = tuple[str, int]
"""Of a score: the name of the set, which is what is counted, and the student's seed."""


@dataclass(frozen=True)
class Condition:
    """What all losses of a comparison have in common.

    Attributes:
        source: the distilled set, without its seed.
        settings: name and value of every field of the configuration that does not vary.
    """

    source: SetSource
    settings: tuple[tuple[str, Any], ...]

    def __getitem__(self, name: str) -> Any:
        return dict(self.settings)[name]

    @cached_property
    def descriptions(self) -> dict[str, str]:
        """What tells it from others, in words, by what the words are about."""
        optimizer = optimizer_name(self["optimizer"])
        if self["optimizer"].startswith("sgd"):
            optimizer += f", momentum {self['momentum']:g}"
        epochs = "the protocol's epochs" if self["epochs"] is None else f"{self['epochs']} epochs"
        dataset, validation = split_validation(self.source.dataset)
        words = {
            "dataset": dataset_title(dataset)
            + (f", validation split of {validation} training images" if validation else ""),
            "method": f"{self.source.method} sets",
            "ipc": f"IPC {self.source.ipc}",
            "network": f"distilled on {self.source.network}",
            "student": f"student {self['student']}",
            "optimizer": optimizer,
            "epochs": epochs,
        }
        if self["teachers"] != self.source.teachers:
            words["teachers"] = f"teacher {', '.join(self['teachers']) or 'none'}"
        if self["classes"] != ALL:
            words["classes"] = self["classes"]
        for name in ("schedule", "augmentation", "mixing", "batch_size", "mixed_precision"):
            words[name] = f"{name.replace('_', ' ')} {self[name]}"
        return words

    @property
    def chance(self) -> float | None:
        """Top-1 of guessing, percent; None where the number of classes is not known."""
        classes = NUM_CLASSES.get(spec.split_spec(self.source.dataset)[0])
        return None if classes is None or self["classes"] != ALL else 100.0 / classes

    @property
    def native(self) -> str | None:
        """The loss that the method's authors train with."""
        return NATIVE_LOSSES.get(spec.split_spec(self.source.method)[0])


@dataclass(frozen=True)
class Setting:
    """At which learning rate and weight decay the losses of a comparison are run.

    Attributes:
        purpose: ``protocol``, with one of each for all; or ``tuned``, with each loss's own.
        learning_rate: the protocol's; None where it follows from the student, or for ``tuned``.
        weight_decay: likewise.
    """

    purpose: str
    learning_rate: float | None = None
    weight_decay: float | None = None


TUNED = Setting("tuned")


@dataclass(frozen=True, eq=False)
class Cell:
    """All runs that differ only in the seeds of set and student.

    Attributes:
        condition: what they share with the other losses.
        setting: at which they are run.
        loss: the specification of the loss.
        share: of the classes that the student has seen, 1 but in continual learning.
        runs: in the order of the manifest; at least one.
        halved: whether the score is on the second half of the test images, since the first has
            chosen the learning rate.
    """

    condition: Condition
    setting: Setting
    loss: str
    share: float
    runs: tuple[Run, ...]
    halved: bool = False

    @cached_property
    def scores(self) -> dict[str, dict[int, float]]:
        """Top-1 after the last epoch, percent: the set -> the student's seed -> the score."""
        scores: dict[str, dict[int, float]] = {}
        for run in self.runs:
            name, seed = replicate_of(run)
            scores.setdefault(name, {})[seed] = self.score_of(run)
        return scores

    def score_of(self, run: Run) -> float:
        """The score of one of its runs, percent."""
        last = run.result.last
        return last.halves[1] if self.halved else last.top1

    @cached_property
    def replicates(self) -> tuple[float, ...]:
        """What is counted: the means of the sets where there are several, else the students."""
        if len(self.scores) > 1:
            return tuple(math.fsum(s.values()) / len(s) for s in self.scores.values())
        return tuple(score for seeds in self.scores.values() for score in seeds.values())

    @property
    def over(self) -> str:
        """What ``replicates`` are: ``sets`` or ``seeds``."""
        return "sets" if len(self.scores) > 1 else "seeds"

    @cached_property
    def top1(self) -> Spread:
        """Of the replicates, percent."""
        return spread(self.replicates)

    @property
    def results(self) -> list[RunResult]:
        """Of its runs."""
        return [run.result for run in self.runs]

    @property
    def best_mean(self) -> float:
        """Mean top-1 of each run's best check, which the paper's code reports, percent."""
        return spread([run.result.best.top1 for run in self.runs]).mean

    @property
    def config(self) -> EvaluationConfig:
        """Of the first run, with everything filled in."""
        return self.runs[0].result.config

    @property
    def loss_name(self) -> str:
        """How a table calls the loss."""
        return display_name(self.loss)


@dataclass(frozen=True, eq=False)
class Trial:
    """The trials of one loss at one learning rate and weight decay.

    Attributes:
        loss: the specification of the loss.
        learning_rate: that was tried.
        weight_decay: that was tried.
        top1: mean of what chooses, percent.
        runs: at least one.
    """

    loss: str
    learning_rate: float
    weight_decay: float
    top1: float
    runs: tuple[Run, ...]

    @property
    def results(self) -> list[RunResult]:
        """Of its runs."""
        return [run.result for run in self.runs]

    def score_of(self, run: Run) -> float:
        """What one of its runs is judged by, percent."""
        return trial_score(run.result)


def replicate_of(run: Run) -> Replicate:
    """The set and the seed of a run, by which its score is found in its cell."""
    source = run.experiment.source
    return source.name if source.seed is None else f"set {source.seed}", run.experiment.config.seed


def signed(difference: float) -> str:
    """Points with their sign, to a tenth; no sign where nothing is left of them.

    Example:
        >>> signed(2.345), signed(-0.04)
        ('+2.3', '0.0')
    """
    text = f"{difference:+.1f}"
    return text[1:] if text in ("+0.0", "-0.0") else text
