"""Distilled sets of selected crops, generated without optimization.

As in RDED (Sun et al., CVPR 2024), the crops of real images with the lowest teacher loss are kept.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gift_fast.data.datasets import ImageDataset
from gift_fast.data.distilled.distilled_set import DistilledSet
from gift_fast.data.images.decoding_progress import followed

BATCH_SIZE = 1000

CROP_AREA = (0.5, 1.0)
"""Smallest and largest area of a crop, as a fraction of the image's."""


def random_crops(images: Tensor, generator: torch.Generator) -> Tensor:
    """Take one random square crop of every image (N, C, S, S), resized to S x S.

    The area is uniform in ``CROP_AREA``, and the position is uniform in the image.
    """
    n = images.shape[0]
    area, right, down = torch.rand(3, n, generator=generator, device=images.device)
    side = (CROP_AREA[0] + (CROP_AREA[1] - CROP_AREA[0]) * area).sqrt()
    # In coordinates from -1 to 1, a window of half-width `side` has its center within 1 - side.
    center = (2.0 * torch.stack([right, down], 1) - 1.0) * (1.0 - side).unsqueeze(1)
    zoom = torch.eye(2, device=images.device) * side.view(n, 1, 1)
    theta = torch.cat([zoom, center.unsqueeze(2)], 2)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def check_ipc(dataset: ImageDataset, ipc: int) -> None:
    """Raise ValueError unless every class has at least ``ipc`` training images."""
    labels = dataset.training_split.labels.cpu()
    fewest = int(labels.bincount(minlength=dataset.num_classes).min())
    if not 1 <= ipc <= fewest:
        raise ValueError(
            f"ipc must be from 1 to {fewest}, the size of the smallest class, got {ipc}"
        )


@torch.inference_mode()
def select_crops(
    dataset: ImageDataset,
    teacher: nn.Module,
    *,
    ipc: int,
    crops_per_image: int = 10,
    seed: int = 0,
) -> DistilledSet:
    """Select the crops with the lowest cross-entropy, at most one per training image.

    For every training image, the crop with the lowest cross-entropy under the teacher is kept; of
    these, the ``ipc`` lowest per class. Images are sorted by class and then by cross-entropy.

    Args:
        dataset: the dataset, with its training split.
        teacher: maps normalized images (N, C, S, S) to logits; it is left in eval mode.
        ipc: images per class.
        crops_per_image: random crops per training image.
        seed: seed of the crops.

    Returns:
        The set, on the CPU.

    Raises:
        ValueError: a class has fewer than ``ipc`` training images.
    """
    split = dataset.training_split
    labels = split.labels.cpu()
    check_ipc(dataset, ipc)
    teacher.eval()
    device = next(teacher.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)

    losses, kept = torch.empty(len(labels)), torch.empty(len(labels), *split.shape)
    batches = torch.arange(len(labels)).split(BATCH_SIZE)
    for index in followed(batches, f"selecting crops of {dataset.name}", len(labels), len):
        images, target = (tensor.to(device) for tensor in next(split.batches([index])))
        best_loss, best_crop = torch.full(target.shape, torch.inf, device=device), images.clone()
        for _ in range(crops_per_image):
            crops = random_crops(images, generator)
            loss = F.cross_entropy(teacher(dataset.normalize(crops)), target, reduction="none")
            better = loss < best_loss
            best_loss = torch.where(better, loss, best_loss)
            best_crop = torch.where(better.view(-1, 1, 1, 1), crops, best_crop)
        losses[index], kept[index] = best_loss.cpu(), best_crop.cpu()

    chosen = []
    for label in range(dataset.num_classes):
        members = (labels == label).nonzero().squeeze(1)
        chosen.append(members[losses[members].argsort(stable=True)[:ipc]])
    index = torch.cat(chosen)
    return DistilledSet(
        images=kept[index],
        labels=labels[index],
        source=(
            f"the most confident of {crops_per_image} crops per image, {ipc} images per class "
            "(idea of RDED)"
        ),
    )
