"""The training loop of teachers and students.

On the CPU, a run with a given seed, number of threads and number of processes always gives the same
bits: the initial weights, the order of the images and the augmentation are seeded separately.
Device, precision and processes are managed by Hugging Face accelerate.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from gift_fast.process.memory import keep_freed_memory
from gift_fast.process.signals import Interruption
from gift_fast.training.batches import Batch, Batches
from gift_fast.training.checkpoint import CheckpointConfig, Checkpointer
from gift_fast.training.config import ResolvedTrainingConfig, TrainingConfig
from gift_fast.training.eval_result import EvalResult
from gift_fast.training.objectives import LossState
from gift_fast.training.observer import Observer
from gift_fast.training.optimizers import Hyperparameters, build_optimizer
from gift_fast.training.predict import Accuracy
from gift_fast.training.processes import can_skip_wrapper, check_agreement, share_buffers
from gift_fast.training.state import TrainingState

if TYPE_CHECKING:
    from accelerate import Accelerator

BatchLoss = Callable[[nn.Module, Batch, int], Tensor]
"""(network, this process's part of a batch, epoch from 1) -> the part's mean loss, a scalar."""


@dataclass(frozen=True)
class Trained:
    """The measurements that :func:`fit` returns with the network.

    Attributes:
        checks: the tests, in order.
        seconds: wall time, including that of the runs that this one resumes.
        images_per_second: training throughput over all processes; tests are not counted.
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
    """Train a network in place; both teachers and students are trained here.

    With ``config.ema_decay``, the exponential moving average of the weights is tested and, at the
    end, replaces the weights of the network. It starts at the weights after the first step.
    Floating-point buffers, such as batch norm's running statistics, are averaged like the weights,
    or copied from the network if ``config.ema_buffers`` is False.

    Args:
        model: on the CPU; the returned network is the same object.
        batches: what it is trained on.
        config: how it is trained.
        batch_loss: computes the mean loss of a batch.
        accelerator: where to train.
        run_test: tests a network.
        is_test_epoch: whether to test after an epoch, counted from 1.
        identity: identifies the run that a checkpoint belongs to.
        checkpoint: where and how often to save; if the file exists, the run resumes from it.
        interruption: records signals; after one, the state is saved and ``Interrupted`` is raised.
        observer: is called at steps, epochs and tests.
        loss_state: what the loss carries from one epoch to the next, or None.

    Returns:
        The network in eval mode, on the accelerator's device, and the tests.

    Raises:
        Interrupted: a signal was received; the state is saved.
        ValueError: the checkpoint is another run's, or was saved within an epoch by another number
            of processes or on another kind of device.
    """
    device = accelerator.device
    observer, interruption = observer or Observer(), interruption or Interruption()
    if device.type == "cpu":
        keep_freed_memory()

    model = model.to(device)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    ema = None
    if config.ema_decay:
        average = get_ema_multi_avg_fn(config.ema_decay)
        ema = AveragedModel(model, multi_avg_fn=average, use_buffers=config.ema_buffers)
    values = Hyperparameters(config.learning_rate, config.weight_decay, config.momentum)
    optimizer, schedule = build_optimizer(
        model, config.optimizer, config.schedule, config.epochs, values
    )
    reset_scaler(accelerator)

    state = TrainingState(model, ema, optimizer, schedule, loss_state, batches, accelerator)
    if checkpoint is not None:
        state.resume(checkpoint.path, identity)
    done, step = state.epoch - 1, state.step
    check_agreement(accelerator, "the checkpoint's step", done * batches.steps + step)
    checkpointer = Checkpointer(checkpoint, interruption, identity, accelerator)

    if config.compile:
        # One graph per batch size: a resumed run sees the sizes in another order.
        model.compile(dynamic=False)
    network, stepper = accelerator.prepare(model, optimizer)
    if can_skip_wrapper(accelerator):
        stepper = stepper.optimizer

    observer.start(config.epochs, done + step / batches.steps)
    state.run_time.start()
    state.training_time.start()
    random = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with random, interruption.held():
        for epoch in range(state.epoch, config.epochs + 1):
            state.start_epoch(epoch, config.seed)
            train_one_epoch(network, stepper, batch_loss, state, checkpointer, observer)
            result = None
            if is_test_epoch(epoch):
                result = test_epoch(run_test, state, checkpointer)
            observer.epoch(epoch, batches.images, result)

    accelerator.free_memory()  # otherwise it keeps what it has prepared
    if ema is not None:
        model.load_state_dict(ema.module.state_dict())
    throughput = config.epochs * batches.images / state.training_time.seconds
    return model.eval(), Trained(tuple(state.tests), state.run_time.seconds, throughput)


def train_one_epoch(
    network: nn.Module,
    optimizer: Optimizer,
    batch_loss: BatchLoss,
    state: TrainingState,
    checkpointer: Checkpointer,
    observer: Observer,
) -> None:
    """Train on the batches of the current epoch that are left; save when it is due.

    Args:
        network: the model as the accelerator has prepared it.
        optimizer: as the accelerator has prepared it.
        batch_loss: see :func:`fit`.
        state: is advanced by every step.
        checkpointer: saves the state and stops the run.
        observer: is called after every step.
    """
    accelerator, batches = state.accelerator, state.batches
    network.train()
    for batch in batches.epoch(state.epoch, state.step, state.batches_state):
        loss = batch_loss(network, batch, state.epoch)
        # Processes average their gradients, so each weights its loss by its share of the batch.
        weight = batch.share * accelerator.num_processes
        accelerator.backward(loss if weight == 1.0 else weight * loss)
        optimizer.step()
        optimizer.zero_grad()
        if state.ema is not None:
            state.ema.update_parameters(state.model)
        state.loss_sum.add(loss.detach(), batch.share * batch.global_size)
        state.step += 1
        if state.step == batches.steps:  # before the checkpoint, which may be the epoch's last
            state.schedule.step()
            if state.loss_state is not None:
                state.loss_state.end_epoch()
        size, mean_loss = batch.global_size, state.loss_sum.mean
        observer.step(state.epoch, state.step, batches.steps, size, mean_loss)
        checkpointer.after_step(state.state_dict)


def test_epoch(
    run_test: Callable[[nn.Module], Accuracy], state: TrainingState, checkpointer: Checkpointer
) -> EvalResult:
    """Test the network after an epoch, warn if training has diverged, and store the result."""
    accelerator = state.accelerator
    loss_sum = float(accelerator.reduce(state.loss_sum.sum, "sum"))  # waits for the device
    mean_loss = loss_sum / state.batches.images
    state.training_time.stop()
    share_buffers(state.model, accelerator)
    if state.ema is not None:
        share_buffers(state.ema.module, accelerator)
    with checkpointer.unchanged(state.state_dict):
        result = EvalResult.of(state.epoch, mean_loss, run_test(state.tested_model))
    if not math.isfinite(mean_loss) and all(math.isfinite(test.loss) for test in state.tests):
        warn_of_divergence(state.epoch, mean_loss)
    state.tests.append(result)
    state.training_time.start()
    return result


def reset_scaler(accelerator: Accelerator) -> None:
    """Restore the initial state of the gradient scaler, which an earlier run may have changed."""
    if accelerator.scaler is not None:
        scale = torch.amp.GradScaler(accelerator.device.type).get_scale()
        initial = {"scale": scale, "_growth_tracker": 0}
        accelerator.scaler.load_state_dict({**accelerator.scaler.state_dict(), **initial})


def reset_compiler(config: TrainingConfig) -> None:
    """Clear what earlier runs of this process compiled, if the run compiles its networks.

    Every run has its own autocast, for which ``torch.compile`` compiles the networks again. After
    about three runs, torch's limit of 8 compilations is reached, and later runs would not be
    compiled. Reading them from torch's cache on disk takes 2 s.
    """
    if config.compile:
        torch.compiler.reset()


def warn_of_divergence(epoch: int, loss: float) -> None:
    """Warn that a run has diverged; it continues, so that a study of many runs is not lost."""
    warnings.warn(
        f"the training loss of epoch {epoch} is {loss}: the student has diverged, and its accuracy "
        "says nothing about the loss; a lower learning rate may help",
        RuntimeWarning,
        stacklevel=4,
    )
