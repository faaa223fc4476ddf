"""What is shown while networks train: bars in a terminal, else lines that a log can hold.

Both show the same numbers: accuracy and loss of the last check, images a second, and the time that
the present stage still takes. Progress goes to the standard error, so that a report can be piped
from the standard output.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Protocol, TextIO

Clock = Callable[[], float]
"""Seconds since any fixed moment; never goes back."""

WINDOW = 30.0
"""Seconds that a rate is taken over: the average of a longer time would hide that a machine has
become slower, that of a shorter one would jump with every test."""

QUIET = 60.0
"""Seconds after which a log gets a line even though there was no check."""


class Progress(Protocol):
    """Follows a known number of stages, each of a known number of epochs."""

    def __enter__(self) -> Progress: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def begin(self, title: str, epochs: int, done: int = 0) -> None:
        """A stage starts; an earlier call has finished ``done`` of its epochs."""

    def epoch(
        self,
        number: int,
        *,
        images: int | None = None,
        loss: float | None = None,
        top1: float | None = None,
    ) -> None:
        """Epoch ``number``, from 1, of the stage has finished.

        Args:
            number: the epoch.
            images: that it trained on, over all processes; None shows no rate.
            loss: mean training loss of the epoch, where it is known. Reading it from a device
                waits for the device, so it is given at checks alone.
            top1: accuracy of a check after this epoch, percent.
        """

    def end(self, outcome: str) -> None:
        """The stage has finished with this outcome."""


class Stage:
    """Where a stage stands, in numbers and in words.

    Args:
        title: what is trained.
        epochs: of the whole stage.
        done: epochs that an earlier call has finished.
        clock: tells the time.

    Example:
        >>> now = iter([0.0, 2.0])
        >>> stage = Stage("teacher", epochs=10, done=0, clock=lambda: next(now))
        >>> stage.record(4, images=500, loss=0.25, top1=91.0)
        True
        >>> str(stage)
        'top-1 91.0 %, loss 0.25, 250 images/s, 0:00:03 left'
    """

    def __init__(self, title: str, epochs: int, done: int, clock: Clock) -> None:
        self.title = title
        self.epochs = epochs
        self.number = done
        self.clock = clock
        self.start = clock()
        self.images = 0
        self.check = ""
        self.checked = 0
        # (time, epochs done, images seen) at the start and after every epoch of the window.
        self.seen = deque([(self.start, done, 0)])

    def record(
        self,
        number: int,
        images: int | None = None,
        loss: float | None = None,
        top1: float | None = None,
    ) -> bool:
        """Takes in a finished epoch; tells whether there was a check."""
        now = self.clock()
        self.number = number
        self.images += images or 0
        self.seen.append((now, number, self.images))
        # One observation older than the window stays: an epoch may take longer than that.
        while len(self.seen) > 2 and self.seen[1][0] <= now - WINDOW:
            self.seen.popleft()
        values = [] if top1 is None else [f"top-1 {top1:.1f} %"]
        values += [] if loss is None else [f"loss {loss:.4g}"]
        if values:
            self.check, self.checked = ", ".join(values), number
        return bool(values)

    @property
    def images_per_second(self) -> float | None:
        """Images trained on a second, tests included; None while that is not known."""
        (start, _, before), (now, _, images) = self.seen[0], self.seen[-1]
        return (images - before) / (now - start) if now > start and images > before else None

    @property
    def seconds_left(self) -> float | None:
        """Time that the other epochs take at the rate of the window; None while not known."""
        (start, before, _), (now, number, _) = self.seen[0], self.seen[-1]
        if number <= before:
            return None
        return (self.epochs - number) * (now - start) / (number - before)

    @property
    def seconds(self) -> float:
        """Time since the stage began in this call."""
        return self.clock() - self.start

    def __str__(self) -> str:
        rate, left = self.images_per_second, self.seconds_left
        age = "" if self.checked == self.number else f" after epoch {self.checked}"
        parts = [self.check + age] if self.check else []
        parts += [] if rate is None else [f"{rate:,.0f} images/s"]
        parts += [] if left is None else [f"{timedelta(seconds=round(left))} left"]
        return ", ".join(parts)


class SilentProgress:
    """Shows nothing."""

    def __enter__(self) -> SilentProgress:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begin(self, title: str, epochs: int, done: int = 0) -> None:
        """Does nothing."""

    def epoch(
        self,
        number: int,
        *,
        images: int | None = None,
        loss: float | None = None,
        top1: float | None = None,
    ) -> None:
        """Does nothing."""

    def end(self, outcome: str) -> None:
        """Does nothing."""


class PlainProgress:
    """Writes a line at every check, when a minute has passed without one, and after every stage.

    Args:
        stages: how many there will be.
        stream: where the lines go.
        clock: tells the time.
    """

    def __init__(self, stages: int, stream: TextIO, *, clock: Clock = time.monotonic) -> None:
        self.stages = stages
        self.stream = stream
        self.clock = clock
        self.finished = 0

    def __enter__(self) -> PlainProgress:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begin(self, title: str, epochs: int, done: int = 0) -> None:
        """Writes a line only where the stage goes on from an earlier call."""
        self.stage = Stage(title, epochs, done, self.clock)
        self.last_line = self.stage.start
        if 0 < done < epochs:  # a stage that has finished is told by its outcome
            self.write(f"goes on after epoch {done}/{epochs}")

    def epoch(
        self,
        number: int,
        *,
        images: int | None = None,
        loss: float | None = None,
        top1: float | None = None,
    ) -> None:
        """Writes a line where there was a check, or none for a minute."""
        stage = self.stage
        checked = stage.record(number, images, loss, top1)
        due = stage.seen[-1][0] - self.last_line >= QUIET
        if (checked or due) and number < stage.epochs:  # the last epoch's line is the outcome
            self.write(", ".join(filter(None, [f"epoch {number}/{stage.epochs}", str(stage)])))
            self.last_line = stage.seen[-1][0]

    def end(self, outcome: str) -> None:
        """Writes the outcome and the seconds."""
        self.write(f"{outcome} ({self.stage.seconds:.1f} s)")
        self.finished += 1

    def write(self, text: str) -> None:
        """Writes a line that says which stage it is about."""
        count = f"[{self.finished + 1:>{len(str(self.stages))}}/{self.stages}]"
        print(f"{count} {self.stage.title}: {text}", file=self.stream, flush=True)


class RichProgress:
    """A bar for all stages, one for the epochs of the present stage, and its numbers below.

    Args:
        stages: how many there will be; a single one has no bar for all.
        clock: tells the time.
    """

    def __init__(self, stages: int, *, clock: Clock = time.monotonic) -> None:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars
        from rich.text import Text

        self.clock = clock
        self.console = Console(stderr=True)
        self.bars = Bars(
            TextColumn("{task.description:<24}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
        )
        self.overall = self.bars.add_task("all", total=stages, visible=stages > 1)
        self.present = self.bars.add_task("", total=1)
        self.numbers = Text(overflow="ellipsis", no_wrap=True)
        self.live = Live(Group(self.bars, self.numbers), console=self.console, transient=True)

    def __enter__(self) -> RichProgress:
        self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def begin(self, title: str, epochs: int, done: int = 0) -> None:
        """Starts the lower bar anew."""
        self.stage = Stage(title, epochs, done, self.clock)
        self.numbers.plain = ""
        self.bars.reset(self.present, total=epochs, completed=done, description=title)

    def epoch(
        self,
        number: int,
        *,
        images: int | None = None,
        loss: float | None = None,
        top1: float | None = None,
    ) -> None:
        """Moves the lower bar."""
        self.stage.record(number, images, loss, top1)
        self.numbers.plain = str(self.stage)
        self.bars.update(self.present, completed=number)

    def end(self, outcome: str) -> None:
        """Leaves a line above the bars and moves the upper one."""
        seconds = f"{self.stage.seconds:.1f} s"
        self.console.print(
            f"{self.stage.title:<24} {outcome} ({seconds})", highlight=False, markup=False
        )
        self.bars.advance(self.overall)


def show_progress(stages: int, *, quiet: bool) -> Progress:
    """The progress that fits where the standard error goes."""
    if quiet:
        return SilentProgress()
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return RichProgress(stages)
    return PlainProgress(stages, sys.stderr)
