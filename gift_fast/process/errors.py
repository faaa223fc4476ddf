"""What a user can do about an error, in one line.

An error that names an argument or a file says so itself. Others come from far below: from torch's
allocators, from a disk that is full, from a driver. They are recognized here, and get a line that
says what to do. Whatever is not recognized is a programming error and keeps its traceback.

Nothing is imported that may be missing: the command asks here when an import has failed.
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
"""What RuntimeErrors of torch say where memory is short."""

NO_DEVICE = (
    "No CUDA GPUs are available",
    "Found no NVIDIA driver",
    "NVIDIA driver on your system is too old",
    "driver version is insufficient",
    "device(s) is/are busy or unavailable",
    "no kernel image is available",
)
"""What RuntimeErrors of torch say where a GPU cannot be used."""

DISK_FULL = tuple(getattr(errno, name) for name in ("ENOSPC", "EDQUOT") if hasattr(errno, name))
"""No space left on the device; the user's quota is exhausted."""

LONGEST = 300
"""Characters of a foreign message that are repeated."""


def in_words(error: BaseException) -> str | None:
    """One line on what is wrong and what to do, or None for a programming error.

    Args:
        error: that a command, or a run of a study, has ended with.

    Example:
        >>> in_words(ValueError("epochs must be at least 1, got 0"))
        'epochs must be at least 1, got 0'
        >>> in_words(OSError(28, "No space left on device", "runs/a.json"))  # doctest: +ELLIPSIS
        "the disk is full ([Errno 28] No space left on device: 'runs/a.json'); free some space ...
        >>> in_words(AttributeError("'NoneType' object has no attribute 'shape'"))
    """
    if is_out_of_memory(error):
        return out_of_memory_in_words(error)
    if is_disk_full(error) and str(error).startswith("[Errno"):  # else it is told in words already
        return (
            f"the disk is full ({error}); free some space and run the same command again: what has "
            "finished is kept"
        )
    if isinstance(error, RuntimeError) and any(text in str(error) for text in NO_DEVICE):
        return (
            f"the GPU cannot be used: {first_line(error)}; `gift-fast doctor` shows what torch "
            "finds, and --device cpu does without a GPU"
        )
    if isinstance(error, ImportError | OSError | ValueError):
        return str(error)
    return None


def is_disk_full(error: BaseException) -> TypeGuard[OSError]:
    """Whether there was no space left to write to."""
    return isinstance(error, OSError) and error.errno in DISK_FULL


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was short, of a device or of the machine."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    if isinstance(error, MemoryError):
        return True
    short = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return short or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY)
    )


def out_of_memory_in_words(error: BaseException) -> str:
    """Whose memory was short, and what takes less."""
    torch = sys.modules.get("torch")
    on_gpu = torch is not None and isinstance(error, torch.OutOfMemoryError)
    on_gpu = on_gpu or "CUDA" in str(error) or "CUBLAS" in str(error) or "HIP" in str(error)
    said = f" ({first_line(error)})" if str(error) else ""
    if on_gpu:
        return (
            f"the GPU is out of memory{said}; a smaller batch size, a smaller network or mixed "
            "precision bf16 takes less, and nvidia-smi shows who else uses the GPU"
        )
    return (
        f"out of memory{said}; a smaller batch size or a smaller network takes less, and so do "
        "fewer runs or processes at a time on this machine"
    )


def first_line(error: BaseException) -> str:
    r"""What an error says, without the lines of advice and the trace that torch appends.

    Example:
        >>> first_line(RuntimeError("CUDA error: out of memory\nFor debugging consider ..."))
        'CUDA error: out of memory'
    """
    line = str(error).strip().partition("\n")[0].rstrip(".")
    return line if len(line) <= LONGEST else line[:LONGEST].rstrip() + " ..."
