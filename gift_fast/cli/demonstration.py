"""The smallest complete case of the evaluation: digits, from the teacher to the table of losses.

A teacher is trained on the digits, the crops it is surest of become a distilled set, and students
are trained on that set under several losses and two optimizers. All of it is the trainer's own
code; what is said here is only what to run.

The settings were fixed before any result was seen. AdamW, schedule and batch size follow the paper
(table 11), its weight decay the paper's code. The paper states nothing for SGD: its rate, momentum
and weight decay are those with which dataset condensation trains the same ConvNet (Zhao, Mopuri and
Bilen, ICLR 2021). Fewer epochs and narrower networks than the paper's keep the demonstration to
about a minute.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from gift_fast.data.datasets import ImageDataset, load_dataset
from gift_fast.data.distilled import DistilledSet
from gift_fast.distillation.selection import check_ipc, select_crops
from gift_fast.evaluation.config import EvaluationConfig, TeacherConfig
from gift_fast.evaluation.job import Inputs, Place, prepare_teacher, run_student
from gift_fast.evaluation.results import RunResult, divergence, summarize
from gift_fast.evaluation.rules import paper_batch_size
from gift_fast.files.atomic import replacing
from gift_fast.files.checks import check_integer
from gift_fast.files.disk import check_can_write
from gift_fast.report.pictures import save_accuracies, save_images
from gift_fast.report.ranking import ranking_sentences
from gift_fast.report.terminal import accuracy_table, print_table
from gift_fast.training.eval_result import Check
from gift_fast.training.objectives import display_name
from gift_fast.training.optimizers import optimizer_name

DATASET = "digits"
NETWORK = "convnet3:width=32"
AUGMENTATION = "dsa:strategy=crop_scale_rotate"
TEACHER = TeacherConfig(
    dataset=DATASET,
    model=NETWORK,
    optimizer="adamw",
    learning_rate=1e-3,
    weight_decay=1e-4,
    schedule="multistep",
    batch_size=None,
    epochs=30,
    augmentation=AUGMENTATION,
)
LOSSES = ("ce", "kl", "gift")
OPTIMIZERS = (
    {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 1e-4},
    {"optimizer": "sgd", "learning_rate": 1e-2, "weight_decay": 5e-4, "momentum": 0.9},
)


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """What a user may choose about the demonstration.

    Attributes:
        out: folder for the runs and pictures; made where it is missing.
        losses: specifications of the losses to compare.
        seeds: students a loss and optimizer, with the seeds 0, 1, ...
        ipc: distilled images per class.
        epochs: epochs of every student.
        device: ``auto`` or ``cpu``.
        quiet: shows no progress, only the results.
        force: trains anew what has been finished.

    Raises:
        TypeError: a value of the wrong type.
        ValueError: a value out of range, or a loss that is not registered.
    """

    out: Path = Path("gift-fast-demo")
    losses: tuple[str, ...] = LOSSES
    seeds: int = 3
    ipc: int = 5
    epochs: int = 300
    device: str = "auto"
    quiet: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        check_integer("seeds", self.seeds, 1)
        if len(set(self.losses)) != len(self.losses):
            raise ValueError(f"losses must differ from each other, got {' '.join(self.losses)}")
        for _ in student_configs(self):  # checks ipc, epochs and losses
            pass


def student_configs(demo: DemoConfig) -> Iterator[EvaluationConfig]:
    """Every run of the demonstration, in the order in which it is trained."""
    for loss in demo.losses:
        for settings in OPTIMIZERS:
            for seed in range(demo.seeds):
                yield EvaluationConfig.from_dict(
                    {
                        "dataset": DATASET,
                        "ipc": demo.ipc,
                        "student": NETWORK,
                        "teachers": (NETWORK,),
                        "loss": loss,
                        "epochs": demo.epochs,
                        "augmentation": AUGMENTATION,
                        "seed": seed,
                        **settings,
                    }
                )


def run_demo(demo: DemoConfig) -> list[RunResult]:
    """Runs the demonstration, prints what came out and writes everything under ``demo.out``.

    What an earlier call with the same settings finished is read, not trained again, so a call that
    was interrupted is resumed.
    """
    start = time.perf_counter()
    dataset = load_dataset(DATASET)
    check_ipc(dataset, demo.ipc)
    check_can_write(demo.out)
    configs = list(student_configs(demo))
    place = Place(
        out=demo.out / "runs",
        teacher_dir=demo.out,
        device=demo.device,
        quiet=demo.quiet,
        force=demo.force,
    )
    accelerator = place.accelerator(TEACHER)
    with place.progress(accelerator, 1 + len(configs)) as progress:
        teacher, check = prepare_teacher(
            TEACHER, dataset, place, accelerator, progress, replaces=True
        )
        distilled = select_crops(dataset, teacher, ipc=demo.ipc)
        save_distilled(demo.out / "distilled.pt", distilled)
        save_images(demo.out / "distilled.png", distilled)
        inputs = Inputs(dataset, distilled, (teacher,))
        runs = [
            run_student(
                config.resolved(len(distilled), distilled.learning_rate),
                inputs,
                place,
                accelerator,
                progress,
                title=(
                    f"{display_name(config.loss)}, {optimizer_name(config.optimizer)}, "
                    f"seed {config.seed}"
                ),
            )
            for config in configs
        ]

    save_accuracies(demo.out / "accuracies.png", summarize(runs), dataset.num_classes)
    print_report(demo, dataset, check, distilled, runs, time.perf_counter() - start)
    return runs


def save_distilled(path: Path, distilled: DistilledSet) -> None:
    """Writes a distilled set as GIFT's own loader reads it: dataset, data in [0, 1], label."""
    contents = {"dataset": DATASET, "data": distilled.images, "label": distilled.labels}
    with replacing(path) as temporary:
        torch.save(contents, temporary)


