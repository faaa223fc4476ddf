"""``gift-fast doctor``: show versions, hardware, available backends, and what is missing.

It does not need the packages of the extra ``student``, and also works if torch cannot be imported.
``report`` combines the sections of the other modules.
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

    report = examine()
    print(json.dumps(report, indent=2) if options.json else as_text(report))
    return 0
