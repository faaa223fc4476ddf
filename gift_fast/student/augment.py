"""Differentiable Siamese Augmentation (DSA; Zhao and Bilen, ICML 2021) for a batch on its device.

As the evaluation code of GIFT runs it, every image gets parameters of its own:

1. flip left to right with probability 1/2;
2. colour: brightness, then saturation, then contrast;
3. ONE of crop, scale and rotate, chosen once a batch;
4. cutout of half the side, always.

A strategy names the operations to use, joined with ``_``; their order here stays. The paper's is
``color_crop_cutout_flip_scale_rotate``. Digits take ``crop_scale_rotate``: a mirrored 2 is no 2, a
hole of 4 x 4 pixels leaves too little of an 8 x 8 digit, and scanned ink varies little in
brightness.

Images are (N, C, H, W), floating, already normalised, so the zero that fills what comes from
outside is the mean colour. Nothing here loops over images or waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

SHIFT = 0.125
"""Largest shift of a crop, as a part of the side."""

SCALE = 1.2
"""Largest factor of a scale; the smallest is its inverse."""

DEGREES = 15.0
"""Largest angle of a rotation."""

CUTOUT = 0.5
"""Side of the cutout, as a part of the image's side."""


def per_image(values: Tensor) -> Tensor:
    """One value an image, (N), shaped to broadcast over (N, C, H, W)."""
    return values.view(-1, 1, 1, 1)


def flip(images: Tensor, flipped: Tensor) -> Tensor:
    """Mirrors left to right the images that ``flipped``, bool (N), names."""
    return torch.where(per_image(flipped), images.flip(3), images)


def brighten(images: Tensor, amount: Tensor) -> Tensor:
    """Adds ``amount`` (N) to every value."""
    return images + per_image(amount)


