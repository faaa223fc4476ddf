"""An evaluation from folders to a table: what ``gift-fast evaluate`` and ``train-teacher`` do."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gift_fast.data.classes import ALL, narrow
from gift_fast.data.datasets import ImageDataset, load_dataset
from gift_fast.data.datasets.resize import split_resize
from gift_fast.data.datasets.sizes import check_heldout_fits
from gift_fast.data.distilled import DistilledSet, read_distilled
from gift_fast.data.distilled.native import is_pair
from gift_fast.evaluation.checks import check_inputs
from gift_fast.evaluation.config import EvaluationConfig, TeacherConfig
from gift_fast.evaluation.results import (
    RunResult,
    code_of,
    find_run,
    inputs_of,
    outcome,
    run_path,
    write_run,
)
from gift_fast.evaluation.student import settled, train_student
from gift_fast.evaluation.teacher import train_teacher
from gift_fast.files import spec
from gift_fast.files.checks import check_integer
from gift_fast.files.disk import check_space, checkpoint_bytes
from gift_fast.process import signals as interrupt
from gift_fast.training.augment import AUGMENTATIONS
from gift_fast.training.augment.mixing import MIXINGS
from gift_fast.training.checkpoint import EVERY, CheckpointConfig, check_seconds
from gift_fast.training.config import TrainingConfig
from gift_fast.training.eval_result import Check
from gift_fast.training.models import MODELS, new_model
from gift_fast.training.objectives import OBJECTIVES, build_objective
from gift_fast.training.observer import Observer
from gift_fast.training.optimizers import OPTIMIZERS, SCHEDULES
from gift_fast.training.predict import Transform
from gift_fast.training.processes import check_agreement, new_accelerator
from gift_fast.training.progress import Progress, show_progress
from gift_fast.training.weights import checkpoint_name, load_weights, save_weights

if TYPE_CHECKING:
    from accelerate import Accelerator

    from gift_fast.auditing import AuditReport

TRACKERS = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
}
"""Names of trackers, and the packages of which each needs one."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a command runs and what it shows; no result depends on it.

    Attributes:
        out: folder for everything that is written; made where it is missing.
        data_root: folder that holds the real datasets.
        teacher_dir: folder of the teachers' weights, ``{dataset}_{model}.pth``.
        device: ``auto`` or ``cpu``.
        checkpoint_every: seconds between checkpoints.
        trackers: names in ``TRACKERS``, to which every test is reported.
        quiet: shows no progress.
        force: trains anew what has been finished.
    """

    out: Path = Path("runs")
    data_root: Path | None = None
    teacher_dir: Path = Path("teachers")
    device: str = "auto"
    checkpoint_every: float = EVERY
    trackers: tuple[str, ...] = ()
    quiet: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        check_seconds("checkpoint_every", self.checkpoint_every)
        for tracker in self.trackers:
            if tracker not in TRACKERS:
                raise ValueError(f"trackers must be of {', '.join(TRACKERS)}, got {tracker!r}")
            if not any(map(importlib.util.find_spec, TRACKERS[tracker])):
                package = TRACKERS[tracker][0]
                raise ValueError(
                    f"trackers must be installed, {tracker} is not: pip install {package}"
                )

    def accelerator(self, config: TrainingConfig) -> Accelerator:
        """The accelerator of runs at this place, with its trackers."""
        trackers = list(self.trackers) or None
        return new_accelerator(
            config, device=self.device, log_with=trackers, project_dir=self.out / "logs"
        )

    def progress(self, accelerator: Accelerator, stages: int) -> Progress:
        """What is shown, by one of the processes."""
        return show_progress(stages, quiet=self.quiet or not accelerator.is_main_process)


@dataclass(frozen=True, kw_only=True)
class EvaluationJob:
    """Students of one configuration and several seeds, on a distilled set in files.

    Attributes:
        config: of every student; its seed is replaced.
        data: the distilled set.
        format: a name in ``FORMATS``, or ``auto``.
        labels: folder of stored soft labels, where the format keeps them apart.
        labels_class_map: a file that puts the classes of these labels alone in the dataset's order.
        teacher_weights: a file for every teacher; by default those in the teachers' folder.
        class_map: a file that puts the distilled set's classes in the dataset's order.
        seeds: one student each.
        keep_weights: leaves every student's weights beside its result.
        check_set: runs the quick form of the audit first, and warns.
        preset: where the settings are from, in words.
    """

    config: EvaluationConfig
    data: Path
    format: str = "auto"
    labels: Path | None = None
    labels_class_map: Path | None = None
    teacher_weights: tuple[Path, ...] = ()
    class_map: Path | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    keep_weights: bool = False
    check_set: bool = True
    preset: str = ""

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must be one or more that differ, got {list(self.seeds)}")
        for seed in self.seeds:
            check_integer("seeds", seed, 0)
        if self.teacher_weights and len(self.teacher_weights) != len(self.config.teachers):
            raise ValueError(
                f"teacher_weights must be {len(self.config.teachers)} files, one for each teacher, "
                f"got {len(self.teacher_weights)}"
            )


@dataclass(frozen=True)
class Inputs:
    """What a job reads, loaded.

    Attributes:
        dataset: its test split.
        distilled: the distilled set.
        teachers: in eval mode.
        whiten: takes test images to the space of a whitened set, else None.
    """

    dataset: ImageDataset
    distilled: DistilledSet
    teachers: tuple[nn.Module, ...] = ()
    whiten: Transform | None = None

    @cached_property
    def digests(self) -> dict[str, str]:
        """Digests of all of it, which tell one run from another."""
        return inputs_of(self.dataset, self.distilled, self.teachers, self.whiten)

    @cached_property
    def _narrowed(self) -> dict[str, Inputs]:
        return {}

    def narrowed(self, classes: str) -> Inputs:
        """What a student of some classes reads, see :func:`gift_fast.data.classes.narrow`."""
        if classes == ALL:
            return self
        if classes not in self._narrowed:
            parts = narrow(classes, self.dataset, self.distilled, self.teachers)
            self._narrowed[classes] = Inputs(*parts, whiten=self.whiten)
        return self._narrowed[classes]

    def settle(self, config: EvaluationConfig) -> EvaluationConfig:
        """The configuration that a run has on this; raises ValueError where they disagree."""
        read = self.narrowed(config.classes)
        config = settled(config, read.distilled)
        check_inputs(config, read.dataset, read.distilled, read.teachers, read.whiten)
        return config

    def digests_of(self, config: EvaluationConfig) -> dict[str, str]:
        """Digests of what a run reads and of the user's own code that it calls."""
        return {**self.narrowed(config.classes).digests, **code_of(config)}


