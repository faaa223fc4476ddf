"""Queries of the system that may fail; a failed query returns the error as its result."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

TIMEOUT = 20
"""Seconds that a compiler or driver may take to print its version."""

Section = dict[str, str]
"""A section of the report: names and values."""


def collect(section: Callable[[], Section]) -> Section:
    """Return a section of the report, or the error that prevented it."""
    try:
        return section()
    except Exception as error:
        return {"unknown": format_error(error)}


def query(function: Callable[..., object], *arguments: Any) -> str:
    """Return the result of a function as a string, or the error that it raised."""
    try:
        return str(function(*arguments))
    except Exception as error:
        return f"unknown: {format_error(error)}"


def format_error(error: Exception) -> str:
    """Format an error on one line."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def output_of(*command: str) -> str:
    """Return the output of a program.

    Raises:
        OSError: the program cannot be run.
        subprocess.TimeoutExpired: it runs longer than ``TIMEOUT``.
    """
    result = subprocess.run(
        command, check=False, capture_output=True, text=True, errors="replace", timeout=TIMEOUT
    )
    return (result.stdout.strip() or result.stderr.strip()).strip()
