"""Checkpoints: the complete state of an unfinished run in one file.

A resumed run takes the same steps as one that was not interrupted. On the CPU, with the same number
of threads and processes, the result has the same bits.
"""

from __future__ import annotations

import errno
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING, Any

import torch

from gift_fast.files.atomic import replacing
from gift_fast.files.checks import check_number
from gift_fast.files.pickles import load_tensors
from gift_fast.process.errors import is_out_of_memory
from gift_fast.process.signals import Interrupted, Interruption

if TYPE_CHECKING:
    from accelerate import Accelerator

FORMAT = 2
"""Version of the file format, raised when the meaning of an entry changes. Format 1, which is still
read, only had checkpoints between epochs. Other formats raise an error."""

EVERY = 300.0
"""Default seconds between two checkpoints."""

COST = 0.01
"""Largest fraction of a run's time that is spent on checkpoints. With AdamW, on a busy machine,
saving ConvNet-3 took 24 to 44 ms (6 MiB) and saving ResNet-18 for ImageNet 0.3 to 0.8 s (134 MiB).
"""

AGREEMENT = 1.0
"""Seconds between the steps at which several processes agree on whether to save or to stop."""


@dataclass(frozen=True)
class CheckpointConfig:
    """Where and how often the state of a run is saved.

    Attributes:
        path: the checkpoint; if the file exists, the run resumes from it.
        every: seconds between two checkpoints; longer if saving would otherwise take more than
            the fraction ``COST`` of the time.
    """

    path: Path
    every: float = EVERY

    def __post_init__(self) -> None:
        check_seconds("every", self.every)


def check_seconds(name: str, value: float) -> None:
    """Raise unless ``value`` is a positive, finite number."""
    expected = "a positive number of seconds"
    if value == 0:
        raise ValueError(f"{name} must be {expected}, got 0")
    check_number(name, value, 0.0, math.inf, expected)


Snapshot = Callable[[], dict[str, Any]]
"""Returns a run's state, as tensors and plain values. All processes of a run have to call it."""