def print_report(
    demo: DemoConfig,
    dataset: ImageDataset,
    teacher: Check,
    distilled: DistilledSet,
    runs: list[RunResult],
    seconds: float,
) -> None:
    """Prints the settings, the table, the findings and where everything lies."""
    from rich.console import Console

    console = Console(highlight=False)
    wrap = console.is_terminal  # a pipe gets one paragraph a line

    def say(text: str = "") -> None:
        console.print(text, soft_wrap=not wrap, markup=False)

    cells = summarize(runs)
    say(settings_in_words(demo, dataset, teacher, distilled))
    say()
    print_table(console, accuracy_table(cells))
    say("Means over n seeds; std: population (ddof 0). The score is the last epoch; the best check")
    say("is what the paper's code reports, and the test images have picked it.")
    say()
    for sentence in ranking_sentences(cells, dataset.num_classes):
        say(f"- {sentence}")
    for line in divergence(runs):
        say(line)
    say(
        "- Small digits, one distilled set and one teacher: this shows how the evaluation works "
        "and settles nothing about larger images. The std covers only what the seed of a student "
        "changes."
    )
    say()
    say(f"{demo.out}: distilled.png, accuracies.png, distilled.pt, and one JSON a run under runs/")
    say(f"finished in {seconds:.0f} s")


def settings_in_words(
    demo: DemoConfig, dataset: ImageDataset, teacher: Check, distilled: DistilledSet
) -> str:
    """What was run, so that the table can be read alone."""
    optimizers = "; ".join(
        f"{optimizer_name(str(settings['optimizer']))} "
        + ", ".join(
            f"{name.replace('_', ' ')} {value:g}"
            for name, value in settings.items()
            if isinstance(value, float)
        )
        for settings in OPTIMIZERS
    )
    count = len(distilled.images)
    batch_size = paper_batch_size(count)
    return (
        f"Digits, {len(dataset.training_split)} training and {len(dataset.test)} test images "
        f"of {dataset.side} x {dataset.side}. Teacher: ConvNet-3, width 32, "
        f"{teacher.top1:.1f} % top-1. Distilled: {count} images, "
        f"{distilled.source}. Students: the same network, {demo.epochs} epochs, batch size "
        f"{batch_size}, rate x 0.2 after 2/3 and 5/6 of the epochs, augmentation {AUGMENTATION}. "
        f"{optimizers}. KL has T = 20 and no factor T^2 unless said otherwise."
    )
