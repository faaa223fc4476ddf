"""How long parts of a study take on this machine, from a short run of each.

A short run has the shapes, networks and settings of the real one, with random images in the place
of distilled ones and networks that have not been trained. Its epochs and its tests are timed one by
one, without those at the start, in which code is compiled.
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
"""Training images between two tests of a short run, at least."""

TEST_IMAGES = 1000
"""Images of a short run's test."""

TEACHER_EPOCHS = 20
"""Of a short run: a teacher is tested after every tenth of its epochs, so after every second."""

CLASSES = 2
"""Of the short run of a method that makes sets: its time grows with their number."""


@dataclass(frozen=True)
class Pace:
    """What a run's time is made of, in seconds.

    Attributes:
        start: once per run, such as compilation.
        epoch: of training.
        test: of the whole test split.
    """

    start: float
    epoch: float
    test: float

    def seconds(self, epochs: int, tests: int) -> float:
        """The time of a run.

        Example:
            >>> Pace(start=5.0, epoch=0.5, test=2.0).seconds(epochs=100, tests=4)
            63.0
        """
        return self.start + epochs * self.epoch + tests * self.test


class Stopwatch(Observer):
    """Times every epoch of a run, together with the test that follows it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.plain: list[float] = []
        self.tested: list[float] = []

    def start(self, epochs: int, done: float) -> None:
        """See :class:`Observer`."""
        self.begun = self.mark = time.perf_counter()

    def epoch(self, number: int, images: int, check: EvalResult | None) -> None:
        """See :class:`Observer`."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        now = time.perf_counter()
        if check is None:
            self.plain.append(now - self.mark)
        else:
            if not self.tested:  # what came before was compiled on the way
                self.plain.clear()
            self.tested.append(now - self.mark)
        self.mark = now

    def pace(self, epochs: int, test_share: float) -> Pace:
        """The pace of a run of so many epochs whose tests had this share of the test images."""
        epoch = median(self.plain)
        test = max(median(self.tested[1:]) - epoch, 0.0)
        spent = self.mark - self.begun
        start = max(spent - epochs * epoch - len(self.tested) * test, 0.0)
        return Pace(start, epoch, test / test_share)


def measure_student(config: EvaluationConfig, dataset: ImageDataset, context: RunContext) -> Pace:
    """The pace of a student on a set of ``config.ipc`` images per class.

    Args:
        config: of the student.
        dataset: with its test split.
        context: where it is to run.
    """
    assert config.ipc is not None
    few, share = with_few_tests(dataset)
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
        few,
        DistilledSet(images, labels),
        [new_model(teacher, dataset, seed=0) for teacher in config.teachers],
        accelerator=accelerator,
        observer=stopwatch,
    )
    return stopwatch.pace(3 * every, share)


def measure_teacher(config: TeacherConfig, dataset: ImageDataset, context: RunContext) -> Pace:
    """The pace of a teacher.

    Args:
        config: of the teacher.
        dataset: with both splits.
        context: where it is to run.
    """
    split = dataset.training_split
    config = replace(config.resolved(len(split)), epochs=TEACHER_EPOCHS)
    assert config.batch_size is not None
    few, share = with_few_tests(dataset)
    part = min(2 * config.batch_size, len(split))
    few = replace(few, train=split.subset(torch.arange(part)))
    accelerator = context.accelerator(config)
    stopwatch = Stopwatch(accelerator.device)
    train_teacher(config, few, accelerator=accelerator, observer=stopwatch)
    pace = stopwatch.pace(TEACHER_EPOCHS, share)
    return replace(pace, epoch=pace.epoch * len(split) / part)


def measure_set(
    method: str, dataset: ImageDataset, network: str, ipc: int, context: RunContext
) -> float:
    """The seconds that making one distilled set takes.

    Args:
        method: see :mod:`gift_fast.distillation`.
        dataset: with its training split.
        network: of the teacher.
        ipc: images per class.
        context: where it is to run.
    """
    device = context.accelerator(TeacherConfig(dataset=dataset.name, model=network)).device
    split = dataset.training_split
    classes = min(CLASSES, dataset.num_classes)
    index = (split.labels.cpu() < classes).nonzero().squeeze(1)
    few = replace(dataset, train=split.subset(index), class_names=dataset.class_names[:classes])
    teacher = new_model(network, few, seed=0).to(device).eval()
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        spec.build("method", method, METHODS, few, teacher, Path(folder), ipc, 0)
        spent = time.perf_counter() - begun
    return spent * dataset.num_classes / classes


def with_few_tests(dataset: ImageDataset) -> tuple[ImageDataset, float]:
    """A dataset with part of its test images, and the share of them that it has."""
    count = min(TEST_IMAGES, len(dataset.test))
    few = replace(dataset, test=dataset.test.subset(torch.arange(count)))
    return few, count / len(dataset.test)
