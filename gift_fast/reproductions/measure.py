"""Time measurements on this machine, from short runs of teachers, sets and students.

A short run has the shapes, networks and settings of the full run, with random images instead of
distilled ones and untrained networks. Its epochs and tests are timed individually, except those at
the start, in which code is compiled.
"""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch

from gift_fast.data.datasets import ImageDataset
from gift_fast.data.distilled import DistilledSet
from gift_fast.distillation import METHODS
from gift_fast.evaluation.config import EvaluationConfig, TeacherConfig
from gift_fast.evaluation.context import RunContext
from gift_fast.evaluation.student import train_student
from gift_fast.evaluation.teacher import train_teacher
from gift_fast.files import spec
from gift_fast.training.eval_result import EvalResult
from gift_fast.training.models import new_model
from gift_fast.training.objectives import build_objective
from gift_fast.training.observer import Observer

IMAGES = 500
"""Minimum number of training images between two tests of a short run."""

TEST_IMAGES = 1000
"""Maximum number of test images of a short run."""

TEACHER_EPOCHS = 20
"""Epochs of a teacher's short run. A teacher is tested ten times per run, so every second epoch."""

CLASSES = 2
"""Classes of the short run of a distillation method, whose time is proportional to their number."""


@dataclass(frozen=True)
class RunTime:
    """The components of a run's time, in seconds.

    Attributes:
        start: time that is spent once per run, such as compilation.
        epoch: time of one training epoch.
        test: time of one test on the whole test split.
    """

    start: float
    epoch: float
    test: float

    def seconds(self, epochs: int, tests: int) -> float:
        """The time of a run with this many epochs and tests.

        Example:
            >>> RunTime(start=5.0, epoch=0.5, test=2.0).seconds(epochs=100, tests=4)
            63.0
        """
        return self.start + epochs * self.epoch + tests * self.test


class Stopwatch(Observer):
    """Times every epoch of a run, including the test that follows it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.without_test: list[float] = []
        self.with_test: list[float] = []

    def start(self, epochs: int, done: float) -> None:
        """See :class:`Observer`."""
        self.start_time = self.last_time = time.perf_counter()

    def epoch(self, number: int, images: int, check: EvalResult | None) -> None:
        """See :class:`Observer`."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        now = time.perf_counter()
        if check is None:
            self.without_test.append(now - self.last_time)
        else:
            if not self.with_test:  # epochs before the first test include compilation
                self.without_test.clear()
            self.with_test.append(now - self.last_time)
        self.last_time = now

    def run_time(self, epochs: int, test_share: float) -> RunTime:
        """The time components of the run.

        Args:
            epochs: number of epochs of the run.
            test_share: share of the test images that its tests used.
        """
        epoch = median(self.without_test)
        test = max(median(self.with_test[1:]) - epoch, 0.0)
        total = self.last_time - self.start_time
        start = max(total - epochs * epoch - len(self.with_test) * test, 0.0)
        return RunTime(start, epoch, test / test_share)


def measure_student(
    config: EvaluationConfig, dataset: ImageDataset, context: RunContext
) -> RunTime:
    """Measure the time of a student on a set of ``config.ipc`` images per class.

    Args:
        config: configuration of the student.
        dataset: the dataset, with its test split.
        context: the device and the folders.
    """
    assert config.ipc is not None
    small, share = with_fewer_test_images(dataset)
    labels = torch.arange(dataset.num_classes).repeat_interleave(config.ipc)
    shape = (len(labels), *dataset.test.shape)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    reads = build_objective(config.loss).reads_soft_labels
    config = replace(config, teachers=config.teachers if reads else ())
    every = 1 + max(1, math.ceil(IMAGES / len(labels)))
    config = replace(config, epochs=3 * every, eval_every=every, eval_after=0.0)
    accelerator = context.accelerator(config)
    stopwatch = Stopwatch(accelerator.device)
    train_student(
        config,
        small,
        DistilledSet(images, labels),
        [new_model(teacher, dataset, seed=0) for teacher in config.teachers],
        accelerator=accelerator,
        observer=stopwatch,
    )
    return stopwatch.run_time(3 * every, share)


def measure_teacher(config: TeacherConfig, dataset: ImageDataset, context: RunContext) -> RunTime:
    """Measure the time of a teacher.

    Args:
        config: configuration of the teacher.
        dataset: the dataset, with both splits.
        context: the device and the folders.
    """
    split = dataset.training_split
    config = replace(config.resolved(len(split)), epochs=TEACHER_EPOCHS)
    assert config.batch_size is not None
    small, share = with_fewer_test_images(dataset)
    images = min(2 * config.batch_size, len(split))
    small = replace(small, train=split.subset(torch.arange(images)))
    accelerator = context.accelerator(config)
    stopwatch = Stopwatch(accelerator.device)
    train_teacher(config, small, accelerator=accelerator, observer=stopwatch)
    measured = stopwatch.run_time(TEACHER_EPOCHS, share)
    return replace(measured, epoch=measured.epoch * len(split) / images)


def measure_set(
    method: str, dataset: ImageDataset, network: str, ipc: int, context: RunContext
) -> float:
    """Measure the seconds that it takes to generate one distilled set.

    Args:
        method: a method of :mod:`gift_fast.distillation`.
        dataset: the dataset, with its training split.
        network: network of the teacher.
        ipc: images per class.
        context: the device and the folders.
    """
    device = context.accelerator(TeacherConfig(dataset=dataset.name, model=network)).device
    split = dataset.training_split
    classes = min(CLASSES, dataset.num_classes)
    index = (split.labels.cpu() < classes).nonzero().squeeze(1)
    small = replace(dataset, train=split.subset(index), class_names=dataset.class_names[:classes])
    teacher = new_model(network, small, seed=0).to(device).eval()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        spec.build("method", method, METHODS, small, teacher, Path(folder), ipc, 0)
        seconds = time.perf_counter() - start
    return seconds * dataset.num_classes / classes


def with_fewer_test_images(dataset: ImageDataset) -> tuple[ImageDataset, float]:
    """The dataset with at most ``TEST_IMAGES`` test images, and their share of all test images."""
    count = min(TEST_IMAGES, len(dataset.test))
    small = replace(dataset, test=dataset.test.subset(torch.arange(count)))
    return small, count / len(dataset.test)
