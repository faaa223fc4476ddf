"""``gift-fast label``: store the teacher's labels of whole training runs."""

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
    given,
    group_of,
    job_of,
)
from gift_fast.data.labels.label_set import DTYPES, RESTS
from gift_fast.evaluation.config import EvaluationConfig
from gift_fast.evaluation.label_job import run_label_job
from gift_fast.evaluation.labeling import Compression
from gift_fast.files.disk import format_size

FIELDS = {
    "student and protocol": ("student",),
    "training": ("epochs", "batch_size", "batch_rule", "augmentation", "mixing", "classes"),
    "execution": PRECISION,
}
"""The option groups, each with its fields of ``EvaluationConfig``."""

COMPRESSION = ("top_k", "dtype", "rest", "temperature")
"""The options that are arguments of ``Compression``."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``label``."""
    add_inputs(parser)
    add_protocol(parser, ("training", "labels", "output", "execution"), per_seed="label set")
    labels = group_of(parser, "labels")
    labels.add_argument(
        "--top-k", type=int, metavar="K", help="store the K largest logits (default: all)"
    )
    labels.add_argument(
        "--dtype", choices=tuple(DTYPES), help="type of the stored logits (default: float32)"
    )
    labels.add_argument(
        "--rest",
        choices=RESTS,
        help="value stored for the other logits, with --top-k (default: logmeanexp)",
    )
    labels.add_argument(
        "--temperature",
        type=float,
        metavar="X",
        help=(
            "temperature at which logmeanexp preserves the total probability of the other classes "
            "(default: 1)"
        ),
    )
    add_output(parser, out="folder for the labels, one subfolder per seed", required=True)
    add_execution(parser)
    parser.set_defaults(fields=add_fields(parser, EvaluationConfig, FIELDS, without=None))


def run(options: argparse.Namespace) -> int:
    """Label the batches, and print the folders and sizes of the label sets."""
    compression = Compression(**given(options, COMPRESSION))
    for labels in run_label_job(job_of(options), context_of(options), compression):
        print(f"{labels.folder}: {format_size(labels.nbytes)}")
    return 0
