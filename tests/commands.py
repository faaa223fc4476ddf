"""Commands in processes of their own, which are signalled while they work."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

ENDLESS = 1_000_000
"""Epochs of a run that does not end by itself, however fast the machine is."""

T = TypeVar("T")


class Command:
    """A call of ``gift-fast`` that runs.

    Args:
        process: of the call.
        log: the file that it prints to. Unlike a pipe, a file never blocks the process.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    @property
    def printed(self) -> str:
        """Everything that it has printed so far."""
        return self.log.read_text()

    def wait_for(self, what: Callable[[], T], seconds: float = 240.0) -> T:
        """The first true value of ``what()``, which has to come while the process runs."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            if found := what():
                return found
            time.sleep(0.05)
        pytest.fail(f"waited in vain; exit status {self.process.poll()}:\n{self.printed}")

    def wait(self, seconds: float = 240.0) -> int:
        """Waits for its end, and gives the exit status."""
        return self.process.wait(timeout=seconds)


@contextmanager
def running(root: Path, arguments: Sequence[str]) -> Iterator[Command]:
    """Calls ``gift-fast`` in ``root``; the process is killed where it outlives the block."""
    log = root / "log"
    line = [sys.executable, "-m", "gift_fast.cli", *arguments]
    with log.open("wb") as stream:
        process = subprocess.Popen(line, cwd=root, stdout=stream, stderr=subprocess.STDOUT)
    try:
        yield Command(process, log)
    finally:
        process.kill()
        process.wait()
