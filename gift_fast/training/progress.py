"""Progress of training: bars in a terminal, otherwise lines for a log.

Both show the accuracy and loss of the last test, the loss of the current epoch, the throughput and
the time left for the current stage. Progress is written to standard error, so that a report can be
piped from standard output.
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
"""A monotonic clock, in seconds."""

WINDOW = 30.0
"""Seconds that rates are averaged over. A longer window would hide that a machine has become
slower; with a shorter one, rates would jump after every test."""

QUIET = 30.0
"""Seconds after which a line is logged without a test."""

REFRESH = 1.0
"""Seconds between two updates within an epoch, because reading the loss waits for the device."""


class Progress(Protocol):
    """Shows the progress of a known number of stages, each with a known number of epochs."""

    def __enter__(self) -> Progress: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def begin(self, title: str, epochs: int, done: float = 0) -> None:
        """Start a stage; ``done`` of its epochs, such as 2.5, were finished by an earlier call."""

    def step(
        self, epoch: int, step: int, steps: int, images: int, loss: Callable[[], float]
    ) -> None:
        """Record a finished step.

        Args:
            epoch: the current epoch, from 1.
            step: the step within the epoch, from 1.
            steps: steps per epoch.
            images: images of the step, over all processes.
            loss: returns the mean training loss of the epoch so far. It waits for the device, so it
                is only called if the loss is shown.
        """

    def epoch(self, number: int, *, loss: float | None = None, top1: float | None = None) -> None:
        """Record a finished epoch.

        Args:
            number: the epoch, from 1.
            loss: mean training loss of the epoch, if it was followed by a test.
            top1: accuracy of this test, percent.
        """

    def end(self, outcome: str) -> None:
        """End the stage with its outcome."""


class Stage:
    """The progress of one stage; ``str`` formats it.

    Args:
        title: what is trained.
        epochs: of the whole stage.
        done: epochs that an earlier call has finished.
        clock: returns the time in seconds.

    Example:
        >>> now = iter([0.0, 2.0, 2.0])
        >>> stage = Stage("teacher", epochs=10, done=0, clock=lambda: next(now))
        >>> stage.step(4, 10, 10, images=500)
        >>> stage.epoch(4, loss=0.25, top1=91.0)
        True
        >>> str(stage)
        'top-1 91.0 %, loss 0.25, 250 images/s, 0:00:03 left'
    """

    def __init__(self, title: str, epochs: int, done: float, clock: Clock) -> None:
        self.title = title
        self.epochs = epochs
        self.done = done
        self.clock = clock
        self.start = self.now = clock()
        self.images = 0
        self.where = ""
        self.check = ""
        self.checked = 0
        self.running_loss: float | None = None
        # (time, epochs done, images seen) at the start and then about every REFRESH seconds.
        self.seen = deque([(self.start, done, 0)])

    def step(self, epoch: int, step: int, steps: int, images: int) -> None:
        """Record a finished step."""
        self.done = epoch - 1 + step / steps
        self.where = f"epoch {epoch}/{self.epochs}, step {step}/{steps}"
        self.images += images
        self.now = self.clock()
        if self.now - self.seen[-1][0] >= REFRESH:
            self.look()

    def epoch(self, number: int, loss: float | None = None, top1: float | None = None) -> bool:
        """Record a finished epoch and return whether it was followed by a test."""
        self.done, self.now = number, self.clock()
        self.where = f"epoch {number}/{self.epochs}"
        self.running_loss = None
        self.look()
        values = [] if top1 is None else [f"top-1 {top1:.1f} %"]
        values += [] if loss is None else [f"loss {loss:.4g}"]
        if values:
            self.check, self.checked = ", ".join(values), number
        return bool(values)

    def look(self) -> None:
        """Record the current progress, from which rates are computed."""
        seen = self.seen
        seen.append((self.now, self.done, self.images))
        # Keep one observation from before the window and one from before the last step, because a
        # step or a test may take longer than the window.
        while len(seen) > 2 and seen[1][0] <= self.now - WINDOW and seen[1][1] < self.done:
            seen.popleft()

    @property
    def images_per_second(self) -> float | None:
        """Throughput in images/s, including time for tests; None while unknown."""
        (start, _, before), (now, _, images) = self.seen[0], self.seen[-1]
        return (images - before) / (now - start) if now > start and images > before else None

    @property
    def seconds_left(self) -> float | None:
        """Time left for the stage at the rate of the window; None while unknown."""
        (start, before, _), (now, done, _) = self.seen[0], self.seen[-1]
        if done <= before:
            return None
        return (self.epochs - done) * (now - start) / (done - before)

    @property
    def seconds(self) -> float:
        """Seconds since this call started the stage."""
        return self.clock() - self.start

    def __str__(self) -> str:
        rate, left = self.images_per_second, self.seconds_left
        age = "" if self.checked == self.done else f" after epoch {self.checked}"
        parts = [] if self.running_loss is None else [f"loss {self.running_loss:.4g}"]
        parts += [self.check + age] if self.check else []
        parts += [] if rate is None else [f"{rate:,.0f} images/s"]
        parts += [] if left is None else [f"{timedelta(seconds=round(left))} left"]
        return ", ".join(parts)


def resume_message(done: float, epochs: int) -> str:
    """Describe after how many epochs a stage was resumed.

    Example:
        >>> resume_message(3, 40), resume_message(2.153, 40)
        ('resumed after 3 of 40 epochs', 'resumed after 2.15 of 40 epochs')
    """
    return f"resumed after {done:.{0 if done == int(done) else 2}f} of {epochs} epochs"


class SilentProgress:
    """Shows nothing."""

    def __enter__(self) -> SilentProgress:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begin(self, title: str, epochs: int, done: float = 0) -> None:
        """Do nothing."""

    def step(
        self, epoch: int, step: int, steps: int, images: int, loss: Callable[[], float]
    ) -> None:
        """Do nothing."""

    def epoch(self, number: int, *, loss: float | None = None, top1: float | None = None) -> None:
        """Do nothing."""

    def end(self, outcome: str) -> None:
        """Do nothing."""


class PlainProgress:
    """Writes a line after every test, after ``QUIET`` seconds without one, and at the end.

    Args:
        stages: number of stages.
        stream: where the lines are written.
        clock: returns the time in seconds.
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

    def begin(self, title: str, epochs: int, done: float = 0) -> None:
        """Write a line if the stage is resumed."""
        self.stage = Stage(title, epochs, done, self.clock)
        self.last_line = self.stage.start
        if 0 < done < epochs:  # for a finished stage, the outcome is enough
            self.write(resume_message(done, epochs))

    def step(
        self, epoch: int, step: int, steps: int, images: int, loss: Callable[[], float]
    ) -> None:
        """Write a line if there was none for ``QUIET`` seconds."""
        stage = self.stage
        stage.step(epoch, step, steps, images)
        if stage.now - self.last_line >= QUIET:
            stage.running_loss = loss()
            self.write_numbers()

    def epoch(self, number: int, *, loss: float | None = None, top1: float | None = None) -> None:
        """Write a line after a test, or if there was none for ``QUIET`` seconds."""
        tested = self.stage.epoch(number, loss, top1)
        due = self.stage.now - self.last_line >= QUIET
        if (tested or due) and number < self.stage.epochs:  # the last epoch is in the outcome
            self.write_numbers()

    def write_numbers(self) -> None:
        """Write the progress of the stage."""
        stage = self.stage
        stage.look()
        self.write(", ".join(filter(None, [stage.where, str(stage)])))
        self.last_line = stage.now

    def end(self, outcome: str) -> None:
        """Write the outcome and the time."""
        self.write(f"{outcome} ({self.stage.seconds:.1f} s)")
        self.finished += 1

    def write(self, text: str) -> None:
        """Write a line that starts with the number and title of the stage."""
        count = f"[{self.finished + 1:>{len(str(self.stages))}}/{self.stages}]"
        print(f"{count} {self.stage.title}: {text}", file=self.stream, flush=True)


