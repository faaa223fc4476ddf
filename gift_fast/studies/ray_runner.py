"""Runs a study's experiments as tasks of a Ray cluster, on this machine or on many.

The queue, the retries and the machines are Ray's. A task is what
:class:`~gift_fast.studies.run.LocalRunner` does for one experiment, with the same function, and all
that it leaves behind is in the folder of the runs, which the machines share:

- What an experiment needs, its teachers and its set, is made by tasks of its own, each once.
- A task whose worker dies, with its machine or without, is run again on another (``RETRIES``), and
  the run is resumed from its checkpoint. A worker that receives SIGTERM saves its state first.
- When the driver is interrupted, it cancels the tasks and gives them ``GRACE`` seconds, in which
  every running one saves its state at the next step.
- A run with a result is not begun. A worker that was given up but lives on, behind a network that
  broke, may train a run that another has taken over. Every file is replaced whole, and its name
  follows from configuration and inputs: what is left is the result of one of the two, and either is
  right. On CPUs with the same number of threads they are the same to the bit.
- A run that raises stops no other.
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
    Site,
    look_over,
    make_labels,
    make_set,
    make_teacher,
    train,
)
from gift_fast.studies.run import PlannedRun, groups_of, teacher_accuracies
from gift_fast.studies.sets import SetSource
from gift_fast.studies.shared_labels import remove, shared
from gift_fast.studies.study import Experiment, Study

RETRIES = 3
"""How often a task is run again when its worker has died. An exception is not a reason: it would
be raised again."""

REFRESH = 1.0
"""Seconds between two looks at the board."""

GRACE = 60.0
"""Seconds that canceled tasks have to save their runs. One step and one write take less."""

PATIENCE = 10.0
"""Seconds that the board has to answer; it takes some to start on a busy machine."""

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
"""The escape sequences of colors in a terminal."""


def board_of(cluster: Cluster) -> Any:
    """A new board, in an actor beside the driver: it takes no core, and dies with the driver."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = cluster.ray.get_runtime_context().get_node_id()
    beside = NodeAffinitySchedulingStrategy(node_id=here, soft=False)
    return cluster.ray.remote(num_cpus=0, scheduling_strategy=beside)(Board).remote()


