"""Counts the valid rows and checks the targets, in one program.

Shapes: target ``[rows]``; weight and all_in_range ``[1]``. Traffic: reads the targets, 8 or 4 bytes
per row, and writes 9 bytes. Mixed labels have two of everything, and a program for each. Top-k
labels are checked by the kernel that reads them, which takes back what is said of them here.
"""

import triton
import triton.language as tl


@triton.jit
def _count(
    target, weight, all_in_range, rows, classes, target_stride, ignore_index, MEAN: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    valid = tl.zeros((BLOCK,), tl.int64)
    wrong = tl.zeros((BLOCK,), tl.int64)
    for start in range(0, rows, BLOCK):
        row = start + tl.arange(0, BLOCK).to(tl.int64)
        y = tl.load(target + row * target_stride, mask=row < rows, other=0).to(tl.int64)
        is_valid = (row < rows) & (y != ignore_index)
        valid += is_valid.to(tl.int64)
        wrong += (is_valid & ((y < 0) | (y >= classes))).to(tl.int64)
    if MEAN:
        tl.store(weight, 1.0 / tl.sum(valid, 0).to(tl.float64))  # no valid row: inf, and no use
    else:
        tl.store(weight, tl.full((), 1.0, tl.float64))
    tl.store(all_in_range, tl.sum(wrong, 0) == 0)


@triton.jit(do_not_specialize=["rows", "ignore_index"])
def targets_kernel(
    target,  # [rows]
    other_target,  # [rows], or None
    weight,  # [1] float64
    all_in_range,  # [1] bool
    fits,  # [2] bool, or None: to be set to true
    rows,
    classes,
    target_stride,
    other_target_stride,
    ignore_index,
    MEAN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The weight of a valid row, 1 or 1 / (valid rows), and whether every target is a class."""
    if fits is not None and tl.program_id(0) == 0:
        tl.store(fits + tl.arange(0, 2), tl.full((2,), True, tl.int1))
    if tl.program_id(0) == 0:
        _count(
            target, weight, all_in_range, rows, classes, target_stride, ignore_index, MEAN, BLOCK
        )
    elif other_target is not None:
        _count(
            other_target, weight + 1, all_in_range + 1, rows, classes, other_target_stride,
            ignore_index, MEAN, BLOCK,
        )  # fmt: skip
