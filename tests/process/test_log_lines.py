from __future__ import annotations

import io
import threading

from gift_fast.process.log_lines import is_shown, log_lines, showing


class Log(io.StringIO):
    """A log that says when it has a first line."""

    def __init__(self, *, terminal: bool = False) -> None:
        super().__init__()
        self.written = threading.Event()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    def flush(self) -> None:
        super().flush()
        self.written.set()


def test_a_slow_block_prints_lines_while_it_runs():
    log = Log()
    with showing(), log_lines("testing on 100 images", every=0.001, stream=log):
        assert log.written.wait(timeout=60)
    assert log.getvalue().startswith("testing on 100 images: 0 s so far\n")
    assert not any(thread.name == "log-lines" for thread in threading.enumerate())


def test_the_lines_end_with_the_block_even_if_it_raises():
    log = Log()
    try:
        with showing(), log_lines("testing", every=0.001, stream=log):
            raise RuntimeError
    except RuntimeError:
        pass
    assert not any(thread.name == "log-lines" for thread in threading.enumerate())


def test_nothing_is_printed_unless_a_command_shows_progress_in_a_log():
    for shown, terminal in [(False, False), (True, True)]:
        log = Log(terminal=terminal)
        with showing(shown), log_lines("testing", every=0.001, stream=log):
            assert not any(thread.name == "log-lines" for thread in threading.enumerate())
        assert log.getvalue() == ""
    assert not is_shown()
