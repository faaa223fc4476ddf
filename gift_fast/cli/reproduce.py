"""``gift-fast reproduce``: runs several studies by a plan and writes a report."""

from __future__ import annotations

import argparse
import sys

from gift_fast.cli.arguments import (
    add_data_root,
    add_execution,
    add_output,
    context_of,
    group_of,
    teller,
)
from gift_fast.reproductions.reproduce import (
    check_reproduction,
    describe,
    estimates_of,
    load_reproduction,
    reproduction_names,
    run_reproduction,
)
from gift_fast.training.processes import is_main_process


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``reproduce``."""
    parser.add_argument(
        "reproduction",
        metavar="NAME",
        help=f"{', '.join(reproduction_names())}, or a folder with plan.yaml",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="measure and print the plan, and run nothing"
    )
    parser.add_argument("--dataset", metavar="NAME", help="in place of the plan's, such as copies")
    inputs = group_of(parser, "input files")
    add_data_root(inputs)
    add_output(
        parser,
        out="folder for results, checkpoints and the report (default: runs)",
        force="repeat finished runs",
    )
    add_execution(parser)


def run(options: argparse.Namespace) -> int:
    """Print the plan with its estimates and run it; the exit status is 1 if a run failed."""
    plan, context, tell = (
        load_reproduction(options.reproduction),
        context_of(options),
        teller(options),
    )
    if options.dataset is not None:
        plan = plan.on(options.dataset)
    if not options.dry_run:
        check_reproduction(plan, context)
    text = describe(plan, estimates_of(plan, context, tell))
    if is_main_process():
        print(text, flush=True)
    if options.dry_run:
        return 0
    failures = list(run_reproduction(plan, context, tell))
    for failed in failures:
        print(failed.report(), file=sys.stderr)
    if failures:
        print("the same command runs those again, and nothing else", file=sys.stderr)
    return 1 if failures else 0
