"""The file of one batch, in the format of SRe2L and later projects.

Despite its name, ``batch_{b}.tar``, each file is a list saved with ``torch.save``:

1. coords float32 (B, 4): top, left, height and width of the crops, as fractions of the sides
2. flip bool (B); in LPLD's labels of ImageNet-21K, which have no flips, cutout float32 (B, 7)
3. mix_index int64 (B): the image of the batch that is mixed into each; None without mixing
4. lam float: the weight of each image under mixup; None without mixing
5. bbox: first row, first column, end row, end column of cutmix's box; None under mixup
6. logits float16 or float32 (B, C)
7. index int64 (B): the images of the batch; only in the files of G-VBSM and EDC
8. orders of patches int64 (B, 2, 2); only in EDC's files for ImageNet. EDC's code ignores them and
   always joins the patches in their original order

Sources: VILA-Lab/SRe2L (``relabel/utils_fkd.py``), shaoshitong/G_VBSM_Dataset_Condensation,
he-y/soft-label-pruning-for-dataset-distillation (LPLD), shaoshitong/EDC, commit 80116a7. FKD: Shen
and Xing, ECCV 2022.
"""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gift_fast.data.labels.batch import Box, FkdBatch
from gift_fast.files.pickles import described, load_tensors, numpy_scalars


def read_items(path: Path, num_classes: int) -> list[Any]:
    """Read the list in a file and check its length, crops and logits."""
    items = load_tensors(path, numpy_scalars())
    if not isinstance(items, list) or len(items) not in (6, 7, 8):
        got = len(items) if isinstance(items, list) else described(items)
        raise ValueError(f"{path} must contain a list of 6, 7 or 8 items, got {got}")
    check_coords(path, items[0], torch.float32)
    check_matrix(path, "logits", items[5], (len(items[0]), num_classes))
    if len(items) == 8 and getattr(items[7], "shape", None) != (len(items[0]), 2, 2):
        raise ValueError(
            f"{path}: a list of 8 items must be EDC's and end with the orders of patches "
            f"({len(items[0])}, 2, 2), got {described(items[7])}"
        )
    return items


def check_coords(path: Path, coords: Any, dtype: torch.dtype) -> None:
    """Raise ValueError unless the crops are boxes within [0, 1], (B, 4) of this dtype."""
    name = str(dtype).removeprefix("torch.")
    if not (isinstance(coords, Tensor) and coords.dtype == dtype and coords.dim() == 2):
        raise ValueError(f"{path}: coords must be {name} (B, 4), got {described(coords)}")
    if len(coords) == 0 or coords.shape[1] != 4:
        raise ValueError(f"{path}: coords must be {name} (B, 4), got {described(coords)}")
    # Fractions are rounded, so a box that ends at the border may seem to exceed it.
    ends = coords[:, :2].float() + coords[:, 2:].float()
    rounding = 1e-4 if dtype == torch.float32 else 1e-3
    if not (coords.min() >= 0 and coords[:, 2:].min() > 0 and ends.max() < 1 + rounding):
        raise ValueError(f"{path}: coords must be boxes within [0, 1], got {range_of(coords)}")


def within_image(coords: Tensor) -> Tensor:
    """Crops (B, 4) in float32, clipped at the border, which rounding may have moved them over."""
    start, length = coords.float().split(2, dim=1)
    return torch.cat([start, torch.minimum(length, 1.0 - start)], dim=1)


def check_matrix(path: Path, name: str, values: Any, shape: tuple[int, int]) -> None:
    """Raise ValueError unless the values are floating-point, finite and of this shape."""
    if not (isinstance(values, Tensor) and values.is_floating_point()) or values.shape != shape:
        raise ValueError(f"{path}: {name} must be floating-point {shape}, got {described(values)}")
    if not values.isfinite().all():
        broken = int((~values.isfinite()).any(1).sum())
        raise ValueError(f"{path}: {name} must be finite, {broken} of {shape[0]} rows are not")


