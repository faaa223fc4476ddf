"""Predictions and accuracy of a network, for training and for audits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gift_fast.data.datasets.image_dataset import ImageDataset
from gift_fast.data.images.splits import Split
from gift_fast.process.log_lines import log_lines
from gift_fast.training.processes import processes_of

if TYPE_CHECKING:
    from accelerate import Accelerator

BATCH_SIZE = 1000

TOP = 5
"""The k of top-5. With at most five classes, every image counts as correct."""

Transform = Callable[[Tensor], Tensor]
"""Maps images (B, C, H, W) in [0, 1] to the inputs of a network, of the same shape."""


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of a network on labeled images.

    Attributes:
        top1: percent of the images whose label has the largest logit.
        top5: percent of the images whose label has one of the five largest logits.
        loss: mean cross-entropy with the labels, in nats.
        halves: ``top1`` on each half of the images, see :func:`second_half`; NaN without images.
    """

    top1: float
    top5: float
    loss: float
    halves: tuple[float, float] = (math.nan, math.nan)

    @classmethod
    def from_counts(cls, counts: Tensor) -> Accuracy:
        """The accuracy from the counts of :func:`count_correct`, or from a sum of them.

        Example:
            >>> Accuracy.from_counts(torch.tensor([[2.0, 2.0, 2.0, 1.0], [2.0, 0.0, 1.0, 5.0]]))
            Accuracy(top1=50.0, top5=75.0, loss=1.5, halves=(100.0, 0.0))
        """
        images, top1, top5, loss = counts.sum(0).tolist()
        first, second = (100.0 * counts[:, 1] / counts[:, 0]).tolist()
        return cls(
            top1=100.0 * top1 / images,
            top5=100.0 * top5 / images,
            loss=loss / images,
            halves=(first, second),
        )


def measure_accuracy(
    model: nn.Module,
    dataset: ImageDataset,
    split: Split | None = None,
    *,
    transform: Transform | None = None,
    batch_size: int = BATCH_SIZE,
) -> Accuracy:
    """The accuracy of a network on a split, by default the test split.

    The arguments are those of :func:`count_correct`.

    Example:
        >>> from gift_fast.data.datasets import load_dataset
        >>> untrained = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        >>> measure_accuracy(untrained, load_dataset("digits")).top1 < 50
        True
    """
    counts = count_correct(model, dataset, split, transform=transform, batch_size=batch_size)
    return Accuracy.from_counts(counts)


def count_correct(
    model: nn.Module,
    dataset: ImageDataset,
    split: Split | None = None,
    *,
    transform: Transform | None = None,
    batch_size: int = BATCH_SIZE,
    start: int = 0,
    stop: int | None = None,
) -> Tensor:
    """Count the images that a network classifies correctly; counts of disjoint parts can be added.

    The host waits for the device once, at the end.

    Args:
        model: maps the output of ``transform`` to logits (B, C). It runs in eval mode, on its own
            device and in its own dtype; its mode is restored.
        dataset: has the normalization and, if ``split`` is None, the test split.
        split: labeled images, with labels in [0, C).
        transform: replaces ``dataset.normalize``.
        batch_size: images per batch.
        start: first image to count.
        stop: end of the images to count, exclusive; None counts all.

    Returns:
        Float64 (2, 4), on the CPU, one row for each half of the images (:func:`second_half`):
        number of images, correct by top-1, correct by top-5, sum of the cross-entropy. Ties are
        broken as in ``torch.topk``.
    """
    split = dataset.test if split is None else split
    part = torch.arange(start, len(split) if stop is None else stop)
    halves = second_half(split.labels).to(split.labels.device)[start:stop].split(batch_size)
    # Summed on the CPU in float64, because long float32 sums lose digits and not every device has
    # float64.
    counts = []
    with evaluating(model):
        batches = run(model, split, transform or dataset.normalize, part, batch_size)
        for (logits, target), half in zip(batches, halves, strict=True):
            hits = logits.topk(min(TOP, logits.shape[1])).indices == target.unsqueeze(1)
            loss = F.cross_entropy(logits.float(), target, reduction="none")
            each = torch.stack([torch.ones_like(loss), hits[:, 0], hits.sum(1), loss])
            rows = torch.stack([~half, half]).to(each)
            counts.append(rows @ each.T)
    return torch.stack(counts).cpu().double().sum(0) if counts else torch.zeros(2, 4).double()


def second_half(labels: Tensor) -> Tensor:
    """A mask of the second half of a split: every other image of each class.

    The two halves have equal shares of every class, so that settings can be chosen on one half and
    accuracy reported on the other.

    Args:
        labels: (N) int64, of the whole split.

    Returns:
        Bool (N), on the CPU.

    Example:
        >>> second_half(torch.tensor([7, 7, 3, 7, 3]))
        tensor([False,  True, False, False,  True])
    """
    labels = labels.cpu()
    order = labels.argsort(stable=True)
    _, counts = torch.unique_consecutive(labels[order], return_counts=True)
    first = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    half = torch.empty(len(labels), dtype=torch.bool)
    half[order] = (torch.arange(len(labels)) - first) % 2 == 1
    return half


def predict(
    model: nn.Module,
    split: Split,
    transform: Transform,
    *,
    batch_size: int = BATCH_SIZE,
) -> Tensor:
    """The logits of every image, in the order of the split.

    Args:
        model: see :func:`count_correct`.
        split: the images.
        transform: maps images in [0, 1] to the network's inputs, such as ``dataset.normalize``.
        batch_size: images per batch.

    Returns:
        Float32 (N, C) on the device of the model, without a gradient.
    """
    with evaluating(model):
        batches = run(model, split, transform, torch.arange(len(split)), batch_size)
        logits = [batch.float() for batch, _ in batches]
    # Outside of inference mode, so that autograd can use the result.
    return torch.cat(logits)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A context in eval mode and inference mode; restores the mode of every module."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def run(
    model: nn.Module, split: Split, transform: Transform, part: Tensor, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits and labels of a part of a split in batches, on the device of the model."""
    like = next(model.parameters(), None)
    for images, target in split.batches(part.split(batch_size)):
        if like is not None:
            images, target = images.to(like.device), target.to(like.device)
        inputs = transform(images)
        yield model(inputs if like is None else inputs.to(like.dtype)), target


def test_on_all(
    student: nn.Module, dataset: ImageDataset, whiten: Transform | None, accelerator: Accelerator
) -> Accuracy:
    """The accuracy on the test split, which is divided among the processes."""
    part, share = processes_of(accelerator).part_of(len(dataset.test))
    with log_lines(f"testing on {len(dataset.test)} images"):
        counts = count_correct(student, dataset, transform=whiten, start=part.start, stop=part.stop)
    if accelerator.num_processes > 1:
        counts = (counts * (share > 0)).to(accelerator.device)
        counts = accelerator.reduce(counts, "sum").cpu()
    return Accuracy.from_counts(counts)
