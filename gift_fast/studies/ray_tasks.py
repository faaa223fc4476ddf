"""The tasks of a Ray worker: train a teacher, generate or read a set, label, train a student."""

from __future__ import annotations

import os
import platform
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from gift_fast.evaluation.config import EvaluationConfig
from gift_fast.evaluation.context import RunContext
from gift_fast.evaluation.inputs import Inputs
from gift_fast.evaluation.results import RunResult, run_path
from gift_fast.evaluation.teacher_weights import teacher_path
from gift_fast.process.signals import Interrupted, handling_signals
from gift_fast.studies.board import Reporter
from gift_fast.studies.run import (
    PlannedRun,
    plan_group,
    prepare,
    read_inputs,
    run_planned,
    train_missing_teacher,
)
from gift_fast.studies.sets import SetSource
from gift_fast.studies.shared_labels import labels_of
from gift_fast.studies.study import Experiment, Study


@dataclass(frozen=True)
class WorkerContext:
    """What a worker needs to know of the driver.

    Attributes:
        threads: number of torch threads.
        folder: current folder of the driver, from which user-defined losses are imported.
        board: handle of the board, to which the worker reports.
    """

    threads: int
    folder: str
    board: Any

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Set up the process of the worker and handle signals within the block.

        The driver cancels tasks by SIGINT. SIGTERM means that the worker or its machine is being
        shut down: the process exits, so that Ray retries the task on another worker.
        """
        torch.set_num_threads(self.threads)
        if self.folder not in sys.path:
            sys.path.append(self.folder)
        with handling_signals(ignored=True):
            try:
                yield
            except Interrupted as stop:
                if stop.signal == signal.SIGTERM:
                    os._exit(stop.status)
                raise

    def reporting(self, context: RunContext, key: str) -> RunContext:
        """The context with its progress reported to the board."""
        return replace(context, progress=Reporter(self.board, key))


@lru_cache(maxsize=1)
def cached_inputs(config: EvaluationConfig, path: Path, context: RunContext) -> Inputs:
    """The result of :func:`read_inputs`, cached while a worker trains on the same set."""
    return read_inputs(config, path, context)


def make_teacher(
    worker: WorkerContext, study: Study, source: SetSource, teacher: str, context: RunContext
) -> None:
    """Task: train a teacher, unless its weights exist."""
    path = teacher_path(context, source.sized_dataset, teacher)
    with worker.entered():
        train_missing_teacher(study, source, teacher, worker.reporting(context, path.stem))


def make_set(
    worker: WorkerContext,
    study: Study,
    source: SetSource,
    context: RunContext,
    sets: Path | None,
    *_: None,
) -> Path:
    """Task: generate a set if necessary, and return its path.

    Further arguments are the tasks that train the teachers, on which this task depends.
    """
    key = f"{source.name} {source.seed}"
    with worker.entered():
        return prepare(study, source, worker.reporting(context, key), sets)


def plan_set(
    worker: WorkerContext, group: Sequence[Experiment], context: RunContext, path: Path
) -> tuple[Path, dict[Experiment, PlannedRun]]:
    """Task: read a set, and return its path and the runs on it."""
    if not context.out.is_dir():
        raise OSError(
            f"{context.out} must be a folder that all machines share; it does not exist on "
            f"{platform.node()}"
        )
    with worker.entered():
        inputs = cached_inputs(group[0].config, path, context)
        return path, plan_group(group, inputs, context)


def train(
    worker: WorkerContext,
    title: str,
    run: PlannedRun,
    inputs_config: EvaluationConfig,
    path: Path,
    context: RunContext,
    replays: bool = False,
    *_: None,
) -> RunResult:
    """Task: train one student, or resume from the checkpoint of another worker.

    Args:
        worker: the context of the worker.
        title: title of the run.
        run: the run.
        inputs_config: the configuration that the inputs were read with; it determines the same
            inputs as the configuration of the run.
        path: path of the set.
        context: the folders and the device.
        replays: whether to replay labels that are shared with other runs. Further arguments are the
            task that writes them, on which this task depends.
    """
    with worker.entered():
        inputs = cached_inputs(inputs_config, path, context)
        if run_path(context.out, run.config, inputs.digests_of(run.config)) != run.path:
            raise OSError(
                f"{path}, the teachers and the dataset must be the same on all machines and must "
                f"not change while the study runs; {platform.node()} has read different ones"
            )
        context = worker.reporting(context, run.path.name)
        return run_planned(run, inputs, context, title=title, replays=replays)


def make_labels(
    worker: WorkerContext,
    title: str,
    run: PlannedRun,
    inputs_config: EvaluationConfig,
    path: Path,
    context: RunContext,
) -> None:
    """Task: write the labels that several runs share; the arguments are those of one run."""
    assert run.labels is not None
    with worker.entered():
        inputs = cached_inputs(inputs_config, path, context)
        context = worker.reporting(context, run.labels.name)
        with labels_of(run.labels, run.config, inputs, context, title):
            context.progress.end("labels written")
