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
from torch import nn

from gift_fast.student.atomic import replacing
from gift_fast.student.config import EvaluationConfig, TeacherConfig, check_integer
from gift_fast.student.datasets import ImageDataset, load_dataset
from gift_fast.student.distill import DistilledSet, select_crops
from gift_fast.student.progress import Progress, show_progress
from gift_fast.student.report import (
    accuracy_table,
    findings,
    loss_name,
    optimizer_name,
    save_accuracies,
    save_images,
)
from gift_fast.student.results import RunResult, find_run, inputs_of, summarize, write_run
from gift_fast.student.train import evaluate, new_model, top1_accuracy, train_teacher

DATASET = "digits"
NETWORK = "convnet3:width=32"
AUGMENTATION = "crop_scale_rotate"
TEACHER_EPOCHS = 30
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
        device: where to train.
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
    device: str = "cpu"
    quiet: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        check_integer("seeds", self.seeds, 1)
        if len(set(self.losses)) != len(self.losses):
            raise ValueError(f"losses must differ from each other, got {' '.join(self.losses)}")
        for _ in student_configs(self):  # checks ipc, epochs and losses
            pass
        check_device(self.device)


def check_device(device: str) -> None:
    """Raises ValueError unless ``device`` names one that tensors can be put on."""
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device must be usable, got {device!r}: {reason}") from error


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
                        "teacher": NETWORK,
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
    was killed goes on where it stood.
    """
    start = time.perf_counter()
    dataset = load_dataset(DATASET).to(demo.device)
    configs = list(student_configs(demo))

    with show_progress(1 + len(configs), quiet=demo.quiet) as progress:
        teacher = prepare_teacher(demo, dataset, progress)
        distilled = select_crops(dataset, teacher, ipc=demo.ipc)
        save_distilled(demo.out / "distilled.pt", distilled)
        save_images(demo.out / "distilled.png", distilled)
        runs = [run_student(demo, c, dataset, distilled, teacher, progress) for c in configs]

    save_accuracies(demo.out / "accuracies.png", summarize(runs), dataset.num_classes)
    print_report(demo, dataset, teacher, distilled, runs, time.perf_counter() - start)
    return runs


def prepare_teacher(demo: DemoConfig, dataset: ImageDataset, progress: Progress) -> nn.Module:
    """The teacher from its checkpoint, or trained now where there is none of this configuration."""
    config = TeacherConfig(
        dataset=DATASET, model=NETWORK, epochs=TEACHER_EPOCHS, augmentation=AUGMENTATION
    )
    path = demo.out / "digits_convnet3.pth"
    progress.begin("teacher", config.epochs)
    teacher = None if demo.force else load_teacher(path, config, dataset)
    trained = teacher is None
    if teacher is None:
        teacher = train_teacher(config, dataset, device=demo.device, on_epoch=progress.epoch)
        with replacing(path) as temporary:
            torch.save({"model": teacher.state_dict(), "config": config.to_dict()}, temporary)
    top1 = top1_accuracy(teacher, dataset)
    progress.end(f"{top1:.1f} %" if trained else f"{top1:.1f} %, from an earlier call")
    return teacher


def load_teacher(path: Path, config: TeacherConfig, dataset: ImageDataset) -> nn.Module | None:
    """The teacher of a checkpoint, or None where there is none that was trained this way."""
    if not path.exists():
        return None
    checkpoint = torch.load(path, weights_only=True, map_location=dataset.test_images.device)
    if checkpoint["config"] != config.to_dict():
        return None
    teacher = new_model(config.model, dataset, config.seed)
    teacher.load_state_dict(checkpoint["model"])
    return teacher.to(dataset.test_images.device).eval()


def save_distilled(path: Path, distilled: DistilledSet) -> None:
    """Writes a distilled set as GIFT's own loader reads it: dataset, data in [0, 1], label."""
    contents = {"dataset": DATASET, "data": distilled.images, "label": distilled.labels}
    with replacing(path) as temporary:
        torch.save(contents, temporary)


def run_student(
    demo: DemoConfig,
    config: EvaluationConfig,
    dataset: ImageDataset,
    distilled: DistilledSet,
    teacher: nn.Module,
    progress: Progress,
) -> RunResult:
    """The result of a run: from its file where it has finished before, else trained now."""
    directory = demo.out / "runs"
    title = f"{loss_name(config.loss)}, {optimizer_name(config.optimizer)}, seed {config.seed}"
    progress.begin(title, config.epochs)
    inputs = inputs_of(dataset, distilled, teacher)
    finished = None if demo.force else find_run(directory, config, inputs)
    if finished is not None:
        progress.end(f"{finished.last_top1:.1f} %, from an earlier call")
        return finished
    result = evaluate(
        config, dataset, distilled, teacher, device=demo.device, on_epoch=progress.epoch
    )
    write_run(directory, result)
    progress.end(f"{result.last_top1:.1f} %")
    return result


def print_report(
    demo: DemoConfig,
    dataset: ImageDataset,
    teacher: nn.Module,
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
    console.print(accuracy_table(cells))
    say("Means over n seeds; std: population (ddof 0). The score is the last epoch; the best check")
    say("is what the paper's code reports, and the test images have picked it.")
    say()
    for sentence in findings(cells, dataset.num_classes):
        say(f"- {sentence}")
    say(
        "- Small digits, one distilled set and one teacher: this shows how the evaluation works "
        "and settles nothing about larger images. The std covers only what the seed of a student "
        "changes."
    )
    say()
    say(f"{demo.out}: distilled.png, accuracies.png, distilled.pt, and one JSON a run under runs/")
    say(f"finished in {seconds:.0f} s")


def settings_in_words(
    demo: DemoConfig, dataset: ImageDataset, teacher: nn.Module, distilled: DistilledSet
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
    batch_size = next(student_configs(demo)).batch_size_for(count)
    return (
        f"Digits, {len(dataset.train_images)} training and {len(dataset.test_images)} test images "
        f"of {dataset.side} x {dataset.side}. Teacher: ConvNet-3, width 32, "
        f"{top1_accuracy(teacher, dataset):.1f} % top-1. Distilled: {count} images, "
        f"{distilled.source}. Students: the same network, {demo.epochs} epochs, batch size "
        f"{batch_size}, rate x 0.2 after 2/3 and 5/6 of the epochs, augmentation {AUGMENTATION}. "
        f"{optimizers}. KL has T = 20 and no factor T^2 unless said otherwise."
    )