class RayRunner:
    """Runs experiments as tasks of a cluster.

    Args:
        cluster: that this process is connected to.
        study: that the experiments are of.
        context: where teachers and results are, for all machines alike; see
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
        # The driver removes what is to be repeated: a task that is run again is to go on.
        self.context = replace(
            context,
            out=context.out.absolute(),
            data_root=None if context.data_root is None else context.data_root.absolute(),
            teacher_dir=context.teacher_dir.absolute(),
            force=False,
        )
        self.folder = None if sets is None else sets.absolute()
        self.site = Site(cluster.cpus, os.getcwd(), board_of(cluster))
        # The tasks that make what runs need, each given to the cluster once.
        self.teachers: dict[Path, Any] = {}
        self.sets: dict[SetSource, Any] = {}
        self.begun: set[str] = set()

    def __call__(self, experiments: Sequence[Experiment]) -> list[Finished]:
        """Run what has not been run, and gives all results in the order of the experiments.

        Raises:
            OSError: the folder of the results cannot be written.
            RunsFailed: some runs have failed, after all others have ended.
        """
        driver = replace(self.context, device="cpu")  # the GPUs are for the tasks
        check_writable(self.context.out, driver.accelerator(experiments[0].config))
        with show_overview(len(experiments), quiet=self.quiet) as overview:
            batch = Batch(self, experiments, overview)
            try:
                while batch.goes_on:
                    batch.take_next()
            except KeyboardInterrupt as error:
                stop = as_interrupted(error)
                stop.details.append(batch.cancel())
                raise stop from None
        if batch.failures:
            raise RunsFailed(batch.failures, done=overview.done)
        return [Finished(each, batch.results[batch.files[each]]) for each in experiments]

    def submit(self, function: Callable[..., Any], name: str, *arguments: Any) -> Any:
        """Return a function to the cluster, with the share of a machine that a run has."""
        cluster = self.cluster
        share = {"num_cpus": cluster.cpus, "num_gpus": cluster.gpus}
        task = cluster.ray.remote(max_retries=RETRIES, **share)(function)
        return task.options(name=name).remote(self.site, *arguments)

    def submit_set(self, source: SetSource) -> Any:
        """The task that returns the path of a set; it follows those that train its teachers."""
        if source not in self.sets:
            teachers = []
            for teacher in self.study.teachers_of(source):
                path = teacher_path(self.context, source.sized_dataset, teacher)
                if path not in self.teachers:
                    made = (self.study, source, teacher, self.context)
                    self.teachers[path] = self.submit(make_teacher, path.stem, *made)
                teachers.append(self.teachers[path])
            read = (self.study, source, self.context, self.folder)
            self.sets[source] = self.submit(make_set, source.name, *read, *teachers)
        return self.sets[source]


class Batch:
    """The experiments of one call of a runner, until the last has ended.

    Args:
        runner: that was called.
        experiments: with which it was.
        overview: shows how far they are.
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
        # What the cluster has been given, by the task's reference.
        self.groups: dict[Any, list[Experiment]] = {}
        self.runs: dict[Any, Experiment] = {}
        self.labels: dict[Path, set[str]] = {}  # the files of the runs that replay them
        self.left: dict[str, tuple[int, int]] = {}
        for group in groups_of(experiments):
            path = runner.submit_set(group[0].source)
            name = f"read {group[0].source.name}"
            self.groups[runner.submit(look_over, name, group, runner.context, path)] = group

    @property
    def goes_on(self) -> bool:
        """Whether something has not ended."""
        return bool(self.groups or self.runs)

    def take_next(self) -> None:
        """Wait for a task to end, for a moment, and takes in what has come."""
        ray, board = self.runner.cluster.ray, self.runner.site.board
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
            reading = ray.get(board.read.remote(), timeout=PATIENCE)
        except ray.exceptions.RayError:  # no run depends on what is shown
            return
        self.overview.update(reading, self.left, known=not self.groups)

    def begin(
        self,
        reads: EvaluationConfig,
        path: Path,
        planned: dict[Experiment, PlannedRun],
    ) -> None:
        """Return the cluster the runs on a set that was looked over, unless they have finished."""
        runner = self.runner
        files = {experiment: run.path for experiment, run in planned.items()}
        source = next(iter(planned)).source
        self.record.add(files, teacher_accuracies(runner.study, source, runner.context))
        folders = shared((run.labels, run.path) for run in planned.values())
        labeled: dict[Path, Any] = {}
        for experiment, run in planned.items():
            file = run.path.name
            again = file in self.files.values()  # under other names, the same run
            self.files[experiment] = file
            if runner.force and file not in runner.begun:
                run.path.unlink(missing_ok=True)
                run.path.with_suffix(".ckpt").unlink(missing_ok=True)
            runner.begun.add(file)
            if again:
                self.overview.count(done=1)
            elif run.path.exists():
                self.finish(experiment, read_run(run.path), ", from an earlier call")
            else:
                title = title_of(experiment)
                given = (title, run, reads, path, runner.context)
                folder, waits = run.labels, []
                if folder is not None and folder in folders:
                    if folder not in labeled:
                        labeled[folder] = runner.submit(make_labels, folder.name, *given)
                    self.labels.setdefault(folder, set()).add(file)
                    waits = [labeled[folder]]
                task = runner.submit(train, title, *given, bool(waits), *waits)
                self.runs[task] = experiment
                assert run.config.epochs is not None
                self.left[file] = (run.config.epochs, run.images)

    def cancel(self) -> str:
        """Stop all tasks, gives them ``GRACE`` seconds to save, and says how many runs have."""
        ray, tasks = self.runner.cluster.ray, [*self.groups, *self.runs]
        for task in tasks:
            ray.cancel(task)
        ended, _ = ray.wait(tasks, num_returns=len(tasks), timeout=GRACE)
        # Asked only now, the board also knows of runs that had just begun, and it has forgotten
        # those that have finished since.
        try:
            reading = ray.get(self.runner.site.board.read.remote(), timeout=PATIENCE)
        except ray.exceptions.RayError:
            return f"{len(ended)} of {len(tasks)} tasks have stopped; how many ran is unknown"
        begun = reading.standings
        running = {task for task, each in self.runs.items() if self.files[each] in begun}
        saved = len(running.intersection(ended))
        return f"{saved} of {len(running)} running runs saved their state"

    def finish(self, experiment: Experiment, result: RunResult, remark: str = "") -> None:
        """Keep the result of a run."""
        file = self.files[experiment]
        self.results[file] = result
        self.left.pop(file, None)
        self.release(file)
        seconds = "" if remark else f" ({result.seconds:.1f} s)"
        line = f"{title_of(experiment)}: {outcome(result)}{remark}{seconds}"
        self.overview.count(done=1, line=line)

    def release(self, file: str) -> None:
        """Remove labels that no other run is to replay."""
        for folder, files in self.labels.items():
            if file in files:
                files.remove(file)
                if not files:
                    remove(folder)

    def fail(self, group: Sequence[Experiment], error: Exception) -> None:
        """Keep why experiments have no result, and tells the board, since no worker will.

        A full disk is raised again: no other run could be kept either.
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
                self.runner.site.board.end.remote(file)
            self.overview.count(failed=1, line=f"{failure.title}: failed: {failure.reason}")


def cause_of(error: Exception) -> Exception | None:
    """What a task, or a task that it followed, has raised; None where its worker has died."""
    cause: Exception | None = getattr(error, "cause", None)
    while getattr(cause, "cause", None) is not None:
        cause = getattr(cause, "cause", None)
    return cause


def failure_of(title: str, error: Exception) -> Failure:
    """Why a task has no result: what it raised, or the end of its worker."""
    cause = cause_of(error)
    if cause is None:  # of Ray: the worker or its machine was lost, again and again
        reason = str(error).strip().splitlines()[0]
        return Failure(title, f"{reason} (tried {1 + RETRIES} times)")
    failure = Failure.of(title, cause)
    # The error was sent without its traceback; Ray's message holds it, with colors.
    return replace(failure, trace=COLOUR.sub("", str(error))) if failure.trace else failure
