"""The runs of a study by condition, setting and loss, and the scores of each cell."""

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
"""The number of classes of a dataset, which determines chance and the protocol's batch size."""

Replicate = tuple[str, int]
"""The name of the distilled set and the seed of the student of a score."""


@dataclass(frozen=True)
class Condition:
    """The settings that all losses of a comparison have in common.

    Attributes:
        source: the distilled set, without its seed.
        settings: names and values of the fields of the configuration that do not vary.
    """

    source: SetSource
    settings: tuple[tuple[str, Any], ...]

    def __getitem__(self, name: str) -> Any:
        return dict(self.settings)[name]

    @cached_property
    def descriptions(self) -> dict[str, str]:
        """Descriptions of the settings, by topic."""
        optimizer = optimizer_name(self["optimizer"])
        if self["optimizer"].startswith("sgd"):
            optimizer += f", momentum {self['momentum']:g}"
        epochs = "the protocol's epochs" if self["epochs"] is None else f"{self['epochs']} epochs"
        dataset, validation = split_validation(self.source.dataset)
        descriptions = {
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
            descriptions["teachers"] = f"teacher {', '.join(self['teachers']) or 'none'}"
        if self["classes"] != ALL:
            descriptions["classes"] = self["classes"]
        for name in ("schedule", "augmentation", "mixing", "batch_size", "mixed_precision"):
            descriptions[name] = f"{name.replace('_', ' ')} {self[name]}"
        return descriptions

    @property
    def chance(self) -> float | None:
        """Chance accuracy in percent; None if the number of classes is not known."""
        classes = NUM_CLASSES.get(spec.split_spec(self.source.dataset)[0])
        return None if classes is None or self["classes"] != ALL else 100.0 / classes

    @property
    def native(self) -> str | None:
        """The native loss of the method."""
        return NATIVE_LOSSES.get(spec.split_spec(self.source.method)[0])


@dataclass(frozen=True)
class Setting:
    """The learning rate and weight decay of a comparison.

    Attributes:
        purpose: ``protocol``: the same for all losses; or ``tuned``: chosen for each loss.
        learning_rate: the protocol's; None if it depends on the student, or for ``tuned``.
        weight_decay: the protocol's; None for ``tuned``.
    """

    purpose: str
    learning_rate: float | None = None
    weight_decay: float | None = None


TUNED = Setting("tuned")


@dataclass(frozen=True, eq=False)
class Cell:
    """All runs that differ only in the seeds of set and student.

    Attributes:
        condition: the settings shared with the other losses.
        setting: learning rate and weight decay.
        loss: the specification of the loss.
        share: the share of classes that the student has seen; 1 except in continual learning.
        runs: the runs in the order of the manifest; at least one.
        halved: whether the score is on the second half of the test images, because the first half
            was used for tuning.
    """

    condition: Condition
    setting: Setting
    loss: str
    share: float
    runs: tuple[Run, ...]
    halved: bool = False

    @cached_property
    def scores(self) -> dict[str, dict[int, float]]:
        """Top-1 after the last epoch in percent: set -> seed of the student -> score."""
        scores: dict[str, dict[int, float]] = {}
        for run in self.runs:
            name, seed = replicate_of(run)
            scores.setdefault(name, {})[seed] = self.score_of(run)
        return scores

    def score_of(self, run: Run) -> float:
        """The score of one of its runs, in percent."""
        last = run.result.last
        return last.halves[1] if self.halved else last.top1

    @cached_property
    def replicates(self) -> tuple[float, ...]:
        """The means of the sets if there are several, otherwise the scores of the students."""
        if len(self.scores) > 1:
            return tuple(math.fsum(s.values()) / len(s) for s in self.scores.values())
        return tuple(score for seeds in self.scores.values() for score in seeds.values())

    @property
    def over(self) -> str:
        """The kind of ``replicates``: ``sets`` or ``seeds``."""
        return "sets" if len(self.scores) > 1 else "seeds"

    @cached_property
    def top1(self) -> Spread:
        """Mean and standard deviation of the replicates, in percent."""
        return spread(self.replicates)

    @property
    def results(self) -> list[RunResult]:
        """The results of its runs."""
        return [run.result for run in self.runs]

    @property
    def best_mean(self) -> float:
        """Mean top-1 of the best test of each run, which the paper's code reports, in percent."""
        return spread([run.result.best.top1 for run in self.runs]).mean

    @property
    def config(self) -> EvaluationConfig:
        """The resolved configuration of the first run."""
        return self.runs[0].result.config

    @property
    def loss_name(self) -> str:
        """The display name of the loss."""
        return display_name(self.loss)


@dataclass(frozen=True, eq=False)
class Trial:
    """The trials of one loss at one learning rate and weight decay.

    Attributes:
        loss: the specification of the loss.
        learning_rate: the learning rate.
        weight_decay: the weight decay.
        top1: mean accuracy on the images used for tuning, in percent.
        runs: the trials; at least one.
    """

    loss: str
    learning_rate: float
    weight_decay: float
    top1: float
    runs: tuple[Run, ...]

    @property
    def results(self) -> list[RunResult]:
        """The results of the trials."""
        return [run.result for run in self.runs]

    def score_of(self, run: Run) -> float:
        """The accuracy of one trial on the images used for tuning, in percent."""
        return trial_score(run.result)


def replicate_of(run: Run) -> Replicate:
    """The set and the seed of a run, which identify its score in a cell."""
    source = run.experiment.source
    return source.name if source.seed is None else f"set {source.seed}", run.experiment.config.seed


def signed(difference: float) -> str:
    """Format a difference in points with its sign, rounded to a tenth; 0.0 has no sign.

    Example:
        >>> signed(2.345), signed(-0.04)
        ('+2.3', '0.0')
    """
    text = f"{difference:+.1f}"
    return text[1:] if text in ("+0.0", "-0.0") else text