def load_inputs(
    job: EvaluationJob,
    place: Place,
    device: torch.device,
    *,
    verify: bool = True,
    dataset: ImageDataset | None = None,
) -> Inputs:
    """Reads the test images, the distilled set and the teachers.

    Args:
        job: says what to read.
        place: where the real images and the teachers are.
        device: where whitening, if any, is applied; all else is on the CPU.
        verify: refuses stored soft labels that are not those of the images; an audit reports them.
        dataset: the test images, for a caller that has loaded them already.

    Raises:
        OSError: a file is missing; the message says which, and how to get it.
        ValueError: a file holds something else than was expected.
    """
    config = job.config
    check_files(job, place)
    if dataset is None:
        dataset = load_tested(config, place.data_root)
    teachers = tuple(load_teacher(*each, dataset)[0] for each in weights_of(job, place))
    distilled = read_distilled(
        job.format,
        job.data,
        dataset,
        labels=job.labels,
        class_map=job.class_map,
        labels_class_map=job.labels_class_map,
        verify=verify,
    )
    if distilled.replay is not None and not config.teachers and split_resize(config.dataset)[1]:
        raise ValueError(
            "dataset must be at its own size where stored batches are replayed, whose boxes are in "
            f"its pixels; got {config.dataset!r}. A teacher can label resized images"
        )
    whiten = None
    if distilled.whitened:
        from gift_fast.data.zca import fit_zca

        training = load_dataset(config.dataset, place.data_root).training_split
        whiten = fit_zca(training, place.out / "zca").to(device)
    return Inputs(dataset, distilled, teachers, whiten)


