"""Geometric operations: flips, crops, scaling and rotation about the center, resized crops.

Images are (N, C, H, W); every other tensor has a number, or a row of numbers, per image. Resampling
is bilinear with ``align_corners=False``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def flip(images: Tensor, flipped: Tensor) -> Tensor:
    """Mirror the images for which ``flipped``, bool (N), is true, left to right."""
    return torch.where(flipped.view(-1, 1, 1, 1), images.flip(3), images)


def crop(images: Tensor, top: Tensor, left: Tensor, *, padding: tuple[int, int]) -> Tensor:
    """Pad every image with zeros and crop a window of the original size.

    Args:
        images: (N, C, H, W).
        top: int64 (N), the window's first row in the padded image, in [0, 2 * padding[0]].
        left: int64 (N), its first column, in [0, 2 * padding[1]].
        padding: rows added above and below, and columns added left and right.
    """
    height, width = images.shape[2:]
    rows, columns = padding
    padded = F.pad(images, (columns, columns, rows, rows))
    # All windows, as a view (N, C, tops, lefts, H, W): indexing one per image copies whole rows,
    # while an index per pixel would read pixels one by one.
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    image = torch.arange(len(images), device=images.device)
    return windows[image, :, top, left]


def scale(images: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Shrink (factor above 1) or enlarge (below 1) about the center; fill with zeros.

    Args:
        images: (N, C, H, W).
        across: (N), the horizontal factor.
        down: (N), the vertical factor.
    """
    x, y = centered(images)
    return sample_at(images, x * across.view(-1, 1, 1), y * down.view(-1, 1, 1))


def rotate(images: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate every image counterclockwise about its center; fill with zeros.

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
    """Crop a box of every image and enlarge it to the image's size.

    Pixels outside of the box do not affect the result.

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
    """Positions in [-1, 1] of the ``size`` pixels of a resized box along one axis, (N, size)."""
    first, length = (values.to(images.dtype).view(-1, 1) for values in (first, length))
    pixel = torch.arange(size, dtype=images.dtype, device=images.device)
    within = ((pixel + 0.5) * (length / size) - 0.5).clamp(min=0.0)
    return (2.0 * (first + torch.minimum(within, length - 1.0)) + 1.0) / size - 1.0


def centered(images: Tensor) -> tuple[Tensor, Tensor]:
    """The centers of the columns, (1, W), and of the rows, (H, 1), in [-1, 1]."""
    height, width = images.shape[2:]
    x, y = (
        (2.0 * torch.arange(size, dtype=images.dtype, device=images.device) + 1.0) / size - 1.0
        for size in (width, height)
    )
    return x.view(1, width), y.view(height, 1)


def sample_at(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Samples every image at positions that broadcast to (N, H, W); zero outside of [-1, 1]."""
    shape = (len(images), *images.shape[2:])
    grid = torch.stack([x.expand(shape), y.expand(shape)], 3)
    return F.grid_sample(images, grid, align_corners=False)


def take_pixels(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Reorder the rows and the columns of every image.

    Args:
        images: (N, C, H, W).
        rows: int64 (N, H), the source of each row.
        columns: int64 (N, W), the source of each column.
    """
    n, _, height, width = images.shape
    images = torch.take_along_dim(images, rows.view(n, 1, height, 1), 2)
    return torch.take_along_dim(images, columns.view(n, 1, 1, width), 3)
