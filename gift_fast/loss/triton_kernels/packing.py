"""Tiles of rows: how a program reads, sums and writes them.

A tile is ``[ROWS, columns]``. Offsets, ``[ROWS]``, are those of the elements that its column 0
stands for; masked elements are read as zeros and not written.

A row of 1000 bfloat16 numbers begins at a multiple of 16 bytes, which Triton cannot know: it
specializes on multiples of 16 *elements*. So the host says what divides every row's offset
(``Plan.vector``). Where the rows begin anywhere (21841 classes), the program starts at the row's
first 32-byte boundary and does the few elements before and after it, its edges, separately
(``Plan.realign``).
"""

from typing import NamedTuple

import triton
import triton.language as tl

from gift_fast.loss.thresholds import LARGEST_INVERSE_TEMPERATURE
from gift_fast.loss.triton_kernels.row import Sums

_LARGEST_INVERSE_TEMPERATURE = tl.constexpr(LARGEST_INVERSE_TEMPERATURE)


class Tensors(NamedTuple):
    """The matrices, each ``[rows, classes]``; a gradient is None if it is not requested."""

    logits: tl.tensor
    soft_labels: tl.tensor | None  # None: top-k labels
    logits_grad: tl.tensor | None
    soft_labels_grad: tl.tensor | None


class Offsets(NamedTuple):
    """Of the elements of each matrix that column 0 stands for, ``[ROWS]``, and where they are.

    The rows' body, ``body`` elements, begins at the row's element ``begin``.
    """

    logits: tl.tensor
    soft_labels: tl.tensor
    grad: tl.tensor
    begin: tl.tensor
    body: tl.tensor


class Tile(NamedTuple):
    """z, s and where the targets are, ``[ROWS, columns]``; s as the formulas have it."""

    z: tl.tensor
    s: tl.tensor
    is_target: tl.tensor


@triton.jit
def read(pointer, offsets, columns, mask, dtype: tl.constexpr):
    return tl.load(pointer + (offsets[:, None] + columns[None, :]), mask=mask, other=0.0).to(dtype)


@triton.jit
def read_tile(tensors, offsets, columns, mask, y, dtype: tl.constexpr):
    """Reads columns of rows with targets y; s as it is stored."""
    z = read(tensors.logits, offsets.logits, columns, mask, dtype)
    s = read(tensors.soft_labels, offsets.soft_labels, columns, mask, dtype)
    return Tile(z, s, is_at(columns, offsets, y))


@triton.jit
def edges_of(offsets, classes, WIDTH: tl.constexpr, EDGES: tl.constexpr):
    """Columns and mask, ``[EDGES]``, of the elements before and after the body.

    There are less than WIDTH of either. The tile has a lane for every thread all the same: what
    many threads hold together, Triton lets them write to shared memory together.
    """
    lane = tl.arange(0, EDGES)
    columns = tl.where(lane < WIDTH, lane - offsets.begin, lane - WIDTH + offsets.body)
    in_row = ((columns < 0) | (columns >= offsets.body)) & (columns < classes - offsets.begin)
    return columns, in_row


@triton.jit
def softmax_weights(s, largest, inverse_temperature, mask):
    """exp((s - max s) / T): softmax up to a factor that the normalization of t removes."""
    # 0 * inf is not 0
    inverse = tl.minimum(inverse_temperature, _LARGEST_INVERSE_TEMPERATURE).to(s.dtype)
    return tl.where(mask, tl.exp((s - largest) * inverse), 0.0)


@triton.jit
def with_softmax(tile, largest, options, mask):
    s = softmax_weights(tile.s, largest[:, None], options.inverse_temperature[:, None], mask)
    return Tile(tile.z, s, tile.is_target)


@triton.jit
def hard_label(is_target, options, dtype: tl.constexpr):
    on_target = options.on_target.to(dtype)[:, None]
    return tl.where(is_target, on_target, options.elsewhere.to(dtype)[:, None])


@triton.jit
def is_at(columns, offsets, y):
    """Where the classes y are, ``[ROWS, columns]``."""
    return columns[None, :] + offsets.begin == y[:, None]


@triton.jit
def _add(a0, a1, a2, a3, a4, b0, b1, b2, b3, b4):
    return a0 + b0, a1 + b1, a2 + b2, a3 + b3, a4 + b4


