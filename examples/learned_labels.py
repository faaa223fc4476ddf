"""Learning the soft labels: the loss is differentiable with respect to them."""

import tiny
import torch
from torch import Tensor, nn

from gift_fast import gift_loss


def learn(student: nn.Module, images: Tensor, labels: Tensor, steps: int = 3) -> Tensor:
    """Soft labels (N, C) that agree with a trained student, starting from its logits' signs."""
    logits = student(images).detach()
    soft_labels = nn.Parameter(logits.sign())
    optimizer = torch.optim.SGD([soft_labels], lr=10.0)
    for _ in range(steps):
        loss = gift_loss(logits, soft_labels, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return soft_labels.detach()


if __name__ == "__main__":
    print(learn(tiny.networks()[0], *tiny.batch()))
