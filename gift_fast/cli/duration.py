"""Parsing of durations: ``90``, ``30s``, ``10m``, ``1.5h``."""

from __future__ import annotations

import math
import re

UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}

PATTERN = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*([smh]?)\s*")


def parse_duration(name: str, text: str) -> float:
    """Convert a duration to seconds.

    Args:
        name: name of the argument, for the error message.
        text: a number of seconds, or a number with the unit s, m or h.

    Raises:
        ValueError: the text is not a positive duration.

    Example:
        >>> [parse_duration("every", text) for text in ("90", "30s", "10m", "1.5h")]
        [90.0, 30.0, 600.0, 5400.0]
    """
    match = PATTERN.fullmatch(text)
    seconds = float(match[1]) * UNITS[match[2]] if match else math.nan
    if not 0.0 < seconds < math.inf:
        raise ValueError(
            f"{name} must be a positive duration, such as 30s, 10m, 1h or a number of seconds, "
            f"got {text!r}"
        )
    return seconds
