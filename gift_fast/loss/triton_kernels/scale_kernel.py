"""Multiplies a stored gradient by the upstream one, in place; the backward pass.

Shapes: grad ``[rows, classes]``, contiguous; grad_output ``[rows]`` or ``[1]``; scale ``[rows]``,
for float16 gradients. Traffic: reads and writes grad once; nothing but the factor where it is one.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["tiles", "size", "rows"])
def scale_kernel(
    grad,  # [size], rows of `classes` elements
    grad_output,  # [rows], or [1] with a stride of 0
    scale,  # [rows] float32, or None
    tiles,
    size,
    rows,
    classes,
    grad_output_stride,
    PER_ROW: tl.constexpr,
    SHORT: tl.constexpr,  # classes < BLOCK: a tile may have more than two rows
    BLOCK: tl.constexpr,
):
    """Multiplies in place, tile by tile across the ends of rows; a factor of one moves no data."""
    dtype: tl.constexpr = tl.float64 if grad.dtype.element_ty == tl.float64 else tl.float32
    lanes = tl.arange(0, BLOCK)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        start = tile * tl.full((), BLOCK, tl.int64)
        if PER_ROW:
            first = start // classes
            into_row = (start - first * classes).to(tl.int32)
            if SHORT:
                row = first + (into_row + lanes) // classes
            else:
                row = first + (into_row + lanes >= classes).to(tl.int64)
            row = tl.minimum(row, rows - 1)
            factor = tl.load(grad_output + row * grad_output_stride).to(tl.float64)
            if scale is not None:
                factor *= tl.load(scale + row).to(tl.float64)
            changes = tl.max((factor != 1.0).to(tl.int32), 0) > 0
        else:
            factor = tl.load(grad_output).to(tl.float64)
            changes = factor != 1.0
        if changes:
            element = start + lanes
            by = factor.to(dtype)
            # Without a mask where it can be: the end need not be a multiple of 16 bytes.
            if start + BLOCK <= size:
                x = tl.load(grad + element).to(dtype)
                tl.store(grad + element, x * by)
            else:
                x = tl.load(grad + element, mask=element < size, other=0.0).to(dtype)
                tl.store(grad + element, x * by, mask=element < size)
