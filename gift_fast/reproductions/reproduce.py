"""Several studies that together compare measured accuracies with published ones.

A reproduction is a folder of YAML files in ``reproductions``: ``plan.yaml`` and the studies that it
names, each of the form that :mod:`gift_fast.studies.study_files` describes.

    title    what is reproduced, in a line
    notes    what a reader should know
    parts    in the order in which they run: study, the name of a file beside the plan; and
             teachers, the name of a folder: studies that name the same one have their teachers,
             sets and runs in common
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gift_fast.data.datasets import ImageDataset, check_dataset, load_dataset
from gift_fast.data.datasets.normalization import split_normalization
from gift_fast.evaluation.config import EvaluationConfig, TeacherConfig
from gift_fast.evaluation.context import RunContext
from gift_fast.evaluation.protocols import check_keys
from gift_fast.evaluation.teacher_weights import teacher_path
from gift_fast.files import spec
from gift_fast.reproductions.measure import Pace, measure_set, measure_student, measure_teacher
from gift_fast.studies.baselines import baseline_experiments
from gift_fast.studies.failures import RunsFailed
from gift_fast.studies.manifest import duration, is_open, state_of
from gift_fast.studies.preflight import check_study
from gift_fast.studies.run import LocalRunner, run_study
from gift_fast.studies.sets import SetSource
from gift_fast.studies.study import Experiment, Study
from gift_fast.studies.study_files import parse_study
from gift_fast.studies.tuning import foreseen
from gift_fast.training.objectives import build_objective
from gift_fast.training.processes import is_main_process

if TYPE_CHECKING:
    from importlib.abc import Traversable

PLAN = "plan.yaml"


@dataclass(frozen=True)
class PlannedStudy:
    """A study of a reproduction.

    Attributes:
        study: what is run.
        teachers: the folder, under the reproduction's, for its teachers, sets and runs.
    """

    study: Study
    teachers: str

    def context(self, whole: RunContext) -> RunContext:
        """The context of the part, within that of the whole reproduction."""
        out = whole.out / self.teachers
        return replace(whole, out=out, teacher_dir=out / "teachers")

    @property
    def experiments(self) -> tuple[Experiment, ...]:
        """Its runs, on generated sets."""
        return self.study.experiments(published=False)

    def teacher_configs(self) -> list[TeacherConfig]:
        """The teachers that it needs."""
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
        """The sets that its runs need."""
        return tuple(dict.fromkeys(experiment.source for experiment in self.experiments))


@dataclass(frozen=True)
class Reproduction:
    """What a folder of ``reproductions`` says.

    Attributes:
        name: the folder's name.
        title: what is reproduced, in a line.
        notes: what a reader should know.
        parts: the studies, in the order in which they run.
    """

    name: str
    title: str
    notes: str
    parts: tuple[PlannedStudy, ...]

    def on(self, dataset: str) -> Reproduction:
        """The same on another dataset, such as copies; options of the dataset stay.

        Raises:
            ValueError: no such dataset.

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
    """Where the reproductions lie that come with the package."""
    return resources.files("gift_fast.reproductions").joinpath("plans")


def reproduction_names() -> list[str]:
    """The reproductions that come with the package."""
    folders = reproductions_folder().iterdir()
    return sorted(folder.name for folder in folders if folder.joinpath(PLAN).is_file())


def load_reproduction(name: str) -> Reproduction:
    """The reproduction of this name, or in this folder of a user's own.

    Raises:
        ValueError: no such reproduction or folder, or one that is not a reproduction.

    Example:
        >>> [part.study.name for part in load_reproduction("rded-cifar10").parts][0]
        'rded-protocol'
    """
    names = reproduction_names()
    folder = reproductions_folder().joinpath(name) if name in names else Path(name)
    if not folder.joinpath(PLAN).is_file():
        raise ValueError(
            f"reproduction must be one of {', '.join(names)}, or a folder with {PLAN}; got "
            f"{name!r}{spec.nearest(name, names)}"
        )
    try:
        return parse_reproduction(folder)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error


