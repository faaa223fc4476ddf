"""GIFT with timm's Mixup, which mixes by mixup and CutMix; the loop is that of timm's train.py."""

import tiny
import torch
from timm.data import Mixup
from timm.optim import create_optimizer_v2
from torch import nn
from torch.utils.data import DataLoader

from gift_fast import gift_loss


def train(student: nn.Module, teacher: nn.Module, loader: DataLoader, epochs: int = 3) -> None:
    # label_smoothing=0: gift_loss smooths the labels itself.
    mixup_fn = Mixup(0.8, cutmix_alpha=1.0, label_smoothing=0.0, num_classes=tiny.CLASSES)
    optimizer = create_optimizer_v2(student, opt="momentum", lr=0.1, momentum=0.0)
    for _ in range(epochs):
        for images, labels in loader:
            images, probabilities = mixup_fn(images, labels)
            (weight, _), (labels, other_labels) = (x.unbind(1) for x in probabilities.topk(2))
            with torch.no_grad():
                soft_labels = teacher(images)
            logits = student(images)
            loss = gift_loss(logits, soft_labels, labels, other_labels, weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


if __name__ == "__main__":
    train(*tiny.networks(), tiny.loader())
