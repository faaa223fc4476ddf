"""``gift-fast train-teacher``: train a teacher on a real dataset."""

from __future__ import annotations

import argparse
import math

from gift_fast.cli.arguments import (
    NAMES_HAVE_OPTIONS,
    PRECISION,
    add_data_root,
    add_dataset,
    add_execution,
    add_fields,
    add_output,
    add_teacher_dir,
    context_of,
    given,
    group_of,
)
from gift_fast.cli.errors import fail
from gift_fast.evaluation.config import TeacherConfig
from gift_fast.evaluation.rules import paper_dataset, teacher_augmentation
from gift_fast.evaluation.teacher import run_teacher

FIELDS = {
    "training": (
        *("model", "epochs", "batch_size", "seed"),
        *("optimizer", "learning_rate", "weight_decay", "momentum", "schedule"),
        *("augmentation", "mixing", "ema_decay", "ema_buffers"),
    ),
    "execution": PRECISION,
}
"""The option groups, each with its fields of ``TeacherConfig``."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``train-teacher``."""
    dataset = group_of(parser, "real dataset")
    add_dataset(dataset, required=True)
    add_data_root(dataset)
    group_of(parser, "training", NAMES_HAVE_OPTIONS)
    output = add_output(
        parser,
        out="folder for the trackers' logs (default: runs)",
        force="train again and replace the teacher's weights",
    )
    add_teacher_dir(output)
    add_execution(parser)
    defaults = {"augmentation": "crop-flip; none for digits"}
    fields = add_fields(parser, TeacherConfig, FIELDS, defaults=defaults)
    parser.set_defaults(fields=fields)


def run(options: argparse.Namespace) -> int:
    """Train the teacher and print its accuracy; the exit status is 2 if training diverged."""
    settings = given(options, options.fields)
    dataset = paper_dataset(options.dataset, settings.get("model", TeacherConfig.model))
    settings.setdefault("augmentation", teacher_augmentation(dataset))
    config = TeacherConfig(dataset=dataset, **settings)
    path, check = run_teacher(config, context_of(options))
    if not math.isfinite(check.loss + check.test_loss):
        return fail(
            f"the teacher in {path} is not usable: training diverged, its loss is not finite. "
            "Train it again with --force and a smaller --learning-rate"
        )
    print(f"{path}: top-1 {check.top1:.2f} %, top-5 {check.top5:.2f} % on the test images")
    return 0
