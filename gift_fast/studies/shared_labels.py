"""Labels that the runs of a study share: written once, replayed by each, then removed.

Runs share labels where the teachers would give them the same batches and the same labels, to the
bit: the set, the teachers, the seed, augmentation, mixing, batch size, epochs and precision are the
same, and so are the versions, the device and the number of threads. All logits are stored in
float32, so that a run has the result, and the name, that it has with its teachers online.
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
from gift_fast.evaluation.labeling import Teller, label_run, plan_labels
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
"""In the folder of the runs."""

FEWEST = 2
"""Unfinished runs for which labels are stored. Storing them costs less than a second labeling."""

REST = 0.5
"""Seconds between two looks at a lock that another process holds."""


def folder_of(
    config: ResolvedEvaluationConfig,
    inputs: Inputs,
    context: RunContext,
    accelerator: Accelerator,
) -> Path | None:
    """Where the labels of a run are kept, the same for all runs that can share them.

    Returns:
        None where the teachers must label online: the loss reads no soft labels, there is no
        teacher, the run has several processes, the mixing is the user's own, or the labels would
        take more than ``context.label_limit`` or half of the free disk space.
    """
    read = inputs.narrowed(config.classes)
    alone = accelerator.num_processes == 1
    if not (read.teachers and alone and build_objective(config.loss).reads_soft_labels):
        return None
    try:
        plan = plan_labels(
            config,
            read.distilled,
            read.dataset.num_classes,
            set_digest=read.digests["distilled"],
            teacher_digest=read.digests["teachers"],
            environment=environment_of(accelerator),
        )
    except TypeError:  # a mixing of the user's own
        return None
    free = shutil.disk_usage(nearest_existing(context.out)).free
    if plan.nbytes > min(context.label_limit * 1e9, free / 2):
        return None
    capability = torch.backends.cpu.get_cpu_capability()
    digest = fingerprint([json.dumps(plan.manifest.to_dict(), sort_keys=True), capability])
    return context.out / FOLDER / f"seed{config.seed}-{digest}"


def shared(runs: Iterable[tuple[Path | None, Path]]) -> set[Path]:
    """The folders of labels that are worth writing, or are there already.

    Args:
        runs: for every run the folder of its labels, or None, and the file of its result.
    """
    left = {result: folder for folder, result in runs if folder and not result.exists()}
    counts = Counter(left.values())
    return {f for f, runs in counts.items() if runs >= FEWEST or is_label_set(f)}


@dataclass
class Lock:
    """A lock on a label set among the studies that use a folder of runs.

    It is shared while the labels are read, and exclusive while they are written or removed. Where
    the file system has no locks, several writers write the same, and nothing is removed.

    Args:
        folder: of the label set; the lock's file stands beside it.
    """

    folder: Path

    def __post_init__(self) -> None:
        path = self.folder.with_name(f"{self.folder.name}.lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file: IO[bytes] = path.open("ab")
        self.works = fcntl is not None

    def take(self, *, exclusive: bool, wait: bool = True) -> bool:
        """Take the lock, or one of this kind in its place; gives whether it is held."""
        while self.works:
            kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
            try:
                fcntl.flock(self.file, fcntl.LOCK_UN)
                fcntl.flock(self.file, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    return False
                time.sleep(REST)
            except OSError:  # none on this file system
                self.works = False
            else:
                return True
        return False

    def close(self) -> None:
        """Return the lock back."""
        self.file.close()


@contextmanager
def labels_of(
    folder: Path,
    config: ResolvedEvaluationConfig,
    inputs: Inputs,
    context: RunContext,
    title: str,
) -> Iterator[LabelSet]:
    """The labels of a run, which no other study removes meanwhile; writes what is missing.

    Args:
        folder: see :func:`folder_of`.
        config: of the run.
        inputs: with the teachers.
        context: whose progress follows the labeling.
        title: of the run.
    """
    lock = Lock(folder)
    try:
        while True:  # others may remove it between the two locks
            lock.take(exclusive=False)
            if (labels := whole(folder)) is not None:
                break
            lock.take(exclusive=True)
            if whole(folder) is None:  # else another has written it meanwhile
                write(folder, config, inputs, context, title)
        yield labels
    finally:
        lock.close()


def whole(folder: Path) -> LabelSet | None:
    """A label set of which nothing is missing; None where there is none."""
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
    """Write what is missing of a label set."""
    read = inputs.narrowed(config.classes)
    label_run(
        config,
        read.dataset,
        read.distilled,
        read.teachers,
        folder,
        accelerator=context.accelerator(config),
        tell=Teller(context.progress, f"{title}: labels"),
    )


def remove(folder: Path) -> None:
    """Remove a label set that no study in this folder of runs reads."""
    lock = Lock(folder)
    try:
        if lock.take(exclusive=True, wait=False):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        lock.close()
