"""Reads stored batches in a thread, ahead of their use in training."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

READ_AHEAD = 4
"""Number of batches that are read ahead."""

T = TypeVar("T")


def read_ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield the items of an iterator that a thread runs up to ``READ_AHEAD`` items ahead."""
    waiting: queue.Queue[T | Ended] = queue.Queue(READ_AHEAD)
    dropped = threading.Event()

    def fetch() -> None:
        error = None
        try:
            for item in items:
                waiting.put(item)
                if dropped.is_set():
                    return
        except BaseException as raised:
            error = raised
        waiting.put(Ended(error))

    threading.Thread(target=fetch, name="fkd-read-ahead", daemon=True).start()
    try:
        while not isinstance(item := waiting.get(), Ended):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        # A thread that is blocked by the full queue continues, sees ``dropped``, and ends.
        dropped.set()
        while not waiting.empty():
            waiting.get_nowait()


@dataclass(frozen=True)
class Ended:
    """Marks the end of the queue, with the error that ended it, if any."""

    error: BaseException | None
