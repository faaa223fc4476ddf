"""The state of a training run between two epochs, in one file, so that a killed run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from gift_fast.student.atomic import replacing
from gift_fast.student.distilled.pickles import load_tensors

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


def read_state(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """The state that :func:`write_state` wrote for the same run, on the CPU.

    Raises:
        ValueError: the file is not a state, or another run's; the message names it.
    """
    try:
        contents = load_tensors(path)
        found = contents["identity"], contents["format"]
        state: dict[str, Any] = contents["state"]
    except Exception as error:  # whatever unpickling a foreign or damaged file may raise
        raise ValueError(f"{path} must be a checkpoint of a run, got: {error}") from error
    if found != (identity, FORMAT):
        raise ValueError(
            f"{path} must be a checkpoint of the same configuration and inputs, got another run's; "
            "remove it to start anew"
        )
    return state
