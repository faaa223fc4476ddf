"""Peak memory of a device or of this process."""

from __future__ import annotations

import sys

import torch


def peak_memory(device: torch.device) -> int:
    """Peak memory so far, in bytes: torch's allocations on a GPU, otherwise those of this process.

    Returns 0 if neither the module ``resource`` (missing on Windows) nor psutil is available.
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