class RichProgress:
    """Shows a bar for all stages and one for the current stage, with its numbers below.

    Args:
        stages: number of stages; the upper bar is hidden if there is only one.
        clock: returns the time in seconds.
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

    def begin(self, title: str, epochs: int, done: float = 0) -> None:
        """Reset the lower bar."""
        self.stage = Stage(title, epochs, done, self.clock)
        self.shown = self.stage.start
        self.numbers.plain = ""
        self.bars.reset(self.present, total=epochs, description=title)
        self.bars.update(self.present, completed=done)

    def step(
        self, epoch: int, step: int, steps: int, images: int, loss: Callable[[], float]
    ) -> None:
        """Update the lower bar about every ``REFRESH`` seconds."""
        self.stage.step(epoch, step, steps, images)
        if self.stage.now - self.shown >= REFRESH:
            self.stage.running_loss = loss()
            self.show()

    def epoch(self, number: int, *, loss: float | None = None, top1: float | None = None) -> None:
        """Update the lower bar."""
        self.stage.epoch(number, loss, top1)
        self.show()

    def show(self) -> None:
        """Display the progress of the stage."""
        self.shown = self.stage.now
        self.stage.look()
        self.numbers.plain = str(self.stage)
        self.bars.update(self.present, completed=self.stage.done)

    def end(self, outcome: str) -> None:
        """Print the outcome above the bars and advance the upper one."""
        seconds = f"{self.stage.seconds:.1f} s"
        self.console.print(
            f"{self.stage.title:<24} {outcome} ({seconds})", highlight=False, markup=False
        )
        self.bars.advance(self.overall)


def show_progress(stages: int, *, quiet: bool) -> Progress:
    """Choose how to show progress: silent, bars in a terminal, or lines."""
    if quiet:
        return SilentProgress()
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return RichProgress(stages)
    return PlainProgress(stages, sys.stderr)
