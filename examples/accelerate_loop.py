"""GIFT in a loop with Hugging Face's accelerate."""

import tiny
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from gift_fast import gift_loss


def train(student: nn.Module, teacher: nn.Module, loader: DataLoader, epochs: int = 3) -> None:
    accelerator = Accelerator(cpu=True)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    student, optimizer, loader = accelerator.prepare(student, optimizer, loader)
    teacher = teacher.to(accelerator.device)
    for _ in range(epochs):
        for images, labels in loader:
            with torch.no_grad():
                soft_labels = teacher(images)
            loss = gift_loss(student(images), soft_labels, labels)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()


if __name__ == "__main__":
    train(*tiny.networks(), tiny.loader())
