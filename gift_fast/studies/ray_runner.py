"""Runs the experiments of a study as tasks of a Ray cluster, on one or several machines.

Ray provides the queue and the retries. A task calls the same function as
:class:`~gift_fast.studies.run.LocalRunner` does for one experiment, and writes its files to the
output folder, which all machines share:

- Teachers and sets are created once, by separate tasks.
- If a worker or its machine dies, its task is retried on another worker (``RETRIES``), which
  resumes the run from its checkpoint. A worker that receives SIGTERM saves its state first.
- If the driver is interrupted, it cancels the tasks and waits up to ``GRACE`` seconds, in which
  each running task saves its state at the next step.
- A run that has a result is not started. After a network failure, two workers may train the same
  run. This is safe: files are replaced atomically, their names are determined by configuration and
  inputs, and both results are valid. On CPUs with the same number of threads, they have the same
  bits.
- A run that fails does not stop the others.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gift_fast.evaluation.config import EvaluationConfig
from gift_fast.evaluation.context import RunContext, check_writable
from gift_fast.evaluation.results import RunResult, read_run
from gift_fast.evaluation.summary import outcome
from gift_fast.evaluation.teacher_weights import teacher_path
from gift_fast.process.errors import is_disk_full
from gift_fast.process.signals import as_interrupted
from gift_fast.studies.board import Board, Overview, show_overview
from gift_fast.studies.cluster import Cluster
from gift_fast.studies.failures import Failure, RunsFailed
from gift_fast.studies.manifest import Finished, Record, title_of
from gift_fast.studies.ray_tasks import (
    WorkerContext,
    make_labels,
    make_set,
    make_teacher,
    plan_set,
    train,
)
from gift_fast.studies.run import PlannedRun, groups_of, teacher_accuracies
from gift_fast.studies.sets import SetSource
from gift_fast.studies.shared_labels import remove, shared
from gift_fast.studies.study import Experiment, Study

RETRIES = 3
"""Maximum number of retries of a task whose worker has died. Exceptions are not retried."""

REFRESH = 1.0
"""Seconds between two polls of the board."""

GRACE = 60.0
"""Seconds that canceled tasks have to save their state, which takes one step and one write."""

BOARD_TIMEOUT = 10.0
"""Seconds to wait for the board, which takes some time to start on a busy machine."""

ANSI_COLOR = re.compile(r"\x1b\[[0-9;]*m")
"""Escape sequences of terminal colors."""


def board_of(cluster: Cluster) -> Any:
    """Start a board in an actor on the driver's machine, which uses no core and ends with it."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    node = cluster.ray.get_runtime_context().get_node_id()
    strategy = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    return cluster.ray.remote(num_cpus=0, scheduling_strategy=strategy)(Board).remote()


