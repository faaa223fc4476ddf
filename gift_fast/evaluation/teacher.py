"""Training of teachers on the real training split."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gift_fast.data.datasets import ImageDataset, load_dataset
from gift_fast.data.datasets.sizes import check_validation_fits
from gift_fast.evaluation.config import TeacherConfig
from gift_fast.evaluation.context import RunContext, check_writable, tracked
from gift_fast.evaluation.description import describe_settings
from gift_fast.evaluation.teacher_weights import load_teacher, teacher_path
from gift_fast.files.disk import check_space, checkpoint_bytes
from gift_fast.process.signals import Interruption, current
from gift_fast.training.batches import Batch, RandomBatches
from gift_fast.training.checkpoint import CheckpointConfig
from gift_fast.training.eval_result import EvalResult
from gift_fast.training.last_batch import check_last_batch
from gift_fast.training.models import new_model
from gift_fast.training.observer import Observer, RunObserver
from gift_fast.training.predict import test_on_all
from gift_fast.training.processes import new_accelerator, processes_of
from gift_fast.training.train import fit, reset_compiler
from gift_fast.training.weights import save_weights

if TYPE_CHECKING:
    from accelerate import Accelerator


def train_teacher(
    config: TeacherConfig,
    dataset: ImageDataset,
    *,
    accelerator: Accelerator | None = None,
    checkpoint: CheckpointConfig | None = None,
    interruption: Interruption | None = None,
    observer: Observer | None = None,
) -> tuple[nn.Module, tuple[EvalResult, ...]]:
    """Train a network on the training split with cross-entropy.

    Returns:
        The network in eval mode, and its tests, after every tenth of the epochs and after the last.
    """
    split = dataset.training_split
    resolved = config.resolved(len(split))
    accelerator = accelerator or new_accelerator(resolved)
    check_last_batch(
        lambda: new_model(resolved.model, dataset, resolved.seed),
        split.shape,
        images=len(split),
        batch_size=resolved.batch_size,
        network=resolved.model,
    )
    identity = {"config": resolved.to_dict(), "train": split.fingerprint()}
    dataset = dataset.to(accelerator.device)
    batches = RandomBatches(
        dataset.training_split, dataset.normalize, resolved, processes_of(accelerator)
    )
    reset_compiler(resolved)
    epochs, every = resolved.epochs, max(resolved.epochs // 10, 1)

    def batch_loss(teacher: nn.Module, batch: Batch, epoch: int) -> Tensor:
        logits = teacher(batch.images)
        loss = F.cross_entropy(logits, batch.target)
        if batch.mixed_target is not None:
            loss = torch.lerp(F.cross_entropy(logits, batch.mixed_target), loss, batch.weight)
        return loss

    teacher, trained = fit(
        new_model(resolved.model, dataset, resolved.seed),
        batches,
        resolved,
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


def run_teacher(config: TeacherConfig, context: RunContext) -> tuple[Path, EvalResult]:
    """Train a teacher, or load a finished one; return its file and its last test."""
    accelerator = context.accelerator(config)
    check_validation_fits(config.dataset, context.data_root)
    check_writable(context.teacher_dir, accelerator)
    if accelerator.is_main_process and not context.quiet:  # before anything slow
        print(f"settings:\n{describe_settings(config)}", file=sys.stderr, flush=True)
    tested = load_dataset(config.dataset, context.data_root, train=False)
    teacher = new_model(config.model, tested, seed=0)  # raises if it cannot be built
    needed = checkpoint_bytes(teacher, averaged=config.ema_decay > 0)
    check_space(context.teacher_dir, needed, "checkpoints")
    dataset = load_dataset(config.dataset, context.data_root)
    with context.showing(accelerator, 1) as shown:
        _, check = prepare_teacher(config, dataset, shown)
    return teacher_path(context, config.dataset, config.model), check


def prepare_teacher(
    config: TeacherConfig,
    dataset: ImageDataset,
    context: RunContext,
    *,
    replaces: bool = False,
) -> tuple[nn.Module, EvalResult]:
    """Load a teacher from its file, or train it; return it in eval mode with its last test.

    The file also contains the tests and the configuration.

    Args:
        config: how it is trained.
        dataset: with its training split.
        context: device, folders and progress; the teacher is one stage of the progress.
        replaces: whether other weights in its file may be overwritten.

    Raises:
        ValueError: the file has other weights, which must not be overwritten.
    """
    accelerator, progress = context.accelerator(config), context.progress
    resolved = config.resolved(len(dataset.training_split))
    path = teacher_path(context, resolved.dataset, resolved.model)
    checkpoint = path.with_suffix(".ckpt")
    if path.exists() and not context.force:
        teacher, record = load_teacher(resolved.model, path, dataset)
        if record.get("config") == resolved.to_dict():
            check = EvalResult.from_dict(record["checks"][-1])
            progress.begin("teacher", resolved.epochs, done=resolved.epochs)
            progress.end(f"top-1 {check.top1:.1f} %, from an earlier call")
            return teacher, check
        if not replaces:
            raise ValueError(
                f"{path} must be a teacher trained with these settings, but it was trained with "
                "other settings or by another program; use --force to replace it, or another "
                "--teacher-dir"
            )
    if context.force and accelerator.is_main_process:
        checkpoint.unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    interruption = current()
    with interruption.held():  # until the weights are written
        with tracked(accelerator, context, path.stem, resolved):
            teacher, checks = train_teacher(
                resolved,
                dataset,
                accelerator=accelerator,
                checkpoint=CheckpointConfig(checkpoint, context.checkpoint_every),
                interruption=interruption,
                observer=RunObserver("teacher", progress, accelerator),
            )
        if accelerator.is_main_process:
            tests = [check.to_dict() for check in checks]
            save_weights(path, teacher, config=resolved.to_dict(), checks=tests)
            checkpoint.unlink(missing_ok=True)
        accelerator.wait_for_everyone()
        progress.end(f"top-1 {checks[-1].top1:.1f} %")
    return teacher, checks[-1]
