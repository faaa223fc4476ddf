"""The soft labels of a batch: computed by one or more teachers, or stored with the set."""

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
    """Create the function that returns the soft labels (B, C) of a batch.

    They are the teachers' logits or, without teachers, the stored soft labels. The logits of
    several teachers are scaled to the mean of their norms and averaged, so that all have the same
    weight. G-VBSM's code uses the norm over the whole batch; the norm of each row gives the same
    result for any number of processes.
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
        # Autograd cannot save tensors created in inference mode for backward, but can save a copy.
        soft_labels: Tensor = logits[0].clone()
        return soft_labels

    return label


def average_of(logits: Tensor) -> Tensor:
    """The mean (B, C) of several teachers' logits (K, B, C), each row scaled to the mean norm."""
    norms = torch.linalg.vector_norm(logits, dim=-1, keepdim=True)
    scale = norms.mean(0) / norms.clamp_min(torch.finfo(norms.dtype).tiny)
    return torch.mean(scale * logits, dim=0)
