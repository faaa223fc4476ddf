"""RDED: distilled images composed of the crops of real images with the highest teacher confidence.

For each class, training images are drawn at random. The teacher scores several random crops of each
image, and the crop with the lowest cross-entropy is kept. The best of these crops form the images
of the class: one crop per image with ``factor=1``, otherwise a mosaic of ``factor`` x ``factor``.

Source: Sun, Shi, Yu and Lin, "On the Diversity and Realism of Distilled Dataset", CVPR 2024, and
its code, github.com/LINs-lab/RDED (synthesize/main.py, synthesize/utils.py, scripts). Details that
affect pixels follow the code: values are truncated to bytes, not rounded, after the normalization
has been undone in float32, and files are JPEG at Pillow's default quality.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gift_fast.data.datasets import ImageDataset
from gift_fast.data.datasets.image_dataset import channel_constants
from gift_fast.data.distilled.folder_names import RDED
from gift_fast.data.images.image_file import MODES
from gift_fast.files.checks import check_integer
from gift_fast.training.seeds import seed_for

CROP_SCALE = (0.08, 1.0)
"""Smallest and largest area of a crop, as a fraction of the image's."""

BATCH_SIZE = 500
"""Number of crops that the teacher scores in one forward pass."""


def rded(
    dataset: ImageDataset,
    teacher: nn.Module,
    path: Path,
    ipc: int,
    seed: int,
    *,
    factor: int = 1,
    crops: int = 5,
    images_per_class: int = 300,
) -> None:
    """Write an RDED set to ``path/syn_data``, in the file layout that the ``rded`` format reads.

    The defaults are those of RDED's scripts for CIFAR and Tiny-ImageNet; ImageNet-1K and its
    subsets use ``factor=2``.

    Args:
        dataset: the dataset, with its training split.
        teacher: maps normalized images (N, C, S, S) to logits.
        path: an existing folder.
        ipc: images per class.
        seed: seed of the drawn images and of their crops.
        factor: number of crops per side of an image.
        crops: random crops per drawn image.
        images_per_class: training images drawn from each class.

    Raises:
        OSError: a file cannot be written.
        ValueError: see :func:`rded_images`.
    """
    from PIL import Image

    images = rded_images(
        dataset,
        teacher,
        ipc=ipc,
        seed=seed,
        factor=factor,
        crops=crops,
        images_per_class=images_per_class,
    )
    for label, of_class in enumerate(images.split(ipc)):
        folder = path / "syn_data" / RDED.folder(label)
        folder.mkdir(parents=True)
        for number, pixels in enumerate(of_class.permute(0, 2, 3, 1).numpy()):
            image = Image.fromarray(pixels.squeeze(2) if dataset.channels == 1 else pixels)
            image.convert(MODES[dataset.channels]).save(folder / RDED.file(label, number))


