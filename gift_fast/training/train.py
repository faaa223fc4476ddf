"""The training loop, for teachers and for students.

On the CPU a run is the same bit for bit from its seed, for the same number of threads and
processes: the initial weights, the order of the images and the augmentation are seeded separately.
Device, precision and processes are Hugging Face accelerate's.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from gift_fast.process.memory import keep_freed_memory
from gift_fast.process.signals import Interruption
from gift_fast.training.batches import Batch, Batches, RandomState
from gift_fast.training.checkpoint import CheckpointConfig, Checkpointer, find_state
from gift_fast.training.config import ResolvedTrainingConfig, TrainingConfig
from gift_fast.training.eval_result import EvalResult
from gift_fast.training.objectives import LossState
from gift_fast.training.observer import Observer
from gift_fast.training.optimizers import Hyperparameters, build_optimizer
from gift_fast.training.predict import Accuracy
from gift_fast.training.processes import check_agreement, share_buffers, steps_alone
from gift_fast.training.seeds import seed_for
from gift_fast.training.state import (
    LossSum,
    Stopwatch,
    check_processes,
    process_state,
    restore_process_state,
)

if TYPE_CHECKING:
    from accelerate import Accelerator

BatchLoss = Callable[[nn.Module, Batch, int], Tensor]
"""(network, this process's part of a batch, epoch from 1) -> the part's mean loss, a scalar."""


@dataclass(frozen=True)
class Trained:
    """What :func:`fit` gives beside the trained network.

    Attributes:
        checks: the tests, in order.
        seconds: wall time, earlier parts of a resumed run included.
        images_per_second: of the training alone, tests left out; over all processes.
    """

    checks: tuple[EvalResult, ...]
    seconds: float
    images_per_second: float


def fit(
    model: nn.Module,
    batches: Batches,
    config: ResolvedTrainingConfig,
    batch_loss: BatchLoss,
    accelerator: Accelerator,
    *,
    run_test: Callable[[nn.Module], Accuracy],
    is_test_epoch: Callable[[int], bool],
    identity: dict[str, Any],
    checkpoint: CheckpointConfig | None = None,
    interruption: Interruption | None = None,
    observer: Observer | None = None,
    loss_state: LossState | None = None,
) -> tuple[nn.Module, Trained]:
    """Trains a model in place; all that ever trains runs here.

    With ``config.ema_decay``, the exponential moving average of the weights is tested and, at the
    end, takes the place of the weights in the model. It starts as the weights after the first step.
    Buffers that are floating point, such as batch norm's running statistics, are averaged as the
    weights are, unless ``config.ema_buffers`` is false: then they are the model's.

    Args:
        model: on the CPU; the trained one is the same object.
        batches: what it is trained on.
        config: how it is trained.
        batch_loss: takes the model, a batch and the epoch to the mean loss of the batch.
        accelerator: where to train.
        run_test: tests the model.
        is_test_epoch: whether to test after an epoch, counted from 1.
        identity: says which run a checkpoint belongs to.
        checkpoint: where and how often to save; the run is resumed from this file where it exists.
        interruption: notes signals, at which the state is saved and ``Interrupted`` is raised.
        observer: told of steps, epochs and tests.
        loss_state: what the loss remembers from epoch to epoch, or None.

    Returns:
        The model in eval mode, on the accelerator's device, and the tests.

    Raises:
        Interrupted: a signal has come; the state is saved.
        ValueError: the checkpoint is another run's, or was saved within an epoch by another number
            of processes or on another kind of device.
    """
    from accelerate.utils import gather_object

    device, observer = accelerator.device, observer or Observer()
    interruption = interruption or Interruption()
    if device.type == "cpu":
        keep_freed_memory()
    model = model.to(device)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    averaged = None
    if config.ema_decay:
        average = get_ema_multi_avg_fn(config.ema_decay)
        averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=config.ema_buffers)
    tested = model if averaged is None else averaged.module
    values = Hyperparameters(config.learning_rate, config.weight_decay, config.momentum)
    optimizer, schedule = build_optimizer(
        model, config.optimizer, config.schedule, config.epochs, values
    )
    if accelerator.scaler is not None:  # where the run before has left it
        fresh = {"scale": torch.amp.GradScaler(device.type).get_scale(), "_growth_tracker": 0}
        accelerator.scaler.load_state_dict({**accelerator.scaler.state_dict(), **fresh})

    done, step, checks = 0, 0, []  # epochs, steps of the next, tests
    watch, training, total = Stopwatch(), Stopwatch(), LossSum(device)
    random_state: RandomState | None = None
    process_states: list[dict[str, Any]] = []
    state = None
    if checkpoint is not None:
        state = find_state(checkpoint.path, identity, main=accelerator.is_main_process)
    if checkpoint is not None and state is not None:
        model.load_state_dict(state["model"])
        if averaged is not None:
            averaged.load_state_dict(state["ema"])
        if loss_state is not None:
            loss_state.load_state_dict(state["loss"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(state["scaler"])
        done, step = state["epoch"], state["step"]
        checks = [EvalResult.from_dict(check) for check in state["checks"]]
        watch, training = Stopwatch(state["seconds"]), Stopwatch(state["training_seconds"])
        if step:
            random_state, process_states = state["batches"], state["processes"]
            check_processes(checkpoint.path, done + 1, process_states, accelerator)
    check_agreement(accelerator, "the checkpoint's step", done * batches.steps + step)

    def snapshot() -> dict[str, Any]:
        """The state after the last step, from which any number of steps go on as they would."""
        states = gather_object([process_state(device, total)])
        scaler = accelerator.scaler
        return {
            "model": model.state_dict(),
            **({} if averaged is None else {"ema": averaged.state_dict()}),
            **({} if loss_state is None else {"loss": loss_state.state_dict()}),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "epoch": epoch - 1,
            "step": step,
            "batches": batches.random_state(),
            "processes": states,
            "checks": [check.to_dict() for check in checks],
            "seconds": watch.seconds,
            "training_seconds": training.seconds,
        }

    if config.compile:
        # A graph for every size of batch: a resumed run meets the sizes in another order.
        model.compile(dynamic=False)
    prepared, stepper = accelerator.prepare(model, optimizer)
    if steps_alone(accelerator):
        stepper = stepper.optimizer
    observer.start(config.epochs, done + step / batches.steps)
    checkpointer = Checkpointer(checkpoint, interruption, identity, accelerator)

    watch.start()
    training.start()
    random = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with random, interruption.held():
        for epoch in range(done + 1, config.epochs + 1):
            if process_states:  # resumed within this epoch
                restore_process_state(process_states[accelerator.process_index], device, total)
                process_states = []
            else:
                step, random_state = 0, None
                total.reset()
                # Dropout draws from the global generator.
                purpose = f"model/{epoch}/{accelerator.process_index}"
                torch.manual_seed(seed_for(config.seed, purpose))
            prepared.train()
            for batch in batches.epoch(epoch, step, random_state):
                loss = batch_loss(prepared, batch, epoch)
                # Processes average their gradients; unequal parts have to weigh as they are large.
                weight = batch.share * accelerator.num_processes
                accelerator.backward(loss if weight == 1.0 else weight * loss)
                stepper.step()
                stepper.zero_grad()
                if averaged is not None:
                    averaged.update_parameters(model)
                total.add(loss.detach(), batch.share * batch.joint_size)
                step += 1
                if step == batches.steps:  # before the checkpoint, which may be the epoch's last
                    schedule.step()
                    if loss_state is not None:
                        loss_state.end_epoch()
                observer.step(epoch, step, batches.steps, batch.joint_size, total.mean)
                checkpointer.after_step(snapshot)
            check = None
            if is_test_epoch(epoch):
                mean_loss = float(accelerator.reduce(total.sum, "sum")) / batches.images  # waits
                training.stop()
                share_buffers(model, accelerator)
                if averaged is not None:
                    share_buffers(averaged.module, accelerator)
                with checkpointer.unchanged(snapshot):
                    check = EvalResult.of(epoch, mean_loss, run_test(tested))
                if not math.isfinite(mean_loss) and all(math.isfinite(c.loss) for c in checks):
                    warn_of_divergence(epoch, mean_loss)
                checks.append(check)
                training.start()
            observer.epoch(epoch, batches.images, check)
    accelerator.free_memory()  # it keeps what it has prepared
    if averaged is not None:
        model.load_state_dict(averaged.module.state_dict())
    rate = config.epochs * batches.images / training.seconds
    return model.eval(), Trained(tuple(checks), watch.seconds, rate)


def start_compiler_afresh(config: TrainingConfig) -> None:
    """Drops what earlier runs of this process have compiled, where a run compiles its networks.

    Every run has an autocast of its own, for which ``torch.compile`` compiles the networks again.
    After the third run or so torch's limit of 8 is reached, and the others would run uncompiled.
    From torch's cache on the disk it takes 2 s.
    """
    if config.compile:
        torch.compiler.reset()


def warn_of_divergence(epoch: int, loss: float) -> None:
    """Says that a run is lost; it goes on, so that a table of many runs is not."""
    warnings.warn(
        f"the training loss of epoch {epoch} is {loss}: the student has diverged, and its accuracy "
        "says nothing of the loss; a smaller learning rate may help",
        RuntimeWarning,
        stacklevel=3,
    )
