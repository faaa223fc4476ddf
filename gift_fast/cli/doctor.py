"""``gift-fast doctor``: shows what this installation and this machine have."""

from __future__ import annotations

import argparse
import json

from gift_fast.cli import diagnosis as doctor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``doctor``."""
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def run(options: argparse.Namespace) -> int:
    """Print what was found."""
    found = doctor.examine()
    print(json.dumps(found, indent=2) if options.json else doctor.in_words(found))
    return 0
