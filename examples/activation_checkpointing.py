"""GIFT inside an activation checkpoint: logits and gradient are computed in the backward pass."""

import tiny
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

from gift_fast import gift_loss


def train(student: nn.Module, teacher: nn.Module, loader: DataLoader, epochs: int = 3) -> None:
    def loss_of(images: Tensor, soft_labels: Tensor, labels: Tensor) -> Tensor:
        return gift_loss(student(images), soft_labels, labels)

    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    for _ in range(epochs):
        for images, labels in loader:
            with torch.no_grad():
                soft_labels = teacher(images)
            loss = checkpoint(loss_of, images, soft_labels, labels, use_reentrant=False)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


if __name__ == "__main__":
    train(*tiny.networks(), tiny.loader())
