"""The plan of a reproduction: several studies that compare measured accuracies with published ones.

A plan is a folder in ``plans`` with ``plan.yaml`` and the study files that it lists, in the format
of :mod:`gift_fast.studies.study_files`.

    title    what is reproduced, in one line
    notes    background for the reader
    parts    in the order in which they run: study, the name of a study file in the same folder;
             and teachers, the name of a folder: studies with the same folder share their teachers,
             sets and runs
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from gift_fast.data.datasets import check_dataset
from gift_fast.evaluation.config import TeacherConfig
from gift_fast.evaluation.context import RunContext
from gift_fast.evaluation.protocols import check_keys
from gift_fast.files import spec
from gift_fast.studies.sets import SetSource
from gift_fast.studies.study import Experiment, Study
from gift_fast.studies.study_files import parse_study

if TYPE_CHECKING:
    from importlib.abc import Traversable

PLAN = "plan.yaml"


@dataclass(frozen=True)
class PlannedStudy:
    """One study of a reproduction.

    Attributes:
        study: the study.
        teachers: subfolder of the reproduction for the study's teachers, sets and runs.
    """

    study: Study
    teachers: str

    def context(self, parent: RunContext) -> RunContext:
        """The context of this study, derived from that of the reproduction."""
        out = parent.out / self.teachers
        return replace(parent, out=out, teacher_dir=out / "teachers")

    @property
    def experiments(self) -> tuple[Experiment, ...]:
        """The runs of the study, on generated sets."""
        return self.study.experiments(published=False)

    def teacher_configs(self) -> list[TeacherConfig]:
        """The configurations of the teachers that the study needs."""
        needed = {
            (source.sized_dataset, teacher)
            for source in self.sources
            for teacher in self.study.teachers_of(source)
        }
        return [
            TeacherConfig.from_dict({**self.study.teacher, "dataset": dataset, "model": teacher})
            for dataset, teacher in sorted(needed)
        ]

    @property
    def sources(self) -> tuple[SetSource, ...]:
        """The distilled sets that the runs of the study need."""
        return tuple(dict.fromkeys(experiment.source for experiment in self.experiments))


@dataclass(frozen=True)
class Reproduction:
    """The contents of a plan.

    Attributes:
        name: the name of the plan's folder.
        title: what is reproduced, in one line.
        notes: background for the reader.
        parts: the studies, in the order in which they run.
    """

    name: str
    title: str
    notes: str
    parts: tuple[PlannedStudy, ...]

    def on(self, dataset: str) -> Reproduction:
        """The same plan on another dataset, with the same dataset options.

        Raises:
            ValueError: unknown dataset.

        Example:
            >>> parts = load_reproduction("rded-cifar10").on("cifar10-jpeg").parts
            >>> parts[0].study.sets[0][0].dataset
            'cifar10-jpeg:normalization=imagenet'
        """
        check_dataset(dataset)
        parts = []
        for part in self.parts:
            sets = []
            for source, students in part.study.sets:
                _, colon, options = source.dataset.partition(":")
                sets.append((replace(source, dataset=dataset + colon + options), students))
            parts.append(replace(part, study=replace(part.study, sets=tuple(sets))))
        return replace(self, parts=tuple(parts))


def reproductions_folder() -> Traversable:
    """The folder of the plans that come with the package."""
    return resources.files("gift_fast.reproductions").joinpath("plans")


def reproduction_names() -> list[str]:
    """The names of the reproductions that come with the package."""
    folders = reproductions_folder().iterdir()
    return sorted(folder.name for folder in folders if folder.joinpath(PLAN).is_file())


def load_reproduction(name: str) -> Reproduction:
    """Load a reproduction by name, or from a folder of the user.

    Raises:
        ValueError: unknown name, missing folder, or an invalid plan.

    Example:
        >>> [part.study.name for part in load_reproduction("rded-cifar10").parts][0]
        'rded-protocol'
    """
    names = reproduction_names()
    folder = reproductions_folder().joinpath(name) if name in names else Path(name)
    if not folder.joinpath(PLAN).is_file():
        raise ValueError(
            f"reproduction must be one of {', '.join(names)}, or a folder that contains {PLAN}; "
            f"got {name!r}{spec.nearest(name, names)}"
        )
    try:
        return parse_reproduction(folder)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error


def parse_reproduction(folder: Traversable) -> Reproduction:
    """Read the plan and the studies in a folder."""
    import yaml

    try:
        plan = yaml.safe_load(folder.joinpath(PLAN).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{PLAN} must be valid YAML: {error}") from error
    if not isinstance(plan, dict) or not isinstance(plan.get("parts"), list) or not plan["parts"]:
        raise ValueError(
            f"{PLAN} must be a mapping with a non-empty list named parts; got {plan!r}"
        )
    check_keys(PLAN, plan, {"title", "notes", "parts"})
    parts = []
    for entry in plan["parts"]:
        keys = {"study", "teachers"}
        if not isinstance(entry, dict) or entry.keys() != keys:
            raise ValueError(f"a part must be a mapping with study and teachers, got {entry!r}")
        if not all(isinstance(entry[key], str) for key in keys):
            raise ValueError(f"study and teachers of a part must be strings, got {entry!r}")
        text = folder.joinpath(f"{entry['study']}.yaml").read_text(encoding="utf-8")
        study = parse_study(entry["study"], text)
        parts.append(PlannedStudy(study, entry["teachers"]))
    return Reproduction(
        name=folder.name,
        title=str(plan.get("title", folder.name)),
        notes=str(plan.get("notes", "")).strip(),
        parts=tuple(parts),
    )
