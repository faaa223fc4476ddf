"""``gift-fast train-teacher``: trains a teacher on a real dataset."""

from __future__ import annotations

import argparse
import math

from gift_fast.cli.arguments import TRAINING, add_dataset, add_fields, add_place, given, place_of
from gift_fast.cli.main import fail
from gift_fast.evaluation.config import TeacherConfig
from gift_fast.evaluation.job import run_teacher
from gift_fast.evaluation.rules import paper_dataset


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``train-teacher``."""
    add_dataset(parser, required=True)
    training = parser.add_argument_group(TRAINING)
    parser.set_defaults(fields=add_fields(training, TeacherConfig))
    add_place(parser)


def run(options: argparse.Namespace) -> int:
    """Train the teacher and print its accuracy; the exit status is 2 if training diverged."""
    own = given(options, options.fields)
    dataset = paper_dataset(options.dataset, own.get("model", TeacherConfig.model))
    config = TeacherConfig(dataset=dataset, **own)
    path, check = run_teacher(config, place_of(options))
    if not math.isfinite(check.loss + check.test_loss):
        return fail(
            f"{path} holds no usable teacher: its training diverged, the loss is not finite. Train "
            "it again with --force and a smaller --learning-rate"
        )
    print(f"{path}: top-1 {check.top1:.2f} %, top-5 {check.top5:.2f} % on the test images")
    return 0
