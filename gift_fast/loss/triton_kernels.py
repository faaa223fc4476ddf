"""The operators as Triton kernels: NVIDIA without nvcc, AMD, Intel.

Three launches, none of which waits for the host: the valid rows are counted, a program takes a row
(or several short ones), the programs' losses are added up in a fixed order. The names are those of
:mod:`gift_fast.loss.reference` and ``csrc/gift_row.h``, and so is every formula.

- **Held rows**, up to ``HELD_CLASSES`` classes: z and s are read once and stay in registers.
- **Long rows** are read twice, in blocks; the second time backwards, from the end that is still in
  the L2 cache.
- **Rows that float32 is not good enough for** (docs/design.md, "Where float32 is not enough") are
  done again in float64, by the program that met them. All rows of float64 logits go that way.

A row of 1000 bfloat16 numbers begins at a multiple of 16 bytes, which Triton cannot know: it
specialises on multiples of 16 *elements*. So the host says what divides every row's offset
(``VECTOR``). Where the rows begin anywhere (21841 classes), the program starts at the row's first
32-byte boundary and does the few elements before and after it apart (``REALIGN``).
"""

import functools
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from gift_fast.loss.reference import (
    COSINE_EPS,
    NORMALIZE_EPS,
    ZERO_ROW_GRADIENT,
    compute_dtype,
    smoothed_label_values,
)
from gift_fast.loss.torch_internals import assert_async

HELD_CLASSES, HELD_CLASSES_BOTH = 16384, 8192
"""The longest rows that are held in registers, without and with a gradient of the soft labels.

16384: 32 pairs (z, s) a thread, 64 of the 128 registers that 512 threads have each. Both gradients
of such a row need more (ptxas spilled 8 to 18 for sm_80 and sm_90), and so does any longer row.
"""

# What a thread holds of z and of s: 32 elements from a row of 1024 on, 16 of short rows. The row is
# then one warp's up to 1024 classes, and its sums need no shared memory.
_WARP_TILE = 1024
_SHORT_TILE, _SHORT_ROWS = 256, 8
_LONG_BLOCK, _LONG_WARPS = 4096, 16
_EXACT_TILE = 128  # a warp's, in float64

# In the kernels: constants of csrc/gift_row.h and rows_kernel.h.
_COSINE_EPS = tl.constexpr(COSINE_EPS)
_NORMALIZE_EPS = tl.constexpr(NORMALIZE_EPS)
_ZERO_ROW_GRADIENT = tl.constexpr(ZERO_ROW_GRADIENT)
_CANCELLATION = tl.constexpr(1e-2)
_SMALLEST, _LARGEST = tl.constexpr(1e-12), tl.constexpr(1e12)


# ---- one row: from its sums to the loss and to the coefficients of its gradients -----------------
# csrc/gift_row.h once more, in float64, on tensors of one value a row.


@triton.jit
def _inverse_norm(square, eps: tl.constexpr, EXACT: tl.constexpr):
    """1 / max(sqrt(square), eps), and whether the norm is that bound."""
    bounded = square < eps * eps
    if EXACT:
        inverse = 1.0 / tl.sqrt(square)
    else:
        # Every thread of the row does this. A float32 estimate and one Newton step are good to
        # 3e-14 and take 6 instructions; the square root and division of float64 take 40.
        estimate = tl.rsqrt(square.to(tl.float32)).to(tl.float64)
        inverse = estimate * (1.5 - 0.5 * square * estimate * estimate)
    return tl.where(bounded, tl.full(square.shape, 1.0 / eps, tl.float64), inverse), bounded


@triton.jit
def _products(zh, sh, ss, zs, s, gamma):
    """z.t and |t|^2 in closed form; s is the inverse norm."""
    soft = (1.0 - gamma) * s
    return gamma * zh + soft * zs, gamma * gamma + soft * (soft * ss + 2.0 * gamma * sh)


@triton.jit
def _logits_gradient(weight, gamma, on_target, elsewhere, cosine, z, z_bounded, s, t):
    """Factors of s_j, of z_j, of 1 and of [j = y]; z, s and t are inverse norms."""
    towards_t = -weight * z * t
    own = tl.where(z_bounded, 0.0, weight * cosine * z * z)
    hard = towards_t * gamma
    return towards_t * (1.0 - gamma) * s, own, hard * elsewhere, hard * (on_target - elsewhere)


@triton.jit
def _soft_labels_gradient(
    weight, gamma, on_target, elsewhere, cosine, z, s, s_bounded, t, t_bounded, zs, sh
):
    """Factors of z_j, of s_j, of 1 and of [j = y]; z, s and t are inverse norms."""
    dt_ds = (1.0 - gamma) * s
    along_z = weight * z * t
    along_t = tl.where(t_bounded, 0.0, weight * cosine * t * t)
    own = tl.where(s_bounded, along_t * dt_ds, (along_z * zs - along_t * gamma * sh) * s * s)
    hard = dt_ds * along_t * gamma
    return -dt_ds * along_z, dt_ds * own, hard * elsewhere, hard * (on_target - elsewhere)