def weights_of(job: EvaluationJob, place: Place) -> list[tuple[str, Path]]:
    """The teachers of a job, each with its file."""
    teachers = job.config.teachers
    paths = job.teacher_weights or tuple(
        teacher_path(place, job.config.dataset, teacher) for teacher in teachers
    )
    return list(zip(teachers, paths, strict=True))


def check_files(job: EvaluationJob, place: Place) -> None:
    """Raises FileNotFoundError where a file of a job is missing, before anything is read."""
    if "." not in spec.split_spec(job.format)[0] and not (job.data.exists() or is_pair(job.data)):
        raise FileNotFoundError(f"data must be a distilled set's folder or file, got {job.data}")
    for name in ("labels", "labels_class_map", "class_map"):
        path = getattr(job, name)
        if path is not None and not path.exists():
            raise FileNotFoundError(f"{name} must be there, got {path}")
    weights = weights_of(job, place)
    if place.data_root is None and not all(path.exists() for _, path in weights):
        load_tested(job.config, None)  # the dataset is missed first, and at once
    for teacher, path in weights:
        check_weights(teacher, path, job.config.dataset, advice_for(job.config.dataset, teacher))


def load_tested(config: EvaluationConfig, data_root: Path | None) -> ImageDataset:
    """The dataset of a run, without its training split; its test split is what accuracy is of."""
    if config.tested_on == "test":
        return load_dataset(config.dataset, data_root, train=False)
    dataset = load_dataset(config.dataset, data_root)
    assert dataset.heldout is not None
    return replace(dataset, train=None, test=dataset.heldout, heldout=None)


def advice_for(dataset: str, teacher: str) -> str:
    """What to do where there are no weights of a teacher."""
    return (
        f"train it with `gift-fast train-teacher --dataset {dataset} --model {teacher}`, name a "
        "file with --teacher-weights, or read the soft labels stored with the set, if it has any, "
        "with `--teacher` and no name"
    )


def check_weights(teacher: str, path: Path, dataset: str, advice: str) -> None:
    """Raises FileNotFoundError where there is no file of a teacher's weights."""
    if not path.exists():
        others = sorted(other.name for other in path.parent.glob("*.pth"))
        there = f" ({path.parent} holds {', '.join(others)})" if others else ""
        raise FileNotFoundError(
            f"{path}: no weights of the teacher {teacher} for {dataset}{there}; {advice}"
        )


def load_teacher(
    teacher: str, path: Path, dataset: ImageDataset, *, advice: str = ""
) -> tuple[nn.Module, dict[str, Any]]:
    """A teacher with the weights of a file, in eval mode, and what the file says of it.

    Args:
        teacher: a name in ``MODELS``.
        path: a checkpoint: see :func:`~gift_fast.training.weights.load_weights`.
        dataset: whose images and classes it takes.
        advice: ends the error where there is no such file.
    """
    check_weights(teacher, path, dataset.name, advice)
    model = new_model(teacher, dataset, seed=0)
    record = load_weights(path, model)
    return model.eval(), record


