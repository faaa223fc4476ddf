"""``gift-fast distill``: makes a distilled set."""

from __future__ import annotations

import argparse
from pathlib import Path

from gift_fast.cli.arguments import add_dataset, add_place, given, place_of
from gift_fast.data.datasets import load_dataset
from gift_fast.distillation import METHODS, distill
from gift_fast.evaluation.config import TeacherConfig
from gift_fast.evaluation.job import advice_for, load_teacher, teacher_path
from gift_fast.evaluation.rules import paper_dataset


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``distill``."""
    parser.add_argument(
        "method",
        metavar="METHOD",
        help=f"{', '.join(METHODS)}; it may have options: rded:factor=2",
    )
    add_dataset(parser, required=True)
    parser.add_argument("--ipc", type=int, required=True, metavar="N", help="images per class")
    parser.add_argument("--seed", type=int, metavar="N", help="of all that is random (default: 0)")
    parser.add_argument(
        "--teacher",
        default="convnet3",
        metavar="MODEL",
        help="scores the crops (default: convnet3)",
    )
    parser.add_argument(
        "--teacher-weights", type=Path, metavar="FILE", help="its weights, if not in --teacher-dir"
    )
    parser.add_argument(
        "--force", action="store_true", default=None, help="replace another set in --out"
    )
    add_place(parser, trains=False)


def run(options: argparse.Namespace) -> int:
    """Make the set and print its digest."""
    place, network = place_of(options), options.teacher
    if options.out is None:
        raise ValueError("out must be the folder for the set, got none")
    config = TeacherConfig(dataset=paper_dataset(options.dataset, network), model=network)
    dataset = load_dataset(config.dataset, place.data_root)
    weights = options.teacher_weights or teacher_path(place, config.dataset, network)
    advice = advice_for(config.dataset, network)
    teacher, _ = load_teacher(network, weights, dataset, advice=advice)
    made = distill(
        options.method,
        dataset,
        teacher.to(place.accelerator(config).device),
        place.out,
        **given(options, ["ipc", "seed", "force"]),
    )
    print(f"{made.source}; digest {made.fingerprint()}")
    return 0
