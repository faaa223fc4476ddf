"""One-line error messages with advice for the user.

Errors that name an argument or a file already have a good message. Others come from torch's
allocators, a full disk or a driver; they are recognized here and get a line with advice. All other
errors are programming errors and keep their traceback.

This module only needs the standard library, because it also reports failed imports.
"""

from __future__ import annotations

import errno
import sys
from typing import TypeGuard

OUT_OF_MEMORY = (
    "DefaultCPUAllocator",  # torch on the CPU
    "out of memory",  # CUDA, where the error is a plain RuntimeError; ROCm; XPU
    "CUBLAS_STATUS_ALLOC_FAILED",
    "Cannot allocate memory",  # mmap and fork
)
"""Substrings of torch's RuntimeErrors if memory is exhausted."""

NO_DEVICE = (
    "No CUDA GPUs are available",
    "Found no NVIDIA driver",
    "NVIDIA driver on your system is too old",
    "driver version is insufficient",
    "device(s) is/are busy or unavailable",
    "no kernel image is available",
)
"""Substrings of torch's RuntimeErrors if a GPU cannot be used."""

DISK_FULL = tuple(getattr(errno, name) for name in ("ENOSPC", "EDQUOT") if hasattr(errno, name))
"""No space left on the device; the user's quota is exhausted."""

MAX_LENGTH = 300
"""Maximum number of characters that are quoted from another library's message."""


def error_message(error: BaseException) -> str | None:
    """Return a one-line message with the cause and advice, or None for a programming error.

    Args:
        error: the exception that ended a command, or a run of a study.

    Example:
        >>> error_message(ValueError("epochs must be at least 1, got 0"))
        'epochs must be at least 1, got 0'
        >>> error_message(OSError(28, "No space left on device", "a.json"))  # doctest: +ELLIPSIS
        "the disk is full ([Errno 28] No space left on device: 'a.json'); free some space ...
        >>> error_message(AttributeError("'NoneType' object has no attribute 'shape'"))
    """
    if is_out_of_memory(error):
        return out_of_memory_message(error)
    if is_disk_full(error) and str(error).startswith("[Errno"):  # otherwise it has advice already
        return (
            f"the disk is full ({error}); free some space and run the same command again: finished "
            "results are kept"
        )
    if isinstance(error, RuntimeError) and any(text in str(error) for text in NO_DEVICE):
        return (
            f"the GPU cannot be used: {first_line(error)}; `gift-fast doctor` shows the devices "
            "that torch finds, and --device cpu runs without a GPU"
        )
    if isinstance(error, ImportError | OSError | ValueError):
        return str(error)
    return None


def is_disk_full(error: BaseException) -> TypeGuard[OSError]:
    """Whether the error is a full disk or an exhausted quota."""
    return isinstance(error, OSError) and error.errno in DISK_FULL


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory of a device or of the machine was exhausted."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY)


def out_of_memory_message(error: BaseException) -> str:
    """A message that names the memory that was exhausted, and how to use less."""
    torch = sys.modules.get("torch")
    on_gpu = torch is not None and isinstance(error, torch.OutOfMemoryError)
    on_gpu = on_gpu or "CUDA" in str(error) or "CUBLAS" in str(error) or "HIP" in str(error)
    original = f" ({first_line(error)})" if str(error) else ""
    if on_gpu:
        return (
            f"the GPU is out of memory{original}; use a smaller batch size, a smaller network or "
            "mixed precision bf16, and check with nvidia-smi which other processes use the GPU"
        )
    return (
        f"out of memory{original}; use a smaller batch size, a smaller network, or fewer "
        "concurrent runs or processes on this machine"
    )


def first_line(error: BaseException) -> str:
    r"""The first line of an error message, without the advice and the trace that torch appends.

    Example:
        >>> first_line(RuntimeError("CUDA error: out of memory\nFor debugging consider ..."))
        'CUDA error: out of memory'
    """
    line = str(error).strip().partition("\n")[0].rstrip(".")
    return line if len(line) <= MAX_LENGTH else line[:MAX_LENGTH].rstrip() + " ..."
