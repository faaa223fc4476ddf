"""Limits on files: small files that would take all memory are refused before they are read.

A compressed archive can hold a thousand times its size, a tensor with one number in memory can have
a million elements, and a pickle can allocate any number of zeros. Files that ``torch.save`` writes
for distilled sets or weights do none of that.
"""

from __future__ import annotations

import mmap
import pickletools
import re
import zipfile
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

SPARE = 64 * 2**20
"""Bytes that a file may take in memory beyond its size on the disk."""

MOST_LEVELS = 100
"""Limit of nested lists and dictionaries."""

MOST_VALUES = 100_000_000
"""Limit of values in lists and dictionaries; a list that occurs several times counts each time."""

ZIP_MAGIC = b"PK\x03\x04"
"""The first bytes of a zip archive, which ``torch.save`` writes."""

PICKLES = 5
"""The pickles at the start of a file in torch's layout before zip: a magic number, a version, facts
about the machine, the contents, and the names of the tensors' memory, which follows."""

BYTEARRAY = re.compile(rb"c(?:__builtin__|builtins)\nbytearray\n")
"""The type that allocates zeros, in a pickle; torch's unpickler allows it."""


def check_archive(path: Path) -> None:
    """Raises ValueError if reading a file of ``torch.save`` would take far more than its size.

    Args:
        path: the file, in torch's zip layout or in that before it.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is empty or incomplete, the archive is compressed or says so, or a
            pickle asks for memory by number.
    """
    size, unpacked = path.stat().st_size, 0
    check_complete(path)
    pickles: list[bytes | mmap.mmap] = []
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
                unpacked = sum(entry.file_size for entry in entries)
                if unpacked <= size + SPARE:
                    pickles = [archive.read(e) for e in entries if e.filename.endswith("data.pkl")]
        else:
            with path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            check_lengths(mapped)
            pickles = [mapped]
    except Exception as error:  # a damaged archive makes zipfile raise nearly anything
        raise ValueError(f"{path} must be a whole file of torch.save: {error}") from error
    if unpacked > size + SPARE:
        raise ValueError(
            f"{path} must not be compressed, got {size:,} bytes that unpack to {unpacked:,}"
        )
    if any(BYTEARRAY.search(content) for content in pickles):
        raise ValueError(
            f"{path} must hold tensors and plain values alone, but it names builtins.bytearray; "
            "nothing of it was run: a pickle may do anything"
        )


def check_complete(path: Path) -> None:
    """Raises ValueError if a file is empty, or a zip archive without its end."""
    size = path.stat().st_size
    with path.open("rb") as file:
        begins_as_zip = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
    if size == 0:
        raise ValueError(
            f"{path} must be a whole file of torch.save, it is empty: copy or download it again"
        )
    try:
        ends_as_zip = zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # an end that contradicts itself
        ends_as_zip = False
    if begins_as_zip and not ends_as_zip:
        raise ValueError(
            f"{path} must be a whole file of torch.save, its end is missing or damaged (it has "
            f"{size:,} bytes): copy or download it again"
        )


def check_lengths(pickles: mmap.mmap) -> None:
    """Raises ValueError if a value in the pickles of torch's older layout is longer than the file.

    The unpickler would allocate the length that a text states before it reads the text.

    Args:
        pickles: the file, which begins with ``PICKLES`` pickles.
    """
    for _ in range(PICKLES):
        if pickles.tell() < len(pickles):
            for _ in pickletools.genops(cast("IO[bytes]", pickles)):
                pass


def check_values(path: Path, value: Any) -> None:
    """Raises ValueError if tensors have more elements than the file holds, or lists are too deep.

    Args:
        path: the file, for the message.
        value: the contents of the file.
    """
    sizes: dict[int, int] = {}

    def size(item: Any, level: int) -> int:
        """The number of values in ``item``, repeated ones included."""
        if isinstance(item, Tensor):
            check_tensor(path, item)
        if not isinstance(item, (dict, list, tuple)):
            return 1
        if level > MOST_LEVELS:  # as of a list that holds itself
            raise ValueError(
                f"{path} must hold at most {MOST_LEVELS} lists and dictionaries within each other; "
                "got more, or one that holds itself"
            )
        if id(item) not in sizes:
            parts = item.values() if isinstance(item, dict) else item
            sizes[id(item)] = 1 + sum(size(part, level + 1) for part in parts)
        return sizes[id(item)]

    if (found := size(value, 1)) > MOST_VALUES:
        raise ValueError(
            f"{path} must hold at most {MOST_VALUES:,} values, got {found:,}: it repeats lists"
        )


def check_tensor(path: Path, tensor: Tensor) -> None:
    """Raises ValueError unless a tensor's storage holds about all of its elements."""
    if tensor.layout is not torch.strided:  # readers refuse those that they do not take
        return
    claimed, stored = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if tensor.is_meta or claimed > stored + SPARE:
        raise ValueError(
            f"{path} must hold every number of its tensors, got one of shape {tuple(tensor.shape)} "
            f"with {0 if tensor.is_meta else stored:,} bytes: save its clone()"
        )
