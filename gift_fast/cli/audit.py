"""``gift-fast audit``: check the class order, images and labels of a distilled set."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from gift_fast.auditing import print_audit
from gift_fast.cli.arguments import (
    INPUTS,
    add_execution,
    add_inputs,
    add_output,
    context_of,
    given,
    group_of,
)
from gift_fast.cli.errors import fail
from gift_fast.evaluation.audit import run_audit
from gift_fast.evaluation.config import EvaluationConfig
from gift_fast.evaluation.job import EvaluationJob
from gift_fast.evaluation.rules import paper_dataset
from gift_fast.files.disk import check_can_write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``audit``."""
    add_inputs(parser)
    output = add_output(
        parser, out="folder for the whitening statistics of DATM sets (default: runs)"
    )
    output.add_argument(
        "--write-class-map",
        type=Path,
        metavar="FILE",
        help="write the class map found by the audit, for --class-map",
    )
    output.add_argument("--json", action="store_true", help="print all measurements as JSON")
    add_execution(parser, trains=False)
    group_of(parser, "execution").add_argument(
        "--quick", action="store_true", help="examine only a sample of the images"
    )


def run(options: argparse.Namespace) -> int:
    """Print the findings; the exit status is 1 if one of them is an error."""
    teachers = EvaluationConfig.teachers if options.teachers is None else options.teachers
    dataset = paper_dataset(options.dataset, teachers[0]) if teachers else options.dataset
    config = EvaluationConfig(dataset=dataset, teachers=teachers)
    job = EvaluationJob(config=config, **given(options, INPUTS))
    if options.write_class_map is not None:
        check_can_write(options.write_class_map.parent)
    report = run_audit(job, context_of(options), quick=options.quick)
    if options.json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        from rich.console import Console

        print_audit(report, Console())
    if options.write_class_map is not None:
        if report.class_map is None:
            return fail("no class map to write: the audit found no permutation of the classes")
        report.write_class_map(options.write_class_map)
        print(f"class map written: {options.write_class_map}", file=sys.stderr)
    return 1 if report.severity == "error" else 0
