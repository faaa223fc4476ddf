"""Names that are spelled differently in run records.

The digest of a run covers its configuration, so records keep the names that they were first written
with. Both the former and the current names are accepted everywhere.
"""

from __future__ import annotations

import re

RECORD_NAMES = {"validation": "heldout", "dataset_seeds": "set_seeds"}
"""The current name, and the name in records."""

_NAME = r"(?:(?<=[:,])|^){}(?==|$)"


def record_name(text: str) -> str:
    """The name, or the specification with options, as records spell it.

    Example:
        >>> record_name("digits:validation=300,resize=16"), record_name("test")
        ('digits:heldout=300,resize=16', 'test')
    """
    for current, former in RECORD_NAMES.items():
        text = re.sub(_NAME.format(current), former, text)
    return text


def current_name(text: str) -> str:
    """The name, or the specification with options, as users write it; inverse of `record_name`.

    Example:
        >>> current_name("digits:heldout=300"), current_name("test")
        ('digits:validation=300', 'test')
    """
    for current, former in RECORD_NAMES.items():
        text = re.sub(_NAME.format(former), current, text)
    return text
