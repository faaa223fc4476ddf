"""GIFT inside torch.compile: the student, the teacher and the loss in one graph."""

import tiny
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gift_fast import gift_loss


def train(student: nn.Module, teacher: nn.Module, loader: DataLoader, epochs: int = 3) -> None:
    @torch.compile(fullgraph=True)
    def loss_of(images: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            soft_labels = teacher(images)
        return gift_loss(student(images), soft_labels, labels)

    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            loss_of(images, labels).backward()
            optimizer.step()


if __name__ == "__main__":
    train(*tiny.networks(), tiny.loader())
