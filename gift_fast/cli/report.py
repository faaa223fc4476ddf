"""``gift-fast report``: write the studies of a folder to one HTML page."""

from __future__ import annotations

import argparse
import sys
import webbrowser
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``report``."""
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="output folder of `gift-fast study`"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="HTML file (default: report.html in DIR)"
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")


def run(options: argparse.Namespace) -> int:
    """Write the report and print its paths; the exit status is 1 if a file could not be read."""
    from gift_fast.report import write_report

    page, damaged = write_report(options.folder, options.out)
    for message in damaged:
        print(f"gift-fast: not in the report: {message}", file=sys.stderr)
    print(*(page.with_suffix(suffix) for suffix in (page.suffix, ".md", ".tex", ".csv")))
    if options.open:
        webbrowser.open(page.resolve().as_uri())
    return 1 if damaged else 0
