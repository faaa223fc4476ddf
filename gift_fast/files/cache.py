"""The folder of cache files."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder of decoded images: ``$GIFT_FAST_CACHE``, or ``gift-fast`` in the user's cache.

    The user's cache is ``$XDG_CACHE_HOME`` or ``~/.cache``, as in the XDG Base Directory
    Specification. A dataset's own folder is not used because it is often shared and read-only.
    """
    folder = os.environ.get("GIFT_FAST_CACHE")
    if folder:
        return Path(folder)
    user_cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(user_cache) if user_cache else Path.home() / ".cache") / "gift-fast"
