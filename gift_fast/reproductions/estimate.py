"""The estimated time of a reproduction: what is left of every part, from short measurements."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gift_fast.data.datasets import ImageDataset, load_dataset
from gift_fast.data.datasets.normalization import split_normalization
from gift_fast.evaluation.config import EvaluationConfig, TeacherConfig
from gift_fast.evaluation.context import RunContext
from gift_fast.evaluation.teacher_weights import teacher_path
from gift_fast.reproductions.measure import RunTime, measure_set, measure_student, measure_teacher
from gift_fast.reproductions.plan import PlannedStudy, Reproduction
from gift_fast.studies.manifest import format_duration, is_undecided, state_of
from gift_fast.studies.sets import SetSource
from gift_fast.studies.tuning import expected_runs
from gift_fast.training.objectives import build_objective


@dataclass(frozen=True)
class Estimate:
    """The remaining work of one part of a plan, and its estimated time.

    Attributes:
        teachers: number of teachers to train.
        teacher_seconds: time to train them.
        sets: number of distilled sets to generate.
        set_seconds: time to generate them.
        runs: number of students to train.
        run_seconds: time to train them.
        done: number of students that have been trained before.
        may_grow: whether more runs may follow, because a grid of trials may be extended.
    """

    teachers: int
    teacher_seconds: float
    sets: int
    set_seconds: float
    runs: int
    run_seconds: float
    done: int
    may_grow: bool = False

    @property
    def seconds(self) -> float:
        """Time of all remaining work."""
        return self.teacher_seconds + self.set_seconds + self.run_seconds


class Estimator:
    """Estimates the time of parts; each kind of run is measured once.

    Args:
        context: the context of the reproduction.
        log: called with a message before each measurement.
    """

    def __init__(self, context: RunContext, log: Callable[[str], None]) -> None:
        self.context = context
        self.log = log
        self.datasets: dict[str, ImageDataset] = {}
        self.measured: dict[Hashable, Any] = {}
        self.counted: set[tuple[str, Hashable]] = set()

    def estimate(self, part: PlannedStudy) -> Estimate:
        """Estimate the remaining work of a part.

        Teachers and sets that an earlier part creates are not counted again.
        """
        context = part.context(self.context)
        runs = expected_runs(part.study, part.experiments, context.out)
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
        # --force repeats students, but not teachers or sets.
        left = runs if context.force else state.left
        configs = [experiment.config for experiment in left]
        return Estimate(
            teachers=len(teachers),
            teacher_seconds=sum(map(self.teacher_seconds, teachers)),
            sets=len(sets),
            set_seconds=sum(map(self.set_seconds, sets)),
            runs=len(configs),
            run_seconds=sum(map(self.student_seconds, configs)),
            done=len(runs) - len(left),
            may_grow=any(map(is_undecided, runs)),
        )

    def is_new(self, part: PlannedStudy, item: Hashable) -> bool:
        """Whether no earlier part has counted this teacher or set; counts it for this part."""
        key = (part.teachers, item)
        new = key not in self.counted
        self.counted.add(key)
        return new

    def dataset(self, dataset: str) -> ImageDataset:
        """Load a dataset with both splits; each dataset is loaded once."""
        name = split_normalization(dataset)[0]
        if name not in self.datasets:
            self.datasets[name] = load_dataset(name, self.context.data_root)
        return self.datasets[name]

    def teacher_seconds(self, config: TeacherConfig) -> float:
        """Estimated time to train a teacher."""
        name = split_normalization(config.dataset)[0]
        key = replace(config, dataset=name, epochs=1)
        if key not in self.measured:
            self.log(f"measuring: teacher {config.model} on {name}")
            dataset = self.dataset(name)
            self.measured[key] = measure_teacher(key, dataset, self.context)
        time: RunTime = self.measured[key]
        epochs = config.resolved(1).epochs
        assert epochs is not None
        tests = sum(is_teacher_test_epoch(epoch, epochs) for epoch in range(1, epochs + 1))
        return time.seconds(epochs, tests)

    def set_seconds(self, source: SetSource) -> float:
        """Estimated time to generate a distilled set."""
        dataset = split_normalization(source.sized_dataset)[0]
        key = ("set", source.method, dataset, source.network, source.ipc)
        if key not in self.measured:
            self.log(f"measuring: {source.method} on {dataset}, IPC {source.ipc}")
            self.measured[key] = measure_set(
                source.method, self.dataset(dataset), source.network, source.ipc, self.context
            )
        return float(self.measured[key])

    def student_seconds(self, config: EvaluationConfig) -> float:
        """Estimated time to train a student."""
        name = split_normalization(config.dataset)[0]
        assert config.ipc is not None
        dataset = self.dataset(name)
        resolved = config.resolved(config.ipc * dataset.num_classes)
        reads = build_objective(config.loss).reads_soft_labels
        key = replace(
            resolved,
            dataset=name,
            # The time depends on whether a teacher is used, and hardly on the loss.
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
            teacher = "with a teacher" if reads else "without a teacher"
            self.log(f"measuring: student {key.student} on {name}, IPC {key.ipc}, {teacher}")
            self.measured[key] = measure_student(key, dataset, self.context)
        time: RunTime = self.measured[key]
        assert resolved.epochs is not None
        tests = sum(map(resolved.is_test_epoch, range(1, resolved.epochs + 1)))
        return time.seconds(resolved.epochs, tests)


def is_teacher_test_epoch(epoch: int, epochs: int) -> bool:
    """Whether a teacher is tested after an epoch, as in ``train_teacher``."""
    return epoch % max(epochs // 10, 1) == 0 or epoch == epochs


def estimate_parts(
    reproduction: Reproduction, context: RunContext, log: Callable[[str], None]
) -> list[Estimate]:
    """Estimate the remaining work of every part, from short measurements on this machine."""
    estimator = Estimator(context, log)
    return [estimator.estimate(part) for part in reproduction.parts]


def format_estimates(reproduction: Reproduction, estimates: Sequence[Estimate]) -> str:
    """Format a plan with the remaining work and the estimated time of every part.

    Example:
        >>> from gift_fast.reproductions.plan import load_reproduction
        >>> plan = load_reproduction("rded-cifar10")
        >>> estimate = Estimate(1, 60.0, 3, 9.0, 2, 120.0, 7)
        >>> print(format_estimates(replace(plan, parts=plan.parts[:1]), [estimate]).splitlines()[1])
          rded-protocol: 1 teacher 1 min 0 s, 3 sets 9 s, 2 of 9 runs 2 min 0 s
    """
    lines = [f"{reproduction.name}: {reproduction.title}"]
    for part, left in zip(reproduction.parts, estimates, strict=True):
        items = []
        if left.teachers:
            time = format_duration(left.teacher_seconds)
            items.append(f"{format_count(left.teachers, 'teacher')} {time}")
        if left.sets:
            items.append(f"{format_count(left.sets, 'set')} {format_duration(left.set_seconds)}")
        if left.runs:
            total = "at least " * left.may_grow + format_count(left.runs + left.done, "run")
            items.append(f"{left.runs} of {total} {format_duration(left.run_seconds)}")
        lines.append(f"  {part.study.name}: {', '.join(items) or 'done'}")
    seconds = sum(left.seconds for left in estimates)
    lines.append(
        f"  total: about {format_duration(seconds)}" if seconds else "  nothing left to run"
    )
    return "\n".join(lines)


def format_count(count: int, noun: str) -> str:
    """Format a count with the singular or plural of a noun.

    Example:
        >>> format_count(1, "set"), format_count(2, "set")
        ('1 set', '2 sets')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"
