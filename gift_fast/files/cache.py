"""Where what is computed once from a dataset's files is kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where decoded images are kept: ``$GIFT_FAST_CACHE``, else ``gift-fast`` in the user's cache.

    The user's cache is ``$XDG_CACHE_HOME`` or ``~/.cache``, as the XDG Base Directory Specification
    has it; a dataset's own folder is often shared and read-only.
    """
    own = os.environ.get("GIFT_FAST_CACHE")
    if own:
        return Path(own)
    users = os.environ.get("XDG_CACHE_HOME")
    return (Path(users) if users else Path.home() / ".cache") / "gift-fast"