@triton.jit
def _half_factor(largest):
    """The power of two that a float16 row is stored with: below 2^14, given its largest element."""
    exponent = ((largest.to(tl.int64, bitcast=True) >> 52) & 0x7FF) - 1022
    shift = tl.minimum(tl.maximum(14 - exponent, -120), 120)
    power = ((shift + 1023) << 52).to(tl.float64, bitcast=True)
    return tl.where((largest > 0.0) & (largest < 1e300), power, 1.0)


@triton.jit
def _scaled(factors, scale):
    return factors[0] * scale, factors[1] * scale, factors[2] * scale, factors[3] * scale


@triton.jit
def _zero_unless(condition, factors):
    return (
        tl.where(condition, factors[0], 0.0),
        tl.where(condition, factors[1], 0.0),
        tl.where(condition, factors[2], 0.0),
        tl.where(condition, factors[3], 0.0),
    )


# ---- tiles of rows -------------------------------------------------------------------------------
# A tile is (ROWS, columns). `offsets` are those of the elements that its column 0 stands for.


@triton.jit
def _add(a0, a1, a2, a3, a4, b0, b1, b2, b3, b4):
    return a0 + b0, a1 + b1, a2 + b2, a3 + b3, a4 + b4


@triton.jit
def _hard_label(is_target, on_target, elsewhere, dtype: tl.constexpr):
    return tl.where(is_target, on_target.to(dtype)[:, None], elsewhere.to(dtype)[:, None])


@triton.jit
def _sums(z, s, h):
    """z.h, s.h, |z|^2, |s|^2, z.s of each row of a tile: one reduction, so one barrier.

    The products with h itself, not the sums that csrc/gift_row.h takes them from: those need z and
    s at the target, and to load these once more is a third of the requests of a short row.
    """
    zh, sh, zz, ss, zs = tl.reduce((z * h, s * h, z * z, s * s, z * s), 1, _add)
    return (
        zh.to(tl.float64),
        sh.to(tl.float64),
        zz.to(tl.float64),
        ss.to(tl.float64),
        zs.to(tl.float64),
    )


@triton.jit
def _read(pointer, offsets, columns, mask, dtype: tl.constexpr):
    return tl.load(pointer + (offsets[:, None] + columns[None, :]), mask=mask, other=0.0).to(dtype)


@triton.jit
def _softmax_weights(s, largest, inverse_temperature, mask):
    """exp((s - max s) / T): softmax up to a factor that the normalisation of t removes."""
    inverse = tl.minimum(inverse_temperature, 3e38).to(s.dtype)  # 0 * inf is not 0
    return tl.where(mask, tl.exp((s - largest) * inverse), 0.0)


@triton.jit
def _write(pointer, offsets, columns, mask, other, own, is_target, factors, chain):
    """other_j p + own_j q + r + [j = y] e, times ``chain``, rounded to what is stored."""
    p, q = factors[0].to(own.dtype)[:, None], factors[1].to(own.dtype)[:, None]
    r, e = factors[2].to(own.dtype)[:, None], factors[3].to(own.dtype)[:, None]
    gradient = (other * p + (own * q + r) + tl.where(is_target, e, 0.0)) * chain
    if pointer.dtype.element_ty.primitive_bitwidth == 16:
        gradient = gradient.to(tl.float32)  # float64 has no direct way to bfloat16
    tl.store(pointer + (offsets[:, None] + columns[None, :]), gradient, mask=mask)


@triton.jit
def _write_both(
    logits_grad, soft_labels_grad, offsets, columns, mask, z, s, is_target,
    of_logits, of_soft_labels, inverse_temperature, SOFTMAX: tl.constexpr,
):  # fmt: skip
    """A tile of each gradient that is asked for; s as it enters the formula, after the softmax."""
    if logits_grad is not None:
        _write(logits_grad, offsets, columns, mask, s, z, is_target, of_logits, 1.0)
    if soft_labels_grad is not None:
        if SOFTMAX:
            chain = s * inverse_temperature.to(s.dtype)[:, None]
            _write(soft_labels_grad, offsets, columns, mask, z, s, is_target, of_soft_labels, chain)
        else:
            _write(soft_labels_grad, offsets, columns, mask, z, s, is_target, of_soft_labels, 1.0)


