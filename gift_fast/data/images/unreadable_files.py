"""Finds image files that cannot be read, before training starts.

Files are decoded when their batch is read, so a damaged test image would only be found at the first
test, after hours of training. :func:`check_readable` decodes every file once and records in the
cache that it did.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from pathlib import Path

import torch

from gift_fast.data.images.decoding_progress import followed
from gift_fast.data.images.file_split import FileSplit, decoding_threads
from gift_fast.data.images.image_file import read_image
from gift_fast.files.atomic import replacing
from gift_fast.files.cache import cache_folder
from gift_fast.files.fingerprint import fingerprint

logger = logging.getLogger(__name__)

SHARE = (("LOCAL_WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
"""The variables in which torchrun passes the number of processes on the machine and the index of
the process, with their defaults."""

FILES_NAMED = 10
"""Number of unreadable files that an error message names."""

FILES_AT_ONCE = 1000


def check_readable(split: FileSplit, cache: Path | None = None) -> None:
    """Check that every file of a split can be decoded; raise one error for all that cannot.

    Files whose names, sizes and modification times have not changed since an earlier check are not
    read again. The processes that torchrun starts on one machine divide the files among them.

    Args:
        split: the files.
        cache: folder that records what was checked; None uses ``cache_folder()``. If it cannot be
            written to, the next call checks again.

    Raises:
        ValueError: files cannot be read or are missing; the message names the first ten, with the
            reason.
    """
    sharing, rank = (int(os.environ.get(n, d)) for n, d in SHARE)
    share = range(rank % sharing, len(split), sharing)
    key = fingerprint(
        [
            "\n".join(split.names),
            torch.tensor([size_and_time(split.root / name) for name in split.names]),
            f"side {split.side} resize {split.resize} share {rank} of {sharing}",
        ]
    )
    remembered = (cache_folder() if cache is None else cache) / f"readable-{key}"
    if remembered.exists():
        return
    logger.info("checking %d images of %s once", len(share), split.root)
    faults = list(unreadable(split, share))
    if faults:
        raise ValueError(unreadable_message(faults, f"{len(split)} images of {split.root}"))
    with suppress(OSError), replacing(remembered) as temporary:
        temporary.write_text(f"all {len(share)} files can be read\n", encoding="utf-8")


def size_and_time(path: Path) -> tuple[int, int]:
    """Size of a file in bytes and modification time in nanoseconds; (-1, -1) if it is missing."""
    try:
        stat = path.stat()
    except OSError:  # for instance a broken link
        return -1, -1
    return stat.st_size, stat.st_mtime_ns


def unreadable(split: FileSplit, indices: Iterable[int]) -> Iterator[str]:
    """Yield an error message for each file that cannot be read, in the order of ``indices``."""

    def fault(index: int) -> str | None:
        path = split.root / split.names[index]
        try:
            whole = split.resize is None
            read_image(path, side=split.side if whole else None, draft=not whole)
        except (OSError, ValueError) as error:
            return str(error)
        return None

    every = list(indices)
    with ThreadPoolExecutor(decoding_threads(), thread_name_prefix="check") as threads:
        found = chain.from_iterable(
            threads.map(fault, every[start : start + FILES_AT_ONCE])
            for start in range(0, len(every), FILES_AT_ONCE)
        )
        for error in followed(found, f"checking {split.root}, once", len(every)):
            if error is not None:
                yield error


def unreadable_message(faults: list[str], of: str) -> str:
    """Combine error messages: the first ones, and the number of unreadable files.

    Args:
        faults: the error message of each file, at least one.
        of: all files, such as "10000 images of DIR".
    """
    if len(faults) == 1:
        return faults[0]
    more = len(faults) - FILES_NAMED
    lines = [f"  {fault}" for fault in faults[:FILES_NAMED]]
    if more > 0:
        lines.append(f"  and {more} more")
    return "\n".join([f"{len(faults)} of {of} cannot be read:", *lines])
