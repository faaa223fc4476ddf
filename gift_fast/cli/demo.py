"""``gift-fast demo``: its arguments; the demo itself is :mod:`gift_fast.cli.demonstration`."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from gift_fast.cli.arguments import given


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``demo``; without one, the default of ``DemoConfig`` applies."""
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for results (default: gift-fast-demo)"
    )
    parser.add_argument(
        "--losses",
        nargs="+",
        type=str,
        metavar="LOSS",
        help=(
            "losses to compare, with options as in kl:temperature=4,scale_t2=true; an unknown "
            "name lists them all (default: ce kl gift)"
        ),
    )
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="students per loss and optimizer (default: 3)"
    )
    parser.add_argument(
        "--ipc", type=int, metavar="N", help="distilled images per class (default: 5)"
    )
    parser.add_argument(
        "--epochs", type=int, metavar="N", help="epochs of every student (default: 300)"
    )
    parser.add_argument("--device", metavar="NAME", help="auto or cpu (default: auto)")
    parser.add_argument(
        "--quiet", action="store_true", default=None, help="show the results only, no progress"
    )
    parser.add_argument(
        "--force", action="store_true", default=None, help="repeat runs that have finished"
    )


def run(options: argparse.Namespace) -> int:
    """Run the demo."""
    from gift_fast.cli.demonstration import DemoConfig, run_demo

    run_demo(DemoConfig(**given(options, [field.name for field in dataclasses.fields(DemoConfig)])))
    return 0
