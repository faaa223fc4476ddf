"""How far runs are that go on side by side: the workers tell, the driver shows.

A worker follows its run with a :class:`Reporter`, which is a
:class:`~gift_fast.training.progress.Progress` whose display is elsewhere. What it tells is kept
by a :class:`Board`, an actor of the cluster, which the driver reads for its :class:`Overview`.
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

from gift_fast.training.progress import QUIET, Clock, Stage, resumed_in_words

INTERVAL = 1.0
"""Seconds between two messages of a run: an epoch of a small set takes less than a message."""


@dataclass
class Standing:
    """How far a run is.

    Attributes:
        epochs: of the whole run.
        done: that have finished, 2.5 in the middle of the third.
    """

    epochs: int
    done: float


@dataclass
class Reading:
    """What a board holds.

    Attributes:
        standings: of what goes on, by its key.
        images: trained on since the board was made, by all workers.
        news: lines for a reader, each given once.
    """

    standings: dict[str, Standing] = field(default_factory=dict)
    images: int = 0
    news: list[str] = field(default_factory=list)


class Board:
    """Keeps what the workers tell until the driver reads it.

    Example:
        >>> board = Board()
        >>> board.begin("a", "CE, seed 0", epochs=100, done=25)
        >>> board.tell("a", 25.5, images=50)
        >>> board.read().news, board.read().news
        (['CE, seed 0: resumed after 25 of 100 epochs'], [])
    """

    def __init__(self) -> None:
        self.reading = Reading()

    def begin(self, key: str, title: str, epochs: int, done: float) -> None:
        """A run begins, or is resumed after its worker was lost."""
        self.reading.standings[key] = Standing(epochs, done)
        if 0 < done < epochs:
            self.reading.news.append(f"{title}: {resumed_in_words(done, epochs)}")

    def tell(self, key: str, done: float, images: int) -> None:
        """``done`` epochs are over; ``images`` were trained on since the run's last message."""
        self.reading.images += images
        if key in self.reading.standings:
            self.reading.standings[key].done = done

    def end(self, key: str) -> None:
        """A run goes on no longer."""
        self.reading.standings.pop(key, None)

    def read(self) -> Reading:
        """What there is; its news are given but once."""
        reading = self.reading
        self.reading = Reading(reading.standings, reading.images)
        return reading


class Reporter:
    """Tells a board of a run; see :class:`~gift_fast.training.progress.Progress`.

    Nothing waits for the board, and a run does not mind when it is gone.

    Args:
        board: a handle of the actor.
        key: of the run.
        clock: tells the time.
    """

    def __init__(self, board: Any, key: str, *, clock: Clock = time.monotonic) -> None:
        self.board = board
        self.key = key
        self.clock = clock
        self.done, self.images = 0.0, 0
        self.told = clock()

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begin(self, title: str, epochs: int, done: float = 0) -> None:
        """Report the number of epochs, and whether some were done before."""
        self.done, self.images, self.told = done, 0, self.clock()
        self.board.begin.remote(self.key, title, epochs, done)

    def step(
        self, epoch: int, step: int, steps: int, images: int, loss: Callable[[], float]
    ) -> None:
        """Report how far the run is, about once in ``INTERVAL``."""
        self.done = epoch - 1 + step / steps
        self.images += images
        if self.clock() - self.told >= INTERVAL:
            self.tell()

    def epoch(self, number: int, *, loss: float | None = None, top1: float | None = None) -> None:
        """Report nothing: the epoch's last step has been told of."""

    def end(self, outcome: str) -> None:
        """Report the rest; the outcome is the task's result, which the driver has from there."""
        self.tell()
        self.board.end.remote(self.key)

    def tell(self) -> None:
        """Send what has been counted."""
        self.board.tell.remote(self.key, self.done, self.images)
        self.images, self.told = 0, self.clock()


class Overview:
    """Counts what is done, running and failed, and estimates the time left; shows nothing.

    Args:
        runs: how many there are.
        clock: tells the time.
    """

    def __init__(self, runs: int, *, clock: Clock = time.monotonic) -> None:
        self.runs = runs
        self.clock = clock
        self.done = self.failed = self.running = 0
        self.known = False
        # Of the whole study, in images in the place of epochs.
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
        """Run are done or have failed, and there may be something to say of it."""
        self.done += done
        self.failed += failed
        if line:
            self.write(line)

    def update(self, reading: Reading, left: Mapping[str, tuple[int, int]], known: bool) -> None:
        """Take in how far the runs are.

        Args:
            reading: of the board.
            left: the runs that have not ended: their epochs, and the images of an epoch.
            known: whether these are all; while sets are still being made, more may come.
        """
        for line in reading.news:
            self.write(line)
        self.running = len(reading.standings)
        standings = reading.standings
        images = sum(
            (epochs - (standings[key].done if key in standings else 0)) * images
            for key, (epochs, images) in left.items()
        )
        self.known = known
        self.stage.epochs = reading.images + round(images)
        self.stage.images = reading.images
        self.stage.epoch(reading.images)
        self.refresh()

    def __str__(self) -> str:
        parts = [f"{self.done} of {self.runs} runs done", f"{self.running} going on"]
        parts += [f"{self.failed} failed"] if self.failed else []
        rate, left = self.stage.images_per_second, self.stage.seconds_left
        parts += [] if rate is None else [f"{rate:,.0f} images/s"]
        if left is not None and self.known:
            parts.append(f"{timedelta(seconds=round(left))} left")
        return ", ".join(parts)

    def write(self, line: str) -> None:
        """Show a line that stays."""

    def refresh(self) -> None:
        """Show the counts as they are."""


class PlainOverview(Overview):
    """Lines that a log can hold: every outcome, and the counts twice a minute.

    Args:
        runs: how many there are.
        stream: where the lines go.
        clock: tells the time.
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
        """Write the counts where half a minute has passed since the last time."""
        if self.clock() - self.shown >= QUIET:
            self.write(str(self))
            self.shown = self.clock()


class RichOverview(Overview):
    """A bar of the runs, the counts below it, and the outcomes above.

    Args:
        runs: how many there are.
        clock: tells the time.
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
        """Leave a line above the bar."""
        self.console.print(line, highlight=False, markup=False)

    def refresh(self) -> None:
        """Move the bar."""
        self.bars.update(self.bar, completed=self.done + self.failed)
        self.numbers.plain = str(self)


def show_overview(runs: int, *, quiet: bool) -> Overview:
    """The overview that fits where the standard error goes."""
    if quiet:
        return Overview(runs)
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return RichOverview(runs)
    return PlainOverview(runs, sys.stderr)
