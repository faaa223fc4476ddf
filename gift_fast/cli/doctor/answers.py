"""Questions that the machine may not be able to answer.

Each is asked on its own; one that raises is answered with the reason.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

SLOW = 20
"""Seconds that a compiler or driver may take to print its version."""

Answers = dict[str, str]
"""A section of the report: questions and their answers."""


def answered(section: Callable[[], Answers]) -> Answers:
    """Return a section of the report, or the reason why it could not be filled."""
    try:
        return section()
    except Exception as error:
        return {"unknown": reason(error)}


def asked(question: Callable[..., object], *arguments: Any) -> str:
    """Return the answer to one question as text, or the reason why there is none."""
    try:
        return str(question(*arguments))
    except Exception as error:
        return f"unknown: {reason(error)}"


def reason(error: Exception) -> str:
    """Return an error as one line."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def output_of(*command: str) -> str:
    """Return what a program prints.

    Raises:
        OSError: it cannot be run.
        subprocess.TimeoutExpired: it runs longer than ``SLOW``.
    """
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, errors="replace", timeout=SLOW
    )
    return (done.stdout.strip() or done.stderr.strip()).strip()
