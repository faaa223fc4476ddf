"""Progress of decoding: a bar in a terminal, otherwise a line at least every half minute.

Nothing is shown unless a command enables it with :func:`gift_fast.process.log_lines.showing`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO, TypeVar

from gift_fast.process.log_lines import INTERVAL, is_shown

Part = TypeVar("Part")

BRIEF = 1.0
"""Seconds before anything is shown; most sets take less."""


def followed(
    parts: Iterable[Part],
    title: str,
    total: int,
    size: Callable[[Part], int] = lambda part: 1,
    *,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Part]:
    """Yield the parts of some work and show its progress.

    Args:
        parts: an iterable over the parts.
        title: what is done, such as "decoding 10000 images of DIR".
        total: sum of the sizes of all parts.
        size: returns the size of a part.
        stream: where progress is shown, by default the standard error.
        clock: returns the time in seconds.

    Example:
        >>> list(followed([1, 2], "counting", total=2))
        [1, 2]
    """
    if not is_shown():
        yield from parts
        return
    stream = sys.stderr if stream is None else stream
    # A live progress bar prints other output above itself; a second bar would break it.
    occupied = type(stream).__name__ == "FileProxy"
    if stream.isatty() and not occupied:
        yield from bar(parts, title, total, size, stream)
    else:
        yield from lines(parts, title, total, size, stream, clock)


def lines(
    parts: Iterable[Part],
    title: str,
    total: int,
    size: Callable[[Part], int],
    stream: TextIO,
    clock: Callable[[], float],
) -> Iterator[Part]:
    """Yield the parts and print lines for a log at intervals, and a last one if there was any."""
    start, told, done = clock(), None, 0
    for part in parts:
        done += size(part)
        now = clock()
        if now - start >= BRIEF and (told is None or now - told >= INTERVAL):
            rate = done / (now - start)
            left = f"{(total - done) / rate:.0f} s left" if rate else "no rate yet"
            print(f"{title}: {done} of {total}, {rate:.0f}/s, {left}", file=stream, flush=True)
            told = now
        yield part
    if told is not None:
        print(f"{title}: done in {clock() - start:.0f} s", file=stream, flush=True)


def bar(
    parts: Iterable[Part],
    title: str,
    total: int,
    size: Callable[[Part], int],
    stream: TextIO,
) -> Iterator[Part]:
    """Yield the parts and show a bar, which disappears at the end."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(file=stream)
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task(title, total=total)
        for part in parts:
            progress.advance(task, size(part))
            yield part
