"""Callbacks of the training loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gift_fast.training.eval_result import EvalResult
from gift_fast.training.progress import Progress

if TYPE_CHECKING:
    from accelerate import Accelerator


class Observer:
    """Callbacks of the training loop; these do nothing."""

    def start(self, epochs: int, done: float) -> None:
        """Called before the first step.

        Args:
            epochs: of the run.
            done: finished epochs of a resumed run, such as 2.5; otherwise 0.
        """

    def step(
        self, epoch: int, step: int, steps: int, images: int, loss: Callable[[], float]
    ) -> None:
        """Called after every step.

        Args:
            epoch: the current epoch, from 1.
            step: the step within the epoch, from 1.
            steps: steps per epoch.
            images: images of the step, over all processes.
            loss: returns the mean training loss of the epoch so far, over this process's images;
                waits for the device.
        """

    def epoch(self, number: int, images: int, check: EvalResult | None) -> None:
        """Called after every epoch.

        Args:
            number: the epoch, from 1.
            images: images per epoch, over all processes.
            check: the result of the test after this epoch; None if there was none.
        """


class RunObserver(Observer):
    """Shows the progress of a run and sends the results of its tests to the trackers."""

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