@triton.jit
def _edges(begin, body, classes, WIDTH: tl.constexpr, EDGES: tl.constexpr):
    """Columns, from ``begin`` on, and mask of the elements before and after the body.

    There are less than WIDTH of either. The tile has a lane for every thread all the same: what
    many threads hold together, Triton lets them write to shared memory together.
    """
    lane = tl.arange(0, EDGES)
    columns = tl.where(lane < WIDTH, lane - begin, lane - WIDTH + body)
    return columns, ((columns < 0) | (columns >= body)) & (columns < classes - begin)


# ---- what is done with the sums of a row: the loss, and how its gradients are written ------------


@triton.jit
def _finish(
    valid, in_range, weight, zz, zs, zt, tt, sh, s, s_bounded, gamma, on_target, elsewhere,
    inverse_temperature, EXACT: tl.constexpr, SOFTMAX: tl.constexpr,
    HALF_LOGITS: tl.constexpr, HALF_SOFT_LABELS: tl.constexpr,
):  # fmt: skip
    """Loss, whether float32 is good enough, factors of both gradients, units of what is stored."""
    z, z_bounded = _inverse_norm(zz, _COSINE_EPS, EXACT)
    t, t_bounded = _inverse_norm(tt, _COSINE_EPS, EXACT)
    # A target that is no class must not pass unnoticed where no assert fires.
    cosine = tl.where(in_range, zt * z * t, float("nan"))
    of_logits = _logits_gradient(weight, gamma, on_target, elsewhere, cosine, z, z_bounded, s, t)
    of_soft_labels = _soft_labels_gradient(
        weight, gamma, on_target, elsewhere, cosine, z, s, s_bounded, t, t_bounded, zs, sh
    )
    logits_unit = tl.full(zz.shape, 1.0, tl.float64)
    soft_labels_unit = tl.full(zz.shape, 1.0, tl.float64)
    if HALF_LOGITS:
        scale = _half_factor(tl.where(valid, weight * z, 0.0))
        of_logits = _scaled(of_logits, scale)
        logits_unit = tl.where(z_bounded, _ZERO_ROW_GRADIENT * _COSINE_EPS, 1.0) / scale
    if HALF_SOFT_LABELS:
        bound = weight * (1.0 - gamma) * s * t
        if SOFTMAX:
            bound *= inverse_temperature
        scale = _half_factor(tl.where(valid, bound, 0.0))
        of_soft_labels = _scaled(of_soft_labels, scale)
        of_zeros = _ZERO_ROW_GRADIENT * _NORMALIZE_EPS / t
        soft_labels_unit = tl.where(s_bounded, of_zeros, 1.0) / scale
    # Float32 has room for a product of three and digits to spare while norms lie between these.
    ordinary = (z >= _SMALLEST) & (z <= _LARGEST) & (s >= _SMALLEST) & (s <= _LARGEST)
    return (
        tl.where(valid, 1.0 - cosine, 0.0),
        ordinary & (tt >= _CANCELLATION) & (tl.abs(zs) < float("inf")),
        _zero_unless(valid, of_logits),
        _zero_unless(valid, of_soft_labels),
        logits_unit,
        soft_labels_unit,
    )


# ---- rows of any length, in blocks: long ones, and any in float64 --------------------------------


@triton.jit
def _add_block(totals, largest, z, s, h, mask, inverse_temperature, SOFTMAX: tl.constexpr):
    """The sums with a block more; under a softmax, in units of the largest score so far."""
    zh, sh, zz, ss, zs = totals
    if SOFTMAX:
        larger = tl.maximum(largest, tl.max(tl.where(mask, s, float("-inf")), 1))
        # Nothing but -inf so far: any finite number serves, and the sums to shrink are zero.
        base = tl.where(larger == float("-inf"), 0.0, larger)
        before = tl.where(largest == float("-inf"), base, largest)
        s = _softmax_weights(s, base[:, None], inverse_temperature[:, None], mask)
        shrink = _softmax_weights(before, base, inverse_temperature, before == before)
        shrink = shrink.to(tl.float64)
        sh, ss, zs, largest = sh * shrink, ss * shrink * shrink, zs * shrink, larger
    block_zh, block_sh, block_zz, block_ss, block_zs = _sums(z, s, h)
    totals = (zh + block_zh, sh + block_sh, zz + block_zz, ss + block_ss, zs + block_zs)
    return totals, largest


