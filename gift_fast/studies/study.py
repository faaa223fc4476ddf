"""A study: which runs of the evaluation answer a question.

The runs are the product of sets, students, losses, optimizers, classes and seeds. A run is
identified by its configuration and inputs alone, so a run that two studies share is trained once.
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

STUDENTS = 10_000
"""More than the largest of a study's ``seeds``; see :func:`student_seed`."""


@dataclass(frozen=True)
class Experiment:
    """One run of a study.

    Attributes:
        source: the set that the student is trained on.
        config: of the run, before what follows from the set is filled in.
        purpose: ``protocol``, at the study's settings; ``trial`` of a learning rate and a weight
            decay; ``tuned``, with those that the trials have chosen; or ``baseline``.
    """

    source: SetSource
    config: EvaluationConfig
    purpose: str = "protocol"

    def to_dict(self) -> dict[str, Any]:
        """A dictionary of plain values that JSON can hold."""
        source = dataclasses.asdict(self.source)
        return {"purpose": self.purpose, "set": source, "config": self.config.to_dict()}


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How learning rate and weight decay are chosen; see :mod:`gift_fast.studies.tuning`.

    Attributes:
        weight_decays: that are tried with every learning rate.
        seeds: one student each, none of them a reported one's.
        dataset_seeds: of generated sets for the trials; none of them is a reported set's.
    """

    weight_decays: tuple[float, ...] = (0.0, 5e-4)
    seeds: tuple[int, ...] = (1000, 1001)
    dataset_seeds: tuple[int, ...] = (1000,)

    def check_against(self, study: Study) -> None:
        """Raise ValueError if a seed is also a reported run's, or there is no validation split."""
        for name in ("seeds", "dataset_seeds"):
            both = sorted(set(getattr(self, name)) & set(getattr(study, name)))
            if both:
                raise ValueError(f"tuning: {name} must not be the study's own, got {both} in both")
        arms = [(o.get("optimizer"), o.get("momentum")) for o in study.optimizers]
        if len(set(arms)) < len(arms):
            raise ValueError(
                "optimizers must differ in more than what is tuned, rate and weight decay; "
                f"got {list(map(dict, study.optimizers))}"
            )
        if not study.validation:
            raise ValueError("validation must be a number of images for tuning, got 0")


@dataclass(frozen=True, kw_only=True)
class Study:
    """What a study's file says; see the module for its fields.

    Attributes:
        name: the file's name without its ending.
        sets: (set, students) pairs.
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
        if max(self.seeds) >= STUDENTS:
            raise ValueError(f"seeds must be less than {STUDENTS}, got {max(self.seeds)}")
        if self.tuning is not None:
            self.tuning.check_against(self)

    def experiments(self, *, published: bool) -> tuple[Experiment, ...]:
        """Every run at the study's settings once.

        They come set by set, and in a set seed by seed, so that losses grow together.

        Args:
            published: whether the methods' own sets are there. If not, one set for each of
                ``dataset_seeds`` is generated in their place; methods with soft labels of their own
                are left out.

        Raises:
            TypeError, ValueError: a name that is not registered, or a value out of range.

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
                                "teachers": self.labellers(source, student),
                                "loss": loss_of(loss, source.method),
                                "classes": classes,
                                "seed": student_seed(source, seed),
                            }
                            found.append(Experiment(source, EvaluationConfig.from_dict(values)))
        return tuple(dict.fromkeys(found))

    def labellers(self, source: SetSource, student: str) -> tuple[str, ...]:
        """The networks that label a set's images for a student: none where it has its labels."""
        by_student = self.labelled_by == "student" and source.teachers
        return (student,) if by_student else source.teachers

    def teachers_of(self, source: SetSource) -> tuple[str, ...]:
        """The networks that a set needs: those that label it, and the one that it is made with."""
        needed = [source.network] if source.generated else []
        for published in (True, False):
            for each, students in self.available(published=published):
                method = source.method if source.method == RANDOM else each.method
                if replace(each, seed=None, method=method) == replace(source, seed=None):
                    needed += [n for s in students for n in self.labellers(each, s)]
                    if self.baselines:  # their accuracy is that of the full training set
                        needed += students
        return tuple(dict.fromkeys(needed))

    def available(self, *, published: bool) -> list[tuple[SetSource, tuple[str, ...]]]:
        """The sets with their students: those of the file, or those made in their place."""
        students_of: dict[SetSource, tuple[str, ...]] = {}
        for source, students in self.sets:
            sources = [source]
            if source.generated or not published:
                if source.method in LEARNED_LABELS:
                    continue
                own = split_validation(source.dataset)[1]
                dataset = (
                    source.dataset if own else with_validation(source.dataset, self.validation)
                )
                method = source.method if source.generated else self.made_by
                made = replace(source, dataset=dataset, method=method)
                sources = [replace(made, seed=seed) for seed in self.dataset_seeds]
            for each in sources:
                before = students_of.get(each, ())
                students_of[each] = tuple(dict.fromkeys(before + students))
        return list(students_of.items())


def student_seed(source: SetSource, seed: int) -> int:
    """The seed of a student, which differs between generated sets.

    All losses have the same students on a set. But students that began alike on every set would
    have in common what their beginning does to a loss, and an interval over sets would not show it.

    Example:
        >>> made = SetSource(dataset="digits", method="selected", ipc=1, network="convnet3", seed=3)
        >>> student_seed(made, 1)
        30001
    """
    return seed if source.seed is None else STUDENTS * source.seed + seed


def loss_of(loss: str, method: str) -> str:
    """A loss of a study for a method: ``native`` replaced, options of their default left out.

    An experiment is written in one way in all studies.

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
                f"native must stand for the loss of {', '.join(NATIVE_LOSSES)}; {method!r} has "
                "none that is known here"
            )
        parts[parts.index("native")] = NATIVE_LOSSES[method]
    return spec.canonical("loss", "+".join(parts) + colon + options, OBJECTIVES)
