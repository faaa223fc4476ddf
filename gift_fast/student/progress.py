"""What is shown while networks train: bars in a terminal, else a line for every finished stage.

Progress goes to the standard error, so that a report can be piped from the standard output.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Protocol, TextIO


class Progress(Protocol):
    """Follows a known number of stages, each of a known number of epochs."""

    def __enter__(self) -> Progress: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def begin(self, title: str, epochs: int) -> None:
        """A stage starts."""

    def epoch(self, number: int) -> None:
        """Epoch ``number``, from 1, of the stage has finished."""

    def end(self, outcome: str) -> None:
        """The stage has finished with this outcome."""


class SilentProgress:
    """Shows nothing."""

    def __enter__(self) -> SilentProgress:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begin(self, title: str, epochs: int) -> None:
        """Does nothing."""

    def epoch(self, number: int) -> None:
        """Does nothing."""

    def end(self, outcome: str) -> None:
        """Does nothing."""


class PlainProgress:
    """Writes one line when a stage has finished: its number, title, outcome and seconds."""

    def __init__(self, stages: int, stream: TextIO) -> None:
        self.stages = stages
        self.stream = stream
        self.finished = 0

    def __enter__(self) -> PlainProgress:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begin(self, title: str, epochs: int) -> None:
        """Remembers the title and the time."""
        self.title = title
        self.start = time.perf_counter()

    def epoch(self, number: int) -> None:
        """Does nothing: a line an epoch would drown a log."""

    def end(self, outcome: str) -> None:
        """Writes the line."""
        self.finished += 1
        count = f"[{self.finished:>{len(str(self.stages))}}/{self.stages}]"
        seconds = time.perf_counter() - self.start
        line = f"{count} {self.title}: {outcome} ({seconds:.1f} s)"
        print(line, file=self.stream, flush=True)


class RichProgress:
    """One bar for all stages and one for the epochs of the present stage."""

    def __init__(self, stages: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        self.bars = Bars(
            TextColumn("{task.description:<24}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self.overall = self.bars.add_task("all", total=stages)
        self.stage = self.bars.add_task("", total=1)

    def __enter__(self) -> RichProgress:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def begin(self, title: str, epochs: int) -> None:
        """Starts the lower bar anew."""
        self.title = title
        self.bars.reset(self.stage, total=epochs, description=title)

    def epoch(self, number: int) -> None:
        """Moves the lower bar."""
        self.bars.update(self.stage, completed=number)

    def end(self, outcome: str) -> None:
        """Leaves a line above the bars and moves the upper one."""
        self.bars.console.print(f"{self.title:<24} {outcome}", highlight=False)
        self.bars.advance(self.overall)


def show_progress(stages: int, *, quiet: bool) -> Progress:
    """The progress that fits where the standard error goes."""
    if quiet:
        return SilentProgress()
    if sys.stderr.isatty():
        return RichProgress(stages)
    return PlainProgress(stages, sys.stderr)
