"""Checks of folders and disk space before something is written."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

from torch import nn

from gift_fast.files.atomic import NotWritten

STATES = 2
"""Largest number of tensors per parameter that an optimizer stores: AdamW's two moments."""


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def check_can_write(folder: Path) -> None:
    """Raises OSError if a folder cannot be written to; does not create it.

    Args:
        folder: need not exist; if it does not, the nearest existing parent is checked.

    Raises:
        OSError: there is a file of that name, or the folder is not writable; the message names it.
    """
    there = existing(folder)
    if not there.is_dir():
        raise NotADirectoryError(f"{folder} must be a folder, but {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} must be a folder that can be written to, {there} cannot")
    with tempfile.TemporaryFile(dir=there):  # a disk may be read-only
        pass


def check_space(folder: Path, needed: float, what: str) -> None:
    """Raises OSError unless a folder's disk has enough space.

    Args:
        folder: need not exist.
        needed: number of bytes.
        what: the files that need them, such as "checkpoints".

    Raises:
        NotWritten: an OSError with ``errno.ENOSPC``; the message gives both numbers.
    """
    free = shutil.disk_usage(existing(folder)).free
    if free < needed:
        raise NotWritten(
            errno.ENOSPC,
            f"the disk is too full for {what}: {folder} needs {size_in_words(needed)}, "
            f"{size_in_words(free)} are free. Free some space, or choose another disk",
        )


def checkpoint_bytes(network: nn.Module, *, averaged: bool = False) -> int:
    """Disk space of a training run: a checkpoint, and the next one while it is written.

    Args:
        network: that is trained.
        averaged: whether the checkpoint also holds a moving average of the weights.
    """
    weights: int = sum(x.numel() * x.element_size() for x in network.state_dict().values())
    return 2 * (1 + STATES + averaged) * weights


def size_in_words(size: float) -> str:
    """A number of bytes.

    Example:
        >>> size_in_words(1_234_000_000), size_in_words(2_500_000)
        ('1.2 GB', '2.5 MB')
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
