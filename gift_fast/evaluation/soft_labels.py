"""The soft labels of a batch: a teacher's, several teachers', or those stored with the set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gift_fast.evaluation.config import EvaluationConfig
from gift_fast.loss import TopKLabels
from gift_fast.training.batches import Batch

if TYPE_CHECKING:
    from accelerate import Accelerator


def labeler(
    teachers: Sequence[nn.Module], config: EvaluationConfig, accelerator: Accelerator
) -> Callable[[Batch], Tensor | TopKLabels | None]:
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
