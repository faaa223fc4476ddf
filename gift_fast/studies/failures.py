"""Runs that fail beside others that do not."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from gift_fast.process.errors import error_message

SHOWN = 5
"""Runs that are listed under a reason; of more, the number is."""


@dataclass(frozen=True)
class Failure:
    """A run that could not be finished.

    Attributes:
        title: of the run, in words.
        reason: the error, in a line.
        trace: where it was raised; empty where an error names what to mend, or there is no trace.
    """

    title: str
    reason: str
    trace: str = ""

    @classmethod
    def of(cls, title: str, error: BaseException) -> Failure:
        """The failure of a run that raised an error."""
        message = error_message(error)
        if message is not None:
            return cls(title, message)
        lines = traceback.format_exception(error)
        return cls(title, f"{type(error).__name__}: {error}", "".join(lines))


class RunsFailed(Exception):  # noqa: N818, it is no error of one call
    """Some runs of a study have failed; all others have finished and are kept.

    Args:
        failures: one or more.
        done: how many runs have finished.
    """

    def __init__(self, failures: Sequence[Failure], done: int) -> None:
        self.failures = tuple(failures)
        self.done = done
        super().__init__(f"{len(self.failures)} runs failed, {done} finished")

    def report(self) -> str:
        """Every reason once, with the first of the runs that it stopped, for a reader.

        Example:
            >>> failed = RunsFailed([Failure("CE, seed 0", "out of memory")], done=3)
            >>> print(failed.report())
            1 of 4 runs failed:
            out of memory
              CE, seed 0
        """
        titles: dict[str, list[str]] = {}
        traces: dict[str, str] = {}
        for failure in self.failures:
            titles.setdefault(failure.reason, []).append(failure.title)
            traces.setdefault(failure.reason, failure.trace)
        lines = [f"{len(self.failures)} of {len(self.failures) + self.done} runs failed:"]
        for reason, stopped in titles.items():
            lines += [traces[reason].rstrip() or reason, *(f"  {t}" for t in stopped[:SHOWN])]
            if len(stopped) > SHOWN:
                lines.append(f"  and {len(stopped) - SHOWN} more")
        return "\n".join(lines)
