"""Soft labels that are stored with a distilled set, and their replay during training."""

from gift_fast.data.labels.batch import FkdBatch
from gift_fast.data.labels.fkd import FkdLabels
from gift_fast.data.labels.label_set import LabelSet
from gift_fast.data.labels.replay import replay

__all__ = ["FkdBatch", "FkdLabels", "LabelSet", "replay"]
