"""GIFT in a plain PyTorch training loop."""

import tiny
import torch
from torch import nn
from torch.utils.data import DataLoader

from gift_fast import gift_loss


def train(student: nn.Module, teacher: nn.Module, loader: DataLoader, epochs: int = 3) -> None:
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    for _ in range(epochs):
        for images, labels in loader:
            with torch.no_grad():
                soft_labels = teacher(images)
            loss = gift_loss(student(images), soft_labels, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


if __name__ == "__main__":
    train(*tiny.networks(), tiny.loader())