class RayRunner:
    """Runs experiments as tasks of a cluster.

    Args:
        cluster: the connected cluster.
        study: the study.
        context: the folders and the device, the same on all machines; see
            :class:`~gift_fast.studies.run.LocalRunner`.
        sets: folder of the published sets; None if all sets are generated.
    """

    def __init__(
        self, cluster: Cluster, study: Study, context: RunContext, sets: Path | None = None
    ) -> None:
        self.cluster = cluster
        self.study = study
        self.force = context.force
        self.quiet = context.quiet
        # With --force, the driver removes old results; a retried task must resume its run.
        self.context = replace(
            context,
            out=context.out.absolute(),
            data_root=None if context.data_root is None else context.data_root.absolute(),
            teacher_dir=context.teacher_dir.absolute(),
            force=False,
        )
        self.folder = None if sets is None else sets.absolute()
        self.worker = WorkerContext(cluster.cpus, os.getcwd(), board_of(cluster))
        # The tasks for teachers and sets, each submitted once.
        self.teachers: dict[Path, Any] = {}
        self.sets: dict[SetSource, Any] = {}
        self.started: set[str] = set()

    def __call__(self, experiments: Sequence[Experiment]) -> list[Finished]:
        """Run unfinished experiments, and return all results in the order of the experiments.

        Raises:
            OSError: the output folder cannot be written.
            RunsFailed: some runs failed; raised after all others have ended.
        """
        driver = replace(self.context, device="cpu")  # the GPUs are for the tasks
        check_writable(self.context.out, driver.accelerator(experiments[0].config))
        with show_overview(len(experiments), quiet=self.quiet) as overview:
            batch = Batch(self, experiments, overview)
            try:
                while batch.is_running:
                    batch.step()
            except KeyboardInterrupt as error:
                stop = as_interrupted(error)
                stop.details.append(batch.cancel())
                raise stop from None
        if batch.failures:
            raise RunsFailed(batch.failures, done=overview.done)
        return [Finished(each, batch.results[batch.files[each]]) for each in experiments]

    def submit(self, function: Callable[..., Any], name: str, *arguments: Any) -> Any:
        """Submit a task with the resources of a run."""
        cluster = self.cluster
        resources = {"num_cpus": cluster.cpus, "num_gpus": cluster.gpus}
        task = cluster.ray.remote(max_retries=RETRIES, **resources)(function)
        return task.options(name=name).remote(self.worker, *arguments)

    def submit_set(self, source: SetSource) -> Any:
        """Submit the task that returns the path of a set, after those that train its teachers."""
        if source not in self.sets:
            teachers = []
            for teacher in self.study.teachers_of(source):
                path = teacher_path(self.context, source.sized_dataset, teacher)
                if path not in self.teachers:
                    arguments = (self.study, source, teacher, self.context)
                    self.teachers[path] = self.submit(make_teacher, path.stem, *arguments)
                teachers.append(self.teachers[path])
            settings = (self.study, source, self.context, self.folder)
            self.sets[source] = self.submit(make_set, source.name, *settings, *teachers)
        return self.sets[source]


