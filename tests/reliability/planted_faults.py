"""Readers that each do one thing wrong: those that ``GIFT_FAST_PLANTED_FAULTS`` names."""

from __future__ import annotations

import ctypes
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path

from tests.reliability.fuzz import Reader
from tests.reliability.fuzz_damage import CANARY, DECOY

FAULTS = "GIFT_FAST_PLANTED_FAULTS"
"""The environment variable with the names of the faults."""


def write(folder: Path) -> None:
    """One file."""
    (folder / "file.txt").write_text("whole")


def wrong_kind(folder: Path) -> None:
    """An error that no command prints."""
    raise KeyError(str(folder / "file.txt"))


def no_name(folder: Path) -> None:
    """An error that does not say which file."""
    raise ValueError("it is damaged")


def program(folder: Path) -> None:
    """What a file holds is run."""
    pickle.loads(b"cos\nsystem\n(S'true'\ntR.")


def canary(folder: Path) -> None:
    """What a file holds is run, past Python's audit hook."""
    name = os.fsencode(folder.parent / CANARY)
    ctypes.CDLL(None).open(name, os.O_CREAT | os.O_WRONLY, 0o600)


def outside(folder: Path) -> None:
    """A name in a file is followed out of the folder."""
    (folder / ".." / DECOY / "decoy.json").read_text()


def large(folder: Path) -> None:
    """More memory than there are bytes in the file, by far."""
    b"x" * (3 * 2**29)


def too_large(folder: Path) -> None:
    """The same, told as if it were the file's fault."""
    try:
        bytearray(2**60)
    except MemoryError as error:
        raise ValueError(f"{folder} must be smaller") from error


def abort(folder: Path) -> None:
    """The process dies."""
    os.abort()


def endless(folder: Path) -> None:
    """No end."""
    time.sleep(600)


def planted(fault: Callable[[Path], None]) -> Reader:
    """A reader with a fault that it has not while whole files are read, without a decoy."""
    return Reader(write, lambda folder: (folder.parent / DECOY).exists() and fault(folder))


READERS = {name: planted(globals()[name]) for name in os.environ.get(FAULTS, "").split()}
