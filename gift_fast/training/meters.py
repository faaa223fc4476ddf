"""Meters of a training run: a stopwatch and the running mean of the loss."""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor


class Stopwatch:
    """Counts seconds while it runs.

    Args:
        seconds: initial count, such as that of a checkpoint.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.counted = seconds
        self.started: float | None = None

    def start(self) -> None:
        """Start counting."""
        self.started = time.perf_counter()

    def stop(self) -> None:
        """Stop counting."""
        self.counted, self.started = self.seconds, None

    @property
    def seconds(self) -> float:
        """The total count, including the interval that is running."""
        running = 0.0 if self.started is None else time.perf_counter() - self.started
        return self.counted + running


class LossSum:
    """The sum of the losses of an epoch's images, kept on the device.

    Attributes:
        sum: over this process's images, a scalar tensor.
        images: number of images in the sum.
    """

    def __init__(self, device: torch.device) -> None:
        self.sum = torch.zeros((), device=device)
        self.images = 0.0

    def reset(self) -> None:
        """Set the sum to zero, at the start of an epoch."""
        self.sum, self.images = torch.zeros_like(self.sum), 0.0

    def add(self, loss: Tensor, images: float) -> None:
        """Add the mean loss of ``images`` images."""
        self.sum += images * loss
        self.images += images

    def mean(self) -> float:
        """The mean loss, NaN before the first image; waits for the device."""
        return float(self.sum) / self.images if self.images else math.nan
