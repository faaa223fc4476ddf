"""A study: a set of runs that answers one question.

The runs are all combinations of sets, students, losses, optimizers, classes and seeds. A run is
identified by its configuration and inputs only, so a run that two studies share is trained once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from gift_fast.data.classes import ALL
from gift_fast.data.datasets.validation import split_validation, with_validation
from gift_fast.evaluation.config import EvaluationConfig
from gift_fast.evaluation.protocols import load_preset
from gift_fast.files import spec
from gift_fast.studies.sets import LEARNED_LABELS, NATIVE_LOSSES, RANDOM, SELECTED, SetSource
from gift_fast.training.objectives import OBJECTIVES

SEEDS_PER_SET = 10_000
"""Upper limit of a study's ``seeds``; see :func:`student_seed`."""


@dataclass(frozen=True)
class Experiment:
    """One run of a study.

    Attributes:
        source: the distilled set.
        config: the configuration of the run, not resolved.
        purpose: ``protocol``: with the protocol's hyperparameters; ``trial``: of a learning rate
            and weight decay; ``tuned``: with those that the trials chose; or ``baseline``.
    """

    source: SetSource
    config: EvaluationConfig
    purpose: str = "protocol"

    def to_dict(self) -> dict[str, Any]:
        """Convert to a dictionary of JSON-compatible values."""
        source = dataclasses.asdict(self.source)
        return {"purpose": self.purpose, "set": source, "config": self.config.to_dict()}


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """The choice of learning rate and weight decay; see :mod:`gift_fast.studies.tuning`.

    Attributes:
        weight_decays: weight decays that are tried with every learning rate.
        seeds: seeds of the trials, different from those of reported runs.
        dataset_seeds: seeds of the generated sets for trials, different from those of reported
            runs.
    """

    weight_decays: tuple[float, ...] = (0.0, 5e-4)
    seeds: tuple[int, ...] = (1000, 1001)
    dataset_seeds: tuple[int, ...] = (1000,)

    def check_against(self, study: Study) -> None:
        """Raise ValueError if the study has the same seeds, or no validation split."""
        for name in ("seeds", "dataset_seeds"):
            both = sorted(set(getattr(self, name)) & set(getattr(study, name)))
            if both:
                raise ValueError(
                    f"tuning: {name} must differ from the study's {name}, got {both} in both"
                )
        arms = [(o.get("optimizer"), o.get("momentum")) for o in study.optimizers]
        if len(set(arms)) < len(arms):
            raise ValueError(
                "optimizers must differ in more than the tuned learning rate and weight decay, "
                f"got {list(map(dict, study.optimizers))}"
            )
        if not study.validation:
            raise ValueError("validation must be at least 1 for a study with tuning, got 0")


