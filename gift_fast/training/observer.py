"""What is told of a run while it trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gift_fast.training.eval_result import EvalResult
from gift_fast.training.progress import Progress

if TYPE_CHECKING:
    from accelerate import Accelerator


class Observer:
    """What is told of a run while it trains; this one does nothing with it."""

    def start(self, epochs: int, done: float) -> None:
        """The run of ``epochs`` begins; it is resumed after ``done`` of them, 2.5 for instance."""

    def step(
        self, epoch: int, step: int, steps: int, images: int, loss: Callable[[], float]
    ) -> None:
        """A step is over.

        Args:
            epoch: in which it was, from 1.
            step: which of the epoch's steps, from 1.
            steps: of the epoch.
            images: that the step trained on, over all processes.
            loss: gives the mean training loss of the epoch so far, of this process's images.
                Calling it waits for the device.
        """

    def epoch(self, number: int, images: int, check: EvalResult | None) -> None:
        """Epoch ``number``, from 1, of so many images is over; ``check`` is its test, if any."""


class RunObserver(Observer):
    """Shows a run's progress, and reports its tests to the trackers."""

    def __init__(self, title: str, progress: Progress, accelerator: Accelerator) -> None:
        self.title = title
        self.progress = progress
        self.accelerator = accelerator

    def start(self, epochs: int, done: float) -> None:
        """See :class:`Observer`."""
        self.progress.begin(self.title, epochs, done)

    def step(
        self, epoch: int, step: int, steps: int, images: int, loss: Callable[[], float]
    ) -> None:
        """See :class:`Observer`."""
        self.progress.step(epoch, step, steps, images, loss)

    def epoch(self, number: int, images: int, check: EvalResult | None) -> None:
        """See :class:`Observer`."""
        if check is None:
            self.progress.epoch(number)
            return
        self.progress.epoch(number, loss=check.loss, top1=check.top1)
        values = {n: x for n, x in check.to_dict().items() if n not in ("epoch", "halves")}
        self.accelerator.log(values, step=number)
