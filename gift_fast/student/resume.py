"""The state of a training run between two epochs, in one file, so that a killed run goes on."""

from __future__ import annotations

import errno
import warnings
from pathlib import Path
from typing import Any

import torch

from gift_fast.advice import is_out_of_memory
from gift_fast.student.atomic import replacing

FORMAT = 1
"""Raised whenever the meaning of an entry changes; files of another format are not read."""


def write_state(path: Path, identity: dict[str, Any], state: dict[str, Any]) -> None:
    """Writes a state, whole or not at all.

    Args:
        path: the file; an older state there is replaced.
        identity: plain values that say which run this is.
        state: tensors and plain values.
    """
    with replacing(path) as temporary:
        torch.save({"format": FORMAT, "identity": identity, "state": state}, temporary)


class DamagedCheckpoint(ValueError):  # noqa: N818, it says what the file is
    """A checkpoint that cannot be read: cut off when power or disk failed, or no checkpoint."""


def find_state(path: Path, identity: dict[str, Any], *, main: bool = True) -> dict[str, Any] | None:
    """The state that a run resumes from, or None where it starts anew.

    A damaged checkpoint is set aside, and a warning tells it: what is trained anew from its seed
    ends as if nothing had happened, and in a study the other runs need not wait for anyone.

    Args:
        path: of the checkpoint, which need not exist.
        identity: see :func:`read_state`.
        main: whether this is the process that sets aside and warns.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is another run's; the message names it.
    """
    try:
        return read_state(path, identity)
    except FileNotFoundError:  # or the main process has just set it aside
        return None
    except DamagedCheckpoint as error:
        if main:
            aside = path.with_name(f"{path.name}.damaged")
            path.replace(aside)
            warnings.warn(
                f"{error}. It was set aside as {aside.name}, which may be deleted, and the run "
                "starts anew",
                UserWarning,
                stacklevel=2,
            )
        return None


def read_state(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """The state that :func:`write_state` wrote for the same run, on the CPU.

    Raises:
        DamagedCheckpoint: the file is not a whole checkpoint.
        OSError: the file cannot be opened.
        ValueError: it is another run's; the message names it.
    """
    try:
        contents = torch.load(path, weights_only=True, map_location="cpu")
        found = contents["identity"], contents["format"]
        state: dict[str, Any] = contents["state"]
    except Exception as error:  # whatever unpickling a foreign or damaged file may raise
        # torch seeks to before the beginning of a short file, which the system calls invalid.
        unread = isinstance(error, OSError) and error.errno != errno.EINVAL
        if unread or is_out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DamagedCheckpoint(f"{path} must be a whole checkpoint of a run: {reason}") from error
    if found != (identity, FORMAT):
        raise ValueError(
            f"{path} must be a checkpoint of the same configuration and inputs, got another run's; "
            "remove it to start anew"
        )
    return state