def run_job(job: EvaluationJob, place: Place) -> list[RunResult]:
    """Trains every student of a job, or reads what has been finished, and gives the results.

    A finished student has a JSON file under ``place.out``; one that was interrupted has a
    checkpoint there and is resumed from it.
    """
    accelerator = place.accelerator(job.config)
    check_files(job, place)
    check_writable(place.out, accelerator)
    shows = accelerator.is_main_process and not place.quiet
    if shows:  # before anything that takes its time
        print(f"settings: {job.preset or 'given one by one'}", file=sys.stderr)
        print(settings_in_words(job.config), file=sys.stderr, flush=True)
    dataset = load_tested(job.config, place.data_root)
    student = new_model(job.config.student, dataset, seed=0)  # raises where it cannot be made
    check_space(place.out, checkpoint_bytes(student), "checkpoints")
    inputs = load_inputs(job, place, accelerator.device, dataset=dataset)
    config = inputs.settle(job.config)
    narrowed = inputs.narrowed(config.classes)
    configs = [replace(config, seed=seed) for seed in job.seeds]
    if shows:
        print(inputs_in_words(job.config, config, narrowed), file=sys.stderr, flush=True)
    if accelerator.is_main_process and job.check_set:
        warn_of(audit_of(inputs, accelerator.device, quick=True))
    with place.progress(accelerator, len(configs)) as progress:
        return [
            run_student(
                config,
                inputs,
                place,
                accelerator,
                progress,
                title=f"seed {config.seed}",
                keep_weights=job.keep_weights,
            )
            for config in configs
        ]


def check_writable(folder: Path, accelerator: Accelerator) -> None:
    """Makes a folder, and raises OSError now where nothing could be written to it in the end."""
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


REGISTRIES: dict[str, Mapping[str, Callable[..., Any]]] = {
    "student": MODELS,
    "model": MODELS,
    "loss": OBJECTIVES,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "augmentation": AUGMENTATIONS,
    "mixing": MIXINGS,
}
"""Of the settings that have options, which are printed too."""


def values_in_words(config: TrainingConfig) -> dict[str, str]:
    """Every setting but the seed, with the options of what has some."""
    values = config.all_fields()
    del values["seed"]
    if isinstance(config, EvaluationConfig) and config.ipc is None:
        values["ipc"] = "all"
    for name, registry in REGISTRIES.items():
        if name in values:
            values[name] = spec.in_full(name, values[name], registry)
    return {name: value_in_words(value) for name, value in values.items()}


def listed(values: Mapping[str, str], width: int) -> str:
    """Settings, a line each."""
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in values.items())


def settings_in_words(config: TrainingConfig) -> str:
    """Every setting of a run as it was asked for, a line each."""
    values = values_in_words(config)
    return listed(values, max(map(len, values)))


def inputs_in_words(asked: EvaluationConfig, config: EvaluationConfig, inputs: Inputs) -> str:
    """What runs read, and the settings that follow from it, a line each.

    Args:
        asked: the configuration as it was asked for.
        config: settled.
        inputs: narrowed to its classes.
    """
    tested = "test" if config.tested_on == "test" else "held-out"
    before, values = values_in_words(asked), values_in_words(config)
    if inputs.distilled.replay is not None and not config.teachers:
        values.update(dict.fromkeys(("batch_size", "augmentation", "mixing"), "as stored"))
    changed = {name: value for name, value in values.items() if value != before[name]}
    lines = [
        f"distilled set: {len(inputs.distilled)} images, {inputs.distilled.source}",
        f"soft labels: {labels_in_words(config, inputs.distilled)}",
        f"test set: {len(inputs.dataset.test)} {tested} images of {inputs.dataset.name}",
        *(["settings that follow:"] if changed else []),
        *([listed(changed, max(map(len, values)))] if changed else []),
    ]
    return "\n".join(lines)


def value_in_words(value: object) -> str:
    """A setting as it is printed.

    Example:
        >>> value_in_words(["convnet3", "resnet18"]), value_in_words([]), value_in_words(None)
        ('convnet3, resnet18', 'none', 'by the rules of the protocol')
    """
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "by the rules of the protocol" if value is None else str(value)


def labels_in_words(config: EvaluationConfig, distilled: DistilledSet) -> str:
    """Where the soft labels of a run come from."""
    stored = distilled.soft_labels is not None or distilled.replay is not None
    if not build_objective(config.loss).reads_soft_labels:
        return f"not read by the loss {config.loss}"
    if not config.teachers:
        return "stored with the set"
    unread = "; those stored with the set are not read, `--teacher` without a name reads them"
    return f"{', '.join(config.teachers)}, for every batch{unread if stored else ''}"


