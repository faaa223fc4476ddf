"""Checks of folders and disk space before something is written."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

from torch import nn

from gift_fast.files.atomic import NotWritten

OPTIMIZER_TENSORS = 2
"""Maximum number of tensors that an optimizer stores per parameter: AdamW's two moments."""


def nearest_existing(folder: Path) -> Path:
    """The folder itself, or its nearest parent that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def check_can_write(folder: Path) -> None:
    """Raise OSError if a folder cannot be written to, without creating it.

    Args:
        folder: need not exist; if it does not, the nearest existing parent is checked.

    Raises:
        OSError: there is a file of that name, or the folder is not writable; the message names it.
    """
    existing = nearest_existing(folder)
    if not existing.is_dir():
        raise NotADirectoryError(f"{folder} must be a folder, but {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} must be a writable folder, but {existing} is not writable")
    with tempfile.TemporaryFile(dir=existing):  # the file system may be read-only
        pass


def check_space(folder: Path, needed: float, what: str) -> None:
    """Raise OSError unless a folder's disk has enough space.

    Args:
        folder: need not exist.
        needed: number of bytes.
        what: the files that need the space, such as "checkpoints".

    Raises:
        NotWritten: an OSError with ``errno.ENOSPC``; the message gives both numbers.
    """
    free = shutil.disk_usage(nearest_existing(folder)).free
    if free < needed:
        raise NotWritten(
            errno.ENOSPC,
            f"not enough disk space for {what}: {folder} needs {format_size(needed)}, but only "
            f"{format_size(free)} are free. Free some space, or choose another disk",
        )


def checkpoint_bytes(network: nn.Module, *, averaged: bool = False) -> int:
    """Disk space for a training run: one checkpoint, and the next one while it is written.

    Args:
        network: the network to train.
        averaged: whether the checkpoint also contains a moving average of the weights.
    """
    weights: int = sum(x.numel() * x.element_size() for x in network.state_dict().values())
    return 2 * (1 + OPTIMIZER_TENSORS + averaged) * weights


def format_size(size: float) -> str:
    """Format a number of bytes as MB or GB.

    Example:
        >>> format_size(1_234_000_000), format_size(2_500_000)
        ('1.2 GB', '2.5 MB')
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
