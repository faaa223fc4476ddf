"""Size limits on files: small files that would exhaust memory are rejected before they are read.

A compressed archive can expand to a thousand times its size, an expanded tensor can have a million
elements with a single number in storage, and a pickle can allocate any number of zeros. Files that
``torch.save`` writes for distilled sets or weights do none of that.
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

MARGIN = 64 * 2**20
"""Bytes that a file may take in memory beyond its size on disk."""

MAX_DEPTH = 100
"""Maximum nesting depth of lists and dictionaries."""

MAX_VALUES = 100_000_000
"""Maximum number of values in lists and dictionaries; repeated lists count each time."""

ZIP_MAGIC = b"PK\x03\x04"
"""The first bytes of a zip archive, which ``torch.save`` writes."""

PICKLES = 5
"""The number of pickles at the start of a file in torch's legacy (non-zip) format: magic number,
protocol version, system information, contents, and storage keys. The storages follow."""

BYTEARRAY = re.compile(rb"c(?:__builtin__|builtins)\nbytearray\n")
"""A reference to ``bytearray`` in a pickle. It allocates zeros, and torch's unpickler allows it."""


def check_archive(path: Path) -> None:
    """Raise ValueError if reading a ``torch.save`` file would take far more memory than its size.

    Args:
        path: the file, in torch's zip format or in the legacy format.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is empty or incomplete, the archive is compressed or claims to be, or a
            pickle allocates memory of a given size.
    """
    size, unpacked = path.stat().st_size, 0
    check_complete(path)
    pickles: list[bytes | mmap.mmap] = []
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
                unpacked = sum(entry.file_size for entry in entries)
                if unpacked <= size + MARGIN:
                    pickles = [archive.read(e) for e in entries if e.filename.endswith("data.pkl")]
        else:
            with path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            check_lengths(mapped)
            pickles = [mapped]
    except Exception as error:  # zipfile raises many types of errors for damaged archives
        raise ValueError(f"{path} must be a complete torch.save file: {error}") from error
    if unpacked > size + MARGIN:
        raise ValueError(
            f"{path} must not be compressed, got {size:,} bytes that expand to {unpacked:,}"
        )
    if any(BYTEARRAY.search(content) for content in pickles):
        raise ValueError(
            f"{path} must contain only tensors and plain values, but it references "
            "builtins.bytearray; it was not executed, since a pickle can run arbitrary code"
        )


def check_complete(path: Path) -> None:
    """Raise ValueError if a file is empty or a truncated zip archive."""
    size = path.stat().st_size
    with path.open("rb") as file:
        begins_as_zip = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
    if size == 0:
        raise ValueError(
            f"{path} must be a complete torch.save file, but it is empty: copy or download it again"
        )
    try:
        ends_as_zip = zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # the end of the archive is inconsistent
        ends_as_zip = False
    if begins_as_zip and not ends_as_zip:
        raise ValueError(
            f"{path} must be a complete torch.save file, but its end is missing or damaged (it has "
            f"{size:,} bytes): copy or download it again"
        )


def check_lengths(pickles: mmap.mmap) -> None:
    """Raise ValueError if a value in the pickles of a legacy file is longer than the file.

    The unpickler allocates the stated length of a string before it reads the string.

    Args:
        pickles: the file, which begins with ``PICKLES`` pickles.
    """
    for _ in range(PICKLES):
        if pickles.tell() < len(pickles):
            for _ in pickletools.genops(cast("IO[bytes]", pickles)):
                pass


def check_values(path: Path, value: Any) -> None:
    """Raise ValueError if tensors are larger than the file, or lists too long or too deep.

    Args:
        path: the file, for the message.
        value: the contents of the file.
    """
    sizes: dict[int, int] = {}

    def size(item: Any, level: int) -> int:
        """The number of values in ``item``, including repeated ones."""
        if isinstance(item, Tensor):
            check_tensor(path, item)
        if not isinstance(item, (dict, list, tuple)):
            return 1
        if level > MAX_DEPTH:
            raise ValueError(
                f"{path} must nest lists and dictionaries at most {MAX_DEPTH} levels deep; got "
                "more, or one that contains itself"
            )
        if id(item) not in sizes:
            parts = item.values() if isinstance(item, dict) else item
            sizes[id(item)] = 1 + sum(size(part, level + 1) for part in parts)
        return sizes[id(item)]

    if (found := size(value, 1)) > MAX_VALUES:
        raise ValueError(
            f"{path} must contain at most {MAX_VALUES:,} values, got {found:,} including repeated "
            "lists"
        )


def check_tensor(path: Path, tensor: Tensor) -> None:
    """Raise ValueError if a tensor's storage is much smaller than its elements."""
    if tensor.layout is not torch.strided:  # readers reject the layouts that they do not support
        return
    claimed, stored = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if tensor.is_meta or claimed > stored + MARGIN:
        raise ValueError(
            f"{path} must store all elements of its tensors, got one of shape "
            f"{tuple(tensor.shape)} with {0 if tensor.is_meta else stored:,} bytes: save a clone() "
            "of it"
        )
