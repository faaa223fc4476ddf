"""Progress of parallel runs on a cluster.

A worker reports the progress of its run with a :class:`Reporter`, which implements
:class:`~gift_fast.training.progress.Progress`. A :class:`Board`, a Ray actor, collects the reports.
The driver polls the board and displays the progress in an :class:`Overview`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import Any, TextIO

from gift_fast.training.progress import QUIET, Clock, Stage, resume_message

INTERVAL = 1.0
"""Seconds between two reports of a run; sending one takes longer than an epoch on a small set."""


@dataclass
class RunProgress:
    """The progress of a run.

    Attributes:
        epochs: total number of epochs.
        done: number of finished epochs; 2.5 is the middle of the third epoch.
    """

    epochs: int
    done: float


@dataclass
class Snapshot:
    """The state of a board.

    Attributes:
        runs: the progress of active runs, by key.
        images: number of images that all workers have trained on.
        messages: new messages for the user since the last snapshot.
    """

    runs: dict[str, RunProgress] = field(default_factory=dict)
    images: int = 0
    messages: list[str] = field(default_factory=list)


class Board:
    """Collects the reports of the workers until the driver reads them.

    Example:
        >>> board = Board()
        >>> board.begin("a", "CE, seed 0", epochs=100, done=25)
        >>> board.update("a", 25.5, images=50)
        >>> board.read().messages, board.read().messages
        (['CE, seed 0: resumed after 25 of 100 epochs'], [])
    """

    def __init__(self) -> None:
        self.snapshot = Snapshot()

    def begin(self, key: str, title: str, epochs: int, done: float) -> None:
        """Register a run that starts, or resumes after its worker was lost."""
        self.snapshot.runs[key] = RunProgress(epochs, done)
        if 0 < done < epochs:
            self.snapshot.messages.append(f"{title}: {resume_message(done, epochs)}")

    def update(self, key: str, done: float, images: int) -> None:
        """Record the finished epochs of a run, and the images since its last report."""
        self.snapshot.images += images
        if key in self.snapshot.runs:
            self.snapshot.runs[key].done = done

    def end(self, key: str) -> None:
        """Remove a run that has ended."""
        self.snapshot.runs.pop(key, None)

    def read(self) -> Snapshot:
        """The current state, with the messages since the last call."""
        snapshot = self.snapshot
        self.snapshot = Snapshot(snapshot.runs, snapshot.images)
        return snapshot


class Reporter:
    """Sends the progress of a run to a board; a :class:`~gift_fast.training.progress.Progress`.

    Reports are asynchronous, and a run continues if the board is lost.

    Args:
        board: a handle of the actor.
        key: key of the run.
        clock: returns the time in seconds.
    """

    def __init__(self, board: Any, key: str, *, clock: Clock = time.monotonic) -> None:
        self.board = board
        self.key = key
        self.clock = clock
        self.done, self.images = 0.0, 0
        self.sent_at = clock()

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begin(self, title: str, epochs: int, done: float = 0) -> None:
        """Report the start of a run, with the epochs that were finished before."""
        self.done, self.images, self.sent_at = done, 0, self.clock()
        self.board.begin.remote(self.key, title, epochs, done)

    def step(
        self, epoch: int, step: int, steps: int, images: int, loss: Callable[[], float]
    ) -> None:
        """Report the progress, at most once per ``INTERVAL``."""
        self.done = epoch - 1 + step / steps
        self.images += images
        if self.clock() - self.sent_at >= INTERVAL:
            self.send()

    def epoch(self, number: int, *, loss: float | None = None, top1: float | None = None) -> None:
        """Do nothing: the last step of the epoch has been reported."""

    def end(self, outcome: str) -> None:
        """Report the end of the run; the driver gets the outcome as the result of the task."""
        self.send()
        self.board.end.remote(self.key)

    def send(self) -> None:
        """Send the progress to the board."""
        self.board.update.remote(self.key, self.done, self.images)
        self.images, self.sent_at = 0, self.clock()


class Overview:
    """Counts finished, running and failed runs and estimates the remaining time; displays nothing.

    Args:
        runs: total number of runs.
        clock: returns the time in seconds.
    """

    def __init__(self, runs: int, *, clock: Clock = time.monotonic) -> None:
        self.runs = runs
        self.clock = clock
        self.done = self.failed = self.running = 0
        self.known = False
        # The whole study as one stage, counted in images instead of epochs.
        self.stage = Stage("all", epochs=0, done=0, clock=clock)

    def __enter__(self) -> Overview:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def count(self, *, done: int = 0, failed: int = 0, line: str = "") -> None:
        """Count runs that have finished or failed, and write a line about them."""
        self.done += done
        self.failed += failed
        if line:
            self.write(line)

    def update(self, snapshot: Snapshot, left: Mapping[str, tuple[int, int]], known: bool) -> None:
        """Update the counts and the remaining time.

        Args:
            snapshot: the state of the board.
            left: epochs and images per epoch of the runs that have not ended.
            known: whether ``left`` is complete; until all sets are generated, runs may be added.
        """
        for line in snapshot.messages:
            self.write(line)
        self.running = len(snapshot.runs)
        runs = snapshot.runs
        images = sum(
            (epochs - (runs[key].done if key in runs else 0)) * images
            for key, (epochs, images) in left.items()
        )
        self.known = known
        self.stage.epochs = snapshot.images + round(images)
        self.stage.images = snapshot.images
        self.stage.epoch(snapshot.images)
        self.refresh()

    def __str__(self) -> str:
        parts = [f"{self.done} of {self.runs} runs done", f"{self.running} running"]
        parts += [f"{self.failed} failed"] if self.failed else []
        rate, left = self.stage.images_per_second, self.stage.seconds_left
        parts += [] if rate is None else [f"{rate:,.0f} images/s"]
        if left is not None and self.known:
            parts.append(f"{timedelta(seconds=round(left))} left")
        return ", ".join(parts)

    def write(self, line: str) -> None:
        """Write a permanent line."""

    def refresh(self) -> None:
        """Display the current counts."""


class PlainOverview(Overview):
    """Log lines: every outcome, and the counts every half minute.

    Args:
        runs: total number of runs.
        stream: the output stream.
        clock: returns the time in seconds.
    """

    def __init__(self, runs: int, stream: TextIO, *, clock: Clock = time.monotonic) -> None:
        super().__init__(runs, clock=clock)
        self.stream = stream
        self.shown = clock()

    def write(self, line: str) -> None:
        """Write a line with the number of runs that have ended."""
        ended = f"{self.done + self.failed:>{len(str(self.runs))}}"
        print(f"[{ended}/{self.runs}] {line}", file=self.stream, flush=True)

    def refresh(self) -> None:
        """Write the counts if half a minute has passed since the last time."""
        if self.clock() - self.shown >= QUIET:
            self.write(str(self))
            self.shown = self.clock()


class RichOverview(Overview):
    """A progress bar, with the counts below it and the outcomes above.

    Args:
        runs: total number of runs.
        clock: returns the time in seconds.
    """

    def __init__(self, runs: int, *, clock: Clock = time.monotonic) -> None:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars
        from rich.text import Text

        super().__init__(runs, clock=clock)
        self.console = Console(stderr=True)
        columns = (TextColumn("all"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.bars = Bars(*columns, console=self.console)
        self.bar = self.bars.add_task("all", total=runs)
        self.numbers = Text(overflow="ellipsis", no_wrap=True)
        self.live = Live(Group(self.bars, self.numbers), console=self.console, transient=True)

    def __enter__(self) -> RichOverview:
        self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def write(self, line: str) -> None:
        """Write a permanent line above the bar."""
        self.console.print(line, highlight=False, markup=False)

    def refresh(self) -> None:
        """Update the bar and the counts."""
        self.bars.update(self.bar, completed=self.done + self.failed)
        self.numbers.plain = str(self)


def show_overview(runs: int, *, quiet: bool) -> Overview:
    """The overview for standard error: a progress bar in a terminal, lines in a log."""
    if quiet:
        return Overview(runs)
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return RichOverview(runs)
    return PlainOverview(runs, sys.stderr)