@triton.jit
def sums_of(tile, options):
    """The sums of each row of a tile, in float64: one reduction, so one barrier.

    The products with h itself, not the sums that csrc/gift_row.h takes them from: those need z and
    s at the target, and to load these once more is a third of the requests of a short row.
    """
    z, s = tile.z, tile.s
    h = hard_label(tile.is_target, options, z.dtype)
    zh, sh, zz, ss, zs = tl.reduce((z * h, s * h, z * z, s * s, z * s), 1, _add)
    return Sums(
        zh.to(tl.float64),
        sh.to(tl.float64),
        zz.to(tl.float64),
        ss.to(tl.float64),
        zs.to(tl.float64),
    )


@triton.jit
def added(a, b):
    return Sums(a.zh + b.zh, a.sh + b.sh, a.zz + b.zz, a.ss + b.ss, a.zs + b.zs)


@triton.jit
def _at_both_labels(pointer, offsets, begin, y, other_y, mask, dtype: tl.constexpr):
    """A row's elements at its two labels; ``offsets`` are those of its element ``begin``."""
    own = tl.load(pointer + (offsets + (y - begin)), mask=mask, other=0.0)
    other = tl.load(pointer + (offsets + (other_y - begin)), mask=mask, other=0.0)
    return own.to(dtype), other.to(dtype)


@triton.jit
def sums_of_other_label(
    sums, tensors, offsets, y, other_y, mask, largest, options, dtype: tl.constexpr,
    SOFTMAX: tl.constexpr,
):  # fmt: skip
    """The sums with the other label in place of y: they differ by the elements at the two."""
    z, other_z = _at_both_labels(
        tensors.logits, offsets.logits, offsets.begin, y, other_y, mask, dtype
    )
    s, other_s = _at_both_labels(
        tensors.soft_labels, offsets.soft_labels, offsets.begin, y, other_y, mask, dtype
    )
    if SOFTMAX:
        s = softmax_weights(s, largest, options.inverse_temperature, mask)
        other_s = softmax_weights(other_s, largest, options.inverse_temperature, mask)
    step = options.on_target - options.elsewhere
    return Sums(
        sums.zh + step * (other_z.to(tl.float64) - z.to(tl.float64)),
        sums.sh + step * (other_s.to(tl.float64) - s.to(tl.float64)),
        sums.zz,
        sums.ss,
        sums.zs,
    )


@triton.jit
def store_rounded(pointers, x, mask):
    if pointers.dtype.element_ty.primitive_bitwidth == 16:
        x = x.to(tl.float32)  # float64 has no direct way to bfloat16
    tl.store(pointers, x, mask=mask)


@triton.jit
def _write(pointer, offsets, columns, mask, other, own, is_target, k, other_y, at_other, chain):
    """The gradient of coefficients k, times ``chain``, rounded to what is stored."""
    p, q = k.other.to(own.dtype)[:, None], k.own.to(own.dtype)[:, None]
    r, e = k.all.to(own.dtype)[:, None], k.target.to(own.dtype)[:, None]
    gradient = other * p + (own * q + r) + tl.where(is_target, e, 0.0)
    if other_y is not None:
        more = at_other.to(own.dtype)[:, None]
        gradient += tl.where(is_at(columns, offsets, other_y), more, 0.0)
    at = offsets.grad[:, None] + columns[None, :]
    store_rounded(pointer + at, gradient * chain, mask)


@triton.jit
def write_gradients(
    tensors, offsets, columns, mask, tile, result, other_label, options, SOFTMAX: tl.constexpr
):  # fmt: skip
    """Writes a tile of each requested gradient."""
    z, s = tile.z, tile.s
    other_y = None if other_label is None else other_label.y
    if tensors.logits_grad is not None:
        _write(
            tensors.logits_grad, offsets, columns, mask, s, z, tile.is_target, result.of_logits,
            other_y, result.logits_at_other, 1.0,
        )  # fmt: skip
    if tensors.soft_labels_grad is not None:
        chain = s * options.inverse_temperature.to(s.dtype)[:, None] if SOFTMAX else 1.0
        _write(
            tensors.soft_labels_grad, offsets, columns, mask, z, s, tile.is_target,
            result.of_soft_labels, other_y, result.soft_labels_at_other, chain,
        )  # fmt: skip
