"""Writes small images and the folders that datasets keep them in."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image


def random_image(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth color image, so that JPEG changes it little."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (4, 4, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(coarse.numpy()).resize((width, height), Image.Resampling.BICUBIC)


def write_image(path: Path, width: int = 64, height: int = 64, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    random_image(width, height, seed).save(path)
    return path


def write_folders(root: Path, classes: list[str], images: int = 1, *, side: int = 16) -> None:
    """One folder a class in ``root``; every image of the tree is another one."""
    for place, name in enumerate(classes):
        for i in range(images):
            seed = images * place + i
            write_image(root / name / f"{name}_{i}.JPEG", side, side, seed)
