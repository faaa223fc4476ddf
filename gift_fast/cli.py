"""The ``gift-fast`` command: reads arguments and hands over."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

STUDENT_PACKAGES = {
    "matplotlib": "matplotlib",
    "numpy": "numpy",
    "rich": "rich",
    "sklearn": "scikit-learn",
}
"""What the extra ``student`` installs: the name it is imported by, the name it is installed by."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; gives the exit status, 2 for what the user has to mend."""
    options = build_parser().parse_args(arguments)
    missing = [
        package
        for module, package in STUDENT_PACKAGES.items()
        if importlib.util.find_spec(module) is None
    ]
    if missing:
        return fail(
            f"this command needs {', '.join(missing)}; pip install 'gift-fast[student]' brings it"
        )
    return demo(options)


def fail(message: str) -> int:
    """Says on the standard error what is wrong."""
    print(f"gift-fast: error: {message}", file=sys.stderr)
    return 2


def demo(options: argparse.Namespace) -> int:
    """The subcommand ``demo``."""
    from gift_fast.student.demo import DemoConfig, run_demo

    given = {name: value for name, value in vars(options).items() if value is not None}
    given.pop("command")
    try:
        run_demo(DemoConfig(**given))
    except (OSError, ValueError) as error:
        return fail(str(error))
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on where this one stood", file=sys.stderr)
        return 130
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    parser = argparse.ArgumentParser(
        prog="gift-fast",
        description="Evaluates students that are trained on distilled datasets with soft labels.",
    )
    parser.add_argument("--version", action="version", version=f"gift-fast {package_version()}")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    add_demo(commands)
    return parser


def add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The arguments of ``demo``; a default of None leaves the choice to ``DemoConfig``."""
    command = commands.add_parser(
        "demo",
        help="compare losses on handwritten digits, in about a minute",
        description=(
            "Trains a teacher on scikit-learn's 8 x 8 digits, distils a few images a class from "
            "it, trains students under each loss with AdamW and SGD, and reports their accuracy. "
            "Nothing is downloaded. A run that has finished with the same settings is not "
            "repeated, so a stopped demo goes on when it is called again."
        ),
    )
    command.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for results (default: gift-fast-demo)"
    )
    command.add_argument(
        "--losses",
        nargs="+",
        type=str,
        metavar="LOSS",
        help=(
            "losses to compare, with options as in kl:temperature=4,scale_t2=true; an unknown "
            "name lists them all (default: ce kl gift)"
        ),
    )
    command.add_argument(
        "--seeds", type=int, metavar="N", help="students per loss and optimizer (default: 3)"
    )
    command.add_argument(
        "--ipc", type=int, metavar="N", help="distilled images per class (default: 5)"
    )
    command.add_argument(
        "--epochs", type=int, metavar="N", help="epochs of every student (default: 300)"
    )
    command.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 ... (default: cpu)")
    command.add_argument(
        "--quiet", action="store_true", default=None, help="show the results only, no progress"
    )
    command.add_argument(
        "--force", action="store_true", default=None, help="repeat runs that have finished"
    )


def package_version() -> str:
    """The version of the installed package."""
    try:
        return version("gift-fast")
    except PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
