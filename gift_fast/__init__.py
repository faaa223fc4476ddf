"""GIFT: a fused loss for soft labels, and the evaluation of students trained with it."""

from gift_fast.loss import gift_loss
from gift_fast.ops import backends

__all__ = ["backends", "gift_loss"]
__version__ = "0.1.0"
