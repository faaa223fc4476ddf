"""GIFT: a fused loss for soft labels, and the evaluation of students trained with it."""

from gift_fast.loss import GIFTLoss, gift_loss, refine_labels
from gift_fast.ops import backends

__all__ = ["GIFTLoss", "backends", "gift_loss", "refine_labels"]
__version__ = "0.1.0"
