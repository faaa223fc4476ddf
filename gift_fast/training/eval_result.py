"""The accuracy of a network after an epoch of its training."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from gift_fast.training.predict import Accuracy


@dataclass(frozen=True)
class EvalResult:
    """One test of a network during its training.

    Attributes:
        epoch: counted from 1.
        top1: accuracy on the test split, percent.
        top5: top-5 accuracy on the test split, percent.
        test_loss: mean cross-entropy on the test split.
        loss: mean training loss of the epoch.
        halves: ``top1`` on each half of the split, see
            :func:`gift_fast.training.predict.second_half`.
    """

    epoch: int
    top1: float
    top5: float
    test_loss: float
    loss: float
    halves: tuple[float, float] = (math.nan, math.nan)

    @classmethod
    def of(cls, epoch: int, loss: float, accuracy: Accuracy) -> EvalResult:
        """The result of an epoch, from its training loss and measured accuracy."""
        return cls(
            epoch=epoch,
            top1=accuracy.top1,
            top5=accuracy.top5,
            test_loss=accuracy.loss,
            loss=loss,
            halves=accuracy.halves,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-compatible values, with None for values that are not finite."""
        values: dict[str, Any] = {
            name: x if math.isfinite(x) else None
            for name, x in asdict(self).items()
            if name != "halves"
        }
        values["halves"] = [x if math.isfinite(x) else None for x in self.halves]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EvalResult:
        """The result with the values of ``to_dict``; None becomes NaN."""
        known: dict[str, Any] = {k: math.nan if x is None else x for k, x in values.items()}
        first, second = (math.nan if x is None else x for x in known.pop("halves"))
        return cls(**known, halves=(first, second))
