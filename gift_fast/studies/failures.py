"""Failed runs of a study."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from gift_fast.process.errors import error_message

SHOWN = 5
"""Maximum number of runs that are listed per error."""


@dataclass(frozen=True)
class Failure:
    """A failed run.

    Attributes:
        title: description of the run.
        reason: the error message, on one line.
        trace: the traceback; empty if the message is sufficient or there is no traceback.
    """

    title: str
    reason: str
    trace: str = ""

    @classmethod
    def of(cls, title: str, error: BaseException) -> Failure:
        """Create the failure of a run that raised an error."""
        message = error_message(error)
        if message is not None:
            return cls(title, message)
        lines = traceback.format_exception(error)
        return cls(title, f"{type(error).__name__}: {error}", "".join(lines))


class RunsFailed(Exception):  # noqa: N818, it summarizes the errors of several runs
    """Raised at the end of a study in which runs failed; all other runs have finished.

    Args:
        failures: the failed runs, at least one.
        done: number of finished runs.
    """

    def __init__(self, failures: Sequence[Failure], done: int) -> None:
        self.failures = tuple(failures)
        self.done = done
        super().__init__(f"{len(self.failures)} runs failed, {done} finished")

    def report(self) -> str:
        """Format every error once, with the first of the runs in which it occurred.

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
        for reason, runs in titles.items():
            lines += [traces[reason].rstrip() or reason, *(f"  {run}" for run in runs[:SHOWN])]
            if len(runs) > SHOWN:
                lines.append(f"  and {len(runs) - SHOWN} more")
        return "\n".join(lines)