def check_kept_classes(path: Path, indices: Any, shape: tuple[int, int], num_classes: int) -> None:
    """Raise ValueError unless the classes of top-k labels are int16, of this shape, and unique."""
    if not isinstance(indices, Tensor) or indices.dtype != torch.int16 or indices.shape != shape:
        raise ValueError(f"{path}: indices must be int16 {shape}, got {described(indices)}")
    if int(indices.min()) < 0 or int(indices.max()) >= num_classes:
        raise ValueError(
            f"{path}: indices must be from 0 to {num_classes - 1}, got {range_of(indices)}"
        )
    ranked = indices.sort(dim=1).values
    if twice := int((ranked[:, 1:] == ranked[:, :-1]).any(1).sum()):
        raise ValueError(
            f"{path}: indices of a row must be unique, {twice} of {shape[0]} rows have duplicates"
        )


def as_batch(path: Path, items: list[Any], index: Tensor) -> FkdBatch:
    """Check the items of a file and convert them to a batch of the images ``index``."""
    coords, flip_or_cutout, mix_index, lam, bbox, logits = items[:6]
    rows = len(coords)
    flip, cutout = flip_or_cutout, None
    if isinstance(flip_or_cutout, Tensor) and flip_or_cutout.is_floating_point():
        flip, cutout = torch.zeros(rows, dtype=torch.bool), flip_or_cutout.float()
    if not isinstance(flip, Tensor) or flip.dtype != torch.bool or flip.shape != (rows,):
        raise ValueError(f"{path}: flip must be bool ({rows}), got {described(flip)}")
    if cutout is not None and cutout.shape != (rows, 7):
        raise ValueError(f"{path}: cutout must be float32 ({rows}, 7), got {described(cutout)}")
    if mix_index is None:
        return FkdBatch(index, coords, flip, logits, cutout=cutout)
    lam, bbox = mixing(path, lam, bbox)
    if isinstance(mix_index, Tensor) and mix_index.dtype == torch.uint8:  # LPQLD's
        mix_index = mix_index.long()
    mix_index = check_indices(path, "mix_index", mix_index, rows, rows)
    return FkdBatch(index, coords, flip, logits, mix_index, lam, bbox, cutout)


def check_indices(path: Path, name: str, value: Any, count: int, below: int) -> Tensor:
    """Return the value; raise ValueError unless it is int64 (count) in [0, below)."""
    if not isinstance(value, Tensor) or value.dtype != torch.int64 or value.shape != (count,):
        raise ValueError(f"{path}: {name} must be int64 ({count}), got {described(value)}")
    if int(value.min()) < 0 or int(value.max()) >= below:
        raise ValueError(f"{path}: {name} must be from 0 to {below - 1}, got {range_of(value)}")
    return value


def mixing(path: Path, lam: Any, bbox: Any) -> tuple[float, Box | None]:
    """Convert lam and bbox of a mixed batch, which may be NumPy numbers, to Python numbers."""
    try:
        weight = float(lam)
        box = None
        if bbox is not None:
            row, column, end_row, end_column = map(operator.index, bbox)
            box = row, column, end_row, end_column
    except (TypeError, ValueError):
        raise ValueError(
            f"{path}: lam must be a number and bbox 4 integers or None if mix_index is given, "
            f"got {lam!r} and {bbox!r}"
        ) from None
    if not 0.0 <= weight <= 1.0:
        raise ValueError(f"{path}: lam must be from 0 to 1, got {weight}")
    if box is not None and not (0 <= box[0] <= box[2] and 0 <= box[1] <= box[3]):
        raise ValueError(f"{path}: bbox must be first row and column, then the ends, got {box}")
    return weight, box


def range_of(values: Tensor) -> str:
    """The smallest and the largest value as text, for error messages."""
    return f"{values.min().item():g} to {values.max().item():g}"
