"""Token-level distillation: next-token labels, ignored tokens, and an lm_head in chunks.

With a large vocabulary, the logits are the largest tensors of a step. They are computed and
discarded chunk by chunk: checkpoint() computes a chunk again in the backward pass.
"""

import tiny
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from gift_fast import gift_loss


def distillation_loss(
    hidden: Tensor,
    lm_head: nn.Module,
    teacher_hidden: Tensor,
    teacher_head: nn.Module,
    labels: Tensor,
    chunks: int = 4,
) -> Tensor:
    """The mean loss over the tokens that have a next token.

    Args:
        hidden: (B, T, D), the student's last hidden states.
        lm_head: maps them to logits (..., V).
        teacher_hidden: (B, T, E), the teacher's.
        teacher_head: maps them to logits (..., V).
        labels: (B, T) int64, the tokens themselves; -100 for padding and prompts.
        chunks: into how many parts the B * T tokens are divided.
    """
    # Position t predicts token t + 1. Shifting the labels copies B x T numbers, shifting logits
    # would copy B x T x V.
    target = F.pad(labels[:, 1:], (0, 1), value=-100)

    def chunk_loss(student_part: Tensor, teacher_part: Tensor, target_part: Tensor) -> Tensor:
        with torch.no_grad():
            soft_labels = teacher_head(teacher_part)
        return gift_loss(lm_head(student_part), soft_labels, target_part, reduction="sum")

    parts = zip(
        hidden.flatten(0, 1).chunk(chunks),
        teacher_hidden.flatten(0, 1).chunk(chunks),
        target.flatten().chunk(chunks),
        strict=True,
    )
    total = sum(checkpoint(chunk_loss, *part, use_reentrant=False) for part in parts)
    return total / (target != -100).sum()  # or Trainer's num_items_in_batch


if __name__ == "__main__":
    torch.manual_seed(0)
    hidden, teacher_hidden = torch.randn(2, 8, 16, requires_grad=True), torch.randn(2, 8, 24)
    heads = nn.Linear(16, tiny.CLASSES), nn.Linear(24, tiny.CLASSES)
    labels = torch.randint(tiny.CLASSES, (2, 8))
    labels[0, :3] = -100  # the prompt
    distillation_loss(hidden, heads[0], teacher_hidden, heads[1], labels).backward()
