"""Running a study: teachers, generated sets and students.

Finished runs are read and not repeated, and an unfinished run resumes from its checkpoint, so the
same command resumes an interrupted study.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gift_fast.data.datasets import load_dataset
from gift_fast.data.distilled import write_distilled
from gift_fast.data.distilled.native import is_pair
from gift_fast.distillation import distill, is_made
from gift_fast.distillation.selection import select_crops
from gift_fast.evaluation.audit import audit_of, warn_of
from gift_fast.evaluation.config import EvaluationConfig, ResolvedEvaluationConfig, TeacherConfig
from gift_fast.evaluation.context import RunContext, check_writable
from gift_fast.evaluation.inputs import Inputs, load_inputs
from gift_fast.evaluation.job import EvaluationJob
from gift_fast.evaluation.results import RunResult, run_path
from gift_fast.evaluation.run import run_student
from gift_fast.evaluation.teacher import prepare_teacher
from gift_fast.evaluation.teacher_weights import load_teacher, teacher_path
from gift_fast.files.fingerprint import fingerprint
from gift_fast.process.errors import is_disk_full
from gift_fast.process.memory import keep_freed_memory
from gift_fast.studies.baselines import baseline_experiments
from gift_fast.studies.failures import Failure, RunsFailed
from gift_fast.studies.manifest import Finished, Record, title_of
from gift_fast.studies.sets import SELECTED, SetSource
from gift_fast.studies.shared_labels import folder_of, labels_of, remove, shared
from gift_fast.studies.study import Experiment, Study
from gift_fast.studies.tuning import Runner, tune, tuned
from gift_fast.training.weights import read_checkpoint, split_checkpoint

if TYPE_CHECKING:
    from accelerate import Accelerator


def split_by_presence(
    experiments: Sequence[Experiment], sets: Path | None
) -> tuple[list[Experiment], list[str]]:
    """The experiments whose sets exist or can be generated, and the names of missing sets.

    Args:
        experiments: the experiments of a study.
        sets: folder of the published sets; None if all sets are generated.
    """
    missing = [
        source.name
        for source in dict.fromkeys(experiment.source for experiment in experiments)
        if not source.generated and not (sets is not None and has_set(sets / source.name))
    ]
    present = [
        experiment
        for experiment in experiments
        if experiment.source.generated or experiment.source.name not in missing
    ]
    return present, missing


def has_set(path: Path) -> bool:
    """Whether a path is the folder of a set, or the common stem of the two files of a set."""
    return path.exists() or is_pair(path)


def run_study(
    study: Study,
    experiments: Sequence[Experiment],
    run: Runner,
    log: Callable[[str], None] = lambda message: None,
) -> list[Finished]:
    """Run a study: the protocol's hyperparameters and, if it has tuning, trials and tuned runs.

    Args:
        study: the study.
        experiments: its experiments, whose sets exist or can be generated; see
            :func:`split_by_presence`.
        run: the runner, such as :class:`LocalRunner`.
        log: called with a message before each part of a study with tuning or baselines.

    Returns:
        The results of the experiments in their order, of the trials, of the tuned experiments and
        of the baselines.

    Raises:
        RunsFailed: some runs failed; all runs that do not depend on them have been run.
        ValueError: there are no experiments.
    """
    if not experiments:
        raise ValueError(f"the study {study.name} must have at least one run, got none")
    if not study.baselines:
        return run_parts(study, experiments, run, log)
    failed, finished = None, []
    try:
        finished = run_parts(study, experiments, run, log)
    except RunsFailed as error:  # baselines do not depend on these runs
        failed = error
    baselines = baseline_experiments(experiments)
    log(f"baselines: {len(baselines)} runs")
    finished += run(baselines)
    if failed is not None:
        raise failed
    return finished


def run_parts(
    study: Study, experiments: Sequence[Experiment], run: Runner, log: Callable[[str], None]
) -> list[Finished]:
    """Run the experiments and, if the study has tuning, the trials and the tuned experiments."""
    if study.tuning is None:
        return run(experiments)
    failed, finished = None, []
    log(f"part 1 of 3: {len(experiments)} runs with the protocol's hyperparameters")
    try:
        finished = run(experiments)
    except RunsFailed as error:  # trials do not depend on these runs
        failed = error
    log("part 2 of 3: trials; the grid is extended if accuracy still rises at one of its ends")
    trials, choices = tune(experiments, study.tuning, run)
    log(f"part 3 of 3: {len(experiments)} runs with hyperparameters from {len(trials)} trials")
    finished_tuned = run(tuned(experiments, choices))
    if failed is not None:
        raise failed
    return [*finished, *trials, *finished_tuned]


class LocalRunner:
    """Runs experiments in this process, or in all processes of `accelerate launch`.

    Args:
        study: the study.
        context: the folders and the device. Generated sets are in ``sets`` in its output folder.
        sets: folder of the published sets; None if all sets are generated.
    """

    def __init__(self, study: Study, context: RunContext, sets: Path | None = None) -> None:
        self.study = study
        self.context = context
        self.sets = sets

    def __call__(self, experiments: Sequence[Experiment]) -> list[Finished]:
        """Run unfinished experiments, and return all results in the order of the experiments.

        Raises:
            OSError: the output folder cannot be written.
            RunsFailed: some runs failed; raised after all others have been run.
        """
        context = self.context
        accelerator = context.accelerator(experiments[0].config)
        check_writable(context.out, accelerator)
        record = Record(context.out, self.study, experiments)
        sources = {experiment.source for experiment in experiments}
        generated = sum(source.generated for source in sources)
        stages = missing_teachers(self.study, sources, context) + generated + len(experiments)
        results: dict[Experiment, RunResult] = {}
        failures: list[Failure] = []
        paths: dict[SetSource, Path] = {}
        with context.showing(accelerator, stages) as context:
            for group in groups_of(experiments):
                source = group[0].source
                try:
                    if source not in paths:
                        paths[source] = prepare(self.study, source, context, self.sets)
                    inputs = read_inputs(group[0].config, paths[source], context)
                    planned = plan_group(group, inputs, context)
                except Exception as error:
                    failures += failures_of(group, error, accelerator)
                    continue
                if accelerator.is_main_process:
                    files = {experiment: run.path for experiment, run in planned.items()}
                    record.add(files, teacher_accuracies(self.study, source, context))
                accelerator = context.accelerator(group[0].config)
                self.run_group(planned, inputs, context, accelerator, results, failures)
        if failures:
            raise RunsFailed(failures, done=len(results))
        return [Finished(experiment, results[experiment]) for experiment in experiments]

    def run_group(
        self,
        planned: Mapping[Experiment, PlannedRun],
        inputs: Inputs,
        context: RunContext,
        accelerator: Accelerator,
        results: dict[Experiment, RunResult],
        failures: list[Failure],
    ) -> None:
        """Run experiments with the same inputs; add to ``results`` and ``failures``."""
        replays = {} if context.force else runs_by_labels(planned)
        for experiment, run in planned.items():
            title = title_of(experiment)
            try:
                results[experiment] = run_planned(
                    run, inputs, context, title=title, replays=run.labels in replays
                )
            except Exception as error:
                failures += failures_of([experiment], error, accelerator)
                context.progress.begin(title, 1)
                context.progress.end("failed")
            if run.labels is not None and run.labels in replays:
                replays[run.labels].discard(experiment)
                if not replays[run.labels]:
                    remove(run.labels)


def failures_of(
    group: Sequence[Experiment], error: Exception, accelerator: Accelerator
) -> list[Failure]:
    """The failures of experiments that an error prevents.

    The error is raised again if other processes would wait for this one, or if the disk is full, so
    that no other run could be saved.
    """
    if accelerator.num_processes > 1 or is_disk_full(error):
        raise error
    return [Failure.of(title_of(experiment), error) for experiment in group]


def groups_of(experiments: Sequence[Experiment]) -> list[list[Experiment]]:
    """The distinct experiments, grouped by their inputs."""
    groups: dict[Hashable, list[Experiment]] = {}
    for experiment in dict.fromkeys(experiments):
        groups.setdefault(inputs_key(experiment), []).append(experiment)
    return list(groups.values())


def inputs_key(experiment: Experiment) -> Hashable:
    """The key of an experiment's inputs; experiments with the same key share loaded inputs."""
    config = experiment.config
    return (experiment.source, config.dataset, config.tested_on, config.teachers)