@torch.inference_mode()
def rded_images(
    dataset: ImageDataset,
    teacher: nn.Module,
    *,
    ipc: int,
    seed: int = 0,
    factor: int = 1,
    crops: int = 5,
    images_per_class: int = 300,
) -> Tensor:
    """Generate the images of an RDED set before JPEG compression; see :func:`rded` for arguments.

    The images are normalized with the dataset's constants. RDED's code uses ImageNet's constants
    for every dataset; to do the same, load ``cifar10:normalization=imagenet`` and train the teacher
    on it.

    Returns:
        uint8 (classes * ipc, C, S, S) on the CPU, class by class, the most confident first.

    Raises:
        ValueError: a count is out of range, a class has fewer than ``images_per_class`` training
            images, or these are too few for ``ipc``.

    Example:
        >>> from gift_fast.data.datasets import load_dataset
        >>> from gift_fast.training.models import build_model
        >>> digits = load_dataset("digits")
        >>> teacher = build_model("convnet3", channels=1, side=8, num_classes=10, seed=0)
        >>> rded_images(digits, teacher, ipc=2, images_per_class=10).shape
        torch.Size([20, 1, 8, 8])
    """
    check_counts(dataset, ipc, factor, crops, images_per_class)
    split, teacher = dataset.training_split, teacher.eval()
    labels = split.labels.cpu()
    distilled = []
    for label in range(dataset.num_classes):
        members = (labels == label).nonzero().squeeze(1)
        # Each class has its own seed, so its images do not depend on the other classes.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(seed, f"rded/{label}"))
            drawn = members[torch.randperm(len(members))[:images_per_class]]
            images = next(split.batches([drawn]))[0].cpu()
            candidates = random_crops(images, dataset.side // factor, crops)
        normalized = dataset.normalize(candidates)
        losses = score(teacher, normalized.flatten(0, 1), label, dataset.side)
        best_loss, best = losses.view(len(drawn), crops).min(1)
        kept = normalized[torch.arange(len(drawn)), best]
        ranked = kept[best_loss.argsort(stable=True)[: ipc * factor**2]]
        distilled.append(to_bytes(mosaics(ranked, dataset.side, factor), dataset))
    return torch.cat(distilled)


def check_counts(
    dataset: ImageDataset, ipc: int, factor: int, crops: int, images_per_class: int
) -> None:
    """Raise ValueError unless every class has enough images for a set of this size."""
    for name, value in (("ipc", ipc), ("factor", factor), ("crops", crops)):
        check_integer(name, value, 1)
    if factor > dataset.side:
        raise ValueError(f"factor must be at most the side, {dataset.side} pixels, got {factor}")
    fewest = int(dataset.training_split.labels.cpu().bincount(minlength=dataset.num_classes).min())
    check_integer("images_per_class", images_per_class, 1)
    if images_per_class > fewest:
        raise ValueError(
            f"images_per_class must be at most {fewest}, the size of the smallest class of "
            f"{dataset.name}, got {images_per_class}; set it with the option "
            f"rded:images_per_class={fewest}"
        )
    if ipc * factor**2 > images_per_class:
        raise ValueError(
            f"ipc must be at most {images_per_class // factor**2}, since each distilled image uses "
            f"{factor**2} of the {images_per_class} training images per class, got {ipc}"
        )


def random_crops(images: Tensor, side: int, crops: int) -> Tensor:
    """Random square crops of every image, from the global generator: (N, crops, C, side, side)."""
    from torchvision.transforms import RandomResizedCrop

    crop = RandomResizedCrop(side, scale=CROP_SCALE, ratio=(1.0, 1.0), antialias=True)
    return torch.stack([torch.stack([crop(image) for _ in range(crops)]) for image in images])


def score(teacher: nn.Module, crops: Tensor, label: int, side: int) -> Tensor:
    """The teacher's cross-entropy (N) on normalized crops of one class, on the CPU.

    Crops that are smaller than ``side`` are padded with zeros.
    """
    weight = next(teacher.parameters())
    total = side - crops.shape[-1]
    padding = (total // 2, total - total // 2) * 2
    losses = []
    for batch in crops.split(BATCH_SIZE):
        logits = teacher(F.pad(batch, padding).to(weight))
        # As in RDED's code, not log_softmax: the losses of confident crops round to 0, and the
        # ranking must have the same ties.
        losses.append(-logits.softmax(1)[:, label].log())
    return torch.cat(losses).cpu()


def mosaics(crops: Tensor, side: int, factor: int) -> Tensor:
    """Combine ranked crops into images (n, C, side, side) of ``factor`` x ``factor`` tiles.

    The n best crops become the top left tiles of the n images, the next n the tiles to the right of
    them, and so on. If ``side`` is not divisible by ``factor``, tiles at the top and left are one
    pixel larger.
    """
    if factor == 1:
        return crops
    size, remainder = divmod(side, factor)
    sides = [size + 1 if index < remainder else size for index in range(factor)]
    groups = iter(crops.split(len(crops) // factor**2))
    rows = [
        torch.cat([F.interpolate(next(groups), size=(height, width)) for width in sides], dim=3)
        for height in sides
    ]
    return torch.cat(rows, dim=2)


def to_bytes(normalized: Tensor, dataset: ImageDataset) -> Tensor:
    """Undo the normalization and truncate to uint8, as in RDED's code."""
    inverse = tuple(1.0 / std for std in dataset.std)
    scale = channel_constants(inverse, normalized.dtype, normalized.device)
    mean = channel_constants(dataset.mean, normalized.dtype, normalized.device)
    return (((normalized / scale) + mean) * 255).clamp(0.0, 255.0).to(torch.uint8)
