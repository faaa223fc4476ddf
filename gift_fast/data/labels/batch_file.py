"""The file of one batch, as SRe2L and the projects after it write it.

Each file is a list saved with ``torch.save``, despite its name, ``batch_{b}.tar``:

1. coords float32 (B, 4): top, left, height and width of the crops, as parts of the image's sides
2. flip bool (B); in LPLD's labels of ImageNet-21K, which flips nothing, cutout float32 (B, 7)
3. mix_index int64 (B): which image of the batch is mixed into each; None without mixing
4. lam float: what each image keeps under mixup; None without mixing
5. bbox: first row, first column, end row, end column of what cutmix replaces; None under mixup
6. logits float16 or float32 (B, C)
7. index int64 (B): which images the batch holds; only the lists of G-VBSM and EDC have it
8. orders of patches int64 (B, 2, 2); EDC's lists for ImageNet alone, whose code puts the patches
   together in their first order whatever these say, so that they change nothing

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
    """The list in a file, of which length, crops and logits are checked."""
    items = load_tensors(path, numpy_scalars())
    if not isinstance(items, list) or len(items) not in (6, 7, 8):
        got = len(items) if isinstance(items, list) else described(items)
        raise ValueError(f"{path} must hold a list of 6, 7 or 8 items, got {got}")
    check_coords(path, items[0], torch.float32)
    check_matrix(path, "logits", items[5], (len(items[0]), num_classes))
    if len(items) == 8 and getattr(items[7], "shape", None) != (len(items[0]), 2, 2):
        raise ValueError(
            f"{path}: a list of 8 items must be EDC's and end with the orders of patches "
            f"({len(items[0])}, 2, 2), got {described(items[7])}"
        )
    return items


def check_coords(path: Path, coords: Any, dtype: torch.dtype) -> None:
    """Raises ValueError unless the crops are (B, 4) of this type, boxes within [0, 1]."""
    name = str(dtype).removeprefix("torch.")
    if not (isinstance(coords, Tensor) and coords.dtype == dtype and coords.dim() == 2):
        raise ValueError(f"{path}: coords must be {name} (B, 4), got {described(coords)}")
    if len(coords) == 0 or coords.shape[1] != 4:
        raise ValueError(f"{path}: coords must be {name} (B, 4), got {described(coords)}")
    # Parts of a side are rounded: a box that ends at the border may seem to cross it.
    ends = coords[:, :2].float() + coords[:, 2:].float()
    rounding = 1e-4 if dtype == torch.float32 else 1e-3
    if not (coords.min() >= 0 and coords[:, 2:].min() > 0 and ends.max() < 1 + rounding):
        raise ValueError(f"{path}: coords must be boxes within [0, 1], got {range_of(coords)}")


def within_image(coords: Tensor) -> Tensor:
    """Crops (B, 4) in float32, of which those that rounding has moved over the border end at it."""
    start, length = coords.float().split(2, dim=1)
    return torch.cat([start, torch.minimum(length, 1.0 - start)], dim=1)


def check_matrix(path: Path, name: str, values: Any, shape: tuple[int, int]) -> None:
    """Raises ValueError unless the values are floating, finite and of this shape."""
    if not (isinstance(values, Tensor) and values.is_floating_point()) or values.shape != shape:
        raise ValueError(f"{path}: {name} must be floating {shape}, got {described(values)}")
    if not values.isfinite().all():
        broken = int((~values.isfinite()).any(1).sum())
        raise ValueError(f"{path}: {name} must be finite, {broken} of {shape[0]} rows are not")


def check_kept_classes(path: Path, indices: Any, shape: tuple[int, int], num_classes: int) -> None:
    """Raises ValueError unless the indices of kept classes are int16, of this shape, and differ."""
    if not isinstance(indices, Tensor) or indices.dtype != torch.int16 or indices.shape != shape:
        raise ValueError(f"{path}: indices must be int16 {shape}, got {described(indices)}")
    if int(indices.min()) < 0 or int(indices.max()) >= num_classes:
        raise ValueError(
            f"{path}: indices must be from 0 to {num_classes - 1}, got {range_of(indices)}"
        )
    ranked = indices.sort(dim=1).values
    if twice := int((ranked[:, 1:] == ranked[:, :-1]).any(1).sum()):
        raise ValueError(f"{path}: indices of a row must differ, {twice} of {shape[0]} rows do not")


def as_batch(path: Path, items: list[Any], index: Tensor) -> FkdBatch:
    """The items of a file, checked, as a batch of the images ``index``."""
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
    """The value; raises ValueError unless it is int64 (count) with numbers below ``below``."""
    if not isinstance(value, Tensor) or value.dtype != torch.int64 or value.shape != (count,):
        raise ValueError(f"{path}: {name} must be int64 ({count}), got {described(value)}")
    if int(value.min()) < 0 or int(value.max()) >= below:
        raise ValueError(f"{path}: {name} must be from 0 to {below - 1}, got {range_of(value)}")
    return value


def mixing(path: Path, lam: Any, bbox: Any) -> tuple[float, Box | None]:
    """Lam and bbox of a mixed batch as Python numbers; files also hold NumPy numbers."""
    try:
        weight = float(lam)
        box = None
        if bbox is not None:
            row, column, end_row, end_column = map(operator.index, bbox)
            box = row, column, end_row, end_column
    except (TypeError, ValueError):
        raise ValueError(
            f"{path}: lam must be a number and bbox 4 whole numbers or None where mix_index is "
            f"given, got {lam!r} and {bbox!r}"
        ) from None
    if not 0.0 <= weight <= 1.0:
        raise ValueError(f"{path}: lam must be from 0 to 1, got {weight}")
    if box is not None and not (0 <= box[0] <= box[2] and 0 <= box[1] <= box[3]):
        raise ValueError(f"{path}: bbox must be first row and column, then the ends, got {box}")
    return weight, box


def range_of(values: Tensor) -> str:
    """The smallest and the largest value, for an error message."""
    return f"{values.min().item():g} to {values.max().item():g}"
