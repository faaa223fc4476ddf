"""The training loop, for teachers and for students.

On the CPU a run is the same bit for bit from its seed, for the same number of threads: the initial
weights, the order of the images and the augmentation come from three generators of their own.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gift_fast.student.augment import Augmentation
from gift_fast.student.config import EvaluationConfig, TeacherConfig, TrainingConfig
from gift_fast.student.datasets import ImageDataset
from gift_fast.student.distill import DistilledSet
from gift_fast.student.models import build_model
from gift_fast.student.objectives import build_objective
from gift_fast.student.optimizers import build_optimizer
from gift_fast.student.results import Check, RunResult, environment_of, inputs_of

TEST_BATCH_SIZE = 1000

BatchLoss = Callable[[Tensor, Tensor, int], Tensor]
"""(augmented images, indices of these images, epoch from 1) -> scalar."""

OnEpoch = Callable[[int], None]
"""Called with the number of every finished epoch, to show progress."""


def evaluate(
    config: EvaluationConfig,
    dataset: ImageDataset,
    distilled: DistilledSet,
    teacher: nn.Module | None = None,
    *,
    device: torch.device | str = "cpu",
    on_epoch: OnEpoch | None = None,
) -> RunResult:
    """Trains a student on a distilled set and measures its accuracy on the real test split.

    Args:
        config: what to train and how.
        dataset: its test split and its normalisation are used.
        distilled: the images that the student is trained on.
        teacher: takes normalised images to logits. In eval mode, it labels every batch after the
            augmentation, as GIFT's code does, and stored soft labels are not read. None when
            ``config.teacher`` is None: then the soft labels stored with the set are used.
        device: where to train; everything is moved there.
        on_epoch: called with the number of every finished epoch.

    Returns:
        The checks and what they depend on; ``result.last_top1`` is the score.

    Raises:
        ValueError: ``config`` and the other arguments disagree.

    Source: Shang, Sun and Lin, ICLR 2025, section 5 and table 11, and the code that goes with it.
    """
    check_inputs(config, dataset, distilled, teacher)
    device = torch.device(device)
    inputs = inputs_of(dataset, distilled, teacher)
    start = time.perf_counter()

    dataset = dataset.to(device)
    images = dataset.normalize(distilled.images.to(device))
    labels = distilled.labels.to(device)
    label = build_labeller(distilled, teacher, device)
    objective = build_objective(config.loss)
    student = new_model(config.student, dataset, config.seed).to(device)
    checks = []

    def batch_loss(batch: Tensor, index: Tensor, epoch: int) -> Tensor:
        soft_labels = label(batch, index)
        return objective(student(batch), soft_labels, labels[index], epoch)

    def after_epoch(epoch: int, loss: Tensor) -> None:
        if config.is_test_epoch(epoch):
            checks.append(Check(epoch, top1_accuracy(student, dataset), loss.item()))
        if on_epoch is not None:
            on_epoch(epoch)

    fit(student, images, config, batch_loss, after_epoch)
    return RunResult(
        config=config,
        inputs=inputs,
        checks=tuple(checks),
        seconds=time.perf_counter() - start,
        environment=environment_of(device),
    )


def train_teacher(
    config: TeacherConfig,
    dataset: ImageDataset,
    *,
    device: torch.device | str = "cpu",
    on_epoch: OnEpoch | None = None,
) -> nn.Module:
    """Trains a network on the whole training split with cross-entropy; gives it in eval mode."""
    dataset = dataset.to(device)
    images = dataset.normalize(dataset.train_images)
    labels = dataset.train_labels
    teacher = new_model(config.model, dataset, config.seed).to(device)

    def batch_loss(batch: Tensor, index: Tensor, epoch: int) -> Tensor:
        return F.cross_entropy(teacher(batch), labels[index])

    def after_epoch(epoch: int, loss: Tensor) -> None:
        if on_epoch is not None:
            on_epoch(epoch)

    fit(teacher, images, config, batch_loss, after_epoch)
    return teacher.eval()


def fit(
    model: nn.Module,
    images: Tensor,
    config: TrainingConfig,
    batch_loss: BatchLoss,
    after_epoch: Callable[[int, Tensor], None],
) -> None:
    """Trains a model in place on normalised images (N, C, S, S); all that ever trains runs here.

    ``after_epoch`` gets the epoch and its mean loss, a scalar on the device of the images.
    """
    augment = Augmentation(
        config.augmentation, seed=seed_for(config.seed, "augmentation"), device=images.device
    )
    order = torch.Generator().manual_seed(seed_for(config.seed, "order"))
    batch_size = config.batch_size_for(len(images))
    optimizer, schedule = build_optimizer(model, config)

    for epoch in range(1, config.epochs + 1):
        model.train()
        total = torch.zeros((), device=images.device)
        for shuffled in torch.split(torch.randperm(len(images), generator=order), batch_size):
            index = shuffled.to(images.device)
            loss = batch_loss(augment(images[index]), index, epoch)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            total += loss.detach() * len(index)
        schedule.step()
        after_epoch(epoch, total / len(images))


def build_labeller(
    distilled: DistilledSet, teacher: nn.Module | None, device: torch.device
) -> Callable[[Tensor, Tensor], Tensor]:
    """What gives a batch (images, indices) its soft labels: the teacher, or the stored rows."""
    if teacher is None:
        assert distilled.soft_labels is not None  # check_inputs has seen to it
        stored = distilled.soft_labels.to(device)
        return lambda batch, index: stored[index]
    online = teacher.to(device).eval()

    def label(batch: Tensor, index: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = online(batch)
        # A tensor made in inference mode may not be saved for a backward pass; its copy may.
        return logits.clone()

    return label


@torch.inference_mode()
def top1_accuracy(model: nn.Module, dataset: ImageDataset) -> float:
    """Top-1 accuracy on the test split, percent; the model is left in eval mode."""
    model.eval()
    batches = zip(
        torch.split(dataset.normalize(dataset.test_images), TEST_BATCH_SIZE),
        torch.split(dataset.test_labels, TEST_BATCH_SIZE),
        strict=True,
    )
    correct = sum((model(images).argmax(1) == labels).sum() for images, labels in batches)
    return 100.0 * int(correct) / len(dataset.test_labels)


def new_model(model: str, dataset: ImageDataset, seed: int) -> nn.Module:
    """A freshly initialised network that fits the images and classes of a dataset."""
    return build_model(
        model,
        channels=dataset.channels,
        side=dataset.side,
        num_classes=dataset.num_classes,
        seed=seed_for(seed, "initialisation"),
    )


def seed_for(seed: int, purpose: str) -> int:
    """A seed of its own for every purpose, so that their random numbers are unrelated."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:6], "big")


def check_inputs(
    config: EvaluationConfig,
    dataset: ImageDataset,
    distilled: DistilledSet,
    teacher: nn.Module | None,
) -> None:
    """Raises ValueError where the configuration and what it is to be run on disagree."""
    expected = config.ipc * dataset.num_classes
    if len(distilled.images) != expected:
        raise ValueError(
            f"distilled must hold {expected} images, {config.ipc} for each of "
            f"{dataset.num_classes} classes, got {len(distilled.images)}"
        )
    if distilled.images.shape[1:] != dataset.test_images.shape[1:]:
        raise ValueError(
            f"distilled must hold images of shape {tuple(dataset.test_images.shape[1:])}, "
            f"got {tuple(distilled.images.shape[1:])}"
        )
    if config.teacher is not None and teacher is None:
        raise ValueError(f"teacher must be a network, config.teacher is {config.teacher!r}")
    if config.teacher is None and teacher is not None:
        raise ValueError("teacher must be None, as config.teacher is; got a network")
    if teacher is None and distilled.soft_labels is None:
        raise ValueError("distilled must hold soft_labels where there is no teacher, got none")
