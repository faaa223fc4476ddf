"""Digests of the inputs of a run, which identify its result."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

DIGITS = 16
"""Number of hexadecimal digits of a digest."""


def fingerprint(parts: Iterable[Tensor | str]) -> str:
    """A digest of tensors (shape, dtype, values) and strings: 16 hexadecimal digits of SHA-256.

    Example:
        >>> fingerprint(["a", "b"]) == fingerprint(["ab"])
        False
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            # File names need not be valid UTF-8; Python represents such bytes as surrogates.
            digest.update(f"{len(part)} {part}".encode("utf-8", "surrogatepass"))
            continue
        digest.update(f"{tuple(part.shape)} {part.dtype}".encode())
        digest.update(part.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:DIGITS]
