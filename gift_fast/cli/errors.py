"""Error messages and exit statuses of the command line."""

from __future__ import annotations

import argparse
import os
import sys
import traceback

from gift_fast.process.errors import error_message
from gift_fast.process.signals import as_interrupted

ARGUMENTS = {"root": "data_root", "path": "data", "distilled": "data"}
"""Arguments of Python functions, and the attribute of the parsed options if it has another name."""

OPTIONS = {"teachers": "teacher"}
"""Attributes of the parsed options, and the name of the option if it is different."""

POSITIONAL = ("study", "folder", "run", "reproduction", "method")
"""Attributes of the parsed options that are not set by an ``--option``."""

TRACEBACK = "GIFT_FAST_TRACEBACK"
"""Environment variable; 1 shows the traceback of every error."""


def fail(message: str) -> int:
    """Print an error message; return the exit status 2."""
    print(f"gift-fast: error: {message}", file=sys.stderr)
    return 2


def failed(error: Exception, options: argparse.Namespace) -> int:
    """Print an error; return the exit status, 2 if the user can correct it and 1 otherwise."""
    message = error_message(error)
    if message is None or os.environ.get(TRACEBACK):
        traceback.print_exception(error)
    if message is not None:
        return fail(with_option_name(message, options))
    print(
        f"gift-fast: unexpected error: {type(error).__name__}. If it does not come from your own "
        "code, please report it with the traceback above and the output of `gift-fast doctor`",
        file=sys.stderr,
    )
    return 1


def interrupted(stop: KeyboardInterrupt, change: str = "") -> int:
    """Print what was saved and how to resume; return the exit status.

    Args:
        stop: the exception that the signal raised.
        change: how the command that resumes differs, such as "without --force".
    """
    stop = as_interrupted(stop)
    if os.environ.get("RANK", "0") == "0":  # only the first of several processes
        advice = f"run the same command {change}".rstrip()
        print(f"\n{stop}; {advice} to resume", file=sys.stderr, flush=True)
    return stop.status


def with_option_name(message: str, options: argparse.Namespace) -> str:
    """Replace the argument's name at the start of a message with the command's option.

    Example:
        >>> with_option_name("epochs must be at least 1, got 0", argparse.Namespace(epochs=0))
        '--epochs must be at least 1, got 0'
        >>> with_option_name("root must contain cifar10", argparse.Namespace(data_root=None))
        '--data-root must contain cifar10'
    """
    name, space, rest = message.partition(" ")
    argument = ARGUMENTS.get(name, name)
    if not hasattr(options, argument) or argument in POSITIONAL or not rest.startswith("must"):
        return message
    return f"--{OPTIONS.get(argument, argument).replace('_', '-')}{space}{rest}"
