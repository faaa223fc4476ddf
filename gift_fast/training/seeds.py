"""Seeds of the random numbers of a run, one for each purpose."""

from __future__ import annotations

import hashlib


def seed_for(seed: int, purpose: str) -> int:
    """Derive a separate seed for a purpose, so that random numbers are independent of others."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:6], "big")