class Checkpointer:
    """Saves a run at regular intervals and stops it after a signal, in all processes together.

    Call :meth:`after_step` after every step. A single process checks its clock and its signals in
    every step. Several processes have to agree, which waits for the device and for all processes;
    they do so about every ``AGREEMENT`` seconds, at a step chosen at the previous agreement.

    Args:
        config: where and how often to save; None disables saving.
        interruption: records signals.
        identity: plain values that identify the run.
        accelerator: of the run.
        clock: returns the time in seconds.
    """

    def __init__(
        self,
        config: CheckpointConfig | None,
        interruption: Interruption,
        identity: dict[str, Any],
        accelerator: Accelerator,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.interruption = interruption
        self.identity = identity
        self.accelerator = accelerator
        self.clock = clock
        self.due = math.inf if config is None else clock() + config.every
        # Only used with several processes.
        self.interval = self.countdown = 1
        self.agreed_at = clock()

    def after_step(self, snapshot: Snapshot) -> None:
        """Save the state if it is time to, and stop the run if a signal was received.

        Raises:
            Interrupted: a signal was received; the state is saved.
        """
        if self.accelerator.num_processes == 1:
            stop, save = self.interruption.received, self.is_due()
        else:
            self.countdown -= 1
            if self.countdown:
                return
            stop, save = self.agree()
        if stop is not None:
            self.stop(stop, snapshot)
        if save:
            self.save(snapshot())

    @contextmanager
    def unchanged(self, snapshot: Snapshot) -> Iterator[None]:
        """A context in which the state does not change, so that a signal is handled immediately.

        Several processes handle it after the next step, because they have to stop together.
        """
        if self.accelerator.num_processes > 1:
            yield
            return
        try:
            with self.interruption.released():
                yield
        except Interrupted as stopped:
            self.stop(stopped.signal, snapshot)

    def is_due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return self.clock() >= self.due

    def agree(self) -> tuple[Signals | None, bool]:
        """Agree with all processes on whether to stop and whether to save.

        They stop if any process has received a signal. The main process decides whether to save,
        and at which step to agree next.
        """
        now = self.clock()
        seconds = (now - self.agreed_at) / self.interval
        # The first step is slow, so the estimate may be wrong; the limit of 4 lets it recover.
        self.interval = max(1, min(int(AGREEMENT / max(seconds, 1e-6)), 4 * self.interval))
        own = [self.interruption.received or 0, self.is_due(), self.interval]
        gathered = self.accelerator.gather(torch.tensor(own, device=self.accelerator.device))
        signals, due, intervals = gathered.view(-1, len(own)).T.tolist()
        self.interval = self.countdown = intervals[0]
        self.agreed_at = self.clock()
        stop = max(signals)
        return Signals(stop) if stop else None, bool(due[0])

    def save(self, state: dict[str, Any]) -> None:
        """Write the checkpoint and set the time of the next one."""
        if self.config is None:
            return
        begun = self.clock()
        if self.accelerator.is_main_process:
            write_state(self.config.path, self.identity, state)
        cost = self.clock() - begun
        self.due = self.clock() + max(self.config.every, cost / COST)

    def stop(self, signal: Signals, snapshot: Snapshot) -> None:
        """Save the state and raise :class:`Interrupted`."""
        if self.config is None:
            raise Interrupted(signal, "no checkpoint was requested")
        state = snapshot()
        self.save(state)
        # If one process exits, launchers kill the others, perhaps while the main one is writing.
        self.accelerator.wait_for_everyone()
        where = f"step {state['step']} of epoch {state['epoch'] + 1}"
        raise Interrupted(signal, f"state saved at {where}")


def write_state(path: Path, identity: dict[str, Any], state: dict[str, Any]) -> None:
    """Write a checkpoint atomically.

    Args:
        path: the file; an existing one is replaced.
        identity: plain values that identify the run.
        state: tensors and plain values.
    """
    with replacing(path) as temporary:
        torch.save({"format": FORMAT, "identity": identity, "state": state}, temporary)


class DamagedCheckpoint(ValueError):  # noqa: N818, the name describes the file
    """Raised for a file that is no checkpoint or incomplete, for instance after a power failure."""


def find_state(path: Path, identity: dict[str, Any], *, main: bool = True) -> dict[str, Any] | None:
    """Read the state from which a run resumes; None if there is no usable checkpoint.

    A damaged checkpoint is renamed, with a warning. The run then starts over and has the same
    result, and in a study the other runs continue.

    Args:
        path: of the checkpoint, which may be missing.
        identity: see :func:`read_state`.
        main: whether this is the main process, which renames the file and warns.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is the checkpoint of another run.
    """
    try:
        return read_state(path, identity)
    except FileNotFoundError:  # or the main process has just renamed it
        return None
    except DamagedCheckpoint as error:
        if main:
            aside = path.with_name(f"{path.name}.damaged")
            path.replace(aside)
            warnings.warn(
                f"{error}. It was renamed to {aside.name}, which can be deleted, and the run "
                "starts over",
                UserWarning,
                stacklevel=2,
            )
        return None


def read_state(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """Read the state that :func:`write_state` wrote for the same run, to the CPU.

    Raises:
        DamagedCheckpoint: the file is not a complete checkpoint.
        OSError: the file cannot be opened.
        ValueError: it is the checkpoint of another run.
    """
    try:
        contents = load_tensors(path)
        version, state = contents["format"], dict(contents["state"])
        same = contents["identity"] == identity and version in (1, FORMAT)
    except Exception as error:  # anything: the contents may be damaged, or of any type
        # For a short file, torch seeks to a negative position, which raises EINVAL.
        unread = isinstance(error, OSError) and error.errno != errno.EINVAL
        if unread or is_out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DamagedCheckpoint(f"{path} must be a complete checkpoint, got: {reason}") from error
    if not same:
        raise ValueError(
            f"{path} must be a checkpoint of the same configuration and inputs, got that of "
            "another run; remove it to start over"
        )
    return state if version == FORMAT else {**state, "step": 0}
