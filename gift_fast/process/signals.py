"""SIGTERM and SIGINT: a training run saves its state and stops, everything else stops at once.

The command installs the handlers (:func:`handling_signals`); importing the package never does. Code
that must not be interrupted gets the handlers' object from :func:`current` and holds signals back.
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
"""Seconds after a signal in which a second one counts as the same: ``timeout`` signals a process
and then its group, and a terminal's Ctrl-C reaches a worker directly and again through torchrun."""


class Interrupted(KeyboardInterrupt):
    """A signal has stopped the program.

    It is a KeyboardInterrupt, so code that handles the errors of a run does not catch it.

    Args:
        signal: the signal.
        details: texts for the message, such as what was saved.

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
    """Records the first signal while signals are held back, else raises :class:`Interrupted`.

    A second signal raises even while signals are held back, unless it is an echo of the first (see
    ``ECHO``).

    Attributes:
        received: the first signal, or None while none has come.

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
        """Only records the first signal within the block, as ``received``.

        The end of the outermost block raises for a recorded signal.
        """
        self.holds += 1
        try:
            yield
        finally:
            self.holds -= 1
        self.check()

    @contextmanager
    def released(self) -> Iterator[None]:
        """Within a block of :meth:`held`, lets signals raise at once, also one recorded before."""
        holds, self.holds = self.holds, 0
        try:
            self.check()
            yield
        finally:
            self.holds = holds

    def check(self) -> None:
        """Raises :class:`Interrupted` if a signal was recorded and is no longer held back."""
        if self.received is not None and not self.holds:
            raise Interrupted(self.received)

    def install(self, *, ignored: bool = False) -> None:
        """Installs this handler for ``SIGNALS``, also after a library has replaced it.

        Args:
            ignored: also for ignored signals, as SIGINT is in a shell's background jobs.
        """
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if handler != self.receive and (ignored or handler is not signal.SIG_IGN):
                self.replaced.setdefault(number, handler)
                signal.signal(number, self.receive)

    def uninstall(self) -> None:
        """Restores the previous handlers."""
        for number, handler in self.replaced.items():
            signal.signal(number, handler)
        self.replaced.clear()


_installed: list[Interruption] = []


def as_interrupted(error: KeyboardInterrupt) -> Interrupted:
    """Converts a KeyboardInterrupt to :class:`Interrupted`.

    Ray waits in C++ and raises its own KeyboardInterrupt instead of the handler's. Without a
    handler, Ctrl-C raises Python's.
    """
    if isinstance(error, Interrupted):
        return error
    return Interrupted(current().received or signal.SIGINT)


def current() -> Interruption:
    """The object whose handlers are installed, or one that receives no signals."""
    return _installed[-1] if _installed else Interruption()


@contextmanager
def handling_signals(*, ignored: bool = False) -> Iterator[Interruption]:
    """Handles SIGTERM and SIGINT within the block, if it runs in the main thread.

    Args:
        ignored: also ignored signals; see :meth:`Interruption.install`.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():  # only that one may
        yield interruption
        return
    interruption.install(ignored=ignored)
    _installed.append(interruption)
    try:
        yield interruption
    finally:
        _installed.pop()
        interruption.uninstall()
