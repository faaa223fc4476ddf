"""Times the student's training step on the CPU next to a plain loop, interleaved, with a profile.

    python -m benchmarks.student_cpu --out mine
    python -m benchmarks.student_cpu --accuracy digits      # also: does bfloat16 cost accuracy?

What is timed is what users get: epochs of ``train_student`` itself, watched from outside. The plain
loop trains the same network on the same images as research code does: see :func:`train_plain`.
Every contestant has a process of its own and trains one epoch when it is its turn. Images are
random, the teacher is the same network with other weights, online. The tables go to the standard
output as Markdown, the progress to the standard error.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.loss_cpu import describe_machine
from benchmarks.sampling import quartiles
from benchmarks.tables import write_text
from gift_fast import gift_loss
from gift_fast.data import load_dataset
from gift_fast.data.datasets import ImageDataset, TensorSplit
from gift_fast.data.datasets.normalization import NORMALIZATIONS
from gift_fast.data.distilled import DistilledSet
from gift_fast.distillation.selection import select_crops
from gift_fast.evaluation import EvaluationConfig, TeacherConfig, train_teacher
from gift_fast.evaluation.student import train_student
from gift_fast.loss.operators import CPU_LIBRARY, backends
from gift_fast.training.batches import RandomBatches
from gift_fast.training.eval_result import EvalResult
from gift_fast.training.models import ConvNet, build_model, new_model
from gift_fast.training.observer import Observer
from gift_fast.training.processes import Processes, new_accelerator

DATASET = "cifar100"  # for the configuration; nothing of it is read
CLASSES = 100
SIDE = 32

PLAIN = "plain"
FLOAT32, FLOAT32_COMPILED = "float32", "float32, compiled"
BF16, BF16_COMPILED = "bf16", "bf16, compiled"
OURS: dict[str, dict[str, Any]] = {
    FLOAT32: {},
    FLOAT32_COMPILED: {"compile": True},
    BF16: {"mixed_precision": "bf16"},
    BF16_COMPILED: {"mixed_precision": "bf16", "compile": True},
}
"""Fields of the configuration; channels_last is the default of all."""

CONTESTANTS = (PLAIN, *OURS)
TARGETS = {FLOAT32: 1.2, BF16: 2.5, BF16_COMPILED: 3.0}
"""Times as fast as the plain loop, set before anything was measured, for a CPU with AMX."""

LARGEST_REST = 3.0
"""Percent of the time that everything outside the two models may take."""

NUMERICS_EPOCHS = 5
PROFILED_EPOCHS = 5

Json = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """What every contestant trains.

    Attributes:
        width: of the ConvNet-3 that is student and teacher.
        batch_size: images a step.
        steps: steps an epoch; an epoch is what is timed.
        threads: of every contestant, one of which runs at a time.
    """

    width: int
    batch_size: int
    steps: int
    threads: int

    @property
    def network(self) -> str:
        """The specification of student and teacher."""
        return f"convnet3:width={self.width}"

    def config(self, contestant: str, epochs: int, **fields: Any) -> EvaluationConfig:
        """The configuration of a contestant, resolved; the plain loop reads it too."""
        values = {
            "dataset": DATASET,
            "student": self.network,
            "teachers": (self.network,),
            "loss": "gift",
            "schedule": "constant",
            "batch_size": self.batch_size,
            "epochs": epochs,
            "eval_every": epochs,
            **OURS.get(contestant, {}),
            **fields,
        }
        return EvaluationConfig(**values).resolved(self.batch_size * self.steps)

    def inputs(self) -> tuple[ImageDataset, DistilledSet, nn.Module]:
        """Random images with random labels, a few of them for the test, and a teacher."""
        generator = torch.Generator().manual_seed(0)
        count = self.batch_size * self.steps
        images = torch.randint(256, (count, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
        labels = torch.randint(CLASSES, (count,), generator=generator)
        dataset = ImageDataset(
            name="random",
            train=None,
            test=TensorSplit(images[: self.batch_size], labels[: self.batch_size]),
            mean=NORMALIZATIONS["cifar"].mean,
            std=NORMALIZATIONS["cifar"].std,
            class_names=tuple(map(str, range(CLASSES))),
        )
        teacher = build_model(self.network, channels=3, side=SIDE, num_classes=CLASSES, seed=1)
        return dataset, DistilledSet(images, labels), teacher


# ---- the plain loop ------------------------------------------------------------------------------


class PlainImages(Dataset[tuple[Tensor, Tensor]]):
    """Images that torchvision's transforms scale and normalize one by one."""

    def __init__(self, distilled: DistilledSet, dataset: ImageDataset) -> None:
        self.images, self.labels = distilled.images, distilled.labels
        self.transform = transforms.Compose(
            [
                transforms.ConvertImageDtype(torch.float32),
                transforms.Normalize(dataset.mean, dataset.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.transform(self.images[index]), self.labels[index]


def plain_flip(images: Tensor) -> Tensor:
    """Left to right, with probability 1/2."""
    return torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(3), images)


def plain_color(images: Tensor) -> Tensor:
    """Brightness, saturation, contrast."""
    n = len(images)
    images = images + (torch.rand(n, 1, 1, 1) - 0.5)
    mean = images.mean(dim=1, keepdim=True)
    images = (images - mean) * (torch.rand(n, 1, 1, 1) * 2.0) + mean
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - mean) * (torch.rand(n, 1, 1, 1) + 0.5) + mean


def plain_crop(images: Tensor) -> Tensor:
    """A shift by at most an eighth of the side, through an index for every pixel."""
    n, channels, side, _ = images.shape
    shift = int(side * 0.125 + 0.5)
    image, channel, row, column = torch.meshgrid(
        *(torch.arange(size) for size in (n, channels, side, side)), indexing="ij"
    )
    row = row + torch.randint(2 * shift + 1, (n, 1, 1, 1))
    column = column + torch.randint(2 * shift + 1, (n, 1, 1, 1))
    return F.pad(images, (shift,) * 4)[image, channel, row, column]


def plain_scale(images: Tensor) -> Tensor:
    """Each axis by a factor in [1/1.2, 1.2]."""
    factors = torch.rand(len(images), 2) * (1.2 - 1 / 1.2) + 1 / 1.2
    theta = torch.tensor([[[x, 0.0, 0.0], [0.0, y, 0.0]] for x, y in factors.tolist()])
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def plain_rotate(images: Tensor) -> Tensor:
    """By at most 15 degrees either way."""
    angles = ((torch.rand(len(images)) - 0.5) * 2.0 * math.radians(15.0)).tolist()
    theta = torch.tensor(
        [[[math.cos(a), -math.sin(a), 0.0], [math.sin(a), math.cos(a), 0.0]] for a in angles]
    )
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def plain_cutout(images: Tensor) -> Tensor:
    """A square of half the side, through an index for every pixel of it."""
    n, _, side, _ = images.shape
    size = int(side * 0.5 + 0.5)
    image, row, column = torch.meshgrid(
        torch.arange(n), torch.arange(size), torch.arange(size), indexing="ij"
    )
    centers = torch.randint(side + 1 - size % 2, (2, n, 1, 1))
    mask = torch.ones(n, side, side)
    mask[
        image,
        (row + centers[0] - size // 2).clamp(0, side - 1),
        (column + centers[1] - size // 2).clamp(0, side - 1),
    ] = 0.0
    return images * mask.unsqueeze(1)


def plain_dsa(images: Tensor) -> Tensor:
    """DSA in the style of the research code: one operation after the other on a whole batch.

    The operations and their ranges are those of :mod:`gift_fast.training.augment.dsa`.
    """
    warp = random.choice([plain_crop, plain_scale, plain_rotate])
    return plain_cutout(warp(plain_color(plain_flip(images))))


AUGMENTATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "dsa": plain_dsa,
    "none": lambda images: images,
}
"""Of the plain loop."""


def train_plain(
    config: EvaluationConfig,
    dataset: ImageDataset,
    distilled: DistilledSet,
    teacher: nn.Module,
    *,
    order: OurOrder | None = None,
    observer: Observer | None = None,
) -> list[float]:
    """Trains a student as research code does, and gives the mean loss of every epoch.

    A DataLoader without workers over images that are normalized one by one; the augmentation of
    every batch in Python; the teacher online; contiguous float32; the loss from PyTorch's own
    operations; AdamW as it comes; ``loss.item()`` in every step.

    Args:
        config: its rates, sizes and seed are used; its augmentation is one of ``AUGMENTATIONS``.
        dataset: gives the normalization.
        distilled: the images to train on.
        teacher: labels every batch.
        order: of the images; shuffled by the DataLoader where it is None.
        observer: told of every epoch.
    """
    assert config.learning_rate is not None
    assert config.epochs is not None
    observer = observer or Observer()
    augment = AUGMENTATIONS[config.augmentation]
    loader = DataLoader(
        PlainImages(distilled, dataset), config.batch_size, shuffle=order is None, sampler=order
    )
    student = new_model(config.student, dataset, config.seed)
    teacher.eval()
    optimizer = torch.optim.AdamW(
        student.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    losses = []
    observer.start(config.epochs, 0)
    for epoch in range(1, config.epochs + 1):
        student.train()
        total = 0.0
        for images, target in loader:
            images = augment(images)
            with torch.no_grad():
                soft_labels = teacher(images)
            loss = gift_loss(student(images), soft_labels, target, backend="reference")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(images)
        losses.append(total / len(distilled))
        observer.epoch(epoch, len(distilled), None)
    return losses


class OurOrder:
    """A sampler for a DataLoader: the images in the order of our epochs, one after the other."""

    def __init__(self, config: EvaluationConfig, count: int) -> None:
        numbered = TensorSplit(torch.zeros(count, 1, 1, 1), torch.arange(count))
        config = replace(config, augmentation="none")
        self.batches = RandomBatches(numbered, lambda images: images, config, Processes())
        self.epochs = itertools.count(1)

    def __len__(self) -> int:
        return self.batches.images

    def __iter__(self) -> Iterator[int]:
        for batch in self.batches.epoch(next(self.epochs)):
            yield from batch.target.tolist()


# ---- speed ---------------------------------------------------------------------------------------


class Turns(Observer):
    """Lets a run train an epoch whenever the other end of a connection says so, and times it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.begun = 0.0

    def start(self, epochs: int, done: int) -> None:
        """Waits for the first turn."""
        self.wait()

    def epoch(self, number: int, images: int, check: EvalResult | None) -> None:
        """Tells how long the epoch took, in seconds, and waits for the next turn."""
        self.connection.send(time.perf_counter() - self.begun)
        self.wait()

    def wait(self) -> None:
        """Sleeps until it is this run's turn."""
        self.connection.recv()
        self.begun = time.perf_counter()


def train_in_turns(contestant: str, work: Work, epochs: int, connection: Connection) -> None:
    """What the process of a contestant runs."""
    torch.set_num_threads(work.threads)
    config = work.config(contestant, epochs)
    dataset, distilled, teacher = work.inputs()
    observer = Turns(connection)
    if contestant == PLAIN:
        train_plain(config, dataset, distilled, teacher, observer=observer)
    else:
        accelerator = new_accelerator(config, device="cpu")
        train_student(
            config, dataset, distilled, [teacher], accelerator=accelerator, observer=observer
        )


@contextmanager
def contestants(names: list[str], work: Work, epochs: int) -> Iterator[dict[str, Connection]]:
    """A process for each name, waiting for its turn: its own heap, threads and compiled code."""
    spawn = multiprocessing.get_context("spawn")
    connections, processes = {}, []
    for name in names:
        connections[name], theirs = spawn.Pipe()
        # The epoch after the last one that is timed would end with a test; it never comes.
        arguments = (name, work, epochs + 1, theirs)
        process = spawn.Process(target=train_in_turns, args=arguments, daemon=True)
        process.start()
        theirs.close()
        processes.append(process)
    try:
        yield connections
    finally:
        for process in processes:
            process.terminate()
            process.join()


def measure_speed(names: list[str], work: Work, warm_up: int, rounds: int) -> Json:
    """Every round trains an epoch of each contestant, in the same order; ratios are of a round."""
    samples: dict[str, list[float]] = {name: [] for name in names}
    with contestants(names, work, warm_up + rounds) as connections:
        for number in range(warm_up + rounds):
            for name, connection in connections.items():
                connection.send("your turn")
                try:
                    seconds = connection.recv() / work.steps
                except (EOFError, ConnectionError):
                    raise SystemExit(f"the process of {name!r} has died; see above") from None
                if number >= warm_up:
                    samples[name].append(seconds)
            done = number + 1 - warm_up
            say(
                f"batch {work.batch_size}: round {done} of {rounds}"
                if done > 0
                else f"batch {work.batch_size}: warm-up {number + 1} of {warm_up}"
            )
    plain = samples.get(PLAIN)
    return {
        "batch_size": work.batch_size,
        "seconds_per_step": {name: quartiles(samples[name]) for name in names},
        "images_per_second": {
            name: work.batch_size / statistics.median(samples[name]) for name in names
        },
        "times_as_fast_as_plain": {
            name: quartiles([p / o for p, o in zip(plain, samples[name], strict=True)])
            for name in names
            if plain is not None and name != PLAIN
        },
        "samples": samples,
    }


# ---- numerics ------------------------------------------------------------------------------------


class Losses(Observer):
    """Collects the mean training loss of every epoch, each of which is tested."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def epoch(self, number: int, images: int, check: EvalResult | None) -> None:
        """Takes the loss of the epoch."""
        assert check is not None
        self.values.append(check.loss)


def compare_losses(work: Work, epochs: int) -> Json:
    """Mean loss of every epoch from the same weights on the same batches, without augmentation."""
    torch.set_num_threads(work.threads)
    losses = {}
    for name in (PLAIN, FLOAT32, BF16):
        dataset, distilled, teacher = work.inputs()
        config = work.config(name, epochs, augmentation="none", eval_every=1)
        if name == PLAIN:
            order = OurOrder(config, len(distilled))
            losses[name] = train_plain(config, dataset, distilled, teacher, order=order)
        else:
            observer = Losses()
            accelerator = new_accelerator(config, device="cpu")
            train_student(
                config, dataset, distilled, [teacher], accelerator=accelerator, observer=observer
            )
            losses[name] = observer.values
    return {
        "batch_size": work.batch_size,
        "steps_per_epoch": work.steps,
        "losses": losses,
        "largest_relative_difference": {
            name: max(abs(o / p - 1) for o, p in zip(losses[name], losses[PLAIN], strict=True))
            for name in (FLOAT32, BF16)
        },
    }


# ---- profile -------------------------------------------------------------------------------------

ALL = "profiled epochs"
STUDENT_FORWARD, STUDENT_BACKWARD = "student forward", "student backward"
TEACHER_FORWARD = "teacher forward"
BETWEEN = "Python between operators"


class Marked(nn.Module):
    """A network whose forward passes bear a name in the profile."""

    def __init__(self, network: nn.Module, name: str) -> None:
        super().__init__()
        self.network = network
        self.name = name

    def forward(self, images: Tensor) -> Tensor:
        """The same as the network's."""
        with record_function(self.name):
            logits: Tensor = self.network(images)
        return logits


def marked_student(channels: int, side: int, num_classes: int, *, width: int = 128) -> nn.Module:
    """The ConvNet-3 that is timed, named in the profile; found by its import path."""
    return Marked(ConvNet(3, channels, side, num_classes, width=width), STUDENT_FORWARD)


class ProfiledEpochs(Observer):
    """Profiles the epochs between two."""

    def __init__(self, first: int, last: int) -> None:
        self.first = first
        self.last = last
        self.profile = profile(activities=[ProfilerActivity.CPU])
        self.range = record_function(ALL)

    def epoch(self, number: int, images: int, check: EvalResult | None) -> None:
        """Starts after the epoch before the first, stops after the last."""
        if number == self.first - 1:
            self.profile.start()
            self.range.__enter__()
        elif number == self.last:
            self.range.__exit__(None, None, None)
            self.profile.stop()


def measure_shares(contestant: str, work: Work, warm_up: int, epochs: int) -> Json:
    """Percent of the time of one of our steps that goes into its parts."""
    torch.set_num_threads(work.threads)
    dataset, distilled, teacher = work.inputs()
    student = f"benchmarks.student_cpu.{marked_student.__name__}:width={work.width}"
    # The test after the last epoch is not profiled.
    config = work.config(contestant, warm_up + epochs + 1, student=student)
    accelerator = new_accelerator(config, device="cpu")
    backward = accelerator.backward

    def marked_backward(loss: Tensor, **arguments: Any) -> None:
        with record_function(STUDENT_BACKWARD):
            backward(loss, **arguments)

    accelerator.backward = marked_backward
    observer = ProfiledEpochs(warm_up + 1, warm_up + epochs)
    train_student(
        config,
        dataset,
        distilled,
        [Marked(teacher, TEACHER_FORWARD)],
        accelerator=accelerator,
        observer=observer,
    )

    events = observer.profile.events()
    assert events is not None
    whole = next(event for event in events if event.name == ALL)
    microseconds: dict[str, float] = {}
    for event in events:
        if event.cpu_parent is whole:
            spent = microseconds.get(event.name, 0.0) + event.time_range.elapsed_us()
            microseconds[event.name] = spent
    total = whole.time_range.elapsed_us()
    microseconds[BETWEEN] = total - sum(microseconds.values())
    percent = {name: 100.0 * spent / total for name, spent in microseconds.items()}
    models = {
        "student, forward and backward": percent.pop(STUDENT_FORWARD)
        + percent.pop(STUDENT_BACKWARD),
        TEACHER_FORWARD: percent.pop(TEACHER_FORWARD),
    }
    return {
        "contestant": contestant,
        "batch_size": work.batch_size,
        "percent": {**models, "everything else": sum(percent.values())},
        "percent_of_everything_else": dict(sorted(percent.items(), key=lambda item: -item[1])),
    }


# ---- accuracy ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Protocol:
    """What the accuracies of float32 and bfloat16 are compared on.

    Attributes:
        network: of teacher and students.
        teacher_epochs: on the whole training split.
        ipc: crops per class that the students are trained on.
        crops_per_image: of which the teacher chooses.
        epochs: of every student.
        augmentation: of teacher and students.
    """

    network: str
    teacher_epochs: int
    ipc: int
    crops_per_image: int
    epochs: int
    augmentation: str


PROTOCOLS = {
    "digits": Protocol("convnet3:width=32", 30, 10, 10, 300, "dsa:strategy=crop_scale_rotate"),
    "fashion-mnist": Protocol("convnet3:width=32", 2, 10, 2, 100, "dsa"),
}


def compare_accuracies(name: str, protocol: Protocol, seeds: int, threads: int) -> Json:
    """Top-1, in percent, of students that are trained in float32 and in bfloat16, by seed."""
    torch.set_num_threads(threads)
    dataset = load_dataset(name)
    recipe = TeacherConfig(
        dataset=name,
        model=protocol.network,
        epochs=protocol.teacher_epochs,
        augmentation=protocol.augmentation,
    )
    teacher, checks = train_teacher(
        recipe, dataset, accelerator=new_accelerator(recipe, device="cpu")
    )
    say(f"{name}: the teacher has {checks[-1].top1:.1f} % top-1")
    distilled = select_crops(
        dataset, teacher, ipc=protocol.ipc, crops_per_image=protocol.crops_per_image
    )
    top1: dict[str, list[float]] = {FLOAT32: [], BF16: []}
    for seed, contestant in itertools.product(range(seeds), top1):
        config = EvaluationConfig(
            dataset=name,
            ipc=protocol.ipc,
            student=protocol.network,
            teachers=(protocol.network,),
            epochs=protocol.epochs,
            eval_every=protocol.epochs,
            augmentation=protocol.augmentation,
            seed=seed,
            **OURS[contestant],
        )
        accelerator = new_accelerator(config, device="cpu")
        _, result = train_student(config, dataset, distilled, [teacher], accelerator=accelerator)
        top1[contestant].append(result.last.top1)
        say(f"{name}: {contestant}, seed {seed}: {result.last.top1:.1f} % top-1")
    return {
        "dataset": name,
        "network": protocol.network,
        "ipc": protocol.ipc,
        "epochs": protocol.epochs,
        "teacher_top1": checks[-1].top1,
        "top1": top1,
    }


# ---- reporting -----------------------------------------------------------------------------------


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def markdown_table(header: list[str], rows: list[list[str]]) -> list[str]:
    """The lines of a table, its first column to the left."""
    align = ["---", *["---:"] * (len(header) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in (header, align, *rows)]


def speed_lines(result: Json) -> list[str]:
    """A table for each batch size."""
    lines = []
    for case in result["speed"]:
        rows = []
        for name, seconds in case["seconds_per_step"].items():
            ms = {key: f"{1e3 * value:.1f}" for key, value in seconds.items()}
            ratio = case["times_as_fast_as_plain"].get(name)
            target = TARGETS.get(name)
            rows.append(
                [
                    name,
                    f"{ms['median']} ({ms['q1']} to {ms['q3']})",
                    f"{case['images_per_second'][name]:.0f}",
                    f"{ratio['median']:.2f} ({ratio['q1']:.2f} to {ratio['q3']:.2f})"
                    if ratio
                    else "",
                    f"{target:.1f}" if ratio and target else "",
                    ("yes" if ratio["median"] >= target else "no") if ratio and target else "",
                ]
            )
        header = ["", "ms a step (quartiles)", "images/s", "plain / ours (quartiles)"]
        lines += [f"**Batch {case['batch_size']}**", ""]
        lines += [*markdown_table([*header, "target", "reached"], rows), ""]
    return lines


def numerics_lines(numerics: Json) -> list[str]:
    """The losses of the last epoch and how far they ever are from the plain loop's."""
    losses = numerics["losses"]
    steps = numerics["steps_per_epoch"] * len(losses[PLAIN])
    difference = numerics["largest_relative_difference"]
    rows = [
        [
            name,
            f"{values[0]:.6f}",
            f"{values[-1]:.6f}",
            f"{difference[name]:.1e}" if name in difference else "",
        ]
        for name, values in losses.items()
    ]
    return [
        f"**The same {steps} steps** (same weights and batches, no augmentation, batch "
        f"{numerics['batch_size']}; mean training loss of an epoch)",
        "",
        *markdown_table(["", "first epoch", "last epoch", "largest relative difference"], rows),
        "",
    ]


def profile_lines(profiles: list[Json], most: int = 6) -> list[str]:
    """Where the time goes, and the largest parts of what is outside the models."""
    title = f"**Where the time goes** (everything else is to be under {LARGEST_REST:.0f} %)"
    header = ["", *(f"{one['contestant']}, batch {one['batch_size']}" for one in profiles)]
    names = list(profiles[0]["percent"])
    rows = [[name, *(f"{one['percent'][name]:.1f} %" for one in profiles)] for name in names]
    lines = [title, "", *markdown_table(header, rows), ""]
    for one in profiles:
        parts = list(one["percent_of_everything_else"].items())
        shown = [f"{name} {percent:.2f} %" for name, percent in parts[:most]]
        rest = sum(percent for _, percent in parts[most:])
        lines.append(
            f"- Everything else in {one['contestant']}, batch {one['batch_size']}: "
            f"{', '.join(shown)}, other operators {rest:.2f} %."
        )
    return [*lines, ""]


def accuracy_lines(accuracy: Json) -> list[str]:
    """Top-1 of every seed, and the difference of the means."""
    seeds = len(accuracy["top1"][FLOAT32])
    means = {name: statistics.mean(values) for name, values in accuracy["top1"].items()}
    rows = []
    for name, values in accuracy["top1"].items():
        std = f"{statistics.stdev(values):.2f}" if seeds > 1 else "-"
        rows.append([name, *(f"{value:.1f}" for value in values), f"{means[name]:.2f}", std])
    header = ["top-1, %", *(f"seed {seed}" for seed in range(seeds)), "mean", "std (ddof 1)"]
    return [
        f"**Accuracy** ({accuracy['dataset']}, {accuracy['network']}, IPC {accuracy['ipc']}, "
        f"{accuracy['epochs']} epochs, GIFT; teacher {accuracy['teacher_top1']:.1f} %; all are "
        "tested in float32)",
        "",
        *markdown_table(header, rows),
        "",
        f"bfloat16 minus float32: {means[BF16] - means[FLOAT32]:+.2f} percentage points.",
        "",
    ]


def markdown_report(result: Json) -> str:
    """Everything, with the machine."""
    machine, load = result["machine"], result["load_average_at_start"]
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    lines = [
        f"ConvNet-3 of width {result['width']}, {SIDE} x {SIDE} x 3, {CLASSES} classes, teacher "
        f"online, GIFT; medians of {result['rounds']} rounds of {result['steps']} steps each",
        "",
        f"- {machine['cpu']}, family {machine['cpu_family']}, model {machine['cpu_model']}"
        f"{', in a virtual machine' if machine['virtual_machine'] else ''}: {machine['cores']} "
        f"cores, {result['threads']} threads; {machine['memory_GiB']} GiB of memory; "
        f"load average {load:.1f} at the start",
        f"- {versions}; torch uses {machine['torch_cpu_capability']}; for bfloat16 the CPU has "
        f"{' and '.join(machine['bfloat16_units']) or 'nothing'}",
        f"- {result['date'][:10]}, {result['wall_seconds']} s in all",
        "",
        *speed_lines(result),
        *numerics_lines(result["numerics"]),
        *profile_lines(result["profile"]),
    ]
    if result["accuracy"] is not None:
        lines += accuracy_lines(result["accuracy"])
    return "\n".join(lines).rstrip()


# ---- command line --------------------------------------------------------------------------------


def in_new_process(function: Callable[..., Json], *arguments: Any) -> Json:
    """Runs a function where nothing has run before."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        return process.submit(function, *arguments).result()


def measure(options: argparse.Namespace) -> Json:
    """Everything that the JSON file holds."""
    started = time.perf_counter()
    threads = os.cpu_count() or 1
    works = [Work(options.width, size, options.steps, threads) for size in options.batch_sizes]
    load = os.getloadavg()[0]
    say(f"load average {load:.1f} on {threads} cores; timings need a quiet machine")
    speed = [
        measure_speed(options.contestants, work, options.warm_up, options.rounds) for work in works
    ]
    say("losses after the same steps")
    numerics = in_new_process(compare_losses, works[0], NUMERICS_EPOCHS)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler reports a missing GPU
    profiles = []
    for work, name in itertools.product(works, (FLOAT32, BF16)):
        say(f"batch {work.batch_size}: profile of {name}")
        arguments = (name, work, options.warm_up, PROFILED_EPOCHS)
        profiles.append(in_new_process(measure_shares, *arguments))
    accuracy = None
    if options.accuracy is not None:
        protocol = PROTOCOLS[options.accuracy]
        accuracy = in_new_process(
            compare_accuracies, options.accuracy, protocol, options.seeds, threads
        )
    return {
        "machine": describe_machine(),
        "versions": {name: version(name) for name in ("torch", "torchvision", "accelerate")}
        | {"gift_fast": version("gift-fast")},
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "load_average_at_start": load,
        "threads": threads,
        "width": options.width,
        "steps": options.steps,
        "rounds": options.rounds,
        "warm_up": options.warm_up,
        "wall_seconds": round(time.perf_counter() - started),
        "targets": TARGETS,
        "speed": speed,
        "numerics": numerics,
        "profile": profiles,
        "accuracy": accuracy,
    }


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.student_cpu", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--width", type=int, default=128, help="of student and teacher")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[50, 100])
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--steps", type=int, default=4, help="steps a sample")
    parser.add_argument("--rounds", type=int, default=15, help="samples of each, at least 2")
    parser.add_argument("--warm-up", type=int, default=2, help="rounds before, at least 1")
    parser.add_argument("--accuracy", choices=PROTOCOLS, help="compare accuracies on this dataset")
    parser.add_argument("--seeds", type=int, default=3, help="of --accuracy")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write student_cpu.json here")
    options = parser.parse_args(arguments)
    lowest = {"width": 1, "steps": 1, "rounds": 2, "warm_up": 1, "seeds": 1}
    for name, least in lowest.items():
        if getattr(options, name) < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}")
    if min(options.batch_sizes) < 1:
        parser.error("--batch-sizes must be at least 1")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Measures and reports."""
    options = parse_arguments(arguments)
    if CPU_LIBRARY is None:
        raise SystemExit(f"no CPU kernels to measure: {backends()['cpu']}")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
    result = measure(options)
    if options.out:
        write_text(options.out / "student_cpu.json", json.dumps(result, indent=1) + "\n")
    print(markdown_report(result))


if __name__ == "__main__":
    main()
