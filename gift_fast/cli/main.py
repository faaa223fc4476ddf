"""The entry point of ``gift-fast``: parses the command line and runs the command.

Only the module of the requested command is imported, so that ``gift-fast --help`` does not import
torch. A command's module imports torch at the top only if its help lists the names of a registry;
the others import it in ``run``.
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
        arguments: command-line arguments without the program's name; None uses ``sys.argv``.

    Returns:
        The exit status: 2 for an error that the user can correct, 1 for a bug or a failure that a
        command reports, 143 after SIGTERM and 130 after SIGINT.
    """
    with handling_signals():
        try:
            return run_command(arguments)
        except KeyboardInterrupt as stop:
            return interrupted(stop)


def run_command(arguments: Sequence[str] | None) -> int:
    """Parse the arguments, run the command, and report its errors."""
    # User-defined losses and networks are imported from the current folder.
    sys.path.append("")
    arguments = sys.argv[1:] if arguments is None else arguments
    # No option of the main parser takes a value, so the first argument without a dash is the
    # command.
    command = next((argument for argument in arguments if not argument.startswith("-")), "")
    options = build_parser(command).parse_args(arguments)
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
        sys.stdout.flush()  # raises here if the disk is full or the pipe is closed
        return status
    except BrokenPipeError:  # the reader closed the pipe, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as stop:
        return interrupted(stop, "without --force" if getattr(options, "force", False) else "")
    except Exception as error:
        return failed(error, options)


@contextmanager
def one_line_warnings() -> Iterator[None]:
    """Print warnings on one line, without the source line that raised them."""
    original = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"gift-fast: warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = original


@contextmanager
def progress_shown(options: argparse.Namespace) -> Iterator[None]:
    """Show progress, unless ``--quiet`` is given, and only in the main process."""
    main_process = os.environ.get("RANK", "0") == "0"  # set by torchrun and accelerate
    with showing(main_process and not getattr(options, "quiet", None)):
        yield
