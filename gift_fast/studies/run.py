"""Runs a study: teachers, generated sets, students.

Everything that has finished is read and not repeated, and the run in progress is resumed from its
checkpoint, so the same command resumes a study that was interrupted.
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
from gift_fast.distillation import distill, is_complete
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
    """The experiments whose sets are there or can be made, and the names of the other sets.

    Args:
        experiments: of a study.
        sets: folder of the published sets; None if all sets are generated.
    """
    missing = [
        source.name
        for source in dict.fromkeys(experiment.source for experiment in experiments)
        if not source.generated and not (sets is not None and holds(sets / source.name))
    ]
    present = [
        experiment
        for experiment in experiments
        if experiment.source.generated or experiment.source.name not in missing
    ]
    return present, missing


def holds(path: Path) -> bool:
    """Whether a path is a set's folder, or the common name of the two files of a set."""
    return path.exists() or is_pair(path)


def run_study(
    study: Study,
    experiments: Sequence[Experiment],
    run: Runner,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Finished]:
    """Run a study: at its own settings and, where it is tuned, the trials and what they choose.

    Args:
        study: that the experiments are of.
        experiments: at the study's settings, whose sets are there or can be made, see
            :func:`split_by_presence`.
        run: runs what has not been run, such as :class:`LocalRunner`.
        tell: takes a line at the beginning of each part of a tuned study; a part has progress of
            its own.

    Returns:
        All results: of the experiments in their order, of the trials, of the tuned experiments, of
        the baselines.

    Raises:
        RunsFailed: runs have failed; all that do not depend on them have been run.
        ValueError: there is no experiment.
    """
    if not experiments:
        raise ValueError(f"the study {study.name} must have a run, got none")
    if not study.baselines:
        return run_parts(study, experiments, run, tell)
    failed, finished = None, []
    try:
        finished = run_parts(study, experiments, run, tell)
    except RunsFailed as error:  # no baseline depends on it
        failed = error
    baselines = baseline_experiments(experiments)
    tell(f"baselines: {len(baselines)} runs")
    finished += run(baselines)
    if failed is not None:
        raise failed
    return finished


def run_parts(
    study: Study, experiments: Sequence[Experiment], run: Runner, tell: Callable[[str], None]
) -> list[Finished]:
    """The experiments and, if the study is tuned, the trials and what they choose."""
    if study.tuning is None:
        return run(experiments)
    failed, finished = None, []
    tell(f"part 1 of 3: {len(experiments)} runs at the study's own settings")
    try:
        finished = run(experiments)
    except RunsFailed as error:  # no trial depends on it
        failed = error
    tell("part 2 of 3: trials; rates are added where a curve still rises at an end")
    trials, choices = tune(experiments, study.tuning, run)
    tell(f"part 3 of 3: {len(experiments)} runs at what {len(trials)} trials have chosen")
    again = run(tuned(experiments, choices))
    if failed is not None:
        raise failed
    return [*finished, *trials, *again]


class LocalRunner:
    """Runs experiments in this process, or in all that `accelerate launch` has started.

    Args:
        study: that the experiments are of.
        context: where teachers and results are. Generated sets are in ``sets`` under
            its folder of results.
        sets: folder of the published sets; None if all sets are generated.
    """

    def __init__(self, study: Study, context: RunContext, sets: Path | None = None) -> None:
        self.study = study
        self.context = context
        self.sets = sets

    def __call__(self, experiments: Sequence[Experiment]) -> list[Finished]:
        """Run what has not been run, and gives all results in the order of the experiments.

        Raises:
            OSError: the folder of the results cannot be written.
            RunsFailed: some runs have failed, after all others have been run.
        """
        context = self.context
        accelerator = context.accelerator(experiments[0].config)
        check_writable(context.out, accelerator)
        record = Record(context.out, self.study, experiments)
        sources = {experiment.source for experiment in experiments}
        made = sum(source.generated for source in sources)
        stages = missing_teachers(self.study, sources, context) + made + len(experiments)
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
                replayed = {} if context.force else runs_by_labels(planned)
                for experiment, run in planned.items():
                    title = title_of(experiment)
                    try:
                        results[experiment] = run_planned(
                            run, inputs, context, title=title, replays=run.labels in replayed
                        )
                    except Exception as error:
                        failures += failures_of([experiment], error, accelerator)
                        context.progress.begin(title, 1)
                        context.progress.end("failed")
                    if run.labels is not None and run.labels in replayed:
                        replayed[run.labels].discard(experiment)
                        if not replayed[run.labels]:
                            remove(run.labels)
        if failures:
            raise RunsFailed(failures, done=len(results))
        return [Finished(experiment, results[experiment]) for experiment in experiments]


