"""What is shown while networks train: bars in a terminal, else lines that a log can hold.

Both show the same numbers: accuracy and loss of the last check, the loss of the present epoch,
images per second, and the time that the present stage still takes. Progress goes to the standard
error, so that a report can be piped from the standard output.
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

QUIET = 30.0
"""Seconds after which a log gets a line even though there was no check."""

REFRESH = 1.0
"""Seconds between two looks at the steps of an epoch: reading a loss waits for the device."""


class Progress(Protocol):
    """Follows a known number of stages, each of a known number of epochs."""

    def __enter__(self) -> Progress: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def begin(self, title: str, epochs: int, done: float = 0) -> None:
        """A stage starts; an earlier call has finished ``done`` of its epochs, 2.5 for instance."""

    def step(
        self, epoch: int, step: int, steps: int, images: int, loss: Callable[[], float]
    ) -> None:
        """A step of the stage has finished.

        Args:
            epoch: in which, from 1.
            step: which of the epoch's steps, from 1.
            steps: of the epoch.
            images: that the step trained on, over all processes.
            loss: gives the mean training loss of the epoch so far. It waits for the device, so it
                is called only where it is shown.
        """

    def epoch(self, number: int, *, loss: float | None = None, top1: float | None = None) -> None:
        """Epoch ``number``, from 1, of the stage has finished.

        Args:
            number: the epoch.
            loss: mean training loss of the epoch, where there was a check.
            top1: accuracy of this check, percent.
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
        # (time, epochs done, images seen) at the start and then about once in REFRESH.
        self.seen = deque([(self.start, done, 0)])

    def step(self, epoch: int, step: int, steps: int, images: int) -> None:
        """Takes in a finished step."""
        self.done = epoch - 1 + step / steps
        self.where = f"epoch {epoch}/{self.epochs}, step {step}/{steps}"
        self.images += images
        self.now = self.clock()
        if self.now - self.seen[-1][0] >= REFRESH:
            self.look()

    def epoch(self, number: int, loss: float | None = None, top1: float | None = None) -> bool:
        """Takes in a finished epoch; tells whether there was a check."""
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
        """Keeps how far the stage is now, for its rate."""
        seen = self.seen
        seen.append((self.now, self.done, self.images))
        # One observation older than the window stays, and one before the last step: a step or a
        # test may take longer than that.
        while len(seen) > 2 and seen[1][0] <= self.now - WINDOW and seen[1][1] < self.done:
            seen.popleft()

    @property
    def images_per_second(self) -> float | None:
        """Images trained on a second, tests included; None while that is not known."""
        (start, _, before), (now, _, images) = self.seen[0], self.seen[-1]
        return (images - before) / (now - start) if now > start and images > before else None

    @property
    def seconds_left(self) -> float | None:
        """Time that the other epochs take at the rate of the window; None while not known."""
        (start, before, _), (now, done, _) = self.seen[0], self.seen[-1]
        if done <= before:
            return None
        return (self.epochs - done) * (now - start) / (done - before)

    @property
    def seconds(self) -> float:
        """Time since the stage began in this call."""
        return self.clock() - self.start

    def __str__(self) -> str:
        rate, left = self.images_per_second, self.seconds_left
        age = "" if self.checked == self.done else f" after epoch {self.checked}"
        parts = [] if self.running_loss is None else [f"loss {self.running_loss:.4g}"]
        parts += [self.check + age] if self.check else []
        parts += [] if rate is None else [f"{rate:,.0f} images/s"]
        parts += [] if left is None else [f"{timedelta(seconds=round(left))} left"]
        return ", ".join(parts)


def resumed_in_words(done: float, epochs: int) -> str:
    """From where a stage is resumed.

    Example:
        >>> resumed_in_words(3, 40), resumed_in_words(2.153, 40)
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
        """Does nothing."""

    def step(
        self, epoch: int, step: int, steps: int, images: int, loss: Callable[[], float]
    ) -> None:
        """Does nothing."""

    def epoch(self, number: int, *, loss: float | None = None, top1: float | None = None) -> None:
        """Does nothing."""

    def end(self, outcome: str) -> None:
        """Does nothing."""


class PlainProgress:
    """Writes a line at every check, when half a minute has passed without one, and at the end.

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

    def begin(self, title: str, epochs: int, done: float = 0) -> None:
        """Writes a line only where the stage is resumed."""
        self.stage = Stage(title, epochs, done, self.clock)
        self.last_line = self.stage.start
        if 0 < done < epochs:  # a stage that has finished is told by its outcome
            self.write(resumed_in_words(done, epochs))

    def step(
        self, epoch: int, step: int, steps: int, images: int, loss: Callable[[], float]
    ) -> None:
        """Writes a line where there was none for half a minute."""
        stage = self.stage
        stage.step(epoch, step, steps, images)
        if stage.now - self.last_line >= QUIET:
            stage.running_loss = loss()
            self.write_numbers()

    def epoch(self, number: int, *, loss: float | None = None, top1: float | None = None) -> None:
        """Writes a line where there was a check, or none for half a minute."""
        checked = self.stage.epoch(number, loss, top1)
        due = self.stage.now - self.last_line >= QUIET
        if (checked or due) and number < self.stage.epochs:  # the last epoch's is the outcome
            self.write_numbers()

    def write_numbers(self) -> None:
        """Writes how far the stage is."""
        stage = self.stage
        stage.look()
        self.write(", ".join(filter(None, [stage.where, str(stage)])))
        self.last_line = stage.now

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

    def begin(self, title: str, epochs: int, done: float = 0) -> None:
        """Starts the lower bar anew."""
        self.stage = Stage(title, epochs, done, self.clock)
        self.shown = self.stage.start
        self.numbers.plain = ""
        self.bars.reset(self.present, total=epochs, description=title)
        self.bars.update(self.present, completed=done)

    def step(
        self, epoch: int, step: int, steps: int, images: int, loss: Callable[[], float]
    ) -> None:
        """Moves the lower bar about once in ``REFRESH``."""
        self.stage.step(epoch, step, steps, images)
        if self.stage.now - self.shown >= REFRESH:
            self.stage.running_loss = loss()
            self.show()

    def epoch(self, number: int, *, loss: float | None = None, top1: float | None = None) -> None:
        """Moves the lower bar."""
        self.stage.epoch(number, loss, top1)
        self.show()

    def show(self) -> None:
        """Shows how far the stage is."""
        self.shown = self.stage.now
        self.stage.look()
        self.numbers.plain = str(self.stage)
        self.bars.update(self.present, completed=self.stage.done)

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
