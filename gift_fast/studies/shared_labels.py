"""Labels that several runs of a study share: written once, replayed by each run, then removed.

Runs share labels if online teachers would compute bitwise identical labels for the same batches:
the set, teachers, seed, augmentation, mixing, batch size, epochs and precision are the same, and so
are the versions, the device and the number of threads. All logits are stored in float32, so that a
run has the same result and file name as with online teachers.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import torch

from gift_fast.data.labels.label_set import LabelSet, is_label_set
from gift_fast.evaluation.config import ResolvedEvaluationConfig
from gift_fast.evaluation.context import RunContext
from gift_fast.evaluation.inputs import Inputs
from gift_fast.evaluation.labeling import LabelingProgress, label_run, plan_labels
from gift_fast.files.disk import nearest_existing
from gift_fast.files.fingerprint import fingerprint
from gift_fast.training.environment import environment_of
from gift_fast.training.objectives import build_objective

if TYPE_CHECKING:
    from accelerate import Accelerator

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

FOLDER = "labels"
"""Name of the subfolder of the output folder."""

MIN_RUNS = 2
"""Minimum number of unfinished runs that share labels: storing costs less than labeling twice."""

POLL_INTERVAL = 0.5
"""Seconds between two attempts to take a lock."""


def folder_of(
    config: ResolvedEvaluationConfig,
    inputs: Inputs,
    context: RunContext,
    accelerator: Accelerator,
) -> Path | None:
    """The folder for the labels of a run, the same for all runs that can share them.

    Returns:
        None if the teachers must be online: the loss reads no soft labels, there is no teacher, the
        run has several processes, the mixing function is user-defined, or the labels would take
        more than ``context.label_limit`` or half of the free disk space.
    """
    narrowed = inputs.narrowed(config.classes)
    single = accelerator.num_processes == 1
    if not (narrowed.teachers and single and build_objective(config.loss).reads_soft_labels):
        return None
    try:
        plan = plan_labels(
            config,
            narrowed.distilled,
            narrowed.dataset.num_classes,
            set_digest=narrowed.digests["distilled"],
            teacher_digest=narrowed.digests["teachers"],
            environment=environment_of(accelerator),
        )
    except TypeError:  # the mixing function is user-defined
        return None
    free = shutil.disk_usage(nearest_existing(context.out)).free
    if plan.nbytes > min(context.label_limit * 1e9, free / 2):
        return None
    capability = torch.backends.cpu.get_cpu_capability()
    digest = fingerprint([json.dumps(plan.manifest.to_dict(), sort_keys=True), capability])
    return context.out / FOLDER / f"seed{config.seed}-{digest}"


def shared(runs: Iterable[tuple[Path | None, Path]]) -> set[Path]:
    """The folders of labels that exist or that at least ``MIN_RUNS`` unfinished runs share.

    Args:
        runs: the folder of the labels, or None, and the file of the result of every run.
    """
    unfinished = {result: folder for folder, result in runs if folder and not result.exists()}
    counts = Counter(unfinished.values())
    return {f for f, runs in counts.items() if runs >= MIN_RUNS or is_label_set(f)}


@dataclass
class Lock:
    """A file lock on a label set, for several studies with the same output folder.

    It is shared while the labels are read, and exclusive while they are written or removed. If the
    file system does not support locks, several studies may write the same labels, and labels are
    not removed.

    Args:
        folder: folder of the label set; the lock file is next to it.
    """

    folder: Path

    def __post_init__(self) -> None:
        path = self.folder.with_name(f"{self.folder.name}.lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file: IO[bytes] = path.open("ab")
        self.supported = fcntl is not None

    def acquire(self, *, exclusive: bool, wait: bool = True) -> bool:
        """Acquire the lock, or convert it to this kind; return whether it is held."""
        while self.supported:
            kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
            try:
                fcntl.flock(self.file, fcntl.LOCK_UN)
                fcntl.flock(self.file, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    return False
                time.sleep(POLL_INTERVAL)
            except OSError:  # the file system does not support locks
                self.supported = False
            else:
                return True
        return False

    def close(self) -> None:
        """Release the lock."""
        self.file.close()


@contextmanager
def labels_of(
    folder: Path,
    config: ResolvedEvaluationConfig,
    inputs: Inputs,
    context: RunContext,
    title: str,
) -> Iterator[LabelSet]:
    """Yield the labels of a run, locked against removal; missing labels are written first.

    Args:
        folder: the folder of the labels, see :func:`folder_of`.
        config: the configuration of the run.
        inputs: the inputs, with the teachers.
        context: the context, which displays the progress of labeling.
        title: the title of the run.
    """
    lock = Lock(folder)
    try:
        while True:  # another study may remove the labels while the lock is converted
            lock.acquire(exclusive=False)
            if (labels := read_complete(folder)) is not None:
                break
            lock.acquire(exclusive=True)
            if read_complete(folder) is None:  # otherwise another study has written it meanwhile
                write(folder, config, inputs, context, title)
        yield labels
    finally:
        lock.close()


def read_complete(folder: Path) -> LabelSet | None:
    """Read a complete label set; None if it is missing or incomplete."""
    try:
        return LabelSet(folder)
    except (OSError, ValueError):
        return None


def write(
    folder: Path,
    config: ResolvedEvaluationConfig,
    inputs: Inputs,
    context: RunContext,
    title: str,
) -> None:
    """Write the missing parts of a label set."""
    narrowed = inputs.narrowed(config.classes)
    label_run(
        config,
        narrowed.dataset,
        narrowed.distilled,
        narrowed.teachers,
        folder,
        accelerator=context.accelerator(config),
        on_progress=LabelingProgress(context.progress, f"{title}: labels"),
    )


def remove(folder: Path) -> None:
    """Remove a label set unless another study reads it."""
    lock = Lock(folder)
    try:
        if lock.acquire(exclusive=True, wait=False):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        lock.close()