def prepare(study: Study, source: SetSource, context: RunContext, sets: Path | None) -> Path:
    """Train missing teachers of a set, generate the set if necessary, and return its path."""
    for teacher in study.teachers_of(source):
        train_missing_teacher(study, source, teacher, context)
    if not source.generated:
        assert sets is not None
        return sets / source.name
    config = TeacherConfig.from_dict(
        {**study.teacher, "dataset": source.sized_dataset, "model": source.network}
    )
    return generated_set(source, context, context.accelerator(config))


def read_inputs(config: EvaluationConfig, path: Path, context: RunContext) -> Inputs:
    """Load the inputs of runs with this configuration and the set at ``path``."""
    job = EvaluationJob(config=config, data=path)
    return load_inputs(job, context, context.accelerator(config).device)


@dataclass(frozen=True)
class PlannedRun:
    """A run whose inputs have been loaded.

    Attributes:
        config: the resolved configuration.
        images: images per epoch.
        path: path of its result.
        labels: folder of the labels that it can share with other runs; None if the teachers must be
            online.
    """

    config: ResolvedEvaluationConfig
    images: int
    path: Path
    labels: Path | None = None


def plan_group(
    group: Sequence[Experiment], inputs: Inputs, context: RunContext
) -> dict[Experiment, PlannedRun]:
    """Plan the runs of experiments with the same inputs, and audit their set.

    Raises:
        ValueError: a configuration does not match the inputs.
    """
    accelerator = context.accelerator(group[0].config)
    if not group[0].source.generated and accelerator.is_main_process:
        warn_of(audit_of(inputs, accelerator.device, quick=True), group[0].source.name)
    planned = {}
    for experiment in group:
        config = inputs.resolve(experiment.config)
        path = run_path(context.out, config, inputs.digests_of(config))
        images = len(inputs.narrowed(config.classes).distilled)
        labels = folder_of(config, inputs, context, accelerator)
        planned[experiment] = PlannedRun(config, images, path, labels)
    return planned


