"""The entry point of ``gift-fast``: parses the command line and runs the command.

Only the module of the command that is called is imported, so that ``gift-fast --help`` does not
wait for torch. A command's module may import torch at its top only if its help lists the names of a
registry; the others import it in ``run``.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from gift_fast.cli.commands import COMMANDS
from gift_fast.cli.errors import fail, failed, interrupted
from gift_fast.cli.parser import build_parser
from gift_fast.cli.requirements import missing_packages
from gift_fast.process.log_lines import showing
from gift_fast.process.signals import handling_signals


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: of the command line, without the program's name; None for those of the process.

    Returns:
        The exit status: 2 for an error that the user can correct, 1 for a bug or for a failure
        that a command reports, 143 after SIGTERM and 130 after SIGINT.
    """
    with handling_signals():
        try:
            return run_command(arguments)
        except KeyboardInterrupt as stop:
            return interrupted(stop)


def run_command(arguments: Sequence[str] | None) -> int:
    """Parse the arguments, run the command that they name, and report its errors."""
    # A user's own losses and networks are named by import path, from the current folder.
    sys.path.append("")
    arguments = sys.argv[1:] if arguments is None else arguments
    # No option of the main parser takes a value, so the command is the first that is no option.
    called = next((argument for argument in arguments if not argument.startswith("-")), "")
    options = build_parser(called).parse_args(arguments)
    missing = missing_packages() if COMMANDS[options.command].needs_student else []
    if missing:
        return fail(
            f"this command needs {', '.join(missing)}; install them with "
            "pip install 'gift-fast[student]' (gift-fast doctor lists what is installed)"
        )
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        with one_line_warnings(), progress_shown(options):
            status = run(options)
        sys.stdout.flush()  # raises here if the disk is full or the reader has gone
        return status
    except BrokenPipeError:  # the reader has gone, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as stop:
        return interrupted(stop, "without --force" if getattr(options, "force", False) else "")
    except Exception as error:
        return failed(error, options)


@contextmanager
def one_line_warnings() -> Iterator[None]:
    """Print warnings as one line each, without the line of code that raised them."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"gift-fast: warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


@contextmanager
def progress_shown(options: argparse.Namespace) -> Iterator[None]:
    """Show progress, in the first process only and not with ``--quiet``."""
    main_process = os.environ.get("RANK", "0") == "0"  # as torchrun and accelerate number them
    with showing(main_process and not getattr(options, "quiet", None)):
        yield
