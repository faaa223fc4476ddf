"""Versions and devices that a run is recorded with."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import torch

import gift_fast
from gift_fast.loss import operators

if TYPE_CHECKING:
    from accelerate import Accelerator


def environment_of(accelerator: Accelerator) -> dict[str, str]:
    """The environment of a run; it is recorded, but not part of the run's identity."""
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    backends = operators.backends()
    used = "cuda triton reference" if device.type == "cuda" else "cpu reference"
    return {
        "gift_fast": gift_fast.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": f"{device.type} ({name})",
        "backend": next(b for b in used.split() if backends.get(b) == "available"),
        "processes": str(accelerator.num_processes),
        "threads": str(torch.get_num_threads()),
    }