@triton.jit
def _rows_in_blocks(
    logits, soft_labels, logits_grad, soft_labels_grad,
    logits_offsets, soft_labels_offsets, grad_offsets, classes, begin, body,
    todo, zeroed, y, in_range, weight, gamma, on_target, elsewhere, inverse_temperature,
    dtype: tl.constexpr, SOFTMAX: tl.constexpr, REALIGN: tl.constexpr, WIDTH: tl.constexpr,
    EDGES: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    HALF_LOGITS: tl.constexpr, HALF_SOFT_LABELS: tl.constexpr,
):  # fmt: skip
    """Sums and writes the rows ``todo``; float32 leaves out those that it is not good enough for.

    Rows ``zeroed`` have gradients of zero, and are not read. The blocks cover ``body`` elements
    from the ``begin``-th on, to which the offsets point. Float64 sums z.t and |t|^2 once more,
    element by element, against cancellation.
    """
    lanes = tl.arange(0, BLOCK)
    blocks = tl.cdiv(body, BLOCK)
    exact: tl.constexpr = dtype == tl.float64

    zero = tl.full((ROWS,), 0.0, tl.float64)
    totals = (zero, zero, zero, zero, zero)
    largest = tl.full((ROWS,), float("-inf"), dtype)
    if REALIGN:
        edges, edge_mask = _edges(begin, body, classes, WIDTH, EDGES)
        edge_mask = todo[:, None] & edge_mask[None, :]
        edge_z = _read(logits, logits_offsets, edges, edge_mask, dtype)
        edge_s = _read(soft_labels, soft_labels_offsets, edges, edge_mask, dtype)
        edge_h = _hard_label(edges[None, :] + begin == y[:, None], on_target, elsewhere, dtype)
        totals, largest = _add_block(
            totals, largest, edge_z, edge_s, edge_h, edge_mask, inverse_temperature, SOFTMAX
        )
    for block in range(0, blocks):
        columns = block * BLOCK + lanes
        mask = todo[:, None] & (columns < body)[None, :]
        z = _read(logits, logits_offsets, columns, mask, dtype)
        s = _read(soft_labels, soft_labels_offsets, columns, mask, dtype)
        h = _hard_label(columns[None, :] + begin == y[:, None], on_target, elsewhere, dtype)
        totals, largest = _add_block(totals, largest, z, s, h, mask, inverse_temperature, SOFTMAX)
    zh, sh, zz, ss, zs = totals
    if SOFTMAX:
        # A row of -inf alone has no softmax.
        ss = tl.where(todo & (largest == float("-inf")), float("nan"), ss)
    s_inverse, s_bounded = _inverse_norm(ss, _NORMALIZE_EPS, exact)
    zt, tt = _products(zh, sh, ss, zs, s_inverse, gamma)
    if exact:
        zt, tt = zero, zero
        soft = ((1.0 - gamma) * s_inverse)[:, None]
        for block in range(0, blocks):
            columns = block * BLOCK + lanes
            mask = todo[:, None] & (columns < body)[None, :]
            z = _read(logits, logits_offsets, columns, mask, dtype)
            s = _read(soft_labels, soft_labels_offsets, columns, mask, dtype)
            if SOFTMAX:
                s = _softmax_weights(s, largest[:, None], inverse_temperature[:, None], mask)
            h = _hard_label(columns[None, :] == y[:, None], on_target, elsewhere, dtype)
            t = tl.where(mask, gamma[:, None] * h + s * soft, 0.0)
            zt += tl.sum(z * t, 1)
            tt += tl.sum(t * t, 1)
    loss, ordinary, of_logits, of_soft_labels, logits_unit, soft_labels_unit = _finish(
        todo, in_range, weight, zz, zs, zt, tt, sh, s_inverse, s_bounded, gamma, on_target,
        elsewhere, inverse_temperature, exact, SOFTMAX, HALF_LOGITS, HALF_SOFT_LABELS,
    )  # fmt: skip
    done = todo | zeroed
    if not exact:
        done = (todo & ordinary) | zeroed

    # Backwards: what was read last is the likeliest to be in the cache still.
    for i in range(0, blocks):
        columns = (blocks - 1 - i) * BLOCK + lanes
        in_row = (columns < body)[None, :]
        mask = todo[:, None] & in_row
        z = _read(logits, logits_offsets, columns, mask, dtype)
        s = _read(soft_labels, soft_labels_offsets, columns, mask, dtype)
        if SOFTMAX:
            s = _softmax_weights(s, largest[:, None], inverse_temperature[:, None], mask)
        _write_both(
            logits_grad, soft_labels_grad, grad_offsets, columns, done[:, None] & in_row, z, s,
            columns[None, :] + begin == y[:, None], of_logits, of_soft_labels,
            inverse_temperature, SOFTMAX,
        )  # fmt: skip
    if REALIGN:
        edges, in_row = _edges(begin, body, classes, WIDTH, EDGES)
        mask = todo[:, None] & in_row[None, :]
        z = _read(logits, logits_offsets, edges, mask, dtype)
        s = _read(soft_labels, soft_labels_offsets, edges, mask, dtype)
        if SOFTMAX:
            s = _softmax_weights(s, largest[:, None], inverse_temperature[:, None], mask)
        _write_both(
            logits_grad, soft_labels_grad, grad_offsets, edges, done[:, None] & in_row[None, :],
            z, s, edges[None, :] + begin == y[:, None], of_logits, of_soft_labels,
            inverse_temperature, SOFTMAX,
        )  # fmt: skip
    return loss, ordinary, logits_unit, soft_labels_unit