def failures_of(
    group: Sequence[Experiment], error: Exception, accelerator: Accelerator
) -> list[Failure]:
    """What an error stops.

    It is raised again where other processes would wait for this one, and where no other run could
    be kept either, since the disk is full.
    """
    if accelerator.num_processes > 1 or is_disk_full(error):
        raise error
    return [Failure.of(title_of(experiment), error) for experiment in group]


def groups_of(experiments: Sequence[Experiment]) -> list[list[Experiment]]:
    """The experiments, each once, those together that are run on the same inputs."""
    groups: dict[Hashable, list[Experiment]] = {}
    for experiment in dict.fromkeys(experiments):
        groups.setdefault(reads_of(experiment), []).append(experiment)
    return list(groups.values())


def reads_of(experiment: Experiment) -> Hashable:
    """What an experiment reads: experiments with the same are run on the same loaded inputs."""
    config = experiment.config
    return (experiment.source, config.dataset, config.tested_on, config.teachers)


def prepare(study: Study, source: SetSource, context: RunContext, sets: Path | None) -> Path:
    """Train missing teachers of a set, generates the set if necessary, and returns its path."""
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
    """What runs with this configuration and the set at ``path`` read."""
    job = EvaluationJob(config=config, data=path)
    return load_inputs(job, context, context.accelerator(config).device)


@dataclass(frozen=True)
class PlannedRun:
    """A run whose inputs are known.

    Attributes:
        config: resolved on its set.
        images: of an epoch.
        path: of its result.
        labels: folder of the labels that it can share with other runs; None where its teachers
            must label online.
    """

    config: ResolvedEvaluationConfig
    images: int
    path: Path
    labels: Path | None = None


def plan_group(
    group: Sequence[Experiment], inputs: Inputs, context: RunContext
) -> dict[Experiment, PlannedRun]:
    """The runs of experiments that read the same, see :func:`reads_of`; looks over their set.

    Raises:
        ValueError: a configuration and what it is to be run on disagree.
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
    """The unfinished runs that replay labels, by the folder of these."""
    folders = shared((run.labels, run.path) for run in planned.values())
    return {
        folder: {e for e, run in planned.items() if run.labels == folder and not run.path.exists()}
        for folder in folders
    }


def run_planned(
    run: PlannedRun, inputs: Inputs, context: RunContext, *, title: str, replays: bool
) -> RunResult:
    """The result of a run, which is trained with shared labels if it ``replays`` and is to be."""
    if not replays or run.labels is None or run.path.exists():
        return run_student(run.config, inputs, context, title=title)
    with labels_of(run.labels, run.config, inputs, context, title) as labels:
        return run_student(run.config, inputs, context, title=title, labels=labels)


def missing_teachers(study: Study, sources: Iterable[SetSource], context: RunContext) -> int:
    """How many teachers have to be trained."""
    paths = {
        teacher_path(context, source.sized_dataset, teacher)
        for source in sources
        for teacher in study.teachers_of(source)
    }
    return sum(not path.exists() for path in paths)


def teacher_accuracies(study: Study, source: SetSource, context: RunContext) -> dict[str, float]:
    """Top-1 of a set's teachers, percent, by the names of their files, where the files have it."""
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
    """Train a teacher of which there are no weights; a file that is there is taken as it is."""
    if teacher_path(context, source.sized_dataset, teacher).exists():
        return
    settings = {**study.teacher, "dataset": source.sized_dataset, "model": teacher}
    config = TeacherConfig.from_dict(settings)
    dataset = load_dataset(config.dataset, context.data_root)
    prepare_teacher(config, dataset, context)


def generated_set(source: SetSource, context: RunContext, accelerator: Accelerator) -> Path:
    """The path of a generated set; generates it with its teacher if it is missing.

    The name holds a digest of the teacher: another teacher makes another set.
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
    if accelerator.is_main_process and not (is_pair(path) or is_complete(path)):
        outcome = "made"
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
