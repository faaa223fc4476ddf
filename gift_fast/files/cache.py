"""The folder of cache files."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder of decoded images: ``$GIFT_FAST_CACHE``, else ``gift-fast`` in the user's cache.

    The user's cache is ``$XDG_CACHE_HOME`` or ``~/.cache``, as in the XDG Base Directory
    Specification. A dataset's own folder is not used because it is often shared and read-only.
    """
    own = os.environ.get("GIFT_FAST_CACHE")
    if own:
        return Path(own)
    users = os.environ.get("XDG_CACHE_HOME")
    return (Path(users) if users else Path.home() / ".cache") / "gift-fast"
