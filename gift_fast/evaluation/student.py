"""Training of a student on a distilled set and its test on real images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gift_fast.data.classes import narrow
from gift_fast.data.datasets import ImageDataset, TensorSplit
from gift_fast.data.distilled import DistilledSet
from gift_fast.data.labels.label_set import LabelSet
from gift_fast.evaluation.checks import check_inputs
from gift_fast.evaluation.config import EvaluationConfig, ResolvedEvaluationConfig
from gift_fast.evaluation.digests import code_of, inputs_of
from gift_fast.evaluation.inputs import resolve_on
from gift_fast.evaluation.label_sets import check_labels, digests_with
from gift_fast.evaluation.results import RunResult
from gift_fast.evaluation.soft_labels import labeler
from gift_fast.process.peak_memory import peak_memory
from gift_fast.process.signals import Interruption
from gift_fast.training.batches import (
    Batch,
    Batches,
    PhasedBatches,
    RandomBatches,
    ReplayBatches,
)
from gift_fast.training.checkpoint import CheckpointConfig
from gift_fast.training.environment import environment_of
from gift_fast.training.labeled_batches import LabeledBatches
from gift_fast.training.models import new_model
from gift_fast.training.objectives import build_objective
from gift_fast.training.observer import Observer
from gift_fast.training.predict import Transform, test_on_all
from gift_fast.training.processes import Processes, new_accelerator, processes_of
from gift_fast.training.train import fit, reset_compiler

if TYPE_CHECKING:
    from accelerate import Accelerator


def evaluate(
    config: EvaluationConfig,
    dataset: ImageDataset,
    distilled: DistilledSet,
    teachers: Sequence[nn.Module] = (),
    *,
    labels: LabelSet | None = None,
    whiten: Transform | None = None,
    accelerator: Accelerator | None = None,
    checkpoint: CheckpointConfig | None = None,
    interruption: Interruption | None = None,
    observer: Observer | None = None,
) -> RunResult:
    """Train a student on a distilled set and measure its accuracy on the real test split.

    Args:
        config: what to train and how. If it has only some of the classes, the other arguments are
            restricted to them, see :func:`~gift_fast.data.classes.narrow`.
        dataset: its test split and its normalization are used.
        distilled: the images that the student is trained on.
        teachers: map normalized images to logits; moved to the accelerator's device. In eval mode,
            they label every batch after augmentation, as in GIFT's code, and stored soft labels
            are not read. Empty if ``config.teachers`` is empty; then the stored soft labels are
            used.
        labels: a label set of this run, which replaces the teachers; they can be omitted. If it
            has all logits in float32, the result has the same bits as with the teachers.
        whiten: maps test images in [0, 1] to the space of a whitened distilled set.
        accelerator: where to train; by default with the processes and devices that this process
            was launched with.
        checkpoint: where and how often to save; if the file exists, the run resumes from it.
        interruption: records signals; after one, the state is saved and ``Interrupted`` is raised.
        observer: is called at steps, epochs and tests.

    Returns:
        The result; ``result.last.top1`` is the score.

    Raises:
        ValueError: ``config`` and the other arguments disagree, or the checkpoint is another run's.

    Source: Shang, Sun and Lin, ICLR 2025, section 5 and table 11, and their code.
    """
    dataset, distilled, teachers = narrow(config.classes, dataset, distilled, teachers)
    return train_student(
        config,
        dataset,
        distilled,
        teachers,
        labels=labels,
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
    labels: LabelSet | None = None,
    whiten: Transform | None = None,
    accelerator: Accelerator | None = None,
    checkpoint: CheckpointConfig | None = None,
    interruption: Interruption | None = None,
    observer: Observer | None = None,
    inputs: dict[str, str] | None = None,
) -> tuple[nn.Module, RunResult]:
    """Do the work of :func:`evaluate` and return the student, in eval mode, with the result.

    Dataset, distilled set and teachers must be restricted to ``config.classes``. ``inputs`` are the
    digests of the inputs, if they are already computed.
    """
    resolved = resolve_on(config, distilled)
    check_inputs(resolved, dataset, distilled, teachers, whiten, labeled=labels is not None)
    accelerator = accelerator or new_accelerator(resolved)
    if accelerator.mixed_precision != resolved.mixed_precision:
        raise ValueError(
            f"accelerator must have the mixed_precision of config, {resolved.mixed_precision!r}, "
            f"got {accelerator.mixed_precision!r}"
        )
    device = accelerator.device
    inputs = {**(inputs or inputs_of(dataset, distilled, teachers, whiten)), **code_of(resolved)}
    if labels is not None:
        check_labels(labels, resolved, dataset.num_classes, len(distilled), inputs)
        inputs = digests_with(labels, inputs)
    dataset, distilled = dataset.to(device), distilled.to(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    reset_compiler(resolved)
    student = new_model(resolved.student, dataset, resolved.seed)
    objective = build_objective(resolved.loss)
    hard = objective if resolved.hard_loss == "none" else build_objective(resolved.hard_loss)
    if objective.state is not None and accelerator.num_processes > 1:
        raise ValueError(
            f"loss must not be fitted to batches if there are several processes, got "
            f"{resolved.loss} and {accelerator.num_processes} processes; set student_temperature"
        )
    online = objective.reads_soft_labels and labels is None
    label = labeler(teachers if online else (), resolved, accelerator)

    def batch_loss(student: nn.Module, batch: Batch, epoch: int) -> Tensor:
        if resolved.forward_twice:
            with torch.no_grad():  # updates batch norm's running statistics
                student(batch.images)
        is_hard = resolved.is_hard_epoch(epoch)
        soft_labels = None if is_hard else label(batch)
        return (hard if is_hard else objective)(
            student(batch.images),
            soft_labels,
            batch.target,
            epoch,
            mixed_target=batch.mixed_target if resolved.mixed_targets else None,
            weight=batch.weight,
            temperature=batch.temperature,
        )

    student, trained = fit(
        student,
        batches_of(
            resolved,
            dataset,
            distilled,
            processes_of(accelerator),
            labels if objective.reads_soft_labels else None,
        ),
        resolved,
        batch_loss,
        accelerator,
        run_test=lambda student: test_on_all(student, dataset, whiten, accelerator),
        is_test_epoch=resolved.is_test_epoch,
        identity={"config": resolved.to_dict(), "inputs": inputs},
        checkpoint=checkpoint,
        interruption=interruption,
        observer=observer,
        loss_state=objective.state,
    )
    return student, RunResult(
        config=resolved,
        inputs=inputs,
        checks=trained.checks,
        seconds=trained.seconds,
        images_per_second=trained.images_per_second,
        peak_memory=peak_memory(device),
        environment=environment_of(accelerator),
        source=distilled.source,
    )


def batches_of(
    config: ResolvedEvaluationConfig,
    dataset: ImageDataset,
    distilled: DistilledSet,
    processes: Processes,
    labels: LabelSet | None = None,
) -> Batches:
    """The batches of a student: random ones, or stored ones if no teacher labels them.

    In the epochs of ``config.hard_loss``, random batches replace stored ones.
    """
    if labels is not None:
        split = TensorSplit(distilled.images, distilled.labels)
        return LabeledBatches(split, dataset.normalize, config, processes, labels)
    random = RandomBatches(
        TensorSplit(distilled.images, distilled.labels),
        dataset.normalize,
        config,
        processes,
        soft_labels=None if config.teachers else distilled.soft_labels,
    )
    if not config.teachers and distilled.replay is not None:
        replay = distilled.replay.in_batches(config.batch_size)
        stored = ReplayBatches(replay, distilled, dataset.normalize, config.seed, processes)
        if config.hard_loss == "none":
            return stored
        return PhasedBatches(stored, random, config.is_hard_epoch)
    return random