def saturate(images: Tensor, factor: Tensor) -> Tensor:
    """Multiplies by ``factor`` (N) what sets a channel apart from its pixel's grey."""
    grey = images.mean(1, keepdim=True)
    return grey + (images - grey) * per_image(factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Multiplies by ``factor`` (N) what sets a value apart from the image's mean."""
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (images - mean) * per_image(factor)


def shift(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Moves every image by whole pixels, int64 (N) each; zeros come in from outside."""
    n, _, height, width = images.shape
    rows = torch.arange(height, device=images.device) - down.view(n, 1)
    columns = torch.arange(width, device=images.device) - right.view(n, 1)
    inside = inside_of(rows, height).view(n, 1, height, 1) & inside_of(columns, width).view(
        n, 1, 1, width
    )
    image = torch.arange(n, device=images.device).view(n, 1, 1)
    rows = rows.clamp(0, height - 1).view(n, height, 1)
    columns = columns.clamp(0, width - 1).view(n, 1, width)
    # Indices on both sides of the channel slice put the channels last.
    moved = images[image, :, rows, columns].permute(0, 3, 1, 2)
    return torch.where(inside, moved, 0.0)


def inside_of(index: Tensor, size: int) -> Tensor:
    """Whether each index lies in [0, size)."""
    return (index >= 0) & (index < size)


def warp(images: Tensor, matrix: Tensor) -> Tensor:
    """Samples every image where ``matrix`` (N, 2, 2) sends the output's coordinates in [-1, 1]."""
    theta = F.pad(matrix, (0, 1))
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def scale(images: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Shrinks (factor above 1) or enlarges (below 1) about the centre; factors (N) each."""
    zero = torch.zeros_like(across)
    return warp(images, torch.stack([across, zero, zero, down], 1).view(-1, 2, 2))


def rotate(images: Tensor, angle: Tensor) -> Tensor:
    """Turns every image about its centre by ``angle`` (N), in radians."""
    cos, sin = angle.cos(), angle.sin()
    return warp(images, torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2))


def cutout(images: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Sets a square of half the side about ``row``, ``column`` (N) to 0, clipped at the border."""
    height, width = images.shape[2:]
    rows = cut_span(row, height).view(-1, 1, height, 1)
    columns = cut_span(column, width).view(-1, 1, 1, width)
    return torch.where(rows & columns, 0.0, images)


def cut_span(centre: Tensor, side: int) -> Tensor:
    """Which of ``side`` pixels the cutout covers along one axis, bool (N, side)."""
    length = cutout_length(side)
    first = centre.view(-1, 1) - length // 2
    pixel = torch.arange(side, device=centre.device)
    return (pixel >= first) & (pixel < first + length)


def cutout_length(side: int) -> int:
    """Pixels that a cutout takes of ``side``, rounded half up."""
    return int(CUTOUT * side + 0.5)


class Draws:
    """Fresh parameters for every image of a batch, from one generator on the batch's device."""

    def __init__(self, images: Tensor, generator: torch.Generator) -> None:
        self.count = images.shape[0]
        self.device = images.device
        self.generator = generator

    def uniform(self) -> Tensor:
        """Float32 (N) in [0, 1)."""
        return torch.rand(self.count, generator=self.generator, device=self.device)

    def integer(self, low: int, high: int) -> Tensor:
        """Int64 (N) in [low, high], both ends included."""
        return torch.randint(
            low, high + 1, (self.count,), generator=self.generator, device=self.device
        )


def random_flip(images: Tensor, draws: Draws) -> Tensor:
    """Flips with probability 1/2."""
    return flip(images, draws.uniform() < 0.5)


def random_color(images: Tensor, draws: Draws) -> Tensor:
    """Brightness + U - 1/2, then saturation * 2U, then contrast * (U + 1/2)."""
    images = brighten(images, draws.uniform() - 0.5)
    images = saturate(images, 2.0 * draws.uniform())
    return contrast(images, draws.uniform() + 0.5)


def random_crop(images: Tensor, draws: Draws) -> Tensor:
    """Shifts by at most an eighth of the side, rounded half up, in each direction."""
    height, width = (int(SHIFT * side + 0.5) for side in images.shape[2:])
    return shift(images, draws.integer(-height, height), draws.integer(-width, width))


def random_scale(images: Tensor, draws: Draws) -> Tensor:
    """Scales each axis by a factor of its own in [1/1.2, 1.2]."""
    low, high = 1.0 / SCALE, SCALE
    across = low + (high - low) * draws.uniform()
    return scale(images, across, low + (high - low) * draws.uniform())


def random_rotate(images: Tensor, draws: Draws) -> Tensor:
    """Rotates by at most 15 degrees either way."""
    return rotate(images, math.radians(DEGREES) * (2.0 * draws.uniform() - 1.0))


def random_cutout(images: Tensor, draws: Draws) -> Tensor:
    """Cuts a square whose centre lies anywhere, its far border included for an even square."""
    row, column = (draws.integer(0, s - cutout_length(s) % 2) for s in images.shape[2:])
    return cutout(images, row, column)


Operation = Callable[[Tensor, Draws], Tensor]

WARPS: dict[str, Operation] = {
    "crop": random_crop,
    "scale": random_scale,
    "rotate": random_rotate,
}
"""Of these, one a batch."""

OPERATIONS: dict[str, Operation] = {
    "flip": random_flip,
    "color": random_color,
    **WARPS,
    "cutout": random_cutout,
}
"""In the order in which they run."""

PAPER_STRATEGY = "color_crop_cutout_flip_scale_rotate"


def parse_strategy(strategy: str) -> tuple[str, ...]:
    """The operations that a strategy names, in the order in which they run; ``none`` is empty.

    Raises:
        TypeError: the strategy is not a string.
        ValueError: an operation is unknown.

    Example:
        >>> parse_strategy("rotate_flip")
        ('flip', 'rotate')
    """
    if not isinstance(strategy, str):
        raise TypeError(f"augmentation must be a string, got {type(strategy).__name__}")
    names = [] if strategy == "none" else strategy.split("_")
    unknown = [name for name in names if name not in OPERATIONS]
    if unknown:
        raise ValueError(
            f"augmentation must be 'none' or some of {', '.join(OPERATIONS)} joined with '_', "
            f"got {unknown[0]!r} in {strategy!r}"
        )
    return tuple(name for name in OPERATIONS if name in names)


class Augmentation:
    """Augments batches by a strategy; the same seed gives the same sequence of batches on a CPU.

    Args:
        strategy: see the top of this file.
        seed: seeds both generators.
        device: where the batches lie.

    Example:
        >>> augment = Augmentation("crop_scale_rotate", seed=0, device="cpu")
        >>> augment(torch.ones(4, 1, 8, 8)).shape
        torch.Size([4, 1, 8, 8])
    """

    def __init__(self, strategy: str, *, seed: int, device: torch.device | str) -> None:
        names = parse_strategy(strategy)
        self.operations = [name for name in names if name not in WARPS]
        self.warps = [name for name in names if name in WARPS]
        self.parameters = torch.Generator(device).manual_seed(seed)
        # The choice of one operation a batch is made on the host, which would otherwise have to
        # wait for a number drawn on the device.
        self.choice = torch.Generator().manual_seed(seed)

    def __call__(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) to images of the same shape and dtype."""
        draws = Draws(images, self.parameters)
        chosen = self.choose_warp()
        for name, operation in OPERATIONS.items():
            if name in self.operations or name == chosen:
                images = operation(images, draws).to(images.dtype)
        return images

    def choose_warp(self) -> str | None:
        """One of the strategy's crop, scale and rotate, each equally likely."""
        if not self.warps:
            return None
        index = torch.randint(len(self.warps), (), generator=self.choice)
        return self.warps[int(index)]
