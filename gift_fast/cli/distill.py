"""``gift-fast distill``: generate a distilled set."""

from __future__ import annotations

import argparse
from pathlib import Path

from gift_fast.cli.arguments import (
    add_data_root,
    add_dataset,
    add_execution,
    add_output,
    add_teacher_dir,
    context_of,
    given,
    group_of,
)
from gift_fast.data.datasets import load_dataset
from gift_fast.distillation import METHODS, check_request, distill
from gift_fast.evaluation.config import TeacherConfig
from gift_fast.evaluation.rules import paper_dataset
from gift_fast.evaluation.teacher_weights import advice_for, load_teacher, teacher_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``distill``."""
    parser.add_argument(
        "method",
        metavar="METHOD",
        help=f"method: {', '.join(METHODS)}; accepts options, as in rded:factor=2",
    )
    parser.add_argument("--ipc", type=int, required=True, metavar="N", help="images per class")
    parser.add_argument("--seed", type=int, metavar="N", help="random seed (default: 0)")
    data = group_of(parser, "real dataset")
    add_dataset(data, required=True)
    add_data_root(data)
    teacher = group_of(parser, "teacher")
    teacher.add_argument(
        "--teacher",
        default="convnet3",
        metavar="MODEL",
        help="network that scores the crops (default: convnet3)",
    )
    teacher.add_argument(
        "--teacher-weights",
        type=Path,
        metavar="FILE",
        help="weights of the teacher (default: from --teacher-dir)",
    )
    add_teacher_dir(teacher)
    add_output(
        parser,
        out="folder for the distilled set",
        force="replace a different set in --out",
        required=True,
    )
    add_execution(parser, trains=False)


def run(options: argparse.Namespace) -> int:
    """Generate the set and print its digest."""
    arguments = given(options, ["ipc", "seed", "force"])
    check_request(options.method, options.ipc, arguments.get("seed", 0))
    context, network = context_of(options), options.teacher
    config = TeacherConfig(dataset=paper_dataset(options.dataset, network), model=network)
    dataset = load_dataset(config.dataset, context.data_root)
    weights = options.teacher_weights or teacher_path(context, config.dataset, network)
    advice = advice_for(config.dataset, network)
    teacher, _ = load_teacher(network, weights, dataset, advice=advice)
    distilled = distill(
        options.method,
        dataset,
        teacher.to(context.accelerator(config).device),
        context.out,
        **arguments,
    )
    print(f"{distilled.source}; digest {distilled.fingerprint()}")
    return 0
