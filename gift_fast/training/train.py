"""The training loop, for teachers and for students.

On the CPU a run is the same bit for bit from its seed, for the same number of threads and
processes: the initial weights, the order of the images and the augmentation are seeded separately.
Device, precision and processes are Hugging Face accelerate's.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gift_fast.data.classes import narrow, number_seen
from gift_fast.data.datasets import DATASETS, ImageDataset, TensorSplit
from gift_fast.data.distilled import DistilledSet
from gift_fast.evaluation.config import (
    EvaluationConfig,
    TeacherConfig,
    TrainingConfig,
)
from gift_fast.evaluation.results import (
    Check,
    RunResult,
    code_of,
    environment_of,
    inputs_of,
    peak_memory,
)
from gift_fast.files import spec
from gift_fast.process.memory import keep_freed_memory
from gift_fast.process.signals import Interruption
from gift_fast.training.batches import (
    Batch,
    Batches,
    Processes,
    RandomBatches,
    RandomState,
    ReplayBatches,
    seed_for,
)
from gift_fast.training.checkpoint import CheckpointConfig, Checkpointer, find_state
from gift_fast.training.last_batch import check_last_batch
from gift_fast.training.models import build_model
from gift_fast.training.objectives import build_objective
from gift_fast.training.optimizers import build_optimizer
from gift_fast.training.predict import Accuracy, Transform, count_correct

if TYPE_CHECKING:
    from accelerate import Accelerator

BatchLoss = Callable[[nn.Module, Batch, int], Tensor]
"""(network, this process's part of a batch, epoch from 1) -> the part's mean loss, a scalar."""


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


@dataclass(frozen=True)
class Trained:
    """What :func:`fit` gives beside the trained network.

    Attributes:
        checks: the tests, in order.
        seconds: wall time, earlier parts of a resumed run included.
        images_per_second: of the training alone, tests left out; over all processes.
    """

    checks: tuple[Check, ...]
    seconds: float
    images_per_second: float


def new_accelerator(config: TrainingConfig, *, device: str = "auto", **options: Any) -> Accelerator:
    """An accelerator for a run: all devices and processes that it was launched with, or the CPU.

    Args:
        config: its precision is used.
        device: ``auto`` or ``cpu``. CUDA_VISIBLE_DEVICES picks one of several GPUs.
        options: more arguments of ``accelerate.Accelerator``: trackers, for instance.

    Raises:
        ValueError: ``device`` is neither.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    if device not in ("auto", "cpu"):
        raise ValueError(
            f"device must be auto or cpu (CUDA_VISIBLE_DEVICES picks a GPU), got {device!r}"
        )
    # accelerate keeps the first precision and device of a process; runs may differ in both.
    AcceleratorState._reset_state()
    if PartialState._shared_state and PartialState().num_processes == 1:
        PartialState._reset_state()
    return Accelerator(
        # Several processes on the CPU find each other only if it is asked for.
        cpu=device == "cpu" or not torch.accelerator.is_available(),
        mixed_precision=config.mixed_precision,
        step_scheduler_with_optimizer=False,
        **options,
    )


def evaluate(
    config: EvaluationConfig,
    dataset: ImageDataset,
    distilled: DistilledSet,
    teachers: Sequence[nn.Module] = (),
    *,
    whiten: Transform | None = None,
    accelerator: Accelerator | None = None,
    checkpoint: CheckpointConfig | None = None,
    interruption: Interruption | None = None,
    observer: Observer | None = None,
) -> RunResult:
    """Trains a student on a distilled set and measures its accuracy on the real test split.

    Args:
        config: what to train and how. Where its classes are not all, they are taken out of the
            other arguments here: see :func:`~gift_fast.data.classes.narrow`.
        dataset: its test split and its normalisation are used.
        distilled: the images that the student is trained on.
        teachers: take normalised images to logits. In eval mode, they label every batch after the
            augmentation, as GIFT's code does, and stored soft labels are not read. Empty where
            ``config.teachers`` is empty: then the soft labels stored with the set are used. They
            are moved to the accelerator's device.
        whiten: takes test images in [0, 1] to the space of a distilled set that is whitened.
        accelerator: where to train; by default whatever this process was launched with.
        checkpoint: where and how often to save; the run is resumed from this file where it exists.
        interruption: notes signals, at which the state is saved and ``Interrupted`` is raised.
        observer: told of steps, epochs and tests.

    Returns:
        The checks and what they depend on; ``result.last.top1`` is the score.

    Raises:
        ValueError: ``config`` and the other arguments disagree, or the checkpoint is another run's.

    Source: Shang, Sun and Lin, ICLR 2025, section 5 and table 11, and the code that goes with it.
    """
    dataset, distilled, teachers = narrow(config.classes, dataset, distilled, teachers)
    return train_student(
        config,
        dataset,
        distilled,
        teachers,
        whiten=whiten,
        accelerator=accelerator,
        checkpoint=checkpoint,
        interruption=interruption,
        observer=observer,
    )[1]


def train_student(
    config: EvaluationConfig,
    dataset: ImageDataset,
    distilled: DistilledSet,
    teachers: Sequence[nn.Module] = (),
    *,
    whiten: Transform | None = None,
    accelerator: Accelerator | None = None,
    checkpoint: CheckpointConfig | None = None,
    interruption: Interruption | None = None,
    observer: Observer | None = None,
    inputs: dict[str, str] | None = None,
) -> tuple[nn.Module, RunResult]:
    """The same as :func:`evaluate`, with the student, in eval mode, beside the result.

    Dataset, distilled set and teachers have been narrowed to ``config.classes``. ``inputs`` are the
    digests of what is read, for a caller that has them already.
    """
    config = settled(config, distilled)
    check_inputs(config, dataset, distilled, teachers, whiten)
    accelerator = accelerator or new_accelerator(config)
    if accelerator.mixed_precision != config.mixed_precision:
        raise ValueError(
            f"accelerator must have config's mixed_precision {config.mixed_precision!r}, "
            f"got {accelerator.mixed_precision!r}"
        )
    device = accelerator.device
    inputs = {**(inputs or inputs_of(dataset, distilled, teachers, whiten)), **code_of(config)}
    dataset, distilled = dataset.to(device), distilled.to(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    start_compiler_afresh(config)
    student = new_model(config.student, dataset, config.seed)
    objective = build_objective(config.loss)
    label = labeller(teachers if objective.reads_soft_labels else (), config, accelerator)

    def batch_loss(student: nn.Module, batch: Batch, epoch: int) -> Tensor:
        if config.forward_twice:
            with torch.no_grad():  # for what it does to batch norm's running statistics
                student(batch.images)
        soft_labels = label(batch)
        return objective(
            student(batch.images),
            soft_labels,
            batch.target,
            epoch,
            mixed_target=batch.mixed_target if config.mixed_targets else None,
            weight=batch.weight,
        )

    student, trained = fit(
        student,
        batches_of(config, dataset, distilled, processes_of(accelerator)),
        config,
        batch_loss,
        accelerator,
        run_test=lambda student: test_on_all(student, dataset, whiten, accelerator),
        is_test_epoch=config.is_test_epoch,
        identity={"config": config.to_dict(), "inputs": inputs},
        checkpoint=checkpoint,
        interruption=interruption,
        observer=observer,
    )
    return student, RunResult(
        config=config,
        inputs=inputs,
        checks=trained.checks,
        seconds=trained.seconds,
        images_per_second=trained.images_per_second,
        peak_memory=peak_memory(device),
        environment=environment_of(accelerator),
        source=distilled.source,
    )


def train_teacher(
    config: TeacherConfig,
    dataset: ImageDataset,
    *,
    accelerator: Accelerator | None = None,
    checkpoint: CheckpointConfig | None = None,
    interruption: Interruption | None = None,
    observer: Observer | None = None,
) -> tuple[nn.Module, tuple[Check, ...]]:
    """Trains a network on the whole training split with cross-entropy.

    Returns:
        The network in eval mode, and its tests: every tenth of the epochs, and the last.
    """
    split = dataset.training_split
    config = config.resolved(len(split))
    accelerator = accelerator or new_accelerator(config)
    assert config.batch_size is not None
    check_last_batch(
        lambda: new_model(config.model, dataset, config.seed),
        split.shape,
        images=len(split),
        batch_size=config.batch_size,
        network=config.model,
    )
    identity = {"config": config.to_dict(), "train": split.fingerprint()}
    dataset = dataset.to(accelerator.device)
    batches = RandomBatches(
        dataset.training_split, dataset.normalize, config, processes_of(accelerator)
    )
    start_compiler_afresh(config)
    assert config.epochs is not None
    epochs, every = config.epochs, max(config.epochs // 10, 1)

    def batch_loss(teacher: nn.Module, batch: Batch, epoch: int) -> Tensor:
        logits = teacher(batch.images)
        loss = F.cross_entropy(logits, batch.target)
        if batch.mixed_target is not None:
            loss = torch.lerp(F.cross_entropy(logits, batch.mixed_target), loss, batch.weight)
        return loss

    teacher, trained = fit(
        new_model(config.model, dataset, config.seed),
        batches,
        config,
        batch_loss,
        accelerator,
        run_test=lambda teacher: test_on_all(teacher, dataset, None, accelerator),
        is_test_epoch=lambda epoch: epoch % every == 0 or epoch == epochs,
        identity=identity,
        checkpoint=checkpoint,
        interruption=interruption,
        observer=observer,
    )
    return teacher, trained.checks


def fit(
    model: nn.Module,
    batches: Batches,
    config: TrainingConfig,
    batch_loss: BatchLoss,
    accelerator: Accelerator,
    *,
    run_test: Callable[[nn.Module], Accuracy],
    is_test_epoch: Callable[[int], bool],
    identity: dict[str, Any],
    checkpoint: CheckpointConfig | None = None,
    interruption: Interruption | None = None,
    observer: Observer | None = None,
) -> tuple[nn.Module, Trained]:
    """Trains a model in place; all that ever trains runs here.

    Args:
        model: on the CPU; the trained one is the same object.
        batches: what it is trained on.
        config: resolved.
        batch_loss: takes the model, a batch and the epoch to the mean loss of the batch.
        accelerator: where to train.
        run_test: tests the model.
        is_test_epoch: whether to test after an epoch, counted from 1.
        identity: says which run a checkpoint belongs to.
        checkpoint: where and how often to save; the run is resumed from this file where it exists.
        interruption: notes signals, at which the state is saved and ``Interrupted`` is raised.
        observer: told of steps, epochs and tests.

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
    assert config.epochs is not None
    if device.type == "cpu":
        keep_freed_memory()
    model = model.to(device)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer, schedule = build_optimizer(model, config)
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
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(state["scaler"])
        done, step = state["epoch"], state["step"]
        checks = [Check.from_dict(check) for check in state["checks"]]
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
                total.add(loss.detach(), batch.share * batch.joint_size)
                step += 1
                if step == batches.steps:  # before the checkpoint, which may be the epoch's last
                    schedule.step()
                observer.step(epoch, step, batches.steps, batch.joint_size, total.mean)
                checkpointer.after_step(snapshot)
            check = None
            if is_test_epoch(epoch):
                mean_loss = float(accelerator.reduce(total.sum, "sum")) / batches.images  # waits
                training.stop()
                share_buffers(model, accelerator)
                with checkpointer.unchanged(snapshot):
                    check = Check.of(epoch, mean_loss, run_test(model))
                if not math.isfinite(mean_loss) and all(math.isfinite(c.loss) for c in checks):
                    warn_of_divergence(epoch, mean_loss)
                checks.append(check)
                training.start()
            observer.epoch(epoch, batches.images, check)
    accelerator.free_memory()  # it keeps what it has prepared
    rate = config.epochs * batches.images / training.seconds
    return model.eval(), Trained(tuple(checks), watch.seconds, rate)


class Stopwatch:
    """Counts seconds while it runs.

    Args:
        seconds: counted before.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.counted = seconds
        self.started: float | None = None

    def start(self) -> None:
        """Counts from now on."""
        self.started = time.perf_counter()

    def stop(self) -> None:
        """Counts no longer."""
        self.counted, self.started = self.seconds, None

    @property
    def seconds(self) -> float:
        """All that has been counted."""
        running = 0.0 if self.started is None else time.perf_counter() - self.started
        return self.counted + running


class LossSum:
    """The losses of an epoch's images, added up on the device.

    Attributes:
        sum: over this process's images, a scalar tensor.
        images: how many these are.
    """

    def __init__(self, device: torch.device) -> None:
        self.sum = torch.zeros((), device=device)
        self.images = 0.0

    def reset(self) -> None:
        """Begins an epoch."""
        self.sum, self.images = torch.zeros_like(self.sum), 0.0

    def add(self, loss: Tensor, images: float) -> None:
        """Adds the mean loss of so many images."""
        self.sum += images * loss
        self.images += images

    def mean(self) -> float:
        """The mean loss; waits for the device. NaN of no image."""
        return float(self.sum) / self.images if self.images else math.nan


def process_state(device: torch.device, total: LossSum) -> dict[str, Any]:
    """The part of a run's state that every process has for itself."""
    host = device.type == "cpu"
    return {
        "device": device.type,
        "random": torch.get_rng_state(),
        "device_random": None if host else torch.get_device_module(device).get_rng_state(),
        "loss": total.sum.cpu(),
        "images": total.images,
    }


def restore_process_state(state: dict[str, Any], device: torch.device, total: LossSum) -> None:
    """Puts back what :func:`process_state` gave."""
    torch.set_rng_state(state["random"])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(state["device_random"])
    total.sum, total.images = state["loss"].to(device), state["images"]


def check_processes(
    path: Path, epoch: int, states: list[dict[str, Any]], accelerator: Accelerator
) -> None:
    """Raises ValueError unless as many processes as saved a state resume it, on such devices."""
    found = accelerator.num_processes, accelerator.device.type
    expected = len(states), states[0]["device"]
    if found != expected:
        raise ValueError(
            f"{path} was saved within epoch {epoch} by {expected[0]} process(es) on {expected[1]} "
            f"and can only be resumed by as many there, got {found[0]} on {found[1]}; remove it to "
            "start anew"
        )


def start_compiler_afresh(config: TrainingConfig) -> None:
    """Drops what earlier runs of this process have compiled, where a run compiles its networks.

    Every run has an autocast of its own, for which ``torch.compile`` compiles the networks again.
    After the third run or so torch's limit of 8 is reached, and the others would run uncompiled.
    From torch's cache on the disk it takes 2 s.
    """
    if config.compile:
        torch.compiler.reset()


def steps_alone(accelerator: Accelerator) -> bool:
    """Whether a prepared optimizer does no more in a step than the optimizer in it.

    accelerate's looks for packages in every step, which takes 0.2 ms; it is left out where there is
    no scaler, and gradients are averaged by DDP or not at all.
    """
    from accelerate import DistributedType

    plain = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
    return accelerator.scaler is None and accelerator.distributed_type in plain


def warn_of_divergence(epoch: int, loss: float) -> None:
    """Says that a run is lost; it goes on, so that a table of many runs is not."""
    warnings.warn(
        f"the training loss of epoch {epoch} is {loss}: the student has diverged, and its accuracy "
        "says nothing of the loss; a smaller learning rate may help",
        RuntimeWarning,
        stacklevel=3,
    )


def share_buffers(model: nn.Module, accelerator: Accelerator) -> None:
    """Gives every process the main one's buffers.

    Each process has its own running statistics of batch norm; what is tested, and saved, is one
    network.
    """
    if accelerator.num_processes > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)


def check_agreement(accelerator: Accelerator, what: str, value: int) -> None:
    """Raises ValueError unless all processes have the same value, read from files of their own."""
    if accelerator.num_processes == 1:
        return
    values = accelerator.gather(torch.tensor([value], device=accelerator.device)).tolist()
    if len(set(values)) > 1:
        raise ValueError(
            f"{what} must be the same for all processes, got {values}: the machines of a run must "
            "share the folder of its results"
        )


def settled(config: EvaluationConfig, distilled: DistilledSet) -> EvaluationConfig:
    """The configuration that a run on this set really has.

    What follows a rule of the protocol is filled in. Where stored batches are replayed, their size
    is that of the files, and augmentation and mixing are those they were stored with.
    """
    counts = distilled.labels.unique(return_counts=True)[1]
    ipc = int(counts[0]) if (counts == counts[0]).all() else None
    config = config.resolved(len(distilled), distilled.learning_rate, ipc)
    if config.teachers or distilled.replay is None:
        return config
    size = distilled.replay.batch_size
    return replace(config, batch_size=size, augmentation="none", mixing="none")


def batches_of(
    config: EvaluationConfig, dataset: ImageDataset, distilled: DistilledSet, processes: Processes
) -> Batches:
    """What a student is trained on: stored batches where no teacher labels them, or random ones."""
    if not config.teachers and distilled.replay is not None:
        return ReplayBatches(distilled, dataset.normalize, config, processes)
    return RandomBatches(
        TensorSplit(distilled.images, distilled.labels),
        dataset.normalize,
        config,
        processes,
        soft_labels=None if config.teachers else distilled.soft_labels,
    )


def labeller(
    teachers: Sequence[nn.Module], config: EvaluationConfig, accelerator: Accelerator
) -> Callable[[Batch], Tensor | None]:
    """What gives a batch its soft labels (B, C): the teachers' logits, else the stored rows.

    Several teachers' logits are averaged, each scaled to the mean of their norms, so that none
    counts for more because its logits are larger. G-VBSM's code takes the norm of the whole batch;
    row by row, it is the same for any number of processes.
    """
    if not teachers:
        return lambda batch: batch.soft_labels
    online: list[Callable[[Tensor], Tensor]] = []
    for teacher in teachers:
        teacher.to(accelerator.device).eval()
        if config.channels_last:
            teacher.to(memory_format=torch.channels_last)
        online.append(torch.compile(teacher, dynamic=False) if config.compile else teacher)

    def label(batch: Batch) -> Tensor:
        with torch.inference_mode(), accelerator.autocast():
            logits = [teacher(batch.images).float() for teacher in online]
            if len(logits) > 1:
                logits = [average_of(torch.stack(logits))]
        # A tensor made in inference mode may not be saved for a backward pass; its copy may.
        soft_labels: Tensor = logits[0].clone()
        return soft_labels

    return label


def average_of(logits: Tensor) -> Tensor:
    """The mean (B, C) of several teachers' logits (K, B, C), each row scaled to the mean norm."""
    norms = torch.linalg.vector_norm(logits, dim=-1, keepdim=True)
    scale = norms.mean(0) / norms.clamp_min(torch.finfo(norms.dtype).tiny)
    return torch.mean(scale * logits, dim=0)


def test_on_all(
    student: nn.Module, dataset: ImageDataset, whiten: Transform | None, accelerator: Accelerator
) -> Accuracy:
    """The accuracy on the test split, of which every process takes a part."""
    part, share = processes_of(accelerator).part_of(len(dataset.test))
    counts = count_correct(student, dataset, transform=whiten, start=part.start, stop=part.stop)
    if accelerator.num_processes > 1:
        counts = (counts * (share > 0)).to(accelerator.device)
        counts = accelerator.reduce(counts, "sum").cpu()
    return Accuracy.from_counts(counts)


def new_model(model: str, dataset: ImageDataset, seed: int) -> nn.Module:
    """A freshly initialised network that fits the images and classes of a dataset."""
    return build_model(
        model,
        channels=dataset.channels,
        side=dataset.side,
        num_classes=dataset.num_classes,
        seed=seed_for(seed, "initialisation"),
    )


def processes_of(accelerator: Accelerator) -> Processes:
    """Which of how many processes this is."""
    return Processes(accelerator.process_index, accelerator.num_processes)


def check_inputs(
    config: EvaluationConfig,
    dataset: ImageDataset,
    distilled: DistilledSet,
    teachers: Sequence[nn.Module],
    whiten: Transform | None,
) -> None:
    """Raises ValueError where the configuration and what it is to be run on disagree."""
    if dataset.name in DATASETS and dataset.name != spec.split_spec(config.dataset)[0]:
        raise ValueError(f"dataset must be config's, {config.dataset}; got {dataset.name}")
    if dataset.classes != config.classes:
        raise ValueError(
            f"dataset must be narrowed to config's classes, {config.classes}; got {dataset.classes}"
        )
    classes = number_seen(dataset)
    if config.ipc is not None and len(distilled) != config.ipc * classes:
        raise ValueError(
            f"distilled must hold {config.ipc * classes} images, {config.ipc} for each "
            f"of {classes} classes, got {len(distilled)}"
        )
    if distilled.images.shape[1:] != dataset.test.shape:
        raise ValueError(
            f"distilled must hold images of shape {dataset.test.shape}, "
            f"got {tuple(distilled.images.shape[1:])}"
        )
    distilled.check_against(dataset)
    if len(teachers) != len(config.teachers):
        raise ValueError(
            f"teachers must be the {len(config.teachers)} networks that config.teachers names "
            f"({', '.join(config.teachers) or 'none'}), got {len(teachers)}"
        )
    stored = distilled.soft_labels is not None or distilled.replay is not None
    if not teachers and not stored and build_objective(config.loss).reads_soft_labels:
        raise ValueError(
            f"distilled must hold soft labels for the loss {config.loss} where there is no "
            "teacher, got none"
        )
    per_image = not teachers and distilled.replay is None and distilled.soft_labels is not None
    if per_image and config.mixing != "none" and build_objective(config.loss).reads_soft_labels:
        raise ValueError(
            "mixing must be none where the soft labels are stored, one an image, since there is "
            f"none for a mixed image; got {config.mixing!r}"
        )
    replay = None if teachers else distilled.replay
    epochs = config.epochs or 0
    if replay is not None and replay.epochs is not None and epochs > replay.epochs:
        raise ValueError(
            f"epochs must be at most {replay.epochs}, of which labels are stored, got {epochs}"
        )
    if distilled.whitened and whiten is None:
        raise ValueError("whiten must be given, since the distilled images are whitened; got None")
    if whiten is not None and not distilled.whitened:
        raise ValueError("whiten must be None, since the distilled images are not whitened")
    if replay is None and config.batch_size is not None:
        check_last_batch(
            lambda: new_model(config.student, dataset, config.seed),
            (dataset.channels, dataset.side, dataset.side),
            images=len(distilled),
            batch_size=config.batch_size,
            network=config.student,
        )
