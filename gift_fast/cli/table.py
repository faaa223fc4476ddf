"""``gift-fast table``: show all evaluations of a folder in one table."""

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
        help="output folder of `gift-fast evaluate` (default: runs)",
    )
    output_format = parser.add_mutually_exclusive_group()
    output_format.add_argument("--markdown", action="store_true", help="print Markdown")
    output_format.add_argument("--csv", action="store_true", help="print CSV with all settings")


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
            f"not included: {of_studies} runs of studies; see gift-fast report {options.folder}",
            file=sys.stderr,
        )
    if evaluations and options.csv:
        print(evaluations_csv(evaluations), end="")
    elif evaluations and options.markdown:
        table = evaluations_table(evaluations)
        print(f"**{table.caption}**", "", as_markdown(table), *table.notes, sep="\n")
    elif evaluations:
        print_evaluations(evaluations_table(evaluations))
    return 1 if damaged else 0
