"""Names that are spelled differently in run records.

The digest of a run covers its configuration, so records keep the names that they were first written
with. Both the former and the current names are accepted everywhere.
"""

from __future__ import annotations

import re

RECORD_NAMES = {"validation": "heldout", "dataset_seeds": "set_seeds"}
"""The current name, and the name in records."""

_NAME = r"(?:(?<=[:,])|^){}(?==|$)"


def recorded(text: str) -> str:
    """The name, or the specification with options, as records spell it.

    Example:
        >>> recorded("digits:validation=300,resize=16"), recorded("validation"), recorded("test")
        ('digits:heldout=300,resize=16', 'heldout', 'test')
    """
    for current, former in RECORD_NAMES.items():
        text = re.sub(_NAME.format(current), former, text)
    return text


def present(text: str) -> str:
    """The name, or the specification with options, as users write it; inverse of `recorded`.

    Example:
        >>> present("digits:heldout=300"), present("heldout"), present("test")
        ('digits:validation=300', 'validation', 'test')
    """
    for current, former in RECORD_NAMES.items():
        text = re.sub(_NAME.format(former), current, text)
    return text
