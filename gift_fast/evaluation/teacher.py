"""One teacher: trained on the real training split."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gift_fast.data.datasets import ImageDataset
from gift_fast.evaluation.config import TeacherConfig
from gift_fast.process.signals import Interruption
from gift_fast.training.batches import Batch, RandomBatches
from gift_fast.training.checkpoint import CheckpointConfig
from gift_fast.training.eval_result import Check
from gift_fast.training.last_batch import check_last_batch
from gift_fast.training.models import new_model
from gift_fast.training.observer import Observer
from gift_fast.training.predict import test_on_all
from gift_fast.training.processes import new_accelerator, processes_of
from gift_fast.training.train import fit, start_compiler_afresh

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