# ---- the kernels ---------------------------------------------------------------------------------


@triton.jit
def _store_of_row(
    row, mask, loss, logits_unit, soft_labels_unit, losses, logits_scales, soft_labels_scales,
    ADD: tl.constexpr,
):  # fmt: skip
    if not ADD:
        tl.store(losses + row, loss, mask=mask)
    if logits_scales is not None:
        tl.store(logits_scales + row, logits_unit, mask=mask)
    if soft_labels_scales is not None:
        tl.store(soft_labels_scales + row, soft_labels_unit, mask=mask)


@triton.jit(do_not_specialize=["rows", "ignore_index"])
def rows_kernel(
    logits,  # [rows, classes], elements of a row side by side
    soft_labels,  # [rows, classes], likewise
    target,  # [rows]
    weight,  # [1] float64: of each valid row
    losses,  # [rows]; [programs] float64 where they are added up
    logits_grad,  # [rows, classes] contiguous, or None
    soft_labels_grad,  # [rows, classes] contiguous, or None
    logits_scales,  # [rows] float32, or None: where logits_grad is float16
    soft_labels_scales,  # [rows] float32, or None: where soft_labels_grad is float16
    rows,
    classes,
    logits_stride,
    soft_labels_stride,
    target_stride,
    ignore_index,
    gamma: tl.float64,
    on_target: tl.float64,
    elsewhere: tl.float64,
    inverse_temperature: tl.float64,
    SUM: tl.constexpr,  # the losses will be added up
    SOFTMAX: tl.constexpr,
    FLOAT64: tl.constexpr,
    HELD: tl.constexpr,  # z and s stay in registers: classes <= BLOCK
    REALIGN: tl.constexpr,  # rows begin anywhere, all tensors' alike
    VECTOR: tl.constexpr,  # elements that divide all rows' offsets, or those behind their edges
    SECTOR: tl.constexpr,  # elements at whose multiples REALIGN cuts the edges off
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK64: tl.constexpr,  # of the float64 passes
    EDGES: tl.constexpr,  # as many as threads
):
    """Losses and gradients of ROWS rows."""
    HALF_LOGITS: tl.constexpr = logits_scales is not None
    HALF_SOFT_LABELS: tl.constexpr = soft_labels_scales is not None
    # Losses of several rows are added up here: 8 bytes a program, not a row of perhaps 20 bytes.
    ADD: tl.constexpr = SUM and ROWS > 1
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    in_batch = row < rows
    y = tl.load(target + row * target_stride, mask=in_batch, other=0).to(tl.int64)
    valid = in_batch & (y != ignore_index)
    in_range = (y >= 0) & (y < classes)
    # Compiled under TRITON_DEBUG=1 only; _checked_targets is the check that is always there.
    tl.device_assert(in_range | ~valid, "target must be a class or ignore_index")
    y = tl.where(valid & in_range, y, 0)

    # One value a row, like all that follows.
    gamma = tl.full((ROWS,), gamma, tl.float64)
    on_target = tl.full((ROWS,), on_target, tl.float64)
    elsewhere = tl.full((ROWS,), elsewhere, tl.float64)
    inverse_temperature = tl.full((ROWS,), inverse_temperature, tl.float64)
    row_weight = tl.full((ROWS,), tl.load(weight), tl.float64)

    z_offsets, s_offsets = row * logits_stride, row * soft_labels_stride
    grad_offsets = row * classes
    z_body, s_body, grad_body = z_offsets, s_offsets, grad_offsets
    begin = 0
    if REALIGN:  # ROWS == 1
        before = tl.program_id(0).to(tl.int64) * classes % SECTOR
        begin = ((SECTOR - before) % SECTOR).to(tl.int32)
        z_body, s_body, grad_body = z_offsets + begin, s_offsets + begin, grad_offsets + begin
    z_body = tl.multiple_of(z_body, VECTOR)
    s_body = tl.multiple_of(s_body, VECTOR)
    grad_body = tl.multiple_of(grad_body, VECTOR)
    CUT: tl.constexpr = SECTOR if REALIGN else VECTOR
    body = (classes - begin) // CUT * CUT

    todo = valid
    if FLOAT64:
        loss = tl.full((ROWS,), 0.0, tl.float64)
    if HELD and not FLOAT64:
        lanes = tl.arange(0, BLOCK)
        mask = valid[:, None] & (lanes < body)[None, :]
        z = _read(logits, z_body, lanes, mask, tl.float32)
        s = _read(soft_labels, s_body, lanes, mask, tl.float32)
        if REALIGN:
            edges, edge_mask = _edges(begin, body, classes, SECTOR, EDGES)
            edge_mask = valid[:, None] & edge_mask[None, :]
            edge_z = _read(logits, z_body, edges, edge_mask, tl.float32)
            edge_s = _read(soft_labels, s_body, edges, edge_mask, tl.float32)
        if SOFTMAX:
            largest = tl.max(tl.where(mask, s, float("-inf")), 1)
            if REALIGN:
                of_edges = tl.max(tl.where(edge_mask, edge_s, float("-inf")), 1)
                largest = tl.maximum(largest, of_edges)
                edge_s = _softmax_weights(
                    edge_s, largest[:, None], inverse_temperature[:, None], edge_mask
                )
            s = _softmax_weights(s, largest[:, None], inverse_temperature[:, None], mask)
        is_target = lanes[None, :] + begin == y[:, None]
        h = _hard_label(is_target, on_target, elsewhere, tl.float32)
        zh, sh, zz, ss, zs = _sums(z, s, h)
        if REALIGN:
            edge_is_target = edges[None, :] + begin == y[:, None]
            edge_h = _hard_label(edge_is_target, on_target, elsewhere, tl.float32)
            edge_zh, edge_sh, edge_zz, edge_ss, edge_zs = _sums(edge_z, edge_s, edge_h)
            zh, sh, zz = zh + edge_zh, sh + edge_sh, zz + edge_zz
            ss, zs = ss + edge_ss, zs + edge_zs
        s_inverse, s_bounded = _inverse_norm(ss, _NORMALIZE_EPS, False)
        zt, tt = _products(zh, sh, ss, zs, s_inverse, gamma)
        loss, ordinary, of_logits, of_soft_labels, logits_unit, soft_labels_unit = _finish(
            valid, in_range, row_weight, zz, zs, zt, tt, sh, s_inverse, s_bounded, gamma, on_target,
            elsewhere, inverse_temperature, False, SOFTMAX, HALF_LOGITS, HALF_SOFT_LABELS,
        )  # fmt: skip
        # Ignored rows are written here too, as zeros.
        done = in_batch & (ordinary | ~valid)
        _write_both(
            logits_grad, soft_labels_grad, grad_body, lanes,
            done[:, None] & (lanes < body)[None, :], z, s, is_target,
            of_logits, of_soft_labels, inverse_temperature, SOFTMAX,
        )  # fmt: skip
        if REALIGN:
            edges, edge_mask = _edges(begin, body, classes, SECTOR, EDGES)
            _write_both(
                logits_grad, soft_labels_grad, grad_body, edges,
                done[:, None] & edge_mask[None, :], edge_z, edge_s, edge_is_target,
                of_logits, of_soft_labels, inverse_temperature, SOFTMAX,
            )  # fmt: skip
        _store_of_row(
            row, done, loss, logits_unit, soft_labels_unit,
            losses, logits_scales, soft_labels_scales, ADD,
        )  # fmt: skip
        todo = valid & ~ordinary
    elif not FLOAT64:
        loss, ordinary, logits_unit, soft_labels_unit = _rows_in_blocks(
            logits, soft_labels, logits_grad, soft_labels_grad, z_body, s_body, grad_body,
            classes, begin, body, valid, in_batch & ~valid, y, in_range, row_weight,
            gamma, on_target, elsewhere, inverse_temperature,
            tl.float32, SOFTMAX, REALIGN, SECTOR, EDGES, ROWS, BLOCK, HALF_LOGITS, HALF_SOFT_LABELS,
        )  # fmt: skip
        done = in_batch & (ordinary | ~valid)
        _store_of_row(
            row, done, loss, logits_unit, soft_labels_unit,
            losses, logits_scales, soft_labels_scales, ADD,
        )  # fmt: skip
        todo = valid & ~ordinary

    zeroed = in_batch & ~valid & FLOAT64  # float32 has written them
    if FLOAT64 or tl.max((todo | zeroed).to(tl.int32), 0) > 0:
        exact_loss, _, logits_unit, soft_labels_unit = _rows_in_blocks(
            logits, soft_labels, logits_grad, soft_labels_grad, z_offsets, s_offsets, grad_offsets,
            classes, 0, classes if REALIGN else body, todo, zeroed, y, in_range, row_weight,
            gamma, on_target, elsewhere, inverse_temperature,
            tl.float64, SOFTMAX, False, 1, EDGES, ROWS, BLOCK64, HALF_LOGITS, HALF_SOFT_LABELS,
        )  # fmt: skip
        done = todo | zeroed
        if ADD:
            loss = tl.where(done, exact_loss, loss)
        _store_of_row(
            row, done, exact_loss, logits_unit, soft_labels_unit,
            losses, logits_scales, soft_labels_scales, ADD,
        )  # fmt: skip
    if ADD:
        tl.store(losses + tl.program_id(0), tl.sum(tl.where(valid, loss, 0.0), 0))