class Batch:
    """The experiments of one call of a runner, until all of them have ended.

    Args:
        runner: the runner.
        experiments: the experiments.
        overview: displays the progress.
    """

    def __init__(
        self, runner: RayRunner, experiments: Sequence[Experiment], overview: Overview
    ) -> None:
        self.runner = runner
        self.overview = overview
        self.record = Record(runner.context.out, runner.study, experiments)
        self.files: dict[Experiment, str] = {}
        self.results: dict[str, RunResult] = {}
        self.failures: list[Failure] = []
        # The submitted tasks, by reference.
        self.groups: dict[Any, list[Experiment]] = {}
        self.runs: dict[Any, Experiment] = {}
        self.labels: dict[Path, set[str]] = {}  # folder -> files of the runs that replay it
        self.left: dict[str, tuple[int, int]] = {}
        for group in groups_of(experiments):
            path = runner.submit_set(group[0].source)
            name = f"read {group[0].source.name}"
            self.groups[runner.submit(plan_set, name, group, runner.context, path)] = group

    @property
    def is_running(self) -> bool:
        """Whether a task has not ended."""
        return bool(self.groups or self.runs)

    def step(self) -> None:
        """Wait up to ``REFRESH`` seconds for tasks to end, and process their results."""
        ray, board = self.runner.cluster.ray, self.runner.worker.board
        ended, _ = ray.wait([*self.groups, *self.runs], timeout=REFRESH)
        for task in ended:
            group = self.groups.pop(task, None) or [self.runs.pop(task)]
            try:
                value = ray.get(task)
            except ray.exceptions.RayError as error:
                self.fail(group, error)
                continue
            if isinstance(value, RunResult):
                self.finish(group[0], value)
            else:
                self.begin(group[0].config, *value)
        try:
            snapshot = ray.get(board.read.remote(), timeout=BOARD_TIMEOUT)
        except ray.exceptions.RayError:  # runs do not depend on the display
            return
        self.overview.update(snapshot, self.left, known=not self.groups)

    def begin(
        self,
        inputs_config: EvaluationConfig,
        path: Path,
        planned: dict[Experiment, PlannedRun],
    ) -> None:
        """Submit the unfinished runs of a set that has been read.

        Args:
            inputs_config: the configuration that the inputs were read with.
            path: path of the set.
            planned: the runs on the set.
        """
        runner = self.runner
        files = {experiment: run.path for experiment, run in planned.items()}
        source = next(iter(planned)).source
        self.record.add(files, teacher_accuracies(runner.study, source, runner.context))
        folders = shared((run.labels, run.path) for run in planned.values())
        labeled: dict[Path, Any] = {}
        for experiment, run in planned.items():
            file = run.path.name
            is_repeated = file in self.files.values()  # the same run as another experiment's
            self.files[experiment] = file
            if runner.force and file not in runner.started:
                run.path.unlink(missing_ok=True)
                run.path.with_suffix(".ckpt").unlink(missing_ok=True)
            runner.started.add(file)
            if is_repeated:
                self.overview.count(done=1)
            elif run.path.exists():
                self.finish(experiment, read_run(run.path), ", from an earlier call")
            else:
                title = title_of(experiment)
                arguments = (title, run, inputs_config, path, runner.context)
                folder, dependencies = run.labels, []
                if folder is not None and folder in folders:
                    if folder not in labeled:
                        labeled[folder] = runner.submit(make_labels, folder.name, *arguments)
                    self.labels.setdefault(folder, set()).add(file)
                    dependencies = [labeled[folder]]
                task = runner.submit(train, title, *arguments, bool(dependencies), *dependencies)
                self.runs[task] = experiment
                assert run.config.epochs is not None
                self.left[file] = (run.config.epochs, run.images)

    def cancel(self) -> str:
        """Cancel all tasks, wait up to ``GRACE`` seconds, and return how many runs were saved."""
        ray, tasks = self.runner.cluster.ray, [*self.groups, *self.runs]
        for task in tasks:
            ray.cancel(task)
        ended, _ = ray.wait(tasks, num_returns=len(tasks), timeout=GRACE)
        # The board is read after the wait, so that it includes runs that had just started and
        # excludes runs that have finished meanwhile.
        try:
            snapshot = ray.get(self.runner.worker.board.read.remote(), timeout=BOARD_TIMEOUT)
        except ray.exceptions.RayError:
            return (
                f"{len(ended)} of {len(tasks)} tasks have stopped; the number of running runs is "
                "unknown"
            )
        started = snapshot.runs
        running = {task for task, each in self.runs.items() if self.files[each] in started}
        saved = len(running.intersection(ended))
        return f"{saved} of {len(running)} running runs saved their state"

    def finish(self, experiment: Experiment, result: RunResult, remark: str = "") -> None:
        """Store the result of a run."""
        file = self.files[experiment]
        self.results[file] = result
        self.left.pop(file, None)
        self.release(file)
        seconds = "" if remark else f" ({result.seconds:.1f} s)"
        line = f"{title_of(experiment)}: {outcome(result)}{remark}{seconds}"
        self.overview.count(done=1, line=line)

    def release(self, file: str) -> None:
        """Remove the labels of a run, unless another run still needs them."""
        for folder, files in self.labels.items():
            if file in files:
                files.remove(file)
                if not files:
                    remove(folder)

    def fail(self, group: Sequence[Experiment], error: Exception) -> None:
        """Record the failure of experiments, and remove them from the board.

        A full disk is raised, because no other run could be saved.
        """
        cause = cause_of(error)
        if cause is not None and is_disk_full(cause):
            raise cause
        for experiment in group:
            failure = failure_of(title_of(experiment), error)
            self.failures.append(failure)
            file = self.files.get(experiment)
            if file is not None:
                self.left.pop(file, None)
                self.release(file)
                self.runner.worker.board.end.remote(file)
            self.overview.count(failed=1, line=f"{failure.title}: failed: {failure.reason}")


def cause_of(error: Exception) -> Exception | None:
    """The exception that a task or one of its dependencies raised; None if its worker died."""
    cause: Exception | None = getattr(error, "cause", None)
    while getattr(cause, "cause", None) is not None:
        cause = getattr(cause, "cause", None)
    return cause


def failure_of(title: str, error: Exception) -> Failure:
    """The failure of a task: its exception, or the loss of its worker."""
    cause = cause_of(error)
    if cause is None:  # the worker was lost in every retry
        reason = str(error).strip().splitlines()[0]
        return Failure(title, f"{reason} (tried {1 + RETRIES} times)")
    failure = Failure.of(title, cause)
    # The exception was sent without its traceback; Ray's message contains it, with colors.
    return replace(failure, trace=ANSI_COLOR.sub("", str(error))) if failure.trace else failure
