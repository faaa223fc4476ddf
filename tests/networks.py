"""Networks and losses of a user's own, named by import path in the tests."""

from __future__ import annotations

import sys
import time

from torch import Tensor, nn
from torch.nn import functional as F


def dropout(channels: int, side: int, num_classes: int, *, rate: float = 0.5) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Dropout(rate), nn.Linear(channels * side * side, num_classes)
    )


def normalized_dropout(channels: int, side: int, num_classes: int) -> nn.Module:
    """With a state of every kind: weights, running statistics, and random numbers in every step."""
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(4 * side * side, num_classes),
    )


def slow_to_build(channels: int, side: int, num_classes: int) -> nn.Module:
    print("building", file=sys.stderr, flush=True)
    time.sleep(60)
    return dropout(channels, side, num_classes)


def huber(*, delta: float = 1.0):
    def loss(logits: Tensor, soft_labels: Tensor, target: Tensor, epoch: int) -> Tensor:
        return F.huber_loss(logits, soft_labels, delta=delta)

    return loss


def headless(channels: int, side: int, num_classes: int) -> nn.Module:
    return nn.Flatten()


def unreduced():
    def loss(logits: Tensor, soft_labels: Tensor, target: Tensor, epoch: int) -> Tensor:
        return F.cross_entropy(logits, target, reduction="none")

    return loss
