"""What a worker of a Ray cluster does: make a teacher or a set, read a set, train a student."""

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
class Site:
    """What a worker has to know of the driver.

    Attributes:
        threads: of torch.
        folder: from which the command was called; the user's own losses are imported from there.
        board: where it tells of its run.
    """

    threads: int
    folder: str
    board: Any

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Make the worker's process like the driver's, and stops at a signal as it does.

        The driver cancels by a SIGINT. A SIGTERM takes away the worker or its machine: then the
        worker's process ends, so that Ray gives the task to another.
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

    def shown(self, context: RunContext, key: str) -> RunContext:
        """The context with the progress of one run told to the driver's board."""
        return replace(context, progress=Reporter(self.board, key))


@lru_cache(maxsize=1)
def kept_inputs(config: EvaluationConfig, path: Path, context: RunContext) -> Inputs:
    """What :func:`read_inputs` gives, kept while a worker trains on the same set."""
    return read_inputs(config, path, context)


def make_teacher(
    site: Site, study: Study, source: SetSource, teacher: str, context: RunContext
) -> None:
    """A task: trains a teacher where there are no weights of it."""
    path = teacher_path(context, source.sized_dataset, teacher)
    with site.entered():
        train_missing_teacher(study, source, teacher, site.shown(context, path.stem))


def make_set(
    site: Site, study: Study, source: SetSource, context: RunContext, sets: Path | None, *_: None
) -> Path:
    """A task: returns the path of a set, which it first generates if necessary.

    What follows ``sets`` is nothing: the tasks of the teachers, for which Ray waits.
    """
    key = f"{source.name} {source.seed}"
    with site.entered():
        return prepare(study, source, site.shown(context, key), sets)


def look_over(
    site: Site, group: Sequence[Experiment], context: RunContext, path: Path
) -> tuple[Path, dict[Experiment, PlannedRun]]:
    """A task: reads a set, and gives its path and the runs on it."""
    if not context.out.is_dir():
        raise OSError(
            f"{context.out} must be a folder that all machines share, {platform.node()} has none"
        )
    with site.entered():
        inputs = kept_inputs(group[0].config, path, context)
        return path, plan_group(group, inputs, context)


def train(
    site: Site,
    title: str,
    run: PlannedRun,
    reads: EvaluationConfig,
    path: Path,
    context: RunContext,
    replays: bool = False,
    *_: None,
) -> RunResult:
    """A task: one student, from its file or its checkpoint where another worker has left one.

    Args:
        site: of the driver.
        title: of the run.
        run: what to train.
        reads: a configuration with the same inputs, by which they were read before.
        path: of the set.
        context: where everything else is.
        replays: whether labels are shared with other runs; what follows is nothing, the task that
            has written them, for which Ray waits.
    """
    with site.entered():
        inputs = kept_inputs(reads, path, context)
        if run_path(context.out, run.config, inputs.digests_of(run.config)) != run.path:
            raise OSError(
                f"{path}, the teachers and the dataset must be the same for all machines and as "
                f"long as the study runs; {platform.node()} reads others than were looked over"
            )
        shown = site.shown(context, run.path.name)
        return run_planned(run, inputs, shown, title=title, replays=replays)


def make_labels(
    site: Site,
    title: str,
    run: PlannedRun,
    reads: EvaluationConfig,
    path: Path,
    context: RunContext,
) -> None:
    """A task: writes the labels that several runs share; the arguments are those of one of them."""
    assert run.labels is not None
    with site.entered():
        inputs = kept_inputs(reads, path, context)
        shown = site.shown(context, run.labels.name)
        with labels_of(run.labels, run.config, inputs, shown, title):
            shown.progress.end("labels written")
