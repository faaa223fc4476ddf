"""Soft labels that are stored with a distilled set, and their replay during training."""

from gift_fast.data.labels.batch import FkdBatch
from gift_fast.data.labels.fkd import FkdLabels
from gift_fast.data.labels.fkd_images import FkdImageLabels
from gift_fast.data.labels.hald import HaldLabels
from gift_fast.data.labels.label_set import LabelSet
from gift_fast.data.labels.lpqld import LpqldLabels
from gift_fast.data.labels.replay import replay
from gift_fast.data.labels.stored_labels import StoredLabels

__all__ = [
    "FkdBatch",
    "FkdImageLabels",
    "FkdLabels",
    "HaldLabels",
    "LabelSet",
    "LpqldLabels",
    "StoredLabels",
    "replay",
]
