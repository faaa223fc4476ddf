"""Replays stored batches: crops, flips and mixes images exactly as when they were labeled.

All images of a batch are processed together on the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gift_fast.data.labels.batch import FkdBatch, box_within

LARGEST_BYTE = 255.0


def replay(
    images: Tensor, batch: FkdBatch, side: int, part: tuple[int, int] | None = None
) -> Tensor:
    """Return the images for which the labels of a batch were computed, before normalization.

    Applies the stored crop, resize, flip and cutout, then mixup or cutmix. The projects normalize
    before they mix. Mixing is a weighted mean or a choice between pixels, so normalizing afterwards
    gives the same images.

    Crops are resized like torchvision's ``resized_crop`` of PIL images: bilinear, antialiased if a
    crop is larger than ``side``, without reading pixels outside of the crop. The projects do so on
    8-bit images, so uint8 images, and no others, are rounded after each of Pillow's two passes. For
    noise of 224 pixels, 0.2 % of the values differ from Pillow's by 1/255: halves, which Pillow's
    fixed-point weights round up or down.

    Args:
        images: (B, C, H, W), the images at ``batch.index``, also those outside of ``part``;
            uint8 in [0, 255], or floating point (in [0, 1] if the batch has a cutout).
        batch: on the device of ``images``; see :meth:`FkdBatch.to`.
        side: side of the crops in pixels, as when the labels were computed.
        part: (start, stop), the rows to return, for a process that trains on a part of the batch.

    Returns:
        (stop - start, C, side, side), float64 for float64 images, otherwise float32; in [0, 1] for
        uint8 images, otherwise on the scale of ``images``.

    Raises:
        ValueError: images and batch have different numbers of rows, the part is empty or exceeds
            the batch, or a box exceeds the image or the crop.

    Sources: ``relabel/utils_fkd.py`` of VILA-Lab/SRe2L; cutout: ``utils_fkd.py`` of
    he-y/soft-label-pruning-for-dataset-distillation.

    Example:
        >>> right_half_mirrored = FkdBatch(
        ...     index=torch.tensor([0]),
        ...     coords=torch.tensor([[0.0, 0.5, 1.0, 0.5]]),
        ...     flip=torch.tensor([True]),
        ...     logits=torch.zeros(1, 10),
        ... )
        >>> replay(torch.tensor([[[[0.0, 1.0, 2.0, 3.0]] * 4]]), right_half_mirrored, side=2)
        tensor([[[[3., 2.],
                  [3., 2.]]]])
    """
    n = len(batch)
    if images.dim() != 4 or len(images) != n:
        raise ValueError(f"images must be ({n}, C, H, W), got {tuple(images.shape)}")
    start, stop = part or (0, n)
    if not 0 <= start < stop <= n:
        raise ValueError(f"part must be within (0, {n}) and not be empty, got {part}")
    device = images.device
    height, width = images.shape[2:]
    boxes = _pixel_boxes(batch.coords, height, width).to(device, non_blocking=True)
    flip, cutout, partners = batch.flip, batch.cutout, batch.mix_index

    own = stop - start
    if own < n:
        rows = torch.arange(start, stop, device=device)
        if partners is not None:  # they may be outside of the part, so they are cropped too
            rows = torch.cat([rows, partners[start:stop]])
            partners = torch.arange(own, 2 * own, device=device)
        images, boxes, flip = images[rows], boxes[rows], flip[rows]
        cutout = None if cutout is None else cutout[rows]

    # Autocast would crop in 16 bits.
    with torch.autocast(device.type, enabled=False):
        crops = _resized_crops(images, boxes, flip, side)
    if cutout is not None:
        crops = _cut_out(crops, cutout)
    if partners is None or batch.lam is None:
        return crops
    mixed = crops[:own]
    if batch.bbox is None:
        return batch.lam * mixed + (1.0 - batch.lam) * crops[partners]
    row, column, end_row, end_column = box_within(batch.bbox, side)
    # Indexing with a tensor copies, so no row is read after it has been modified.
    replacement = crops[:, :, row:end_row, column:end_column][partners]
    mixed[:, :, row:end_row, column:end_column] = replacement
    return mixed


def _pixel_boxes(coords: Tensor, height: int, width: int) -> Tensor:
    """(B, 4) int64 on the CPU: top, bottom, left and right edge, rounded like PIL's crop."""
    sides = torch.tensor([height, width, height, width], dtype=torch.float64)
    top, left, tall, wide = (coords.to("cpu", torch.float64) * sides).unbind(1)
    boxes = torch.stack([top, top + tall, left, left + wide], 1).round().long()
    lower, upper = boxes[:, 0::2], boxes[:, 1::2]
    bad = (lower < 0) | (upper <= lower) | (upper > torch.tensor([height, width]))
    if bad.any():
        row = int(bad.any(1).nonzero()[0])
        raise ValueError(
            f"coords of row {row} must be a box of at least one pixel within {height} x {width}, "
            f"got {coords[row].tolist()}"
        )
    return boxes


