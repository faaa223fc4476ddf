"""``gift-fast reproduce``: run the studies of a plan and write a report."""

from __future__ import annotations

import argparse
import sys

from gift_fast.cli.arguments import (
    add_data_root,
    add_execution,
    add_output,
    context_of,
    group_of,
    status_printer,
)
from gift_fast.reproductions.estimate import estimate_parts, format_estimates
from gift_fast.reproductions.plan import load_reproduction, reproduction_names
from gift_fast.reproductions.run import check_reproduction, run_reproduction
from gift_fast.training.processes import is_main_process


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``reproduce``."""
    parser.add_argument(
        "reproduction",
        metavar="NAME",
        help=f"{', '.join(reproduction_names())}, or a folder that contains plan.yaml",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only print the plan with the estimated times"
    )
    parser.add_argument(
        "--dataset", metavar="NAME", help="dataset to use instead of the plan's: cifar10-jpeg"
    )
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
    plan = load_reproduction(options.reproduction)
    context, log = context_of(options), status_printer(options)
    if options.dataset is not None:
        plan = plan.on(options.dataset)
    if not options.dry_run:
        check_reproduction(plan, context)
    text = format_estimates(plan, estimate_parts(plan, context, log))
    if is_main_process():
        print(text, flush=True)
    if options.dry_run:
        return 0
    failures = list(run_reproduction(plan, context, log))
    for failed in failures:
        print(failed.report(), file=sys.stderr)
    if failures:
        print("run the same command to retry the failed runs", file=sys.stderr)
    return 1 if failures else 0