def parse_reproduction(folder: Traversable) -> Reproduction:
    """The reproduction that a folder holds."""
    import yaml

    try:
        plan = yaml.safe_load(folder.joinpath(PLAN).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{PLAN} must be YAML: {error}") from error
    if not isinstance(plan, dict) or not isinstance(plan.get("parts"), list) or not plan["parts"]:
        raise ValueError(
            f"{PLAN} must be a mapping with parts, a list of one or more; got {plan!r}"
        )
    check_keys(PLAN, plan, {"title", "notes", "parts"})
    parts = []
    for entry in plan["parts"]:
        keys = {"study", "teachers"}
        if not isinstance(entry, dict) or entry.keys() != keys:
            raise ValueError(f"a part must be a mapping with study and teachers, got {entry!r}")
        if not all(isinstance(entry[key], str) for key in keys):
            raise ValueError(f"study and teachers of a part must be texts, got {entry!r}")
        text = folder.joinpath(f"{entry['study']}.yaml").read_text(encoding="utf-8")
        study = parse_study(entry["study"], text)
        parts.append(PlannedStudy(study, entry["teachers"]))
    return Reproduction(
        name=folder.name,
        title=str(plan.get("title", folder.name)),
        notes=str(plan.get("notes", "")).strip(),
        parts=tuple(parts),
    )


# ---- how long it takes ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """What is left of a part, and the seconds that it takes.

    Attributes:
        teachers: to train.
        teacher_seconds: for them.
        sets: to make.
        set_seconds: for them.
        runs: students to train.
        run_seconds: for them.
        done: students that have been trained before and are not trained again.
        open: whether more runs may follow, since a grid of trials may be extended.
    """

    teachers: int
    teacher_seconds: float
    sets: int
    set_seconds: float
    runs: int
    run_seconds: float
    done: int
    open: bool = False

    @property
    def seconds(self) -> float:
        """Of all that is left."""
        return self.teacher_seconds + self.set_seconds + self.run_seconds


class Estimator:
    """Estimates parts; what several have in common is measured once.

    Args:
        context: of the reproduction.
        tell: takes a line before each measurement.
    """

    def __init__(self, context: RunContext, tell: Callable[[str], None]) -> None:
        self.context = context
        self.tell = tell
        self.datasets: dict[str, ImageDataset] = {}
        self.measured: dict[Hashable, Any] = {}
        self.counted: set[tuple[str, Hashable]] = set()

    def estimate(self, part: PlannedStudy) -> Estimate:
        """What is left of a study; teachers and sets of an earlier one are not counted again."""
        context = part.context(self.context)
        runs = foreseen(part.study, part.experiments, context.out)
        teachers = [
            config
            for config in part.teacher_configs()
            if not teacher_path(context, config.dataset, config.model).exists()
            and self.is_new(part, ("teacher", config.dataset, config.model))
        ]
        sets = [
            source
            for source in dict.fromkeys(experiment.source for experiment in runs)
            if not list((context.out / "sets").glob(f"{source.name}_seed{source.seed}-*"))
            and self.is_new(part, source)
        ]
        state = state_of(runs, context.out)
        # A forced run repeats students, never teachers or sets.
        left = runs if context.force else state.left
        configs = [experiment.config for experiment in left]
        return Estimate(
            len(teachers),
            sum(map(self.of_teacher, teachers)),
            len(sets),
            sum(map(self.of_set, sets)),
            len(configs),
            sum(map(self.of_student, configs)),
            len(runs) - len(left),
            any(map(is_open, runs)),
        )

    def is_new(self, part: PlannedStudy, what: Hashable) -> bool:
        """Whether no earlier part makes this; from now on, one does."""
        key = (part.teachers, what)
        new = key not in self.counted
        self.counted.add(key)
        return new

    def dataset(self, dataset: str) -> ImageDataset:
        """A dataset with both splits, loaded once."""
        name = split_normalization(dataset)[0]
        if name not in self.datasets:
            self.datasets[name] = load_dataset(name, self.context.data_root)
        return self.datasets[name]

    def of_teacher(self, config: TeacherConfig) -> float:
        """Seconds to train a teacher."""
        name = split_normalization(config.dataset)[0]
        key = replace(config, dataset=name, epochs=1)
        if key not in self.measured:
            self.tell(f"measuring: teacher {config.model} on {name}")
            dataset = self.dataset(name)
            self.measured[key] = measure_teacher(key, dataset, self.context)
        pace: Pace = self.measured[key]
        epochs = config.resolved(1).epochs
        assert epochs is not None
        return pace.seconds(epochs, len([e for e in range(1, epochs + 1) if is_tenth(e, epochs)]))

    def of_set(self, source: SetSource) -> float:
        """Seconds to make a set."""
        dataset = split_normalization(source.sized_dataset)[0]
        key = ("set", source.method, dataset, source.network, source.ipc)
        if key not in self.measured:
            self.tell(f"measuring: {source.method} on {dataset}, IPC {source.ipc}")
            self.measured[key] = measure_set(
                source.method, self.dataset(dataset), source.network, source.ipc, self.context
            )
        return float(self.measured[key])

    def of_student(self, config: EvaluationConfig) -> float:
        """Seconds to train a student."""
        name = split_normalization(config.dataset)[0]
        assert config.ipc is not None
        dataset = self.dataset(name)
        resolved = config.resolved(config.ipc * dataset.num_classes)
        reads = build_objective(config.loss).reads_soft_labels
        key = replace(
            resolved,
            dataset=name,
            # Losses differ little in time, and teachers much.
            loss="gift" if reads else "ce",
            learning_rate=1e-3,
            weight_decay=0.0,
            optimizer="adamw",
            schedule="constant",
            epochs=1,
            eval_every=1,
            eval_after=0.0,
            seed=0,
            tested_on="test",
        )
        if key not in self.measured:
            how = "with a teacher" if reads else "without a teacher"
            self.tell(f"measuring: student {key.student} on {name}, IPC {key.ipc}, {how}")
            self.measured[key] = measure_student(key, dataset, self.context)
        pace: Pace = self.measured[key]
        assert resolved.epochs is not None
        tests = sum(map(resolved.is_test_epoch, range(1, resolved.epochs + 1)))
        return pace.seconds(resolved.epochs, tests)


def is_tenth(epoch: int, epochs: int) -> bool:
    """Whether a teacher is tested after an epoch, see ``train_teacher``."""
    return epoch % max(epochs // 10, 1) == 0 or epoch == epochs


def estimates_of(
    reproduction: Reproduction, context: RunContext, tell: Callable[[str], None]
) -> list[Estimate]:
    """What is left of every part, and how long it takes by a short measurement of each."""
    estimator = Estimator(context, tell)
    return [estimator.estimate(part) for part in reproduction.parts]


def describe(reproduction: Reproduction, estimates: Sequence[Estimate]) -> str:
    """The plan as a text: what is left of every part, and how long it takes.

    Example:
        >>> part = load_reproduction("rded-cifar10")
        >>> estimate = Estimate(1, 60.0, 3, 9.0, 2, 120.0, 7)
        >>> print(describe(replace(part, parts=part.parts[:1]), [estimate]).splitlines()[1])
          rded-protocol: 1 teacher 1 min 0 s, 3 sets 9 s, 2 of 9 runs 2 min 0 s
    """
    lines = [f"{reproduction.name}: {reproduction.title}"]
    for part, left in zip(reproduction.parts, estimates, strict=True):
        pieces = []
        if left.teachers:
            pieces.append(f"{counted(left.teachers, 'teacher')} {duration(left.teacher_seconds)}")
        if left.sets:
            pieces.append(f"{counted(left.sets, 'set')} {duration(left.set_seconds)}")
        if left.runs:
            total = "at least " * left.open + counted(left.runs + left.done, "run")
            pieces.append(f"{left.runs} of {total} {duration(left.run_seconds)}")
        lines.append(f"  {part.study.name}: {', '.join(pieces) or 'done'}")
    seconds = sum(left.seconds for left in estimates)
    lines.append(f"  in all about {duration(seconds)}" if seconds else "  nothing is left")
    return "\n".join(lines)


def counted(number: int, what: str) -> str:
    """A number of things.

    Example:
        >>> counted(1, "set"), counted(2, "set")
        ('1 set', '2 sets')
    """
    return f"{number} {what}{'' if number == 1 else 's'}"


# ---- running -------------------------------------------------------------------------------------


def check_reproduction(reproduction: Reproduction, context: RunContext) -> None:
    """Raises if one of the studies could not be run to its end, see ``check_study``.

    Args:
        reproduction: what is to be run.
        context: its folder.
    """
    for part in reproduction.parts:
        baselines = baseline_experiments(part.experiments) if part.study.baselines else []
        check_study(part.study, [*part.experiments, *baselines], part.context(context), None)


def run_reproduction(
    reproduction: Reproduction, context: RunContext, tell: Callable[[str], None]
) -> Iterator[RunsFailed]:
    """Runs every part, writes its tables, and then the report of every folder.

    What has finished is read and not repeated. The failures of a part are given, and the next part
    runs.

    Args:
        reproduction: what to run.
        context: its folder, where each part has the one that its plan names.
        tell: takes a line before each part.
    """
    from gift_fast.report import write_report, write_tables

    for number, part in enumerate(reproduction.parts, 1):
        tell(f"part {number} of {len(reproduction.parts)}: {part.study.title}")
        within = part.context(context)
        try:
            finished = run_study(part.study, part.experiments, LocalRunner(part.study, within))
        except RunsFailed as failed:
            yield failed
            continue
        if is_main_process():
            write_tables(within.out, part.study, finished)
    if is_main_process():
        for out in dict.fromkeys(part.context(context).out for part in reproduction.parts):
            if list(out.glob("study-*.json")):
                page, _ = write_report(out, None)
                tell(f"{page}")
