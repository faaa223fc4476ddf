"""SIGTERM and SIGINT: a training run saves its state and stops; all other code stops immediately.

The command installs the handlers (:func:`handling_signals`); importing the package never does. Code
that must not be interrupted gets the active handler from :func:`current` and defers signals with
:meth:`Interruption.held`.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)

ECHO = 1.0
"""Seconds within which a second signal counts as a repetition of the first: ``timeout`` signals a
process and then its group, and Ctrl-C reaches a worker directly and again through torchrun."""


class Interrupted(KeyboardInterrupt):
    """Raised when a signal stops the program.

    A subclass of KeyboardInterrupt, so code that catches the errors of a run does not catch it.

    Args:
        signal: the signal.
        details: details for the message, such as what was saved.

    Example:
        >>> stop = Interrupted(signal.SIGTERM, "state saved at step 3 of epoch 1")
        >>> stop.details.append("2 of 5 runs are done")
        >>> print(stop)
        interrupted by SIGTERM; state saved at step 3 of epoch 1; 2 of 5 runs are done
        >>> stop.status
        143
    """

    def __init__(self, signal: signal.Signals, *details: str) -> None:
        super().__init__(signal, *details)
        self.signal = signal
        self.details = list(details)

    def __str__(self) -> str:
        return "; ".join([f"interrupted by {self.signal.name}", *self.details])

    @property
    def status(self) -> int:
        """The exit status by which shells report a command that this signal ended."""
        return 128 + self.signal


class Interruption:
    """A signal handler that raises :class:`Interrupted`, or records the signal while deferred.

    A second signal raises even while signals are deferred, unless it repeats the first within
    ``ECHO`` seconds.

    Attributes:
        received: the first signal, or None if none has been received.

    Example:
        >>> interruption = Interruption()
        >>> try:
        ...     with interruption.held():
        ...         interruption.receive(signal.SIGTERM)
        ...         print("saves")
        ... except Interrupted as stop:
        ...     print(stop)
        saves
        interrupted by SIGTERM
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.received_at = 0.0
        self.holds = 0
        self.replaced: dict[signal.Signals, Any] = {}

    def receive(self, number: int, frame: FrameType | None = None) -> None:
        """The signal handler."""
        now = time.monotonic()
        if self.received is None:
            self.received, self.received_at = signal.Signals(number), now
            if self.holds:
                return
        elif now - self.received_at < ECHO:
            return
        raise Interrupted(self.received)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Defer signals within the block: the first one is only recorded, as ``received``.

        A recorded signal raises :class:`Interrupted` at the end of the outermost block.
        """
        self.holds += 1
        try:
            yield
        finally:
            self.holds -= 1
        self.check()

    @contextmanager
    def released(self) -> Iterator[None]:
        """Raise signals immediately within the block, inside a block of :meth:`held`.

        A signal that was recorded before is raised first.
        """
        holds, self.holds = self.holds, 0
        try:
            self.check()
            yield
        finally:
            self.holds = holds

    def check(self) -> None:
        """Raise :class:`Interrupted` if a signal was recorded and signals are not deferred."""
        if self.received is not None and not self.holds:
            raise Interrupted(self.received)

    def install(self, *, ignored: bool = False) -> None:
        """Install this handler for ``SIGNALS``, or reinstall it after a library has replaced it.

        Args:
            ignored: whether to handle signals that are currently ignored too, as SIGINT is in
                background jobs of a shell.
        """
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if handler != self.receive and (ignored or handler is not signal.SIG_IGN):
                self.replaced.setdefault(number, handler)
                signal.signal(number, self.receive)

    def uninstall(self) -> None:
        """Restore the previous handlers."""
        for number, handler in self.replaced.items():
            signal.signal(number, handler)
        self.replaced.clear()


_installed: list[Interruption] = []


def as_interrupted(error: KeyboardInterrupt) -> Interrupted:
    """Convert a KeyboardInterrupt to :class:`Interrupted`.

    Ray waits in C++ and raises its own KeyboardInterrupt instead of the handler's. Without a
    handler, Ctrl-C raises Python's KeyboardInterrupt.
    """
    if isinstance(error, Interrupted):
        return error
    return Interrupted(current().received or signal.SIGINT)


def current() -> Interruption:
    """The installed handler, or one that receives no signals."""
    return _installed[-1] if _installed else Interruption()


@contextmanager
def handling_signals(*, ignored: bool = False) -> Iterator[Interruption]:
    """Handle SIGTERM and SIGINT within the block, if it runs in the main thread.

    Args:
        ignored: see :meth:`Interruption.install`.
    """
    interruption = Interruption()
    # Python allows signal handlers in the main thread only.
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    interruption.install(ignored=ignored)
    _installed.append(interruption)
    try:
        yield interruption
    finally:
        _installed.pop()
        interruption.uninstall()