def _resized_crops(images: Tensor, boxes: Tensor, flip: Tensor, side: int) -> Tensor:
    """(B, C, side, side): each image's box, resized and mirrored; see :func:`replay`."""
    height, width = images.shape[2:]
    top, bottom, left, right = boxes.unbind(1)
    eight_bit = images.dtype == torch.uint8
    pixels = images if images.dtype == torch.float64 else images.float()
    across = _resize_weights(left, right, width, side, pixels.dtype, flip)
    down = _resize_weights(top, bottom, height, side, pixels.dtype)
    # The order of Pillow's passes, and its rounding to 8 bits, half up, after each pass.
    crops = torch.einsum("bchw,bxw->bchx", pixels, across)
    if eight_bit:
        crops = crops.add_(0.5).floor_()
    crops = torch.einsum("bchx,byh->bcyx", crops, down).contiguous()
    if eight_bit:
        crops = crops.add_(0.5).floor_().div_(LARGEST_BYTE)
    return crops


def _resize_weights(
    start: Tensor,
    stop: Tensor,
    size: int,
    side: int,
    dtype: torch.dtype,
    flip: Tensor | None = None,
) -> Tensor:
    """(B, side, size): the weight of each input pixel in each pixel of the resized crop.

    In pixels of the image, the crop's pixel p has its center at p + 1/2 and the result's pixel o at
    (o + 1/2) length / side. A weight decreases linearly with their distance and is zero at the
    distance of one pixel of the image or of the result, whichever is larger: interpolation between
    neighbors when enlarging, Pillow's antialiasing when shrinking. Distances are multiplied by
    2 side to be integers, which float32 represents exactly for sides of up to 2,896 pixels.
    """
    length = (stop - start).unsqueeze(1)
    pixel = torch.arange(size, device=start.device) - start.unsqueeze(1)
    inside = (pixel >= 0) & (pixel < length)
    output = torch.arange(side, device=start.device).expand(len(start), -1)
    if flip is not None:
        output = torch.where(flip.unsqueeze(1), side - 1 - output, output)
    given = ((2 * pixel + 1) * side).to(dtype).unsqueeze(1)
    wanted = ((2 * output + 1) * length).to(dtype).unsqueeze(2)
    reach = (2 * length.clamp_min(side)).to(dtype).unsqueeze(2)
    weights = (given - wanted).abs_().div_(reach).neg_().add_(1.0).clamp_min_(0.0)
    weights.mul_(inside.unsqueeze(1))
    return weights.div_(weights.sum(2, keepdim=True))


def _cut_out(crops: Tensor, cutout: Tensor) -> Tensor:
    """Draw a rectangle of one color on each crop, as LPLD does with PIL.

    PIL's rectangles include their last row and column, so they are one pixel larger.
    """
    side = crops.shape[2]
    row, column, tall, wide = (cutout[:, :4] * side).round().unbind(1)
    pixel = torch.arange(side, device=crops.device)

    def covered(center: Tensor, length: Tensor) -> Tensor:
        half = (length / 2).floor()
        return (pixel >= (center - half).unsqueeze(1)) & (pixel <= (center + half).unsqueeze(1))

    inside = covered(row, tall).unsqueeze(2) & covered(column, wide).unsqueeze(1)
    color = (cutout[:, 4:] / LARGEST_BYTE).to(crops.dtype)
    return torch.where(inside.unsqueeze(1), color[:, :, None, None], crops)
