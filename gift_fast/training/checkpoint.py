"""Checkpoints: the state of a training run at a step, in one file, from which it is resumed.

A resumed run takes the same steps as one that was never interrupted. On the CPU, with the same
number of threads and processes, it ends with the same bits.
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
"""Raised whenever the meaning of an entry changes. Format 1 had checkpoints between epochs alone;
its files are read. Files of other formats are refused."""

EVERY = 300.0
"""Seconds between two checkpoints, by default."""

COST = 0.01
"""The largest share of a run's time that its checkpoints may take. With AdamW, one of ConvNet-3
took 24 to 44 ms (6 MiB) and one of ResNet-18 for ImageNet 0.3 to 0.8 s (134 MiB), on a busy
machine."""

AGREEMENT = 1.0
"""Seconds between two agreements of several processes on whether to save or to stop."""


@dataclass(frozen=True)
class CheckpointConfig:
    """Where and how often the state of a run is saved.

    Attributes:
        path: the checkpoint; a run is resumed from it where it exists.
        every: seconds between two checkpoints. They are farther apart where saving would otherwise
            take more than ``COST`` of the time.
    """

    path: Path
    every: float = EVERY

    def __post_init__(self) -> None:
        check_seconds("every", self.every)


def check_seconds(name: str, value: float) -> None:
    """Raises unless ``value`` is a positive, finite number."""
    expected = "a positive number of seconds"
    if value == 0:
        raise ValueError(f"{name} must be {expected}, got 0")
    check_number(name, value, 0.0, math.inf, expected)


Snapshot = Callable[[], dict[str, Any]]
"""Gives a run's state, of tensors and plain values. All processes of a run have to call it."""


class Checkpointer:
    """Saves a run when it is due and stops it when a signal has come, in all processes alike.

    Call :meth:`after_step` after every step. One process looks at its clock and at the noted signal
    in every step. Several agree about once in ``AGREEMENT`` seconds, at a step that they agreed on
    the time before: an agreement waits for the device and for all processes.

    Args:
        config: where and how often to save; None saves nothing.
        interruption: notes the signals.
        identity: plain values that say which run this is.
        accelerator: of the run.
        clock: tells the time in seconds.
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
        # Of several processes.
        self.interval = self.countdown = 1
        self.agreed_at = clock()

    def after_step(self, snapshot: Snapshot) -> None:
        """Saves and stops where that is due.

        Raises:
            Interrupted: a signal has come, and the state is saved.
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
        """Within, the state does not change, so that a signal need not wait for the next step.

        Several processes do wait for it, since they can only stop together.
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
        """What all processes do now: stop for a signal that any has received, or save, or neither.

        Whether it is time to save, and the step of the next agreement, is the main process's word.
        """
        now = self.clock()
        seconds = (now - self.agreed_at) / self.interval
        # A first step is slow; growing by steps, one wrong estimate is soon mended.
        self.interval = max(1, min(int(AGREEMENT / max(seconds, 1e-6)), 4 * self.interval))
        own = [self.interruption.received or 0, self.is_due(), self.interval]
        gathered = self.accelerator.gather(torch.tensor(own, device=self.accelerator.device))
        signals, due, intervals = gathered.view(-1, len(own)).T.tolist()
        self.interval = self.countdown = intervals[0]
        self.agreed_at = self.clock()
        stop = max(signals)
        return Signals(stop) if stop else None, bool(due[0])

    def save(self, state: dict[str, Any]) -> None:
        """Writes the checkpoint, and sets the time of the next."""
        if self.config is None:
            return
        begun = self.clock()
        if self.accelerator.is_main_process:
            write_state(self.config.path, self.identity, state)
        cost = self.clock() - begun
        self.due = self.clock() + max(self.config.every, cost / COST)

    def stop(self, signal: Signals, snapshot: Snapshot) -> None:
        """Saves, and raises :class:`Interrupted`."""
        if self.config is None:
            raise Interrupted(signal, "nothing was to be saved")
        state = snapshot()
        self.save(state)
        # A launcher that sees one process end would kill the main one while it writes.
        self.accelerator.wait_for_everyone()
        where = f"step {state['step']} of epoch {state['epoch'] + 1}"
        raise Interrupted(signal, f"state saved at {where}")


def write_state(path: Path, identity: dict[str, Any], state: dict[str, Any]) -> None:
    """Writes a state, whole or not at all.

    Args:
        path: the file; an older state there is replaced.
        identity: plain values that say which run this is.
        state: tensors and plain values.
    """
    with replacing(path) as temporary:
        torch.save({"format": FORMAT, "identity": identity, "state": state}, temporary)


class DamagedCheckpoint(ValueError):  # noqa: N818, it says what the file is
    """A checkpoint that cannot be read: cut off when power or disk failed, or no checkpoint."""


def find_state(path: Path, identity: dict[str, Any], *, main: bool = True) -> dict[str, Any] | None:
    """The state from which a run resumes, or None if it starts from the beginning.

    A damaged checkpoint is renamed, with a warning: a run that starts again from its seed ends with
    the same result, and in a study the other runs continue.

    Args:
        path: of the checkpoint, which need not exist.
        identity: see :func:`read_state`.
        main: whether this is the process that sets aside and warns.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is another run's; the message names it.
    """
    try:
        return read_state(path, identity)
    except FileNotFoundError:  # or the main process has just set it aside
        return None
    except DamagedCheckpoint as error:
        if main:
            aside = path.with_name(f"{path.name}.damaged")
            path.replace(aside)
            warnings.warn(
                f"{error}. It was set aside as {aside.name}, which may be deleted, and the run "
                "starts anew",
                UserWarning,
                stacklevel=2,
            )
        return None


def read_state(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """The state that :func:`write_state` wrote for the same run, on the CPU.

    Raises:
        DamagedCheckpoint: the file is not a whole checkpoint.
        OSError: the file cannot be opened.
        ValueError: it is another run's; the message names it.
    """
    try:
        contents = load_tensors(path)
        version, state = contents["format"], dict(contents["state"])
        same = contents["identity"] == identity and version in (1, FORMAT)
    except Exception as error:  # anything: the contents may be damaged, or of any type
        # torch seeks to before the beginning of a short file, which the system calls invalid.
        unread = isinstance(error, OSError) and error.errno != errno.EINVAL
        if unread or is_out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DamagedCheckpoint(f"{path} must be a whole checkpoint of a run: {reason}") from error
    if not same:
        raise ValueError(
            f"{path} must be a checkpoint of the same configuration and inputs, got another run's; "
            "remove it to start anew"
        )
    return state if version == FORMAT else {**state, "step": 0}
