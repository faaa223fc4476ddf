"""The parts of a run's state that are not the model's or the optimizer's."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from accelerate import Accelerator


class Stopwatch:
    """Counts seconds while it runs.

    Args:
        seconds: counted before.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.counted = seconds
        self.started: float | None = None

    def start(self) -> None:
        """Counts from now on."""
        self.started = time.perf_counter()

    def stop(self) -> None:
        """Counts no longer."""
        self.counted, self.started = self.seconds, None

    @property
    def seconds(self) -> float:
        """All that has been counted."""
        running = 0.0 if self.started is None else time.perf_counter() - self.started
        return self.counted + running


class LossSum:
    """The losses of an epoch's images, added up on the device.

    Attributes:
        sum: over this process's images, a scalar tensor.
        images: how many these are.
    """

    def __init__(self, device: torch.device) -> None:
        self.sum = torch.zeros((), device=device)
        self.images = 0.0

    def reset(self) -> None:
        """Begins an epoch."""
        self.sum, self.images = torch.zeros_like(self.sum), 0.0

    def add(self, loss: Tensor, images: float) -> None:
        """Adds the mean loss of so many images."""
        self.sum += images * loss
        self.images += images

    def mean(self) -> float:
        """The mean loss; waits for the device. NaN of no image."""
        return float(self.sum) / self.images if self.images else math.nan


def process_state(device: torch.device, total: LossSum) -> dict[str, Any]:
    """The part of a run's state that every process has for itself."""
    host = device.type == "cpu"
    return {
        "device": device.type,
        "random": torch.get_rng_state(),
        "device_random": None if host else torch.get_device_module(device).get_rng_state(),
        "loss": total.sum.cpu(),
        "images": total.images,
    }


def restore_process_state(state: dict[str, Any], device: torch.device, total: LossSum) -> None:
    """Puts back what :func:`process_state` gave."""
    torch.set_rng_state(state["random"])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(state["device_random"])
    total.sum, total.images = state["loss"].to(device), state["images"]


def check_processes(
    path: Path, epoch: int, states: list[dict[str, Any]], accelerator: Accelerator
) -> None:
    """Raises ValueError unless as many processes as saved a state resume it, on such devices."""
    found = accelerator.num_processes, accelerator.device.type
    expected = len(states), states[0]["device"]
    if found != expected:
        raise ValueError(
            f"{path} was saved within epoch {epoch} by {expected[0]} process(es) on {expected[1]} "
            f"and can only be resumed by as many there, got {found[0]} on {found[1]}; remove it to "
            "start anew"
        )
