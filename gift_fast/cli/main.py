"""Parses the command line, calls the command, and turns errors into messages and exit statuses.

A new command is a module with ``add_arguments(parser)`` and ``run(options)``, and an entry in
``COMMANDS``. Only the module of the command that is called is imported, so that
``gift-fast --help`` does not wait for torch. A module may import torch at its top only if its help
names what a registry holds; the others import it in ``run``.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from gift_fast.process.errors import in_words
from gift_fast.process.signals import as_interrupted, handling_signals

STUDENT_PACKAGES = {
    "accelerate": "accelerate",
    "jinja2": "jinja2",
    "kornia": "kornia",
    "matplotlib": "matplotlib",
    "numpy": "numpy",
    "rich": "rich",
    "safetensors": "safetensors",
    "sklearn": "scikit-learn",
    "torchvision": "torchvision",
    "yaml": "pyyaml",
}
"""Packages of the extra ``student``: the module's name, the distribution's name."""

ARGUMENTS = {"root": "data_root", "path": "data", "distilled": "data"}
"""Arguments of the package whose option has another name: the argument, the option."""

OPTIONS = {"teachers": "teacher"}
"""Options whose value is stored under another name: the attribute, the option."""

POSITIONAL = ("study", "folder", "run", "reproduction", "method")
"""Attributes of the parsed options that no ``--option`` sets."""

TRACEBACK = "GIFT_FAST_TRACEBACK"
"""The environment variable that, set to 1, shows the traceback of every error."""


@dataclass(frozen=True)
class Command:
    """What is known of a command before its module is imported.

    Args:
        module: name of the module with ``add_arguments(parser)`` and ``run(options)``.
        help: its line in ``gift-fast --help``.
        description: first paragraph of its own help.
        example: a call, shown at the end of its own help, or "" for none.
        needs_student: whether it needs the packages of the extra ``student``.
    """

    module: str
    help: str
    description: str
    example: str = ""
    needs_student: bool = True


COMMANDS = {
    "demo": Command(
        module="gift_fast.cli.demo",
        help="compare losses on handwritten digits, in about a minute",
        description=(
            "Trains a teacher on scikit-learn's 8 x 8 digits, distils a few images a class from "
            "it, trains students under each loss with AdamW and SGD, and reports their accuracy. "
            "Nothing is downloaded. A run that has finished with the same settings is not "
            "repeated; the same command resumes an interrupted demo."
        ),
    ),
    "train-teacher": Command(
        module="gift_fast.cli.train_teacher",
        help="train a teacher on a real dataset and record its accuracy",
        description=(
            "Trains a network on the real training images with cross-entropy and saves its weights "
            "with its accuracy, where `gift-fast evaluate` looks for them. The same command "
            "resumes an interrupted run."
        ),
        example="gift-fast train-teacher --dataset cifar100 --data-root data",
    ),
    "distill": Command(
        module="gift_fast.cli.distill",
        help="make a distilled set from real images and a teacher",
        description=(
            "Makes a distilled set by one of the methods that need no optimisation, and writes it "
            "as the method's authors do. A set that has been made before is not made again."
        ),
        example=(
            "gift-fast distill rded --dataset cifar10 --data-root data --teacher convnet3 "
            "--ipc 10 --out sets/cifar10_rded_ipc10"
        ),
    ),
    "evaluate": Command(
        module="gift_fast.cli.evaluate",
        help="train students on a distilled set and report their accuracy",
        description=(
            "Trains students on a distilled dataset as its authors publish it and reports their "
            "accuracy on the real test images: mean and std over the seeds. A finished run is read "
            "and not repeated; an interrupted one is resumed from its checkpoint."
        ),
        example=(
            "gift-fast evaluate --data cifar100_ipc10 --format rded --dataset cifar100 "
            "--data-root data --student convnet3 --teacher convnet3 --loss gift --seeds 0 1 2"
        ),
    ),
    "table": Command(
        module="gift_fast.cli.table",
        help="put all evaluations of a folder into one table",
        description=(
            "Prints a row for every configuration that `gift-fast evaluate` has run, its seeds "
            "together: what the configurations differ in, and their accuracy. Runs of studies are "
            "left to `gift-fast report`."
        ),
        example="gift-fast table runs --markdown",
    ),
    "audit": Command(
        module="gift_fast.cli.audit",
        help="examine a distilled set: class order, images, labels",
        description=(
            "Looks for what goes wrong silently between a teacher, a distilled set and the test "
            "images: another class order, images on another scale, missing classes, labels of "
            "other images. The exit status is 1 where it finds an error."
        ),
        example=(
            "gift-fast audit --data cifar100_ipc10 --dataset cifar100 --data-root data "
            "--teacher convnet3 --write-class-map map.json"
        ),
    ),
    "study": Command(
        module="gift_fast.cli.study",
        help="run all of a comparison, such as one of the paper's tables",
        description=(
            "Trains every student of a study and writes its tables to --out as study-NAME.md and "
            ".csv. Teachers are trained where there are none. The same command resumes an "
            "interrupted study, and a run that two studies share is trained once."
        ),
        example=(
            "gift-fast study losses --dataset fashion-mnist --ipc 10 "
            "--student convnet3:width=32 --epochs 100 --seeds 0 1 2 --set-seeds 0"
        ),
    ),
    "reproduce": Command(
        module="gift_fast.cli.reproduce",
        help="measure what others have published, from teachers to a report",
        description=(
            "Trains teachers, makes distilled sets, trains students and writes a report, by a plan "
            "of several studies. Says before it starts how long each part takes on this machine, "
            "from a short measurement. A stopped reproduction resumes when it is called again."
        ),
        example=("gift-fast reproduce rded-cifar10 --data-root data --out runs/rded-cifar10"),
    ),
    "report": Command(
        module="gift_fast.cli.report",
        help="show what studies have found, beside what is published",
        description=(
            "Writes every study of a folder as one HTML page that needs no network, and its tables "
            "as Markdown, LaTeX and CSV beside it. Unfinished studies are shown as far as they are."
        ),
        example="gift-fast report runs --open",
    ),
    "doctor": Command(
        module="gift_fast.cli.doctor",
        help="show what this installation and this machine have, and what is missing",
        description=(
            "Prints versions, compiler, CUDA, the loss's backends, memory, and what is missing "
            "with the command that installs it. It works where parts of the installation do not. "
            "Add its output to bug reports."
        ),
        needs_student=False,
    ),
}
"""The commands, in the order of ``gift-fast --help``."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: of the command line, without the program's name; None for those of the process.

    Returns:
        The exit status: 2 for an error that the user can correct, 1 for a bug and for what a
        command reports as a failure, 143 after SIGTERM and 130 after SIGINT.
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
            f"this command needs {', '.join(missing)}; pip install 'gift-fast[student]' brings it "
            "(gift-fast doctor lists what is there)"
        )
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        with warnings_in_a_line(), decoding_shown(options):
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