def runs_by_labels(planned: Mapping[Experiment, PlannedRun]) -> dict[Path, set[Experiment]]:
    """The unfinished runs that replay shared labels, by the folder of the labels."""
    folders = shared((run.labels, run.path) for run in planned.values())
    return {
        folder: {e for e, run in planned.items() if run.labels == folder and not run.path.exists()}
        for folder in folders
    }


def run_planned(
    run: PlannedRun, inputs: Inputs, context: RunContext, *, title: str, replays: bool
) -> RunResult:
    """Train a run, with shared labels if ``replays``, or read its result if it has finished."""
    if not replays or run.labels is None or run.path.exists():
        return run_student(run.config, inputs, context, title=title)
    with labels_of(run.labels, run.config, inputs, context, title) as labels:
        return run_student(run.config, inputs, context, title=title, labels=labels)


def missing_teachers(study: Study, sources: Iterable[SetSource], context: RunContext) -> int:
    """The number of teachers that have to be trained."""
    paths = {
        teacher_path(context, source.sized_dataset, teacher)
        for source in sources
        for teacher in study.teachers_of(source)
    }
    return sum(not path.exists() for path in paths)


def teacher_accuracies(study: Study, source: SetSource, context: RunContext) -> dict[str, float]:
    """Top-1 of a set's teachers in percent, by file name, if their files have it."""
    found = {}
    for teacher in study.teachers_of(source):
        path = teacher_path(context, source.sized_dataset, teacher)
        if path.exists():
            record = split_checkpoint(path, read_checkpoint(path))[1]
            with suppress(KeyError, IndexError, TypeError, ValueError):
                found[path.name] = float(record["checks"][-1]["top1"])
    return found


def train_missing_teacher(
    study: Study, source: SetSource, teacher: str, context: RunContext
) -> None:
    """Train a teacher unless its weights exist; existing weights are not checked."""
    if teacher_path(context, source.sized_dataset, teacher).exists():
        return
    settings = {**study.teacher, "dataset": source.sized_dataset, "model": teacher}
    config = TeacherConfig.from_dict(settings)
    dataset = load_dataset(config.dataset, context.data_root)
    prepare_teacher(config, dataset, context)


def generated_set(source: SetSource, context: RunContext, accelerator: Accelerator) -> Path:
    """Generate a set unless it exists, and return its path.

    The name contains a digest of the teacher, since the set depends on it.
    """
    assert source.seed is not None
    context.progress.begin(
        f"{source.dataset} {source.method} IPC {source.ipc} set {source.seed}", 1
    )
    dataset = load_dataset(source.sized_dataset, context.data_root, train=False)
    weights = teacher_path(context, source.sized_dataset, source.network)
    teacher, _ = load_teacher(source.network, weights, dataset)
    digest = fingerprint(teacher.state_dict().values())
    path = context.out / "sets" / f"{source.name}_seed{source.seed}-{digest}"
    outcome = "from an earlier call"
    if accelerator.is_main_process and not (is_pair(path) or is_made(path)):
        outcome = "generated"
        if accelerator.device.type == "cpu":
            keep_freed_memory()
        dataset = load_dataset(source.sized_dataset, context.data_root)
        teacher = teacher.to(accelerator.device)
        if source.method == SELECTED:
            distilled = select_crops(dataset, teacher, ipc=source.ipc, seed=source.seed)
            distilled = replace(distilled, source=f"{distilled.source}, seed {source.seed}")
            write_distilled(path, distilled, dataset)
        else:
            distill(source.method, dataset, teacher, path, ipc=source.ipc, seed=source.seed)
    accelerator.wait_for_everyone()
    context.progress.end(outcome)
    return path
