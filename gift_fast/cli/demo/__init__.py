"""``gift-fast demo``: compare losses on handwritten digits.

``experiment`` runs it, ``summary`` prints its results.
"""

from __future__ import annotations

import argparse
import dataclasses

from gift_fast.cli.arguments import add_output, given, group_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``demo``, whose defaults are those of ``DemoConfig``."""
    parser.add_argument(
        "--losses",
        nargs="+",
        type=str,
        metavar="LOSS",
        help=(
            "losses to compare; they accept options, as in kl:temperature=4,scale_t2=true, and "
            "`gift-fast evaluate --help` lists them (default: ce kl gift)"
        ),
    )
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="students per loss and optimizer (default: 3)"
    )
    parser.add_argument(
        "--ipc", type=int, metavar="N", help="distilled images per class (default: 5)"
    )
    parser.add_argument("--epochs", type=int, metavar="N", help="epochs per student (default: 300)")
    add_output(
        parser,
        out="folder for results, weights and pictures (default: gift-fast-demo)",
        force="repeat finished runs",
    )
    execution = group_of(parser, "execution")
    execution.add_argument("--device", metavar="NAME", help="auto or cpu (default: auto)")
    execution.add_argument("--quiet", action="store_true", default=None, help="show no progress")


def run(options: argparse.Namespace) -> int:
    """Run the demo."""
    from gift_fast.cli.demo.config import DemoConfig
    from gift_fast.cli.demo.experiment import run_demo

    run_demo(DemoConfig(**given(options, [field.name for field in dataclasses.fields(DemoConfig)])))
    return 0
