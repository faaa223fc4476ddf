"""``gift-fast label``: stores the teacher's labels of whole training runs."""

from __future__ import annotations

import argparse

from gift_fast.cli.arguments import (
    INPUTS,
    NAMES_HAVE_OPTIONS,
    PRECISION,
    add_execution,
    add_field,
    add_inputs,
    add_output,
    context_of,
    given,
    group_of,
)
from gift_fast.data.labels.label_set import DTYPES, RESTS
from gift_fast.evaluation.config import EvaluationConfig
from gift_fast.evaluation.job import job_of_preset
from gift_fast.evaluation.label_job import run_label_job
from gift_fast.evaluation.labeling import Compression
from gift_fast.evaluation.protocols import preset_names
from gift_fast.files.disk import size_in_words

FIELDS = {
    "student and protocol": ("student",),
    "training": ("epochs", "batch_size", "batch_rule", "augmentation", "mixing", "classes"),
    "execution": PRECISION,
}
"""The groups of the help, each with its fields of ``EvaluationConfig``."""

STORED = ("top_k", "dtype", "rest", "temperature")
"""The options that say how labels are stored."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``label``."""
    add_inputs(parser)
    protocol = group_of(parser, "student and protocol", NAMES_HAVE_OPTIONS)
    for title in ("training", "labels", "output", "execution"):  # in the order of the help
        group_of(parser, title)
    protocol.add_argument(
        "--preset",
        default="paper",
        metavar="NAME",
        help=f"protocol of the runs: {', '.join(preset_names())}, or a YAML file (default: paper)",
    )
    protocol.add_argument(
        "--seeds", nargs="+", type=int, metavar="N", help="seeds of the runs (default: 0 1 2)"
    )
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
        help="what stands for the other logits, with --top-k (default: logmeanexp)",
    )
    labels.add_argument(
        "--temperature",
        type=float,
        metavar="X",
        help="of logmeanexp, which keeps the probability of the others at it (default: 1)",
    )
    add_output(parser, out="folder for the labels, one subfolder per seed", required=True)
    add_execution(parser)
    names = []
    fields = EvaluationConfig.__dataclass_fields__
    for title, of_title in FIELDS.items():
        for name in of_title:
            add_field(group_of(parser, title), fields[name])
            names.append(name)
    parser.set_defaults(fields=names)


def run(options: argparse.Namespace) -> int:
    """Label the batches and print where the labels are."""
    job = job_of_preset(
        dataset=options.dataset,
        preset=options.preset,
        settings=given(options, [*options.fields, "teachers"]),
        **given(options, [*INPUTS, "seeds"]),
    )
    compression = Compression(**given(options, STORED))
    for labels in run_label_job(job, context_of(options), compression):
        print(f"{labels.folder}: {size_in_words(labels.nbytes)}")
    return 0
