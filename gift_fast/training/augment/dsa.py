"""Differentiable Siamese Augmentation (DSA; Zhao and Bilen, ICML 2021) for a batch on its device.

Six operations, with parameters of its own for every image:

- flip: left to right, with probability 1/2;
- color: brightness + U - 1/2, then saturation * 2U, then contrast * (U + 1/2), U in [0, 1);
- crop: a shift by at most an eighth of the side in each direction;
- scale: each axis by a factor of its own in [1/1.2, 1.2];
- rotate: by at most 15 degrees either way;
- cutout: a square of half the side about any point, clipped at the border.

``dsa`` combines them as the evaluation code of GIFT does: flip, color, ONE of crop, scale and
rotate, chosen once a batch, and cutout, always. ``dsa-one`` is the code of the DSA paper, which
trajectory matching (MTT) and DATM took over: ONE of all six a batch. The operations are the same.
That code shares the parameters among the images only while it makes a distilled set; training on
one draws them for each image, as here. MTT and DATM sample with ``align_corners=True``, which
changes nothing: a scale or a turn about the center of a square is the same in either convention.

A strategy names the operations to use, joined with ``_``; their order stays. Digits take
``crop_scale_rotate``: a mirrored 2 is no 2, a hole of 4 x 4 pixels leaves too little of an 8 x 8
digit, and scanned ink varies little in brightness.

Images are already normalized, so the zero that fills what comes from outside is the mean color.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gift_fast.training.augment.geometry import crop, flip, rotate, scale
from gift_fast.training.augment.pipeline import Draws, OneOf, Operation, Steps

PAPER_STRATEGY = "color_crop_cutout_flip_scale_rotate"

SHIFT = 0.125
"""Largest shift of a crop, as a part of the side."""

SCALE = 1.2
"""Largest factor of a scale; the smallest is its inverse."""

DEGREES = 15.0
"""Largest angle of a rotation."""

CUTOUT = 0.5
"""Side of the cutout, as a part of the image's side."""


def part_of(side: int, ratio: float) -> int:
    """A part of a side in whole pixels, rounded half up."""
    return int(ratio * side + 0.5)


def sample_flip(draws: Draws, height: int, width: int) -> tuple[Tensor]:
    """Whether each image is flipped."""
    return (draws.uniform(0.0, 1.0) < 0.5,)


def sample_color(draws: Draws, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Brightness, saturation and contrast of each image."""
    return draws.uniform(-0.5, 0.5), draws.uniform(0.0, 2.0), draws.uniform(0.5, 1.5)


def color(images: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Changes brightness, then saturation, then contrast.

    Args:
        images: (N, C, H, W).
        brightness: (N), added to every value.
        saturation: (N), multiplies what sets a value apart from the mean of its pixel's channels.
        contrast: (N), multiplies what sets a value apart from the mean of its image.
    """
    brightness, saturation, contrast = (
        values.view(-1, 1, 1, 1) for values in (brightness, saturation, contrast)
    )
    gray = images.mean(1, keepdim=True)
    # One axis after the other: a sum over a whole image is cut up in ways that depend on the number
    # of images, and would round differently in a part of the batch.
    mean = gray.mean(3, keepdim=True).mean(2, keepdim=True)
    # With b, s, c the parameters, m the image's mean and g its pixel's: x becomes x + b, then
    # g + b + s (x - g), which leaves the image's mean at m + b, then m + b + c (g + s (x - g) - m).
    # Here the factors of x, g and m are collected.
    offset = contrast * (1.0 - saturation) * gray + ((1.0 - contrast) * mean + brightness)
    return images * (contrast * saturation) + offset


def largest_shift(height: int, width: int) -> tuple[int, int]:
    """Pixels that a crop moves an image at most, down and across."""
    return part_of(height, SHIFT), part_of(width, SHIFT)


def sample_crop(draws: Draws, height: int, width: int) -> tuple[Tensor, Tensor]:
    """First row and column of each image's window, in the image padded by the largest shift."""
    down, across = largest_shift(height, width)
    return draws.integer(0, 2 * down), draws.integer(0, 2 * across)


def apply_crop(images: Tensor, top: Tensor, left: Tensor) -> Tensor:
    """Moves every image by whole pixels; zeros come in from outside."""
    return crop(images, top, left, padding=largest_shift(*images.shape[2:]))


def sample_scale(draws: Draws, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Factors across and down of each image."""
    return draws.uniform(1.0 / SCALE, SCALE), draws.uniform(1.0 / SCALE, SCALE)


def sample_rotate(draws: Draws, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each image's angle."""
    angle = draws.uniform(-math.radians(DEGREES), math.radians(DEGREES))
    return angle.cos(), angle.sin()


def sample_cutout(draws: Draws, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Row and column of each cutout's center; an even square's may lie on the far border."""
    row, column = (draws.integer(0, s - part_of(s, CUTOUT) % 2) for s in (height, width))
    return row, column


def cutout(images: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Sets a square of half the side about ``row``, ``column``, int64 (N), to 0."""
    height, width = images.shape[2:]
    rows = cut_span(row, height).view(-1, 1, height, 1)
    columns = cut_span(column, width).view(-1, 1, 1, width)
    return images.masked_fill(rows & columns, 0.0)


def cut_span(center: Tensor, side: int) -> Tensor:
    """Which of ``side`` pixels the cutout covers along one axis, bool (N, side)."""
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
"""In the order in which ``dsa`` runs them."""

WARPS = ("crop", "scale", "rotate")
"""Of these, ``dsa`` runs one a batch."""


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
            f"strategy must be some of {', '.join(OPERATIONS)} joined with '_', "
            f"got {unknown[0]!r} in {strategy!r}"
        )
    return tuple(name for name in OPERATIONS if name in names)


def dsa(*, strategy: str = PAPER_STRATEGY) -> Steps:
    """DSA as GIFT's evaluation code runs it: all of the strategy, of the warps one a batch.

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
    """DSA as its own paper's code runs it: one of the strategy's operations a batch.

    Source: the code of Zhao and Bilen, ICML 2021; that of DATM (Guo et al., ICLR 2024).
    """
    return [OneOf([OPERATIONS[name] for name in parse_strategy(strategy)])]
