"""GIFT with torchvision's CutMix, as in torchvision's classification reference."""

import tiny
import torch
from torch import nn
from torch.utils.data import DataLoader, default_collate
from torchvision.transforms import v2

from gift_fast import gift_loss


def mixed_loader(dataset: torch.utils.data.Dataset, num_classes: int) -> DataLoader:
    """Batches of mixed images, and of the two labels of each with the weight of the first."""
    cutmix_or_mixup = v2.RandomChoice(
        [v2.CutMix(num_classes=num_classes), v2.MixUp(num_classes=num_classes)]
    )

    def collate(samples):
        images, probabilities = cutmix_or_mixup(*default_collate(samples))
        weights, labels = probabilities.topk(2)
        return images, labels[:, 0], labels[:, 1], weights[:, 0]

    return DataLoader(dataset, batch_size=16, collate_fn=collate)


def train(student: nn.Module, teacher: nn.Module, loader: DataLoader, epochs: int = 3) -> None:
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    for _ in range(epochs):
        for images, labels, other_labels, weight in loader:
            with torch.no_grad():
                soft_labels = teacher(images)  # the teacher labels the mixed images
            logits = student(images)
            loss = gift_loss(logits, soft_labels, labels, other_labels, weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


if __name__ == "__main__":
    train(*tiny.networks(), mixed_loader(tiny.loader().dataset, tiny.CLASSES))