@dataclass(frozen=True, kw_only=True)
class Study:
    """The contents of a study file; :mod:`gift_fast.studies.study_files` describes the fields.

    Attributes:
        name: the name of the file without its extension.
        sets: pairs of a set and its students.
    """

    name: str
    title: str
    answers: tuple[str, ...] = ()
    notes: str = ""
    preset: str = "paper"
    settings: Mapping[str, Any] = field(default_factory=dict)
    teacher: Mapping[str, Any] = field(default_factory=dict)
    sets: tuple[tuple[SetSource, tuple[str, ...]], ...]
    labelled_by: str = "network"
    losses: tuple[str, ...]
    classes: tuple[str, ...] = (ALL,)
    optimizers: tuple[Mapping[str, Any], ...] = ({},)
    seeds: tuple[int, ...] = (0, 1, 2)
    made_by: str = SELECTED
    dataset_seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    validation: int = 0
    tuning: Tuning | None = None
    baselines: bool = False

    def __post_init__(self) -> None:
        if max(self.seeds) >= SEEDS_PER_SET:
            raise ValueError(f"seeds must be less than {SEEDS_PER_SET}, got {max(self.seeds)}")
        if self.tuning is not None:
            self.tuning.check_against(self)

    def experiments(self, *, published: bool) -> tuple[Experiment, ...]:
        """All runs with the protocol's hyperparameters.

        They are ordered by set and then by seed, so that an unfinished study has results for all
        losses.

        Args:
            published: whether to use published sets. Otherwise, one set per seed in
                ``dataset_seeds`` is generated instead; methods with learned labels are omitted.

        Raises:
            TypeError, ValueError: a name is not registered, or a value is out of range.

        Example:
            >>> from gift_fast.studies.study_files import load_study
            >>> study = load_study("losses")
            >>> first = study.experiments(published=True)[0]
            >>> first.source.name, first.config.loss, first.config.optimizer
            ('cifar100_rded_ipc10', 'ce', 'adamw')
        """
        preset = load_preset(self.preset)
        found = []
        for source, students in self.available(published=published):
            for seed in self.seeds:
                for student in students:
                    settings = preset.settings_for(
                        dataset=source.dataset, student=student, format=source.method
                    )
                    for classes, optimizer in product(self.classes, self.optimizers):
                        for loss in self.losses:
                            values = {
                                **settings,
                                **self.settings,
                                **optimizer,
                                "dataset": source.sized_dataset,
                                "ipc": source.ipc,
                                "student": student,
                                "teachers": self.labelers(source, student),
                                "loss": loss_of(loss, source.method),
                                "classes": classes,
                                "seed": student_seed(source, seed),
                            }
                            found.append(Experiment(source, EvaluationConfig.from_dict(values)))
        return tuple(dict.fromkeys(found))

    def labelers(self, source: SetSource, student: str) -> tuple[str, ...]:
        """The teachers that label a set for a student; none if the set includes learned labels."""
        by_student = self.labelled_by == "student" and source.teachers
        return (student,) if by_student else source.teachers

    def teachers_of(self, source: SetSource) -> tuple[str, ...]:
        """The teachers that a set needs: those that label it, and the one that generates it."""
        needed = [source.network] if source.generated else []
        for published in (True, False):
            for each, students in self.available(published=published):
                method = source.method if source.method == RANDOM else each.method
                if replace(each, seed=None, method=method) == replace(source, seed=None):
                    needed += [n for s in students for n in self.labelers(each, s)]
                    if self.baselines:  # for the accuracy with the full training set
                        needed += students
        return tuple(dict.fromkeys(needed))

    def available(self, *, published: bool) -> list[tuple[SetSource, tuple[str, ...]]]:
        """The sets with their students: published ones, or those generated instead."""
        students_of: dict[SetSource, tuple[str, ...]] = {}
        for source, students in self.sets:
            sources = [source]
            if source.generated or not published:
                if source.method in LEARNED_LABELS:
                    continue
                dataset = source.dataset
                if not split_validation(dataset)[1]:
                    dataset = with_validation(dataset, self.validation)
                method = source.method if source.generated else self.made_by
                generated = replace(source, dataset=dataset, method=method)
                sources = [replace(generated, seed=seed) for seed in self.dataset_seeds]
            for each in sources:
                others = students_of.get(each, ())
                students_of[each] = tuple(dict.fromkeys(others + students))
        return list(students_of.items())


def student_seed(source: SetSource, seed: int) -> int:
    """The seed of a student, which differs between generated sets.

    All losses have the same seeds on a set, so that they are paired. If the seeds were also the
    same on all sets, the effect of the initialization would not vary between sets, and an interval
    over sets would not cover it.

    Example:
        >>> source = SetSource(
        ...     dataset="digits", method="selected", ipc=1, network="convnet3", seed=3
        ... )
        >>> student_seed(source, 1)
        30001
    """
    return seed if source.seed is None else SEEDS_PER_SET * source.seed + seed


def loss_of(loss: str, method: str) -> str:
    """The canonical specification of a study's loss for a method, with ``native`` replaced.

    Example:
        >>> loss_of("refine+native", "gvbsm"), loss_of("gift:gamma=0.1", "rded")
        ('refine+mse+ce', 'gift')
    """
    name, colon, options = loss.partition(":")
    parts = name.split("+")
    if "native" in parts:
        method = spec.split_spec(method)[0]
        if method not in NATIVE_LOSSES:
            raise ValueError(
                f"native must be used with the methods {', '.join(NATIVE_LOSSES)}; the native loss "
                f"of {method!r} is not known"
            )
        parts[parts.index("native")] = NATIVE_LOSSES[method]
    return spec.canonical("loss", "+".join(parts) + colon + options, OBJECTIVES)
