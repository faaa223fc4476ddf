"""Periodic log lines while slow code runs that does not report its own progress."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TextIO

INTERVAL = 20.0
"""Seconds between two log lines. Below 30 s, so that a log is never silent for half a minute even
if a busy machine delays a line."""

_shown: ContextVar[bool] = ContextVar("shown", default=False)


@contextmanager
def showing(shown: bool = True) -> Iterator[None]:
    """Show progress within the block, in this process and this thread.

    Outside of such a block nothing is shown, so programs that import the package stay silent.

    Args:
        shown: False shows nothing; used for ``--quiet`` and for all processes but the main one.
    """
    token = _shown.set(shown)
    try:
        yield
    finally:
        _shown.reset(token)


def is_shown() -> bool:
    """Whether progress is shown, see :func:`showing`."""
    return _shown.get()


@contextmanager
def log_lines(
    title: str, *, every: float = INTERVAL, stream: TextIO | None = None
) -> Iterator[None]:
    """Print a line at regular intervals while the block runs, unless a terminal shows a bar.

    Args:
        title: what the block does, such as "testing on 10000 images".
        every: seconds between two lines; a shorter block prints none.
        stream: the output stream; standard error by default.

    Example:
        >>> with log_lines("testing on 10000 images"):
        ...     pass
    """
    stream = sys.stderr if stream is None else stream
    if not is_shown() or stream.isatty():
        yield
        return
    start, ended = time.monotonic(), threading.Event()

    def print_lines() -> None:
        while not ended.wait(every):
            print(f"{title}: {time.monotonic() - start:.0f} s so far", file=stream, flush=True)

    thread = threading.Thread(target=print_lines, name="log-lines", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
