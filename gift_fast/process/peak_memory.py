"""The most memory that a device or this process has held."""

from __future__ import annotations

import sys

import torch


def peak_memory(device: torch.device) -> int:
    """Most bytes held at a time so far: of the GPU by torch, else of this process.

    0 where neither the module ``resource``, which Windows lacks, nor psutil can tell.
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
    """Most bytes held by this process on Windows, what it holds now on another system, or 0."""
    try:
        import psutil  # type: ignore[import-untyped]  # accelerate requires it
    except ImportError:
        return 0
    memory = psutil.Process().memory_info()
    return int(getattr(memory, "peak_wset", memory.rss))