def build_parser(called: str = "") -> argparse.ArgumentParser:
    """Build the parser of the command line.

    Args:
        called: name of the command that is called, whose module is imported to add its arguments.
            The other commands have only a line in the help.
    """
    parser = argparse.ArgumentParser(
        prog="gift-fast",
        description="Evaluates students that are trained on distilled datasets with soft labels.",
    )
    parser.add_argument("--version", action="version", version=f"gift-fast {package_version()}")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name, command in COMMANDS.items():
        subparser = commands.add_parser(
            name,
            help=command.help,
            description=command.description,
            epilog=f"example: {command.example}" if command.example else None,
        )
        if name == called:
            module = importlib.import_module(command.module)
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    return parser


def package_version() -> str:
    """Return the version of the installed package."""
    try:
        return version("gift-fast")
    except PackageNotFoundError:
        return "(not installed)"


def missing_packages() -> list[str]:
    """List the packages of the extra ``student`` that are not installed."""
    return [
        package
        for module, package in STUDENT_PACKAGES.items()
        if importlib.util.find_spec(module) is None
    ]


@contextmanager
def warnings_in_a_line() -> Iterator[None]:
    """Print warnings as one line each, without the line of code that raised them."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"gift-fast: warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


@contextmanager
def decoding_shown(options: argparse.Namespace) -> Iterator[None]:
    """Show the progress of decoding images, in the first process only and not with ``--quiet``."""
    if not COMMANDS[options.command].needs_student:
        yield
        return
    from gift_fast.data.datasets.decoding import showing

    main_process = os.environ.get("RANK", "0") == "0"  # as torchrun and accelerate number them
    with showing(main_process and not getattr(options, "quiet", None)):
        yield


def interrupted(stop: KeyboardInterrupt, how: str = "") -> int:
    """Print what was saved and how to resume; return the exit status.

    Args:
        stop: the exception that the signal raised.
        how: what is different in the command that resumes, such as "without --force".
    """
    stop = as_interrupted(stop)
    if os.environ.get("RANK", "0") == "0":  # only the first of several processes
        again = f"run the same command {how}".rstrip()
        print(f"\n{stop}; {again} to resume", file=sys.stderr, flush=True)
    return stop.status


def failed(error: Exception, options: argparse.Namespace) -> int:
    """Print an error; return the exit status, 2 if the user can correct it and 1 otherwise."""
    message = in_words(error)
    if message is None or os.environ.get(TRACEBACK):
        traceback.print_exception(error)
    if message is not None:
        return fail(in_options(message, options))
    print(
        f"gift-fast: unexpected error: {type(error).__name__}. If it does not come from code of "
        "your own, please report it, with the lines above and what `gift-fast doctor` prints",
        file=sys.stderr,
    )
    return 1


def fail(message: str) -> int:
    """Print an error message; return the exit status 2."""
    print(f"gift-fast: error: {message}", file=sys.stderr)
    return 2


def in_options(message: str, options: argparse.Namespace) -> str:
    """Replace the argument's name at the start of a message with the command's option.

    Example:
        >>> in_options("epochs must be at least 1, got 0", argparse.Namespace(epochs=0))
        '--epochs must be at least 1, got 0'
        >>> in_options("root must hold cifar10", argparse.Namespace(data_root=None))
        '--data-root must hold cifar10'
    """
    name, space, rest = message.partition(" ")
    argument = ARGUMENTS.get(name, name)
    if not hasattr(options, argument) or argument in POSITIONAL or not rest.startswith("must"):
        return message
    return f"--{OPTIONS.get(argument, argument).replace('_', '-')}{space}{rest}"
