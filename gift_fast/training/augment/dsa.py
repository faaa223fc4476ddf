"""Differentiable Siamese Augmentation (DSA; Zhao and Bilen, ICML 2021) for a batch on its device.

Six operations, whose parameters are drawn for every image:

- flip: left to right, with probability 1/2;
- color: brightness + U - 1/2, then saturation * 2U, then contrast * (U + 1/2), U in [0, 1);
- crop: a shift by at most an eighth of the side in each direction;
- scale: each axis by an independent factor in [1/1.2, 1.2];
- rotate: by at most 15 degrees in either direction;
- cutout: a square of half the side around any point, clipped at the border.

``dsa`` combines them as GIFT's evaluation code does: flip, color, ONE of crop, scale and rotate,
chosen per batch, and cutout. ``dsa-one`` follows the code of the DSA paper, which trajectory
matching (MTT) and DATM use: ONE of all six per batch. The operations are the same. The original
code shares the parameters among the images of a batch only while it generates a distilled set; for
training on the set, it draws them for each image, as here. MTT and DATM sample with
``align_corners=True``, which makes no difference: scaling or rotating a square about its center is
the same in both conventions.

A strategy lists the operations to use, joined with ``_``; it does not change their order. For
digits, use ``crop_scale_rotate``: a mirrored 2 is not a 2, a cutout of 4 x 4 pixels hides too much
of an 8 x 8 digit, and the brightness of scanned ink varies little.

Images are already normalized, so pixels from outside of the image are filled with zero, the mean
color.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gift_fast.training.augment.geometry import crop, flip, rotate, scale
from gift_fast.training.augment.pipeline import Draws, OneOf, Operation, Steps

PAPER_STRATEGY = "color_crop_cutout_flip_scale_rotate"

SHIFT = 0.125
"""Largest shift of a crop, as a fraction of the side."""

SCALE = 1.2
"""Largest scale factor; the smallest is its inverse."""

DEGREES = 15.0
"""Largest angle of a rotation."""

CUTOUT = 0.5
"""Side of the cutout, as a fraction of the image's side."""


def part_of(side: int, ratio: float) -> int:
    """A fraction of a side in whole pixels, rounded half up."""
    return int(ratio * side + 0.5)


def sample_flip(draws: Draws, height: int, width: int) -> tuple[Tensor]:
    """Draw whether each image is flipped."""
    return (draws.uniform(0.0, 1.0) < 0.5,)


