"""GIFT with a compiled backward pass: torch.compile of a whole step, under compiled autograd."""

import tiny
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gift_fast import gift_loss


def train(student: nn.Module, teacher: nn.Module, loader: DataLoader, epochs: int = 3) -> None:
    @torch.compile
    def step(images: Tensor, labels: Tensor) -> None:
        with torch.no_grad():
            soft_labels = teacher(images)
        gift_loss(student(images), soft_labels, labels).backward()

    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            with torch._dynamo.config.patch(compiled_autograd=True):
                step(images, labels)
            optimizer.step()


if __name__ == "__main__":
    train(*tiny.networks(), tiny.loader())
