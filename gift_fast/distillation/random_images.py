"""Random training images as a distilled set: the baseline that a method should beat."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from gift_fast.data.datasets import ImageDataset
from gift_fast.data.distilled import DistilledSet
from gift_fast.data.distilled.native import write_distilled
from gift_fast.distillation.selection import check_ipc
from gift_fast.training.seeds import seed_for


def random_images(
    dataset: ImageDataset, teacher: nn.Module, path: Path, ipc: int, seed: int
) -> None:
    """Write ``ipc`` unaltered training images of each class, drawn without replacement.

    Args:
        dataset: the dataset, with its training split.
        teacher: not used; all methods have this parameter.
        path: an existing folder.
        ipc: images per class.
        seed: seed of the random selection.

    Raises:
        OSError: a file cannot be written.
        ValueError: a class has fewer than ``ipc`` training images.
    """
    check_ipc(dataset, ipc)
    split = dataset.training_split
    labels = split.labels.cpu()
    chosen = []
    for label in range(dataset.num_classes):
        members = (labels == label).nonzero().squeeze(1)
        # Each class has its own seed, so its images do not depend on the other classes.
        generator = torch.Generator().manual_seed(seed_for(seed, f"random/{label}"))
        chosen.append(members[torch.randperm(len(members), generator=generator)[:ipc]])
    index = torch.cat(chosen)
    images = next(split.batches([index]))[0].cpu()
    distilled = DistilledSet(
        images=(255.0 * images).round().to(torch.uint8),
        labels=labels[index],
        source=f"random training images, {ipc} per class, seed {seed}",
    )
    write_distilled(path / "random", distilled, dataset)