def sample_color(draws: Draws, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw brightness, saturation and contrast of each image."""
    return draws.uniform(-0.5, 0.5), draws.uniform(0.0, 2.0), draws.uniform(0.5, 1.5)


def color(images: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Change brightness, then saturation, then contrast.

    Args:
        images: (N, C, H, W).
        brightness: (N), added to every value.
        saturation: (N), multiplies the difference to the mean of the pixel's channels.
        contrast: (N), multiplies the difference to the mean of the image.
    """
    brightness, saturation, contrast = (
        values.view(-1, 1, 1, 1) for values in (brightness, saturation, contrast)
    )
    gray = images.mean(1, keepdim=True)
    # One axis after the other: how a sum over a whole image is split depends on the number of
    # images, so it would round differently in a part of the batch.
    mean = gray.mean(3, keepdim=True).mean(2, keepdim=True)
    # With b, s, c the parameters, m the image's mean and g its pixel's: x becomes x + b, then
    # g + b + s (x - g), which leaves the image's mean at m + b, then m + b + c (g + s (x - g) - m).
    # The factors of x, g and m are collected here.
    offset = contrast * (1.0 - saturation) * gray + ((1.0 - contrast) * mean + brightness)
    return images * (contrast * saturation) + offset


def largest_shift(height: int, width: int) -> tuple[int, int]:
    """The largest vertical and horizontal shift of a crop, in pixels."""
    return part_of(height, SHIFT), part_of(width, SHIFT)


def sample_crop(draws: Draws, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Draw the first row and column of each window in the image padded by the largest shift."""
    down, across = largest_shift(height, width)
    return draws.integer(0, 2 * down), draws.integer(0, 2 * across)


def apply_crop(images: Tensor, top: Tensor, left: Tensor) -> Tensor:
    """Shift every image by whole pixels and fill with zeros."""
    return crop(images, top, left, padding=largest_shift(*images.shape[2:]))


def sample_scale(draws: Draws, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Draw the horizontal and the vertical factor of each image."""
    return draws.uniform(1.0 / SCALE, SCALE), draws.uniform(1.0 / SCALE, SCALE)


def sample_rotate(draws: Draws, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Draw each image's angle: its cosine and sine."""
    angle = draws.uniform(-math.radians(DEGREES), math.radians(DEGREES))
    return angle.cos(), angle.sin()


def sample_cutout(draws: Draws, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Draw each cutout's center: row and column; that of an even square may be the far border."""
    row, column = (draws.integer(0, s - part_of(s, CUTOUT) % 2) for s in (height, width))
    return row, column


def cutout(images: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Set a square of half the side around (``row``, ``column``), int64 (N), to 0."""
    height, width = images.shape[2:]
    rows = cut_span(row, height).view(-1, 1, height, 1)
    columns = cut_span(column, width).view(-1, 1, 1, width)
    return images.masked_fill(rows & columns, 0.0)


def cut_span(center: Tensor, side: int) -> Tensor:
    """The pixels that the cutout covers along one axis, bool (N, side)."""
    length = part_of(side, CUTOUT)
    first = center.view(-1, 1) - length // 2
    pixel = torch.arange(side, device=center.device)
    return (pixel >= first) & (pixel < first + length)


OPERATIONS = {
    "flip": Operation(sample_flip, flip),
    "color": Operation(sample_color, color),
    "crop": Operation(sample_crop, apply_crop),
    "scale": Operation(sample_scale, scale),
    "rotate": Operation(sample_rotate, rotate),
    "cutout": Operation(sample_cutout, cutout),
}
"""The operations, in the order in which ``dsa`` runs them."""

WARPS = ("crop", "scale", "rotate")
"""Operations of which ``dsa`` runs one per batch."""


def parse_strategy(strategy: str) -> tuple[str, ...]:
    """The operations that a strategy names, in the order of ``OPERATIONS``.

    Raises:
        ValueError: an operation is unknown.

    Example:
        >>> parse_strategy("rotate_flip")
        ('flip', 'rotate')
    """
    names = strategy.split("_")
    unknown = [name for name in names if name not in OPERATIONS]
    if unknown:
        raise ValueError(
            f"strategy must list any of {', '.join(OPERATIONS)}, joined with '_', "
            f"got {unknown[0]!r} in {strategy!r}"
        )
    return tuple(name for name in OPERATIONS if name in names)


def dsa(*, strategy: str = PAPER_STRATEGY) -> Steps:
    """DSA as in GIFT's evaluation code: all operations of the strategy, but one warp per batch.

    Source: the code of Shang, Sun and Lin, ICLR 2025; table 10 of the paper names the operations.
    """
    names = parse_strategy(strategy)
    warps = [OPERATIONS[name] for name in names if name in WARPS]
    steps: list[Operation | OneOf] = [OPERATIONS[n] for n in ("flip", "color") if n in names]
    if warps:
        steps.append(OneOf(warps))
    if "cutout" in names:
        steps.append(OPERATIONS["cutout"])
    return steps


def dsa_one(*, strategy: str = PAPER_STRATEGY) -> Steps:
    """DSA as in the code of its paper: one of the strategy's operations per batch.

    Source: the code of Zhao and Bilen, ICML 2021; that of DATM (Guo et al., ICLR 2024).
    """
    return [OneOf([OPERATIONS[name] for name in parse_strategy(strategy)])]
