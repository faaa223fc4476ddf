"""The peak memory of a device or of this process."""

from __future__ import annotations

import sys

import torch


def peak_memory(device: torch.device) -> int:
    """Peak memory so far in bytes: torch's on a GPU, else that of this process.

    0 if neither the module ``resource``, which Windows lacks, nor psutil can measure it.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:
        return peak_of_psutil()
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes if sys.platform == "darwin" else 1024 * kilobytes


def peak_of_psutil() -> int:
    """Peak memory of this process on Windows, its current memory on other systems, or 0."""
    try:
        import psutil  # type: ignore[import-untyped]  # accelerate requires it
    except ImportError:
        return 0
    memory = psutil.Process().memory_info()
    return int(getattr(memory, "peak_wset", memory.rss))
