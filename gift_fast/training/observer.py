"""What is told of a run while it trains."""

from __future__ import annotations

from collections.abc import Callable

from gift_fast.training.eval_result import Check


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

    def epoch(self, number: int, images: int, check: Check | None) -> None:
        """Epoch ``number``, from 1, of so many images is over; ``check`` is its test, if any."""
