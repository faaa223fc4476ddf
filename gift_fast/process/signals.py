"""SIGTERM and SIGINT: a training run saves its state and stops, everything else stops at once.

The command installs the handlers (:func:`handling_signals`); importing the package never does.
Whatever must not be cut in two asks :func:`current` for the handlers' object and holds signals back
while it works.
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
"""Seconds after a signal in which another one is taken for the same: ``timeout`` signals a process
and then its group, and a terminal's Ctrl-C reaches a worker directly and again through torchrun."""


class Interrupted(KeyboardInterrupt):
    """A signal has stopped what was being done.

    A KeyboardInterrupt, so that whatever handles the errors of a run lets it pass.

    Args:
        signal: that came.
        details: what there is to say of it, such as what was saved.

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
        """The exit status that shells give a command that this signal has ended."""
        return 128 + self.signal


class Interruption:
    """Notes the first signal while it is held back, and raises :class:`Interrupted` otherwise.

    A second signal raises even where signals are held back, unless it is the first one's echo (see
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
        """Takes in a signal; this is the handler."""
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
        """Within, the first signal is only noted; who holds it back looks at ``received``.

        The end of the block, unless it lies in another one, raises for a signal that was noted.
        """
        self.holds += 1
        try:
            yield
        finally:
            self.holds -= 1
        self.check()

    @contextmanager
    def released(self) -> Iterator[None]:
        """Within, inside of :meth:`held`, a signal raises at once, also one noted before."""
        holds, self.holds = self.holds, 0
        try:
            self.check()
            yield
        finally:
            self.holds = holds

    def check(self) -> None:
        """Raises :class:`Interrupted` where a signal was noted and is not held back any more."""
        if self.received is not None and not self.holds:
            raise Interrupted(self.received)

    def install(self, *, ignored: bool = False) -> None:
        """Makes this the handler of ``SIGNALS``, also after a library has put its own in its place.

        Args:
            ignored: also of a signal that is ignored, as SIGINT is in a shell's background jobs.
        """
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if handler != self.receive and (ignored or handler is not signal.SIG_IGN):
                self.replaced.setdefault(number, handler)
                signal.signal(number, self.receive)

    def uninstall(self) -> None:
        """Puts back the handlers that there were before."""
        for number, handler in self.replaced.items():
            signal.signal(number, handler)
        self.replaced.clear()


_installed: list[Interruption] = []


def as_interrupted(error: KeyboardInterrupt) -> Interrupted:
    """The error as one that names its signal.

    Ray waits in C++ and raises a KeyboardInterrupt of its own in the place of what the handler has
    raised. Where no handler is installed, Ctrl-C raises Python's.
    """
    if isinstance(error, Interrupted):
        return error
    return Interrupted(current().received or signal.SIGINT)


def current() -> Interruption:
    """The object whose handlers are installed, or one that no signal reaches."""
    return _installed[-1] if _installed else Interruption()


@contextmanager
def handling_signals(*, ignored: bool = False) -> Iterator[Interruption]:
    """Handles SIGTERM and SIGINT within the block, where it runs in the main thread.

    Args:
        ignored: also a signal that is ignored; see :meth:`Interruption.install`.
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