def warn_of(report: AuditReport, name: str | None = None) -> None:
    """Says on the standard error what an audit has found wrong, with a set of several by its name.

    What is called an error here stops nothing: an accuracy at chance may be what is looked for.
    """
    where = "" if name is None else f"{name}: "
    for finding in report.findings:
        if finding.severity in ("warning", "error"):
            print(f"{finding.severity}: {where}{finding.text}", file=sys.stderr)


def run_audit(job: EvaluationJob, place: Place, *, quick: bool = False) -> AuditReport:
    """Examines what a job reads, and trains nothing."""
    device = place.accelerator(job.config).device
    return audit_of(load_inputs(job, place, device, verify=False), device, quick=quick)


def audit_of(inputs: Inputs, device: torch.device, *, quick: bool) -> AuditReport:
    """The audit of what has been read, on a device."""
    from gift_fast.auditing import audit

    return audit(
        inputs.dataset.to(device),
        inputs.distilled.to(device),
        [teacher.to(device) for teacher in inputs.teachers],
        quick=quick,
        whiten=inputs.whiten,
    )


def run_student(
    config: EvaluationConfig,
    inputs: Inputs,
    place: Place,
    accelerator: Accelerator,
    progress: Progress,
    *,
    title: str,
    keep_weights: bool = False,
) -> RunResult:
    """One student: from its file where it has finished before, else trained now.

    Args:
        config: settled.
        inputs: what it is trained and tested on, of all classes.
        place: where its result is kept.
        accelerator: where it is trained.
        progress: follows it as one stage.
        title: of the stage.
        keep_weights: writes the student's weights beside its result.
    """
    digests = inputs.digests_of(config)
    path = run_path(place.out, config, digests)
    checkpoint = path.with_suffix(".ckpt")
    assert config.epochs is not None
    finished = None if place.force else find_run(place.out, config, digests)
    check_agreement(accelerator, "whether a run has finished", int(finished is not None))
    if finished is not None:
        progress.begin(title, config.epochs, done=config.epochs)
        progress.end(f"{outcome(finished)}, from an earlier call")
        return finished
    if place.force and accelerator.is_main_process:
        checkpoint.unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    read = inputs.narrowed(config.classes)
    interruption = interrupt.current()
    with interruption.held():  # until the result is written: it would be lost else
        with tracked(accelerator, place, path.stem, config):
            student, result = train_student(
                config,
                read.dataset,
                read.distilled,
                read.teachers,
                whiten=read.whiten,
                accelerator=accelerator,
                checkpoint=CheckpointConfig(checkpoint, place.checkpoint_every),
                interruption=interruption,
                observer=RunObserver(title, progress, accelerator),
                inputs=digests,
            )
        if accelerator.is_main_process:
            if keep_weights:
                weights = path.with_suffix(".pth")
                save_weights(weights, student, top1=result.last.top1, config=config.to_dict())
            write_run(place.out, result)
            checkpoint.unlink(missing_ok=True)
        accelerator.wait_for_everyone()
        progress.end(outcome(result))
    return result


@contextmanager
def tracked(
    accelerator: Accelerator, place: Place, name: str, config: TrainingConfig
) -> Iterator[None]:
    """Opens the accelerator's trackers for one run of this name, and closes them after it."""
    accelerator.project_configuration.logging_dir = str(place.out / "logs" / name)
    settings = {k: str(v) for k, v in config.to_dict().items()}
    accelerator.init_trackers(
        "gift-fast",
        config=settings,
        init_kwargs={"wandb": {"name": name}, "mlflow": {"run_name": name}},
    )
    try:
        yield
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()


