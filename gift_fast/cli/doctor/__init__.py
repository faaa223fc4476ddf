"""``gift-fast doctor``: shows versions, hardware, available backends, and what is missing.

It needs none of the packages of the extra ``student``, and also works if torch cannot be imported.
``report`` puts together the sections, which the other modules fill.
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``doctor``."""
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(options: argparse.Namespace) -> int:
    """Print the report."""
    import json

    from gift_fast.cli.doctor.report import as_text, examine

    found = examine()
    print(json.dumps(found, indent=2) if options.json else as_text(found))
    return 0
