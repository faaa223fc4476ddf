"""Names that users write and records spell otherwise.

The digest of a run covers its configuration, so a record keeps the spelling it was first written
with. The former names are accepted wherever the present ones are.
"""

from __future__ import annotations

import re

RECORD_NAMES = {"validation": "heldout", "dataset_seeds": "set_seeds"}
"""From the name that users write to the one in records."""

_NAME = r"(?:(?<=[:,])|^){}(?==|$)"


def recorded(text: str) -> str:
    """The spelling of a name, or of a specification with options, in records.

    Example:
        >>> recorded("digits:validation=300,resize=16"), recorded("validation"), recorded("test")
        ('digits:heldout=300,resize=16', 'heldout', 'test')
    """
    for current, former in RECORD_NAMES.items():
        text = re.sub(_NAME.format(current), former, text)
    return text


def present(text: str) -> str:
    """The spelling that users write; the inverse of :func:`recorded`.

    Example:
        >>> present("digits:heldout=300"), present("heldout"), present("test")
        ('digits:validation=300', 'validation', 'test')
    """
    for current, former in RECORD_NAMES.items():
        text = re.sub(_NAME.format(former), current, text)
    return text