def run_teacher(config: TeacherConfig, place: Place) -> tuple[Path, Check]:
    """Trains a teacher, or reads the one that was finished; gives its file and its last test."""
    accelerator = place.accelerator(config)
    check_heldout_fits(config.dataset, place.data_root)
    check_writable(place.teacher_dir, accelerator)
    if accelerator.is_main_process and not place.quiet:  # before anything that takes its time
        print(f"settings:\n{settings_in_words(config)}", file=sys.stderr, flush=True)
    tested = load_dataset(config.dataset, place.data_root, train=False)
    teacher = new_model(config.model, tested, seed=0)  # raises where it cannot be made
    check_space(place.teacher_dir, checkpoint_bytes(teacher), "checkpoints")
    dataset = load_dataset(config.dataset, place.data_root)
    with place.progress(accelerator, 1) as progress:
        _, check = prepare_teacher(config, dataset, place, accelerator, progress)
    return teacher_path(place, config.dataset, config.model), check


def prepare_teacher(
    config: TeacherConfig,
    dataset: ImageDataset,
    place: Place,
    accelerator: Accelerator,
    progress: Progress,
    *,
    replaces: bool = False,
) -> tuple[nn.Module, Check]:
    """A teacher in eval mode and its last test: from its file, or trained now.

    The file holds the tests and the configuration beside the weights.

    Args:
        config: how it is trained.
        dataset: with its training split.
        place: where its file is.
        accelerator: where it is trained.
        progress: follows it as one stage.
        replaces: whether other weights in its file may be lost.

    Raises:
        ValueError: the file holds other weights, and nothing allows to replace them.
    """
    config = config.resolved(len(dataset.training_split))
    path = teacher_path(place, config.dataset, config.model)
    checkpoint = path.with_suffix(".ckpt")
    assert config.epochs is not None
    if path.exists() and not place.force:
        teacher, record = load_teacher(config.model, path, dataset)
        if record.get("config") == config.to_dict():
            check = Check.from_dict(record["checks"][-1])
            progress.begin("teacher", config.epochs, done=config.epochs)
            progress.end(f"top-1 {check.top1:.1f} %, from an earlier call")
            return teacher, check
        if not replaces:
            raise ValueError(
                f"{path} must be a teacher trained with these settings, but it was trained with "
                "others or not by this command; --force replaces it, and --teacher-dir names "
                "another folder"
            )
    if place.force and accelerator.is_main_process:
        checkpoint.unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    interruption = interrupt.current()
    with interruption.held():  # until the weights are written
        with tracked(accelerator, place, path.stem, config):
            teacher, checks = train_teacher(
                config,
                dataset,
                accelerator=accelerator,
                checkpoint=CheckpointConfig(checkpoint, place.checkpoint_every),
                interruption=interruption,
                observer=RunObserver("teacher", progress, accelerator),
            )
        if accelerator.is_main_process:
            tests = [check.to_dict() for check in checks]
            save_weights(path, teacher, config=config.to_dict(), checks=tests)
            checkpoint.unlink(missing_ok=True)
        accelerator.wait_for_everyone()
        progress.end(f"top-1 {checks[-1].top1:.1f} %")
    return teacher, checks[-1]


def teacher_path(place: Place, dataset: str, model: str) -> Path:
    """Where a teacher's weights are kept."""
    return place.teacher_dir / checkpoint_name(dataset, model)


def is_main_process() -> bool:
    """Whether this process is the one that reports."""
    from accelerate import PartialState

    return bool(PartialState().is_main_process)


class RunObserver(Observer):
    """Shows a run's progress, and reports its tests to the trackers."""

    def __init__(self, title: str, progress: Progress, accelerator: Accelerator) -> None:
        self.title = title
        self.progress = progress
        self.accelerator = accelerator

    def start(self, epochs: int, done: float) -> None:
        """See :class:`Observer`."""
        self.progress.begin(self.title, epochs, done)

    def step(
        self, epoch: int, step: int, steps: int, images: int, loss: Callable[[], float]
    ) -> None:
        """See :class:`Observer`."""
        self.progress.step(epoch, step, steps, images, loss)

    def epoch(self, number: int, images: int, check: Check | None) -> None:
        """See :class:`Observer`."""
        if check is None:
            self.progress.epoch(number)
            return
        self.progress.epoch(number, loss=check.loss, top1=check.top1)
        values = {n: x for n, x in check.to_dict().items() if n not in ("epoch", "halves")}
        self.accelerator.log(values, step=number)
