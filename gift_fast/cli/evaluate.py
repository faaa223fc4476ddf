"""``gift-fast evaluate``: trains students on a distilled set and reports their accuracy."""

from __future__ import annotations

import argparse

from gift_fast.cli.arguments import (
    INPUTS,
    NAMES_HAVE_OPTIONS,
    PRECISION,
    add_execution,
    add_fields,
    add_inputs,
    add_output,
    context_of,
    given,
    group_of,
)
from gift_fast.evaluation.config import EvaluationConfig
from gift_fast.evaluation.job import EvaluationJob, job_of_preset
from gift_fast.evaluation.protocols import preset_names
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
"""The groups of the help, each with its fields of ``EvaluationConfig``."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``evaluate``."""
    add_inputs(parser)
    protocol = group_of(parser, "student and protocol", NAMES_HAVE_OPTIONS)
    for title in ("training", "test", "output", "execution"):  # in the order of the help
        group_of(parser, title)
    protocol.add_argument(
        "--preset",
        default="paper",
        metavar="NAME",
        help=(
            f"protocol, whose settings the other options override: {', '.join(preset_names())}, "
            "or a YAML file (default: paper)"
        ),
    )
    protocol.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        metavar="N",
        help="seeds; one student is trained for each (default: 0 1 2)",
    )
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
    runs = run_job(job_of(options), context)
    if is_main_process():
        print_results(runs, as_json=options.json)
        if not options.json:
            print(
                "every setting and test:",
                *(run_path(context.out, run.config, run.inputs) for run in runs),
            )
    return 0


def job_of(options: argparse.Namespace) -> EvaluationJob:
    """Build the evaluation from the preset's settings; options that were given override them."""
    return job_of_preset(
        dataset=options.dataset,
        preset=options.preset,
        settings=given(options, [*options.fields, "teachers"]),
        **given(options, [*INPUTS, "seeds", "keep_weights", "check_set"]),
    )
