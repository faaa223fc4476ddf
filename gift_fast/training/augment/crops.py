"""Random crops: standard augmentation of real images, and that of SRe2L's and RDED's sets."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from gift_fast.training.augment.dsa import OPERATIONS, PAPER_STRATEGY, dsa
from gift_fast.training.augment.geometry import crop, resized_crop, take_pixels
from gift_fast.training.augment.pipeline import Draws, Operation, Steps, check_at_least

ASPECTS = (3.0 / 4.0, 4.0 / 3.0)
"""Smallest and largest ratio of width to height of a resized crop."""

ATTEMPTS = 10
"""Boxes drawn for an image before the largest centered box is used."""

FLIP = OPERATIONS["flip"]


def crop_flip(*, padding: int = 4) -> Steps:
    """Zero padding, a random crop of the original size, and a flip with probability 1/2.

    Images are already normalized, so the padding has the mean color. Code that pads before
    normalizing pads with black.

    Args:
        padding: zeros on every side; usually 4 at 32 pixels and 8 at 64.
    """
    check_at_least("padding", padding, 0)

    def sample(draws: Draws, height: int, width: int) -> tuple[Tensor, Tensor]:
        return draws.integer(0, 2 * padding), draws.integer(0, 2 * padding)

    return [Operation(sample, partial(crop, padding=(padding, padding))), FLIP]


def rrc(*, min_scale: float = 0.08) -> Steps:
    """A random resized crop, as in torchvision, and a flip with probability 1/2.

    Args:
        min_scale: smallest area of the crop, as a fraction of the image's; the largest is 1.
    """
    if not 0.0 < min_scale <= 1.0:
        raise ValueError(f"min_scale must be in (0, 1], got {min_scale}")
    return [Operation(partial(sample_box, min_scale=min_scale), resized_crop), FLIP]


def sample_box(
    draws: Draws, height: int, width: int, *, min_scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw a box for each image: top, left, height and width, int64 (N).

    The area is uniform in [min_scale, 1) of the image's, and the logarithm of the aspect ratio is
    uniform. All attempts are drawn at once, and the first box that fits is used.

    Source: torchvision's ``RandomResizedCrop.get_params``.
    """
    area = height * width * draws.uniform(min_scale, 1.0, ATTEMPTS)
    aspect = draws.uniform(math.log(ASPECTS[0]), math.log(ASPECTS[1]), ATTEMPTS).exp()
    widths = (area * aspect).sqrt().round().long()
    heights = (area / aspect).sqrt().round().long()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)

    first = fits.int().argmax(1, keepdim=True)  # argmax returns the first of equal values
    found = fits.any(1)
    fallback = largest_box(height, width)
    box_height = torch.where(found, heights.gather(1, first).squeeze(1), fallback[0])
    box_width = torch.where(found, widths.gather(1, first).squeeze(1), fallback[1])
    free_rows, free_columns = height - box_height, width - box_width
    top = torch.where(found, anywhere(draws, free_rows), free_rows // 2)
    left = torch.where(found, anywhere(draws, free_columns), free_columns // 2)
    return top, left, box_height, box_width


def anywhere(draws: Draws, free: Tensor) -> Tensor:
    """Random int64 in [0, free], both ends included."""
    # The product may round up to free + 1.
    return (draws.uniform(0.0, 1.0) * (free + 1)).long().minimum(free)


def largest_box(height: int, width: int) -> tuple[int, int]:
    """Height and width of the largest box with an allowed aspect ratio.

    Example:
        >>> largest_box(32, 32), largest_box(30, 90)
        ((32, 32), (30, 40))
    """
    low, high = ASPECTS
    return min(height, round(width / low)), min(width, round(height * high))


def mosaic_dsa(*, factor: int = 2, strategy: str = PAPER_STRATEGY) -> Steps:
    """Augmentation for sets whose images are mosaics: a random tile or the whole image, then DSA.

    With probability 1 - 1 / factor^2, an image is replaced by one of its tiles, enlarged; all tiles
    are equally likely.

    Args:
        factor: tiles per side; 1 leaves the images whole.
        strategy: see :func:`~gift_fast.training.augment.dsa.dsa`.

    Source: GIFT's code, for RDED's ImageNet-1K with ResNet-18.
    """
    check_at_least("factor", factor, 1)
    return [Operation(partial(sample_tile, factor=factor), resized_crop), *dsa(strategy=strategy)]


def sample_tile(
    draws: Draws, height: int, width: int, *, factor: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw one tile or the whole image: top, left, height and width, int64 (N)."""
    check_tiles(factor, height, width)
    tile_height, tile_width = height // factor, width // factor
    whole = draws.uniform(0.0, 1.0) >= 1.0 - 1.0 / factor**2
    top = torch.where(whole, 0, draws.integer(0, factor - 1) * tile_height)
    left = torch.where(whole, 0, draws.integer(0, factor - 1) * tile_width)
    box_height = torch.where(whole, height, tile_height)
    return top, left, box_height, torch.where(whole, width, tile_width)


def rded(*, factor: int = 2) -> Steps:
    """RDED's augmentation: shuffled tiles, a random crop of at least 1 / factor, and a flip.

    Args:
        factor: tiles per side of the mosaics. RDED's scripts use 2 for ImageNet-1K and its subsets,
            and 1 for CIFAR and Tiny-ImageNet, which leaves only the flip.

    Source: the code of Sun, Shi, Yu and Lin, CVPR 2024. It shuffles the columns of tiles and then
    the rows, so tiles that share a row stay in one row.
    """
    check_at_least("factor", factor, 1)
    shuffle = Operation(partial(sample_shuffle, factor=factor), take_pixels)
    return [shuffle, *rrc(min_scale=1.0 / factor)]


def sample_shuffle(draws: Draws, height: int, width: int, *, factor: int) -> tuple[Tensor, Tensor]:
    """Draw the source of every row, int64 (N, H), and of every column, (N, W), of each image."""
    check_tiles(factor, height, width)
    return shuffled(draws, height, factor), shuffled(draws, width, factor)


def shuffled(draws: Draws, size: int, factor: int) -> Tensor:
    """Int64 (N, size): 0 to size - 1, cut into ``factor`` strips in random order."""
    strip = torch.arange(size, device=draws.generator.device) // (size // factor)
    strip = strip.clamp(max=factor - 1)  # the last one takes the remainder
    keys = draws.uniform(0.0, 1.0, factor)
    return keys[:, strip].argsort(dim=1, stable=True)


def check_tiles(factor: int, height: int, width: int) -> None:
    """Raise ValueError if an image has fewer pixels per side than tiles."""
    if factor > min(height, width):
        raise ValueError(f"factor must be at most the side, {height} x {width}, got {factor}")
