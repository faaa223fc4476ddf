"""Distilled sets: a few images a class that stand in for a training split.

Real sets come from the methods' authors. The one made here, for the demonstration, takes the idea
of RDED (Sun et al., CVPR 2024): keep the crops of real images that the teacher is surest of.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gift_fast.student.datasets import ImageDataset

CROP_AREA = (0.5, 1.0)
"""Smallest and largest part of an image that a crop covers."""


@dataclass(frozen=True)
class DistilledSet:
    """A distilled dataset in memory.

    Attributes:
        images: (N, C, S, S) float32 in [0, 1].
        labels: (N) int64 hard labels.
        soft_labels: (N, C) stored with the set, or None when a teacher labels every batch online.
        source: how the set was made, in words.

    Raises:
        ValueError: the tensors disagree about N, or there are no images.
    """

    images: Tensor
    labels: Tensor
    soft_labels: Tensor | None = None
    source: str = ""

    def __post_init__(self) -> None:
        n = self.images.shape[0]
        if self.images.dim() != 4 or n == 0:
            raise ValueError(f"images must be (N, C, S, S), N >= 1, got {tuple(self.images.shape)}")
        if self.labels.shape != (n,):
            raise ValueError(f"labels must have shape ({n},), got {tuple(self.labels.shape)}")
        if self.soft_labels is not None and self.soft_labels.shape[:1] != (n,):
            shape = tuple(self.soft_labels.shape)
            raise ValueError(f"soft_labels must have {n} rows, one an image, got {shape}")


def random_crops(images: Tensor, generator: torch.Generator) -> Tensor:
    """One square crop of every image (N, C, S, S), at random, resized to S x S.

    A crop covers an area drawn evenly from ``CROP_AREA`` and lies evenly within the image.
    """
    n = images.shape[0]
    area, right, down = torch.rand(3, n, generator=generator, device=images.device)
    side = (CROP_AREA[0] + (CROP_AREA[1] - CROP_AREA[0]) * area).sqrt()
    # In coordinates from -1 to 1, a window of half-width `side` has its centre within 1 - side.
    centre = (2.0 * torch.stack([right, down], 1) - 1.0) * (1.0 - side).unsqueeze(1)
    zoom = torch.eye(2, device=images.device) * side.view(n, 1, 1)
    theta = torch.cat([zoom, centre.unsqueeze(2)], 2)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


@torch.inference_mode()
def select_crops(
    dataset: ImageDataset,
    teacher: nn.Module,
    *,
    ipc: int,
    crops_per_image: int = 10,
    seed: int = 0,
) -> DistilledSet:
    """A distilled set of the crops whose class the teacher is surest of, at most one an image.

    Of every training image the crop with the lowest cross-entropy with the image's class is kept;
    of a class's crops, the ``ipc`` lowest. Images lie class by class, the surest crop first.

    Args:
        dataset: on the device of the teacher.
        teacher: takes normalised images (N, C, S, S) to logits; it is left in eval mode.
        ipc: images per class.
        crops_per_image: crops drawn of every training image.
        seed: of the crops.

    Raises:
        ValueError: a class has fewer than ``ipc`` training images.
    """
    images, labels = dataset.train_images, dataset.train_labels
    fewest = int(labels.bincount(minlength=dataset.num_classes).min())
    if not 1 <= ipc <= fewest:
        raise ValueError(f"ipc must be from 1 to {fewest}, the smallest class, got {ipc}")
    teacher.eval()
    generator = torch.Generator(images.device).manual_seed(seed)

    best_loss = torch.full(labels.shape, torch.inf, device=images.device)
    best_crop = images.clone()
    for _ in range(crops_per_image):
        crops = random_crops(images, generator)
        loss = F.cross_entropy(teacher(dataset.normalize(crops)), labels, reduction="none")
        better = loss < best_loss
        best_loss = torch.where(better, loss, best_loss)
        best_crop[better] = crops[better]

    kept = []
    for label in range(dataset.num_classes):
        members = (labels == label).nonzero().squeeze(1)
        kept.append(members[best_loss[members].argsort(stable=True)[:ipc]])
    index = torch.cat(kept)
    return DistilledSet(
        images=best_crop[index],
        labels=labels[index],
        source=f"the surest crop of {crops_per_image} an image, {ipc} a class (idea of RDED)",
    )
