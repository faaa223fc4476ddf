"""Token-level distillation: next-token labels, ignored tokens, and an lm_head in chunks.

With a large vocabulary, the logits are the largest tensors of a step. They are computed and
discarded chunk by chunk: checkpoint() computes a chunk again in the backward pass.
"""

from collections.abc import Callable, Sequence
from functools import partial

import tiny
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from gift_fast import TopKLabels, gift_loss

gift = partial(gift_loss, reduction="sum")


def kl(logits: Tensor, teacher_logits: Tensor, target: Tensor) -> Tensor:
    """KL divergence in the place of GIFT: the sum over the tokens with a next token."""
    log_probabilities = (F.log_softmax(x, dim=-1) for x in (logits, teacher_logits))
    rows = F.kl_div(*log_probabilities, reduction="none", log_target=True).sum(-1)
    return rows.masked_fill(target == -100, 0.0).sum()


def distillation_loss(
    hidden: Tensor,
    lm_head: nn.Module,
    teacher: Sequence[Tensor | None],
    soft_labels_of: Callable[..., Tensor | TopKLabels],
    labels: Tensor,
    chunks: int = 4,
    loss: Callable[..., Tensor] = gift,
    num_items_in_batch: Tensor | int | None = None,
) -> Tensor:
    """The mean loss over the tokens that have a next token.

    Args:
        hidden: (B, T, D), the student's last hidden states.
        lm_head: maps them to logits (..., V).
        teacher: tensors (B, T, ...), such as the teacher's last hidden states, or TopKLabels.
        soft_labels_of: maps a chunk of them to soft labels, such as the teacher's lm_head, or
            TopKLabels itself.
        labels: (B, T) int64, the tokens themselves; -100 for padding and prompts.
        chunks: into how many parts the B * T tokens are divided.
        loss: the sum over the rows of a chunk.
        num_items_in_batch: the tokens of all accumulated batches, as Hugging Face's Trainer counts
            them; without it, those of this batch.
    """
    # Position t predicts token t + 1. Shifting the labels copies B x T numbers, shifting logits
    # would copy B x T x V.
    target = F.pad(labels[:, 1:], (0, 1), value=-100)

    def chunk_loss(student_part: Tensor, target_part: Tensor, *teacher_parts: Tensor) -> Tensor:
        with torch.no_grad():
            soft_labels = soft_labels_of(*teacher_parts)
        return loss(lm_head(student_part), soft_labels, target_part)

    tensors = [hidden, target, *(x for x in teacher if x is not None)]
    parts = zip(*(x.flatten(0, 1).chunk(chunks) for x in tensors), strict=True)
    total = sum(checkpoint(chunk_loss, *part, use_reentrant=False) for part in parts)
    if num_items_in_batch is None:
        num_items_in_batch = (target != -100).sum()
    return total / num_items_in_batch


if __name__ == "__main__":
    torch.manual_seed(0)
    hidden, teacher_hidden = torch.randn(2, 8, 16, requires_grad=True), torch.randn(2, 8, 24)
    lm_head, teacher_head = nn.Linear(16, tiny.CLASSES), nn.Linear(24, tiny.CLASSES)
    labels = torch.randint(tiny.CLASSES, (2, 8))
    labels[0, :3] = -100  # the prompt
    student, teacher = (hidden, lm_head), ([teacher_hidden], teacher_head)
    for loss in (gift, kl):
        distillation_loss(*student, *teacher, labels, loss=loss).backward()

    # Stored once: no teacher is needed any more, and 8 values per token instead of V.
    with torch.no_grad():
        stored = TopKLabels.from_dense(teacher_head(teacher_hidden).softmax(-1), k=8)
    distillation_loss(*student, stored, TopKLabels, labels).backward()
