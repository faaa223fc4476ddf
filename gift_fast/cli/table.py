"""``gift-fast table``: all evaluations of a folder in one table."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``table``."""
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        default=Path("runs"),
        metavar="DIR",
        help="that `gift-fast evaluate --out` has written to (default: runs)",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="print it in Markdown")
    form.add_argument("--csv", action="store_true", help="print it as CSV, with every setting")


def run(options: argparse.Namespace) -> int:
    """Print the table; the exit status is 1 if a file could not be read."""
    from gift_fast.report.evaluations import (
        evaluations_csv,
        evaluations_table,
        print_evaluations,
        read_evaluations,
    )
    from gift_fast.report.table import as_markdown

    evaluations, damaged, of_studies = read_evaluations(options.folder)
    for message in damaged:
        print(f"gift-fast: not in the table: {message}", file=sys.stderr)
    if of_studies:
        print(
            f"left out: {of_studies} runs of studies, see gift-fast report {options.folder}",
            file=sys.stderr,
        )
    if evaluations and options.csv:
        print(evaluations_csv(evaluations), end="")
    elif evaluations and options.markdown:
        found = evaluations_table(evaluations)
        print(f"**{found.caption}**", "", as_markdown(found), *found.notes, sep="\n")
    elif evaluations:
        print_evaluations(evaluations_table(evaluations))
    return 1 if damaged else 0
