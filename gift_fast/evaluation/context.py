"""Where runs are kept, on what device they run and what they show."""

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
"""Names of trackers, and the packages of which each needs one."""


LABEL_LIMIT = 10.0
"""GB: the labels of a CIFAR-100 set of IPC 50 take 2.2 in 1000 epochs under DSA."""


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """Where runs are kept, on what device they run and what they show; no result depends on it.

    Attributes:
        out: folder for everything that is written; made where it is missing.
        data_root: folder that holds the real datasets.
        teacher_dir: folder of the teachers' weights, ``{dataset}_{model}.pth``.
        device: ``auto`` or ``cpu``.
        checkpoint_every: seconds between checkpoints.
        trackers: names in ``TRACKERS``, to which every test is reported.
        label_limit: largest label set that a study stores for runs to share, in GB; the teachers
            of runs with larger ones label online, and with 0 those of all runs.
        quiet: shows no progress.
        force: repeats finished runs.
        progress: follows the runs; see :meth:`showing`.
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
                raise ValueError(f"trackers must be of {', '.join(TRACKERS)}, got {tracker!r}")
            if not any(map(importlib.util.find_spec, TRACKERS[tracker])):
                package = TRACKERS[tracker][0]
                raise ValueError(
                    f"trackers must be installed, {tracker} is not: pip install {package}"
                )

    def accelerator(self, config: TrainingConfig) -> Accelerator:
        """A new accelerator for runs of this precision, with the trackers."""
        trackers = list(self.trackers) or None
        return new_accelerator(
            config, device=self.device, log_with=trackers, project_dir=self.out / "logs"
        )

    @contextmanager
    def showing(self, accelerator: Accelerator, stages: int) -> Iterator[RunContext]:
        """The same context while it shows the progress of so many stages, in one process."""
        quiet = self.quiet or not accelerator.is_main_process
        with show_progress(stages, quiet=quiet) as progress:
            yield replace(self, progress=progress)


def check_writable(folder: Path, accelerator: Accelerator) -> None:
    """Makes a folder, and raises OSError now where nothing could be written to it in the end."""
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


@contextmanager
def tracked(
    accelerator: Accelerator, context: RunContext, name: str, config: TrainingConfig
) -> Iterator[None]:
    """Opens the accelerator's trackers for one run of this name, and closes them after it."""
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