@triton.jit(do_not_specialize=["rows", "ignore_index"])
def targets_kernel(
    target,  # [rows]
    weight,  # [1] float64
    all_in_range,  # [1] bool
    rows,
    classes,
    target_stride,
    ignore_index,
    MEAN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The weight of a valid row, 1 or 1 / (valid rows), and whether every target is a class."""
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


@triton.jit(do_not_specialize=["programs"])
def reduce_kernel(
    losses,  # [programs] float64
    weight,  # [1] float64
    loss,  # [1] float32 or float64
    programs,
    BLOCK: tl.constexpr,
):
    """The programs' losses added up by one more, in the same order every time."""
    total = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, programs, BLOCK):
        program = start + tl.arange(0, BLOCK).to(tl.int64)
        total += tl.load(losses + program, mask=program < programs, other=0.0)
    tl.store(loss, tl.sum(total, 0) * tl.load(weight))  # the mean of nothing: 0 * inf, NaN


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


# ---- what a launch needs to know -----------------------------------------------------------------


class _Launch(NamedTuple):
    """How the rows of a batch are laid out over programs."""

    held: bool
    realign: bool
    vector: int
    sector: int
    rows: int
    block: int
    block64: int
    warps: int


@functools.lru_cache(maxsize=256)
def _launch(
    classes: int,
    strides: tuple[int, int],
    widths: tuple[int, int],
    float64: bool,
    aligned: bool,
    soft_labels_grad: bool,
) -> _Launch:
    """Plans a launch from what is the same in every step.

    Args:
        classes: Length of a row.
        strides: Distance of rows, of logits and soft labels, in elements.
        widths: Bytes of an element, likewise.
        float64: Whether the sums are taken in float64.
        aligned: Whether every tensor begins at a multiple of 16 bytes.
        soft_labels_grad: Whether the gradient of the soft labels is asked for.
    """
    # Elements in 16 bytes of the wider type. As many of the narrower are 8 bytes or less: were they
    # 16, a thread's share of the wider would be two accesses that both touch all of its sectors.
    wide = 16 // max(widths)
    # Where a tensor begins elsewhere, its vectors would be moved element by element, each access
    # strewn over as many sectors as threads: then threads had better take turns.
    vector = wide if aligned else 1
    while any(n % vector for n in (classes, *strides)):
        vector //= 2
    realign = False
    held = classes <= (HELD_CLASSES_BOTH if soft_labels_grad else HELD_CLASSES)
    block = max(8, triton.next_power_of_2(classes)) if held else _LONG_BLOCK
    # A thread meets two rows of a tile at most: it has a dozen float64 numbers of each.
    rows = min(max(1, _SHORT_TILE // block), _SHORT_ROWS, 2 * max(1, 32 * vector // block))
    warps = max(1, block // _WARP_TILE) if held else _LONG_WARPS
    alike = all(stride % wide == classes % wide for stride in strides)
    if vector < wide and rows == 1 and alike and aligned and not float64:
        realign, vector = True, wide
    block64 = min(block, _EXACT_TILE * warps // rows)
    # Of the narrower type, 32 bytes: body and edges then ask for no sector of memory in common.
    sector = 32 // min(widths)
    return _Launch(held, realign, vector, sector, rows, block, block64, warps)


def _one_program(items: int) -> dict[str, int]:
    """The block and warps of a program that goes over so many items by itself."""
    block = min(max(triton.next_power_of_2(items), 128), 4096)
    return {"BLOCK": block, "num_warps": max(1, block // 512)}


def _on_device_of(x: Tensor) -> AbstractContextManager[Any]:
    """Makes the device of x the current one; Triton launches there, on its current stream."""
    if x.device.type == "cpu":  # Triton's interpreter
        return nullcontext()
    guard: AbstractContextManager[Any] = torch.get_device_module(x.device).device_of(x)
    return guard


def _with_contiguous_rows(x: Tensor) -> Tensor:
    return x if x.shape[1] <= 1 or x.stride(1) == 1 else x.contiguous()


def _row_stride(x: Tensor) -> int:
    return x.stride(0) if x.shape[0] > 1 else x.shape[1]


def loss_and_gradients(
    logits: Tensor,
    soft_labels: Tensor,
    target: Tensor,
    gamma: float,
    label_smoothing: float,
    smooth_others: bool,
    soft_label_temperature: float | None,
    ignore_index: int,
    reduction: int,
    logits_grad: bool,
    soft_labels_grad: bool,
) -> list[Tensor]:
    """The operator ``gift_fast::loss_and_gradients``; see :mod:`~gift_fast.loss.operators`."""
    logits, soft_labels = _with_contiguous_rows(logits), _with_contiguous_rows(soft_labels)
    rows, classes = logits.shape
    dtype = compute_dtype(logits)
    on_target, elsewhere = smoothed_label_values(
        classes, label_smoothing, "others" if smooth_others else "uniform"
    )

    def gradient(x: Tensor, wanted: bool) -> tuple[Tensor | None, Tensor | None]:
        if not wanted:
            return None, None
        grad = torch.empty((rows, classes), dtype=x.dtype, device=x.device)
        is_half = x.dtype == torch.float16
        scale = torch.empty(rows, dtype=torch.float32, device=x.device) if is_half else None
        return grad, scale

    z_grad, z_scale = gradient(logits, logits_grad)
    s_grad, s_scale = gradient(soft_labels, soft_labels_grad)
    weight = torch.empty(1, dtype=torch.float64, device=logits.device)
    all_in_range = torch.empty(1, dtype=torch.bool, device=logits.device)
    loss = torch.empty(() if reduction else rows, dtype=dtype, device=logits.device)

    strides = (_row_stride(logits), _row_stride(soft_labels))
    plan = _launch(
        classes,
        strides,
        (logits.element_size(), soft_labels.element_size()),
        dtype == torch.float64,
        all(x is None or x.data_ptr() % 16 == 0 for x in (logits, soft_labels, z_grad, s_grad)),
        soft_labels_grad,
    )
    programs = triton.cdiv(rows, plan.rows)
    losses = loss
    if reduction != 0:
        losses = torch.empty(programs, dtype=torch.float64, device=logits.device)
    with _on_device_of(logits):
        targets_kernel[(1,)](
            target, weight, all_in_range, rows, classes, target.stride(0), ignore_index,
            MEAN=reduction == 1, **_one_program(rows),
        )  # fmt: skip
        _assert_async(all_in_range, classes, ignore_index)
        if rows > 0:
            rows_kernel[(programs,)](
                logits, soft_labels, target, weight, losses, z_grad, s_grad, z_scale, s_scale,
                rows, classes, *strides, target.stride(0), ignore_index,
                gamma, on_target, elsewhere, 1.0 / (soft_label_temperature or 1.0),
                SUM=reduction != 0,
                SOFTMAX=soft_label_temperature is not None,
                FLOAT64=dtype == torch.float64,
                HELD=plan.held,
                REALIGN=plan.realign,
                VECTOR=plan.vector,
                SECTOR=plan.sector,
                ROWS=plan.rows,
                BLOCK=plan.block,
                BLOCK64=plan.block64,
                EDGES=32 * plan.warps,
                num_warps=plan.warps,
            )  # fmt: skip
        if reduction != 0:
            reduce_kernel[(1,)](losses, weight, loss, programs, **_one_program(programs))
    return [x for x in (loss, z_grad, s_grad, z_scale, s_scale) if x is not None]


def _assert_async(all_in_range: Tensor, classes: int, ignore_index: int) -> None:
    """The device assert of PyTorch's own losses; the host waits for nothing.

    Triton compiles ``tl.device_assert`` under ``TRITON_DEBUG=1`` only. Where PyTorch has no
    asynchronous assert (XPU), the loss and gradients of such a row are NaN, as they are everywhere.
    """
    if assert_async is not None and all_in_range.device.type in ("cuda", "cpu"):
        assert_async(
            all_in_range,
            f"target must be a class in [0, {classes}) or ignore_index ({ignore_index})",
        )


_SCALE_BLOCK, _SCALE_PROGRAMS = 2048, 1024


def scale_gradient_(grad: Tensor, grad_output: Tensor, scale: Tensor | None) -> None:
    """The operator ``gift_fast::scale_gradient_``; see :mod:`~gift_fast.loss.operators`."""
    if grad.numel() == 0:
        return
    rows, classes = grad.shape
    stride = grad_output.stride(0) if grad_output.dim() == 1 and rows > 1 else 0
    tiles = triton.cdiv(grad.numel(), _SCALE_BLOCK)
    with _on_device_of(grad):
        # As many programs as run at once on a large device: the usual factor of one sends them all
        # home after a single read.
        scale_kernel[(min(tiles, _SCALE_PROGRAMS),)](
            grad, grad_output, scale, tiles, grad.numel(), rows, classes, stride,
            PER_ROW=scale is not None or stride != 0,
            SHORT=classes < _SCALE_BLOCK,
            BLOCK=_SCALE_BLOCK,
            num_warps=4,
        )  # fmt: skip
