"""Distilled sets: a few images per class that replace a training split.

:func:`read_distilled` reads the formats of the sets' authors, each of which has a file and an entry
in ``FORMATS``; :func:`write_distilled` writes this project's format.
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
