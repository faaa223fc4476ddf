"""Where the pixels of every image come from: flips, crops, maps about the center, resized crops.

Images are (N, C, H, W); every other tensor holds a number, or a row of numbers, for each image.
Resampling is bilinear between the centers of pixels, as ``align_corners=False`` says.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def flip(images: Tensor, flipped: Tensor) -> Tensor:
    """Mirrors left to right the images that ``flipped``, bool (N), names."""
    return torch.where(flipped.view(-1, 1, 1, 1), images.flip(3), images)


def crop(images: Tensor, top: Tensor, left: Tensor, *, padding: tuple[int, int]) -> Tensor:
    """Surrounds every image with zeros and cuts a window of its old size out.

    Args:
        images: (N, C, H, W).
        top: int64 (N), the window's first row in the padded image, in [0, 2 * padding[0]].
        left: int64 (N), its first column, in [0, 2 * padding[1]].
        padding: rows added above and below, and columns added left and right.
    """
    height, width = images.shape[2:]
    rows, columns = padding
    padded = F.pad(images, (columns, columns, rows, rows))
    # All windows, as a view (N, C, tops, lefts, H, W): to index one for each image copies rows,
    # where an index for each pixel would read them one by one.
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    image = torch.arange(len(images), device=images.device)
    return windows[image, :, top, left]


def scale(images: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Shrinks (factor above 1) or enlarges (below 1) about the center; zeros come in from outside.

    Args:
        images: (N, C, H, W).
        across: (N), the factor along the columns.
        down: (N), the factor along the rows.
    """
    x, y = centered(images)
    return sample_at(images, x * across.view(-1, 1, 1), y * down.view(-1, 1, 1))


def rotate(images: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns every image about its center, anticlockwise; zeros come in from outside.

    Args:
        images: (N, C, H, W).
        cos: (N), of the angle.
        sin: (N), of the angle.
    """
    x, y = centered(images)
    cos, sin = cos.view(-1, 1, 1), sin.view(-1, 1, 1)
    return sample_at(images, cos * x - sin * y, sin * x + cos * y)


def resized_crop(
    images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor
) -> Tensor:
    """Enlarges a box of every image to the size of the whole, as if the rest did not exist.

    Args:
        images: (N, C, H, W).
        top: (N), the box's first row.
        left: (N), its first column.
        height: (N), its rows, at least 1; the box lies within the image.
        width: (N), its columns, at least 1.
    """
    rows, columns = images.shape[2:]
    y = box_positions(top, height, rows, images).view(-1, rows, 1)
    x = box_positions(left, width, columns, images).view(-1, 1, columns)
    return sample_at(images, x, y)


def box_positions(first: Tensor, length: Tensor, size: int, images: Tensor) -> Tensor:
    """Where along one axis the ``size`` pixels of a resized box lie, (N, size), on [-1, 1]."""
    first, length = (values.to(images.dtype).view(-1, 1) for values in (first, length))
    pixel = torch.arange(size, dtype=images.dtype, device=images.device)
    within = ((pixel + 0.5) * (length / size) - 0.5).clamp(min=0.0)
    return (2.0 * (first + torch.minimum(within, length - 1.0)) + 1.0) / size - 1.0


def centered(images: Tensor) -> tuple[Tensor, Tensor]:
    """Centers of the columns, (1, W), and of the rows, (H, 1), on [-1, 1]."""
    height, width = images.shape[2:]
    x, y = (
        (2.0 * torch.arange(size, dtype=images.dtype, device=images.device) + 1.0) / size - 1.0
        for size in (width, height)
    )
    return x.view(1, width), y.view(height, 1)


def sample_at(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Every image, read at positions that broadcast to (N, H, W); outside of [-1, 1] are zeros."""
    shape = (len(images), *images.shape[2:])
    grid = torch.stack([x.expand(shape), y.expand(shape)], 3)
    return F.grid_sample(images, grid, align_corners=False)


def take_pixels(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Puts the rows and the columns of every image into another order.

    Args:
        images: (N, C, H, W).
        rows: int64 (N, H), where each row comes from.
        columns: int64 (N, W), where each column comes from.
    """
    n, _, height, width = images.shape
    images = torch.take_along_dim(images, rows.view(n, 1, height, 1), 2)
    return torch.take_along_dim(images, columns.view(n, 1, 1, width), 3)
