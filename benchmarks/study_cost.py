"""Estimates what the paper's studies cost, from the measured images/s of one network.

    python -m benchmarks.study_cost              # by the rate measured on a CPU
    python -m benchmarks.study_cost --tuning     # with the trials of learning rates
    python -m benchmarks.study_cost --images-per-second X --network resnet18 --side 224

Counted are the runs of all studies, each once however many studies hold it, on the methods' own
sets: images times epochs that train a student, the teacher's labels for them, and the images of its
tests. Floating-point operations (``torch.utils.flop_counter``, on the meta device) turn the rate of
the measured network into one for the others. **That is an estimate**: a network of small layers, or
one bound by memory, does fewer operations a second than one of large convolutions. A rate that a
run of the network itself has recorded (``images_per_second`` in its JSON file) is better.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.tables import markdown_tables
from gift_fast.evaluation.config import EvaluationConfig
from gift_fast.files import spec
from gift_fast.studies.study import Experiment
from gift_fast.studies.study_files import load_study
from gift_fast.studies.tuning import expected_runs
from gift_fast.training.models import build_model
from gift_fast.training.objectives import build_objective

STUDIES = ("main", "kd", "architectures", "optimizers", "losses", "ablation", "gamma")

MEASURED = Path(__file__).parent / "results" / "emerald-rapids" / "student_cpu.json"


@dataclass(frozen=True)
class Images:
    """The images of a dataset, as published.

    Attributes:
        side: in pixels, where a specification says nothing else.
        classes: number of classes.
        test: number of test images.
    """

    side: int
    classes: int
    test: int


DATASETS = {
    "cifar100": Images(32, 100, 10_000),
    "tinyimagenet": Images(64, 200, 10_000),
    "imagenet-1k": Images(224, 1000, 50_000),
}


@dataclass(frozen=True)
class Cost:
    """What a run takes.

    Attributes:
        trained: images that the student is trained on, all epochs together.
        tested: images that it is tested on, all tests together.
        flops: of all of them, the teacher's included.
    """

    trained: int
    tested: int
    flops: float


@lru_cache
def flops_of(network: str, side: int, classes: int) -> tuple[int, int]:
    """Operations for an image (a multiply-add is two): forward, and forward with backward."""
    with torch.device("meta"):
        model = build_model(network, channels=3, side=side, num_classes=classes, seed=0)
        image = torch.empty(2, 3, side, side)  # batch norm wants two where a map is one pixel
    counts = []
    for trained in (False, True):
        with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(trained):
            logits = model.train(trained)(image)
            if trained:
                logits.sum().backward()
        counts.append(counter.get_total_flops() // len(image))
    forward, both = counts
    return forward, both


def cost_of(config: EvaluationConfig) -> Cost:
    """What a run takes, by the paper's protocol where the configuration leaves it open."""
    name, options = spec.split_spec(config.dataset)
    images = DATASETS[name]
    side = int(options.get("side", images.side))
    assert config.ipc is not None
    number = config.ipc * images.classes
    config = config.resolved(number)
    assert config.epochs is not None
    trained = number * config.epochs
    tests = sum(map(config.is_test_epoch, range(1, config.epochs + 1)))
    forward, both = flops_of(config.student, side, images.classes)
    labels = 0
    if build_objective(config.loss).reads_soft_labels:
        labels = sum(flops_of(teacher, side, images.classes)[0] for teacher in config.teachers)
    tested = tests * images.test
    return Cost(trained, tested, float(trained) * (both + labels) + float(tested) * forward)


def runs_of(studies: Iterable[str], tuning: bool) -> dict[Experiment, str]:
    """Every run once, whatever it is for, with the study that has it first.

    Tuning extends its grids where the best learning rate lies at an end; counted are the trials
    that every study begins with, and each tuned run at one more learning rate.
    """
    found: dict[tuple[object, ...], tuple[Experiment, str]] = {}
    for name in studies:
        study = load_study(name)
        experiments: Sequence[Experiment] = study.experiments(published=True)
        if tuning:
            experiments = expected_runs(study, experiments, Path("nothing-has-been-run"))
        for experiment in experiments:
            # Before there are trials, tuned runs stand here at the protocol's settings.
            purpose = "tuned" if experiment.purpose == "tuned" else ""
            key = (experiment.source, experiment.config, purpose)
            found.setdefault(key, (experiment, name))
    return dict(found.values())


def tables_of(
    runs: dict[Experiment, str], flops_per_second: float
) -> list[tuple[str, list[list[str]]]]:
    """The cost by study, and by dataset and student."""
    by_study: dict[tuple[str, ...], list[Cost]] = {}
    by_network: dict[tuple[str, ...], list[Cost]] = {}
    for experiment, study in runs.items():
        config, cost = experiment.config, cost_of(experiment.config)
        by_study.setdefault((study,), []).append(cost)
        by_network.setdefault((config.dataset, config.student), []).append(cost)
    first = rows_of(("study",), by_study, flops_per_second)
    by_network = dict(sorted(by_network.items()))
    second = rows_of(("dataset", "student"), by_network, flops_per_second)
    return [("By study, each run where it comes first", first), ("By dataset and student", second)]


def rows_of(
    names: tuple[str, ...], costs: dict[tuple[str, ...], list[Cost]], flops_per_second: float
) -> list[list[str]]:
    """A header, a row for every key, and the sum."""
    rows = [[*names, "runs", "images trained, 10^6", "images tested, 10^6", "PFLOP", "hours"]]
    everything = [cost for group in costs.values() for cost in group]
    last = ("all", *[""] * (len(names) - 1))
    for key, group in [*costs.items(), (last, everything)]:
        flops = sum(cost.flops for cost in group)
        rows.append(
            [
                *key,
                f"{len(group):,}",
                f"{sum(cost.trained for cost in group) / 1e6:,.1f}",
                f"{sum(cost.tested for cost in group) / 1e6:,.1f}",
                f"{flops / 1e15:,.0f}",
                f"{flops / flops_per_second / 3600:,.0f}",
            ]
        )
    return rows


def measured_rate() -> float:
    """Images a second of this project's own measurement: float32, batches of 100."""
    contents = json.loads(MEASURED.read_text(encoding="utf-8"))
    (entry,) = (entry for entry in contents["speed"] if entry["batch_size"] == 100)
    return float(entry["images_per_second"]["float32"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--images-per-second",
        type=float,
        metavar="X",
        help="of one run, trained with its teacher online (default: as measured on a CPU)",
    )
    parser.add_argument("--network", default="convnet3", metavar="NAME", help="that had this rate")
    parser.add_argument("--side", type=int, default=32, metavar="N", help="of its images")
    parser.add_argument("--classes", type=int, default=100, metavar="N", help="of its images")
    parser.add_argument("--tuning", action="store_true", help="with trials and tuned runs")
    options = parser.parse_args()

    rate = options.images_per_second or measured_rate()
    forward, both = flops_of(options.network, options.side, options.classes)
    speed = rate * (both + forward)
    print(
        f"{rate:,.0f} images/s of {options.network} at {options.side} x {options.side} with "
        f"{options.classes} classes, teacher online: {speed / 1e12:.3g} TFLOP/s"
    )
    runs = runs_of(STUDIES, options.tuning)
    print("\n".join(markdown_tables(tables_of(runs, speed))))


if __name__ == "__main__":
    main()
