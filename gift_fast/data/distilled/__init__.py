"""Distilled sets: a few images a class that stand in for a training split.

:func:`read_distilled` reads the formats in which their authors publish them, one file a format and
one line in ``FORMATS``; :func:`write_distilled` writes the project's own. ``selection.py`` makes a
set here, for the demonstration.
"""

from __future__ import annotations

from gift_fast.data.distilled.class_map import apply_class_map, read_class_map
from gift_fast.data.distilled.distilled_set import DistilledSet
from gift_fast.data.distilled.formats import FORMATS, read_distilled
from gift_fast.data.distilled.native import write_distilled

__all__ = [
    "FORMATS",
    "DistilledSet",
    "apply_class_map",
    "read_class_map",
    "read_distilled",
    "write_distilled",
]
