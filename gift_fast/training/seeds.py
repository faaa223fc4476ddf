"""Seeds of the random numbers of a run."""

from __future__ import annotations

import hashlib


def seed_for(seed: int, purpose: str) -> int:
    """A seed of its own for every purpose, so that their random numbers are unrelated."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:6], "big")
