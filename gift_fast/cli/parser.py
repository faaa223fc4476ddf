"""The parser of the command line."""

from __future__ import annotations

import argparse
import importlib
import shutil
import textwrap
from importlib.metadata import PackageNotFoundError, version

from gift_fast.cli.commands import COMMANDS, Command

WIDTH = 100
"""Maximum width of help texts, in characters."""


def build_parser(command_name: str = "") -> argparse.ArgumentParser:
    """Build the parser of the command line.

    Args:
        command_name: name of the requested command, whose module is imported to add its arguments.
            Only the summaries of the other commands are added.
    """
    parser = argparse.ArgumentParser(
        prog="gift-fast",
        usage="gift-fast COMMAND [options]",
        description="Evaluates distilled datasets by training students on them with soft labels.",
        epilog="`gift-fast COMMAND --help` shows the options of a command.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"gift-fast {package_version()}")
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", required=True
    )
    for name, command in COMMANDS.items():
        subparser = commands.add_parser(
            name,
            help=command.help,
            usage=usage(name, command),
            description=command.description,
            epilog=f"example:\n{textwrap.indent(command.example, '  ')}",
            formatter_class=HelpFormatter,
        )
        if name == command_name:
            module = importlib.import_module(command.module)
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    return parser


def usage(name: str, command: Command) -> str:
    """Return the usage line of a command, with its required arguments only."""
    return " ".join(filter(None, ["gift-fast", name, command.usage, "[options]"]))


class HelpFormatter(argparse.HelpFormatter):
    """Formats help up to 100 characters wide, and keeps the line breaks of multi-line texts."""

    def __init__(self, prog: str) -> None:
        columns = min(shutil.get_terminal_size().columns - 2, WIDTH)
        super().__init__(prog, max_help_position=30, width=columns)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" in text:
            return textwrap.indent(text, indent)
        return super()._fill_text(text, width, indent)


def package_version() -> str:
    """Return the version of the installed package."""
    try:
        return version("gift-fast")
    except PackageNotFoundError:
        return "(not installed)"
