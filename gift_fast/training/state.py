"""The state of a training run: what the loop changes and a checkpoint stores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from gift_fast.training.batches import Batches, RandomState
from gift_fast.training.checkpoint import find_state
from gift_fast.training.eval_result import EvalResult
from gift_fast.training.meters import LossSum, Stopwatch
from gift_fast.training.objectives import LossState
from gift_fast.training.seeds import seed_for

if TYPE_CHECKING:
    from accelerate import Accelerator


class TrainingState:
    """The state of a run, from which any number of steps can be repeated exactly.

    Args:
        model: the network, on the device.
        ema: the exponential moving average of its weights, or None.
        optimizer: of the model.
        schedule: of the learning rate; steps once per epoch.
        loss_state: what the loss carries from one epoch to the next, or None.
        batches: what the model is trained on.
        accelerator: of the run.

    Attributes:
        epoch: the current epoch, from 1.
        step: finished steps of the current epoch.
        tests: results of the tests so far.
        loss_sum: of the current epoch.
        run_time: wall time, including that of the runs that this one resumes.
        training_time: the same without tests.
    """

    def __init__(
        self,
        model: nn.Module,
        ema: AveragedModel | None,
        optimizer: Optimizer,
        schedule: LRScheduler,
        loss_state: LossState | None,
        batches: Batches,
        accelerator: Accelerator,
    ) -> None:
        self.model = model
        self.ema = ema
        self.optimizer = optimizer
        self.schedule = schedule
        self.loss_state = loss_state
        self.batches = batches
        self.accelerator = accelerator
        self.epoch, self.step = 1, 0
        self.tests: list[EvalResult] = []
        self.loss_sum = LossSum(accelerator.device)
        self.run_time, self.training_time = Stopwatch(), Stopwatch()
        # Of a checkpoint within an epoch, until that epoch is continued.
        self.batches_state: RandomState | None = None
        self.process_states: list[dict[str, Any]] = []

    @property
    def tested_model(self) -> nn.Module:
        """The network that is tested: the moving average of the weights, if there is one."""
        module: nn.Module = self.model if self.ema is None else self.ema.module
        return module

    def resume(self, path: Path, identity: dict[str, Any]) -> None:
        """Load the checkpoint at ``path``, if there is one.

        Raises:
            ValueError: the checkpoint is another run's, or was saved within an epoch by another
                number of processes or on another kind of device.
        """
        saved = find_state(path, identity, main=self.accelerator.is_main_process)
        if saved is None:
            return
        self.load_state_dict(saved)
        if self.step:
            check_processes(path, self.epoch, self.process_states, self.accelerator)

    def start_epoch(self, epoch: int, seed: int) -> None:
        """Start an epoch, or continue the one in which the checkpoint was saved."""
        self.epoch = epoch
        index = self.accelerator.process_index
        if self.process_states:
            restore_process_state(
                self.process_states[index], self.accelerator.device, self.loss_sum
            )
            self.process_states = []
            return
        self.step, self.batches_state = 0, None
        self.loss_sum.reset()
        # Dropout draws from the global generator.
        torch.manual_seed(seed_for(seed, f"model/{epoch}/{index}"))

    def state_dict(self) -> dict[str, Any]:
        """The state after the last step; every process has to call it."""
        from accelerate.utils import gather_object

        scaler = self.accelerator.scaler
        states = gather_object([process_state(self.accelerator.device, self.loss_sum)])
        return {
            "model": self.model.state_dict(),
            **({} if self.ema is None else {"ema": self.ema.state_dict()}),
            **({} if self.loss_state is None else {"loss": self.loss_state.state_dict()}),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "epoch": self.epoch - 1,
            "step": self.step,
            "batches": self.batches.random_state(),
            "processes": states,
            "checks": [test.to_dict() for test in self.tests],
            "seconds": self.run_time.seconds,
            "training_seconds": self.training_time.seconds,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned."""
        self.model.load_state_dict(saved["model"])
        if self.ema is not None:
            self.ema.load_state_dict(saved["ema"])
        if self.loss_state is not None:
            self.loss_state.load_state_dict(saved["loss"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        self.epoch, self.step = saved["epoch"] + 1, saved["step"]
        self.tests = [EvalResult.from_dict(test) for test in saved["checks"]]
        self.run_time = Stopwatch(saved["seconds"])
        self.training_time = Stopwatch(saved["training_seconds"])
        if self.step:
            self.batches_state, self.process_states = saved["batches"], saved["processes"]


def process_state(device: torch.device, loss_sum: LossSum) -> dict[str, Any]:
    """The part of the state that differs between processes."""
    host = device.type == "cpu"
    return {
        "device": device.type,
        "random": torch.get_rng_state(),
        "device_random": None if host else torch.get_device_module(device).get_rng_state(),
        "loss": loss_sum.sum.cpu(),
        "images": loss_sum.images,
    }


def restore_process_state(state: dict[str, Any], device: torch.device, loss_sum: LossSum) -> None:
    """Restore what :func:`process_state` returned."""
    torch.set_rng_state(state["random"])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(state["device_random"])
    loss_sum.sum, loss_sum.images = state["loss"].to(device), state["images"]


def check_processes(
    path: Path, epoch: int, states: list[dict[str, Any]], accelerator: Accelerator
) -> None:
    """Raise ValueError unless processes and device are those that saved the checkpoint."""
    found = accelerator.num_processes, accelerator.device.type
    expected = len(states), states[0]["device"]
    if found != expected:
        raise ValueError(
            f"{path} was saved within epoch {epoch} by {expected[0]} process(es) on {expected[1]} "
            f"and can only be resumed by the same number there, got {found[0]} on {found[1]}; "
            "remove it to start over"
        )
