"""RDED: distilled images that are crops of real images which a teacher is most confident about.

Of each class, some training images are drawn at random. The teacher scores several random crops of
each, and its most confident crop is kept. The most confident of these make up the class's images:
one crop per image with ``factor=1``, a mosaic of ``factor`` x ``factor`` crops otherwise.

Source: Sun, Shi, Yu and Lin, "On the Diversity and Realism of Distilled Dataset", CVPR 2024, and
its code, github.com/LINs-lab/RDED (synthesize/main.py, synthesize/utils.py, scripts). The details
that change pixels are its code's: bytes are truncated, not rounded, after the normalization has
been undone in float32, and files are JPEG at Pillow's default quality.
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

SCORED_AT_ONCE = 500
"""Crops that the teacher scores in one forward pass."""


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
    """Writes an RDED set to ``path/syn_data``, as the ``rded`` format reads it.

    The defaults are those of RDED's scripts for CIFAR and Tiny-ImageNet; ImageNet-1K and its
    subsets have ``factor=2``.

    Args:
        dataset: its training split is read.
        teacher: takes normalized images (N, C, S, S) to logits.
        path: an existing folder.
        ipc: images per class.
        seed: determines the images that are drawn and their crops.
        factor: crops per side of an image.
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
    """The images of an RDED set before JPEG compression; see :func:`rded` for the arguments.

    The teacher sees images normalized with the dataset's constants. RDED's code uses ImageNet's
    for every dataset: load ``cifar10:normalization=imagenet``, with a teacher trained on the same,
    to do so too.

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
    made = []
    for label in range(dataset.num_classes):
        members = (labels == label).nonzero().squeeze(1)
        # A class has a seed of its own, so it does not depend on the classes before it.
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
        made.append(to_bytes(mosaics(ranked, dataset.side, factor), dataset))
    return torch.cat(made)


def check_counts(
    dataset: ImageDataset, ipc: int, factor: int, crops: int, images_per_class: int
) -> None:
    """Raises ValueError unless every class has enough images for a set of this size."""
    for name, value in (("ipc", ipc), ("factor", factor), ("crops", crops)):
        check_integer(name, value, 1)
    if factor > dataset.side:
        raise ValueError(f"factor must be at most the side, {dataset.side} pixels, got {factor}")
    fewest = int(dataset.training_split.labels.cpu().bincount(minlength=dataset.num_classes).min())
    check_integer("images_per_class", images_per_class, 1)
    if images_per_class > fewest:
        raise ValueError(
            f"images_per_class must be at most {fewest}, the training images in the smallest class "
            f"of {dataset.name}, got {images_per_class}; choose it with the method's option: "
            f"rded:images_per_class={fewest}"
        )
    if ipc * factor**2 > images_per_class:
        raise ValueError(
            f"ipc must be at most {images_per_class // factor**2}, since each of its images takes "
            f"{factor**2} of the {images_per_class} training images per class, got {ipc}"
        )


def random_crops(images: Tensor, side: int, crops: int) -> Tensor:
    """Square crops (N, crops, C, side, side) of every image, drawn from the global generator."""
    from torchvision.transforms import RandomResizedCrop

    crop = RandomResizedCrop(side, scale=CROP_SCALE, ratio=(1.0, 1.0), antialias=True)
    return torch.stack([torch.stack([crop(image) for _ in range(crops)]) for image in images])


def score(teacher: nn.Module, crops: Tensor, label: int, side: int) -> Tensor:
    """The teacher's cross-entropy (N) on normalized crops of one class, on the CPU.

    Crops smaller than the teacher's images are padded with zeros to ``side``.
    """
    weight = next(teacher.parameters())
    free = side - crops.shape[-1]
    padding = (free // 2, free - free // 2) * 2
    losses = []
    for part in crops.split(SCORED_AT_ONCE):
        logits = teacher(F.pad(part, padding).to(weight))
        # The code's form. Confident crops round to a loss of 0 and tie; ranks must follow it.
        losses.append(-logits.softmax(1)[:, label].log())
    return torch.cat(losses).cpu()


def mosaics(crops: Tensor, side: int, factor: int) -> Tensor:
    """Images (n, C, side, side), each of ``factor`` x ``factor`` of the ranked crops.

    The n most confident crops are the top left tiles of the n images, the next n lie to the right
    of them, and so on. Tiles at the top and left are a pixel larger where the side does not divide.
    """
    if factor == 1:
        return crops
    short, longer = divmod(side, factor)
    sides = [short + 1 if place < longer else short for place in range(factor)]
    groups = iter(crops.split(len(crops) // factor**2))
    rows = [
        torch.cat([F.interpolate(next(groups), size=(height, width)) for width in sides], dim=3)
        for height in sides
    ]
    return torch.cat(rows, dim=2)


def to_bytes(normalized: Tensor, dataset: ImageDataset) -> Tensor:
    """Images as uint8: the normalization undone and the values truncated, as RDED's code does."""
    inverse = tuple(1.0 / std for std in dataset.std)
    scale = channel_constants(inverse, normalized.dtype, normalized.device)
    mean = channel_constants(dataset.mean, normalized.dtype, normalized.device)
    return (((normalized / scale) + mean) * 255).clamp(0.0, 255.0).to(torch.uint8)
