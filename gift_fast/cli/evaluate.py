"""``gift-fast evaluate``: train students on a distilled set and report their accuracy."""

from __future__ import annotations

import argparse

from gift_fast.cli.arguments import (
    PRECISION,
    add_execution,
    add_fields,
    add_inputs,
    add_output,
    add_protocol,
    context_of,
    group_of,
    job_of,
)
from gift_fast.evaluation.config import EvaluationConfig
from gift_fast.evaluation.results import run_path
from gift_fast.evaluation.run import run_job
from gift_fast.report.terminal import print_results
from gift_fast.training.processes import is_main_process

FIELDS = {
    "student and protocol": ("student", "loss"),
    "training": (
        *("epochs", "batch_size", "batch_rule"),
        *("optimizer", "learning_rate", "weight_decay", "momentum", "schedule"),
        *("augmentation", "mixing", "mixed_targets", "forward_twice"),
        *("ema_decay", "ema_buffers"),
        *("hard_loss", "hard_start", "hard_stop"),
    ),
    "test": ("eval_every", "eval_after", "tested_on", "classes"),
    "execution": PRECISION,
}
"""The option groups, each with its fields of ``EvaluationConfig``."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``evaluate``."""
    add_inputs(parser)
    add_protocol(parser, ("training", "test", "output", "execution"), per_seed="student")
    output = add_output(
        parser,
        out="folder for results and checkpoints (default: runs)",
        force="repeat finished runs",
    )
    output.add_argument(
        "--keep-weights", action="store_true", default=None, help="save every student's weights"
    )
    output.add_argument("--json", action="store_true", help="print the results as JSON")
    add_execution(parser)
    group_of(parser, "execution").add_argument(
        "--no-check",
        dest="check_set",
        action="store_false",
        default=None,
        help="skip the audit of the distilled set before training",
    )
    parser.set_defaults(fields=add_fields(parser, EvaluationConfig, FIELDS, without=["seed"]))


def run(options: argparse.Namespace) -> int:
    """Train and test the students, and print their accuracy."""
    context = context_of(options)
    runs = run_job(job_of(options, ["keep_weights", "check_set"]), context)
    if is_main_process():
        print_results(runs, as_json=options.json)
        if not options.json:
            print(
                "all settings and tests:",
                *(run_path(context.out, run.config, run.inputs) for run in runs),
            )
    return 0
