"""The settings of runs that do not affect results: folders, device, trackers and progress."""

from __future__ import annotations

import importlib.util
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gift_fast.files.checks import check_number
from gift_fast.training.checkpoint import EVERY, check_seconds
from gift_fast.training.processes import new_accelerator
from gift_fast.training.progress import Progress, SilentProgress, show_progress

if TYPE_CHECKING:
    from accelerate import Accelerator

    from gift_fast.training.config import TrainingConfig


TRACKERS = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
}
"""Supported trackers, each with the packages of which it needs one."""


LABEL_LIMIT = 10.0
"""Default size limit of label sets in GB. The labels of a CIFAR-100 set with 50 images per class
take 2.2 GB for 1000 epochs with DSA."""


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """The settings of runs that do not affect results.

    Attributes:
        out: folder for results and checkpoints; created if missing.
        data_root: folder with the real datasets.
        teacher_dir: folder with the teachers' weights, ``{dataset}_{model}.pth``.
        device: ``auto`` or ``cpu``.
        checkpoint_every: seconds between checkpoints.
        trackers: names in ``TRACKERS``; the results of all tests are sent to them.
        label_limit: maximum size in GB of a label set that a study stores for several runs to
            share. If it would be larger, the teachers label during training; 0 disables sharing.
        quiet: hides progress.
        force: repeats finished runs.
        progress: shows the progress of the runs; see :meth:`showing`.
    """

    out: Path = Path("runs")
    data_root: Path | None = None
    teacher_dir: Path = Path("teachers")
    device: str = "auto"
    checkpoint_every: float = EVERY
    trackers: tuple[str, ...] = ()
    label_limit: float = LABEL_LIMIT
    quiet: bool = False
    force: bool = False
    progress: Progress = field(default_factory=SilentProgress, compare=False)

    def __post_init__(self) -> None:
        check_seconds("checkpoint_every", self.checkpoint_every)
        check_number("label_limit", self.label_limit, 0.0, math.inf, "0 or more")
        for tracker in self.trackers:
            if tracker not in TRACKERS:
                raise ValueError(f"trackers must be any of {', '.join(TRACKERS)}, got {tracker!r}")
            if not any(map(importlib.util.find_spec, TRACKERS[tracker])):
                package = TRACKERS[tracker][0]
                raise ValueError(
                    f"trackers must be installed, got {tracker}, which is not: "
                    f"pip install {package}"
                )

    def accelerator(self, config: TrainingConfig) -> Accelerator:
        """Create an accelerator with the precision of a configuration and the trackers."""
        trackers = list(self.trackers) or None
        return new_accelerator(
            config, device=self.device, log_with=trackers, project_dir=self.out / "logs"
        )

    @contextmanager
    def showing(self, accelerator: Accelerator, stages: int) -> Iterator[RunContext]:
        """Show the progress of ``stages`` stages, in the main process; yields a copy."""
        quiet = self.quiet or not accelerator.is_main_process
        with show_progress(stages, quiet=quiet) as progress:
            yield replace(self, progress=progress)


def check_writable(folder: Path, accelerator: Accelerator) -> None:
    """Create a folder, and raise OSError before training starts if it is not writable."""
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


@contextmanager
def tracked(
    accelerator: Accelerator, context: RunContext, name: str, config: TrainingConfig
) -> Iterator[None]:
    """Open the accelerator's trackers for one run and close them after it."""
    accelerator.project_configuration.logging_dir = str(context.out / "logs" / name)
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
