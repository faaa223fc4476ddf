r"""Times a whole study, labeling included: labels shared by its runs, and the teacher online.

    python -m benchmarks.label_reuse --dataset cifar10-jpeg --data-root data --teacher convnet3
    python -m benchmarks.label_reuse --dataset cifar10-jpeg --data-root data \
        --teacher resnet18_modified

A study of ten losses on one generated set and one seed has one label set for ten runs. It is run in
turn in both ways, the set and the teacher are made before. The teacher has random weights: the time
does not depend on them. The results of both ways are compared, and differ in nothing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.loss_cpu import describe_machine
from benchmarks.tables import Table, markdown_tables, ratio_text
from gift_fast.data.datasets import load_dataset
from gift_fast.evaluation.context import LABEL_LIMIT, RunContext
from gift_fast.evaluation.teacher_weights import teacher_path
from gift_fast.studies.run import LocalRunner
from gift_fast.studies.study import Study
from gift_fast.studies.study_files import parse_study
from gift_fast.training.models import new_model
from gift_fast.training.weights import save_weights

LOSSES = (
    *("gift", "gift:gamma=0.2", "gift:gamma=0.3", "kl:temperature=1", "kl:temperature=4"),
    *("kl:temperature=20", "mse", "mse+ce", "softce", "cosine"),
)
"""All of them read soft labels."""

STUDY = """
title: Ten runs per label set
settings: {epochs: %d, eval_every: %d}
sets: [{dataset: "%s", method: selected, ipc: %d, network: "%s", students: ["%s"]}]
losses: [%s]
seeds: [0]
dataset_seeds: [0]
"""


def study_of(options: argparse.Namespace) -> Study:
    """The study; students are tested four times, as the paper's protocol does."""
    losses = ", ".join(f"'{loss}'" for loss in LOSSES)
    every = max(options.epochs // 4, 1)
    text = STUDY % (
        *(options.epochs, every, options.dataset, options.ipc),
        *(options.teacher, options.student, losses),
    )
    return parse_study("label_reuse", text)


def results(folder: Path) -> dict[str, object]:
    """The tests of every run."""
    files = sorted(folder.glob("*-seed*.json"))
    return {path.name: json.loads(path.read_text(encoding="utf-8"))["checks"] for path in files}


def timed(study: Study, context: RunContext) -> float:
    """Seconds of a study whose set and teacher are there."""
    for path in (*context.out.glob("*-seed*.json"), *context.out.glob("study-*.json")):
        path.unlink()
    experiments = study.experiments(published=False)
    start = time.perf_counter()
    LocalRunner(study, context)(experiments)
    return time.perf_counter() - start


def measure(options: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    """Seconds of every study, in turn online and replayed."""
    study = study_of(options)
    context = RunContext(
        out=folder / "runs",
        data_root=options.data_root,
        teacher_dir=folder / "teachers",
        device=options.device,
        quiet=True,
    )
    source = study.experiments(published=False)[0].source
    dataset = load_dataset(source.sized_dataset, options.data_root, train=False)
    for network in study.teachers_of(source):
        path = teacher_path(context, source.sized_dataset, network)
        save_weights(path, new_model(network, dataset, seed=0))
    warm = replace(study, settings={**study.settings, "epochs": 1, "eval_every": 1})
    LocalRunner(warm, context)(warm.experiments(published=False)[:1])  # makes the set
    seconds: dict[str, list[float]] = {"online": [], "replayed": []}
    found: dict[str, dict[str, object]] = {}
    for number in range(options.rounds):
        for way, limit in (("online", 0.0), ("replayed", LABEL_LIMIT)):
            seconds[way].append(timed(study, replace(context, label_limit=limit)))
            found[way] = results(context.out)
            print(f"round {number + 1}: {way} {seconds[way][-1]:.1f} s", file=sys.stderr)
        if found["online"] != found["replayed"]:
            raise RuntimeError("the results must be the same with the teacher online and replayed")
    return seconds


def table_of(options: argparse.Namespace, seconds: dict[str, list[float]]) -> Table:
    """One row for the teacher: median times and their ratio."""
    online, replayed = (statistics.median(seconds[way]) for way in ("online", "replayed"))
    return (
        f"{options.student} on {options.dataset}, {options.ipc} images per class, "
        f"{options.epochs} epochs, {len(LOSSES)} runs per label set",
        [
            ["teacher", "online, s", "replayed, labeling included, s", "ratio"],
            [
                options.teacher,
                f"{online:.1f}",
                f"{replayed:.1f}",
                ratio_text(online / replayed),
            ],
        ],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the machine and the table as Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--student", default="convnet3")
    parser.add_argument("--teacher", default="convnet3")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="label-reuse-"))
    try:
        seconds = measure(options, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(describe_machine()))
    print("\n".join(markdown_tables([table_of(options, seconds)])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
