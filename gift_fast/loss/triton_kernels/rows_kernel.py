"""Losses and gradients; a program takes one row, or several short ones.

Shapes: matrices ``[rows, classes]``, elements of a row side by side; one value per row ``[ROWS]``;
tiles ``[ROWS, columns]``.

Traffic of a row, for elements of Z and S bytes and both gradients (without those that are
not requested):

- held: reads ``classes * (Z + S)`` bytes and the target, writes ``classes * (Z + S)``;
- long: reads the row a second time, in reverse order, from the end that is still in the L2 cache;
- one that float32 is not good enough for (docs/design.md, "Where float32 is not enough") is done
  again in float64 and read three times more. All rows of float64 logits go that way.

A program writes one loss, 8 bytes; with reduction "none" one per row. An ignored row is written,
with zeros, and not read.

Mixed labels add the other target, its weight, and z and s at both labels to what is read: the two
terms share all sums but for these elements.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from gift_fast.loss.triton_kernels.packing import (
    Offsets,
    Tensors,
    added,
    edges_of,
    hard_label,
    is_at,
    read_tile,
    softmax_weights,
    sums_of,
    sums_of_other_label,
    with_softmax,
    write_gradients,
)
from gift_fast.loss.triton_kernels.row import (
    Options,
    Sums,
    bounds_of_two,
    finish,
    norm_of_soft_labels,
    products,
    sum_of_two,
)


class Rows(NamedTuple):
    """The rows of a program, one value each."""

    index: tl.tensor
    in_batch: tl.tensor
    valid: tl.tensor  # and not to be ignored
    in_range: tl.tensor  # the target is a class
    y: tl.tensor  # the target; 0 if it is out of range or the row is not valid


class OtherLabel(NamedTuple):
    """The second labels of a program's rows, of which ``Rows.valid`` says whether either counts."""

    own_valid: tl.tensor  # whether the first one counts
    valid: tl.tensor
    in_range: tl.tensor
    y: tl.tensor
    weight: tl.tensor  # 0 where it does not count


class PerRow(NamedTuple):
    """Where a value per row goes, ``[rows]``; None: nowhere."""

    losses: tl.tensor
    logits_scales: tl.tensor | None
    soft_labels_scales: tl.tensor | None


@triton.jit
def rows_of(target, rows, classes, target_stride, ignore_index, PLAN: tl.constexpr):
    index = tl.program_id(0).to(tl.int64) * PLAN.rows + tl.arange(0, PLAN.rows)
    in_batch = index < rows
    y = tl.load(target + index * target_stride, mask=in_batch, other=0).to(tl.int64)
    valid = in_batch & (y != ignore_index)
    in_range = (y >= 0) & (y < classes)
    # Compiled under TRITON_DEBUG=1 only; launch.py's assert is the check that is always there.
    tl.device_assert(in_range | ~valid, "target must be a class or ignore_index")
    return Rows(index, in_batch, valid, in_range, tl.where(valid & in_range, y, 0))


@triton.jit
def two_labels(rows, other, share, share_stride, weights):
    """The rows with a label that counts, the weights of their first labels, and the second ones."""
    share = tl.load(share + rows.index * share_stride, mask=rows.in_batch, other=0.0)
    share = share.to(tl.float64)
    own_weight = tl.where(rows.valid, share * tl.load(weights), 0.0)
    other_weight = tl.where(other.valid, (1.0 - share) * tl.load(weights + 1), 0.0)
    either = Rows(rows.index, rows.in_batch, rows.valid | other.valid, rows.in_range, rows.y)
    label = OtherLabel(rows.valid, other.valid, other.in_range, other.y, other_weight)
    return either, own_weight, label


@triton.jit
def options_of(gamma, on_target, elsewhere, inverse_temperature, own_weight, PLAN: tl.constexpr):
    """The same options for every row, but for the weights."""
    return Options(
        tl.full((PLAN.rows,), gamma, tl.float64),
        tl.full((PLAN.rows,), on_target, tl.float64),
        tl.full((PLAN.rows,), elsewhere, tl.float64),
        tl.full((PLAN.rows,), inverse_temperature, tl.float64),
        own_weight,
    )


@triton.jit
def finished(
    todo, rows, other, sums, other_sums, s, zt, tt, other_zt, other_tt, options,
    SOFTMAX: tl.constexpr, HALF_LOGITS: tl.constexpr, HALF_SOFT_LABELS: tl.constexpr,
    EXACT: tl.constexpr,
):  # fmt: skip
    """The results of rows with one label, or two."""
    if other is None:
        result = finish(
            todo, rows.in_range, sums, s, zt, tt, options, None, SOFTMAX, HALF_LOGITS,
            HALF_SOFT_LABELS, EXACT,
        )  # fmt: skip
    else:
        bounds = bounds_of_two(options, other.weight, tt, other_tt, EXACT)
        own_term = finish(
            todo & other.own_valid, rows.in_range, sums, s, zt, tt, options, bounds, SOFTMAX,
            HALF_LOGITS, HALF_SOFT_LABELS, EXACT,
        )  # fmt: skip
        other_options = Options(
            options.gamma,
            options.on_target,
            options.elsewhere,
            options.inverse_temperature,
            other.weight,
        )
        other_term = finish(
            todo & other.valid, other.in_range, other_sums, s, other_zt, other_tt, other_options,
            bounds, SOFTMAX, HALF_LOGITS, HALF_SOFT_LABELS, EXACT,
        )  # fmt: skip
        result = sum_of_two(
            own_term, other_term, other.own_valid, other.valid, options.weight, other.weight
        )
    return result


@triton.jit
def offsets_of(
    rows, classes, logits_stride, soft_labels_stride, logits_group_stride,
    soft_labels_group_stride, rows_per_group, PLAN: tl.constexpr,
):  # fmt: skip
    """Offsets of whole rows, and of their body: what lies between the edges that are cut off."""
    if rows_per_group is None:
        logits, soft_labels = rows.index * logits_stride, rows.index * soft_labels_stride
    else:
        group = rows.index // rows_per_group
        in_group = rows.index - group * rows_per_group
        logits = group * logits_group_stride + in_group * logits_stride
        soft_labels = group * soft_labels_group_stride + in_group * soft_labels_stride
    grad = rows.index * classes
    logits_body, soft_labels_body, grad_body = logits, soft_labels, grad
    begin = 0
    if PLAN.realign:  # one row
        before = tl.program_id(0).to(tl.int64) * classes % PLAN.sector
        begin = ((PLAN.sector - before) % PLAN.sector).to(tl.int32)
        logits_body, soft_labels_body = logits + begin, soft_labels + begin
        grad_body = grad + begin
    # Here, where the offsets are computed: on the arguments of a function it would be lost.
    VECTOR: tl.constexpr = PLAN.vector
    logits_body = tl.multiple_of(logits_body, VECTOR)
    soft_labels_body = tl.multiple_of(soft_labels_body, VECTOR)
    grad_body = tl.multiple_of(grad_body, VECTOR)
    CUT: tl.constexpr = PLAN.sector if PLAN.realign else VECTOR
    body = (classes - begin) // CUT * CUT
    return (
        Offsets(logits, soft_labels, grad, 0, classes if PLAN.realign else body),
        Offsets(logits_body, soft_labels_body, grad_body, begin, body),
    )


@triton.jit
def _held_rows(
    tensors, body, rows, other, classes, options, HALF_LOGITS: tl.constexpr,
    HALF_SOFT_LABELS: tl.constexpr, PLAN: tl.constexpr,
):  # fmt: skip
    """Rows in registers, in float32: their results; rows that it is good enough for are written."""
    SOFTMAX: tl.constexpr = PLAN.softmax
    columns = tl.arange(0, PLAN.block)
    mask = rows.valid[:, None] & (columns < body.body)[None, :]
    tile = read_tile(tensors, body, columns, mask, rows.y, tl.float32)
    if PLAN.realign:
        edges, in_edges = edges_of(body, classes, PLAN.sector, 32 * PLAN.warps)
        edge_mask = rows.valid[:, None] & in_edges[None, :]
        edge_tile = read_tile(tensors, body, edges, edge_mask, rows.y, tl.float32)
    largest = tl.zeros((PLAN.rows,), tl.float32)
    if SOFTMAX:
        largest = tl.max(tl.where(mask, tile.s, float("-inf")), 1)
        if PLAN.realign:
            of_edges = tl.max(tl.where(edge_mask, edge_tile.s, float("-inf")), 1)
            largest = tl.maximum(largest, of_edges)
            edge_tile = with_softmax(edge_tile, largest, options, edge_mask)
        tile = with_softmax(tile, largest, options, mask)
    sums = sums_of(tile, options)
    if PLAN.realign:
        sums = added(sums, sums_of(edge_tile, options))
    s_norm = norm_of_soft_labels(sums.ss, False)
    zt, tt = products(sums, s_norm, options.gamma)
    other_sums, other_zt, other_tt = sums, zt, tt
    if other is not None:
        other_sums = sums_of_other_label(
            sums, tensors, body, rows.y, other.y, rows.valid, largest, options, tl.float32, SOFTMAX
        )
        other_zt, other_tt = products(other_sums, s_norm, options.gamma)
    result = finished(
        rows.valid, rows, other, sums, other_sums, s_norm, zt, tt, other_zt, other_tt, options,
        SOFTMAX, HALF_LOGITS, HALF_SOFT_LABELS, False,
    )  # fmt: skip
    # Ignored rows are written here too, as zeros.
    done = (rows.in_batch & (result.ordinary | ~rows.valid))[:, None]
    in_row = (columns < body.body)[None, :]
    write_gradients(tensors, body, columns, done & in_row, tile, result, other, options, SOFTMAX)
    if PLAN.realign:
        write_gradients(
            tensors, body, edges, done & in_edges[None, :], edge_tile, result, other, options,
            SOFTMAX,
        )  # fmt: skip
    return result


@triton.jit
def _add_block(sums, largest, tile, options, mask, SOFTMAX: tl.constexpr):
    """The sums with a block more; under a softmax, in units of the largest score so far."""
    if SOFTMAX:
        larger = tl.maximum(largest, tl.max(tl.where(mask, tile.s, float("-inf")), 1))
        # Nothing but -inf so far: any finite number serves, and the sums to shrink are zero.
        base = tl.where(larger == float("-inf"), 0.0, larger)
        before = tl.where(largest == float("-inf"), base, largest)
        tile = with_softmax(tile, base, options, mask)
        shrink = softmax_weights(before, base, options.inverse_temperature, before == before)
        shrink = shrink.to(tl.float64)
        sums = Sums(sums.zh, sums.sh * shrink, sums.zz, sums.ss * shrink * shrink, sums.zs * shrink)
        largest = larger
    return added(sums, sums_of(tile, options)), largest


@triton.jit
def _rows_in_blocks(
    tensors, body, rows, other, classes, todo, zeroed, options, dtype: tl.constexpr,
    REALIGN: tl.constexpr, BLOCK: tl.constexpr, HALF_LOGITS: tl.constexpr,
    HALF_SOFT_LABELS: tl.constexpr, PLAN: tl.constexpr,
):  # fmt: skip
    """The results of rows ``todo`` of any length. Float32 writes those that it is good enough for.

    Rows ``zeroed`` have gradients of zero, and are not read. Float64 sums z.t and |t|^2 once more,
    element by element, against cancellation.
    """
    SOFTMAX: tl.constexpr = PLAN.softmax
    EXACT: tl.constexpr = dtype == tl.float64
    lanes = tl.arange(0, BLOCK)
    blocks = tl.cdiv(body.body, BLOCK)

    zero = tl.full((PLAN.rows,), 0.0, tl.float64)
    sums = Sums(zero, zero, zero, zero, zero)
    largest = tl.full((PLAN.rows,), float("-inf"), dtype)
    if REALIGN:
        edges, in_edges = edges_of(body, classes, PLAN.sector, 32 * PLAN.warps)
        edge_mask = todo[:, None] & in_edges[None, :]
        edge_tile = read_tile(tensors, body, edges, edge_mask, rows.y, dtype)
        sums, largest = _add_block(sums, largest, edge_tile, options, edge_mask, SOFTMAX)
    for block in range(0, blocks):
        columns = block * BLOCK + lanes
        mask = todo[:, None] & (columns < body.body)[None, :]
        tile = read_tile(tensors, body, columns, mask, rows.y, dtype)
        sums, largest = _add_block(sums, largest, tile, options, mask, SOFTMAX)
    if SOFTMAX:
        # A row of -inf alone has no softmax.
        ss = tl.where(todo & (largest == float("-inf")), float("nan"), sums.ss)
        sums = Sums(sums.zh, sums.sh, sums.zz, ss, sums.zs)
    s_norm = norm_of_soft_labels(sums.ss, EXACT)
    zt, tt = products(sums, s_norm, options.gamma)
    other_sums, other_zt, other_tt = sums, zt, tt
    if other is not None:
        other_sums = sums_of_other_label(
            sums, tensors, body, rows.y, other.y, todo, largest, options, dtype, SOFTMAX
        )
        other_zt, other_tt = products(other_sums, s_norm, options.gamma)
    if EXACT:
        zt, tt, other_zt, other_tt = zero, zero, zero, zero
        soft = ((1.0 - options.gamma) * s_norm.inverse)[:, None]
        for block in range(0, blocks):
            columns = block * BLOCK + lanes
            mask = todo[:, None] & (columns < body.body)[None, :]
            tile = read_tile(tensors, body, columns, mask, rows.y, dtype)
            if SOFTMAX:
                tile = with_softmax(tile, largest, options, mask)
            h = hard_label(tile.is_target, options, dtype)
            t = tl.where(mask, options.gamma[:, None] * h + tile.s * soft, 0.0)
            zt += tl.sum(tile.z * t, 1)
            tt += tl.sum(t * t, 1)
            if other is not None:
                h = hard_label(is_at(columns, body, other.y), options, dtype)
                t = tl.where(mask, options.gamma[:, None] * h + tile.s * soft, 0.0)
                other_zt += tl.sum(tile.z * t, 1)
                other_tt += tl.sum(t * t, 1)
    result = finished(
        todo, rows, other, sums, other_sums, s_norm, zt, tt, other_zt, other_tt, options, SOFTMAX,
        HALF_LOGITS, HALF_SOFT_LABELS, EXACT,
    )  # fmt: skip
    done = todo | zeroed
    if not EXACT:
        done = (todo & result.ordinary) | zeroed

    # In reverse order: what was read last is the likeliest to be in the cache still.
    for i in range(0, blocks):
        columns = (blocks - 1 - i) * BLOCK + lanes
        in_row = (columns < body.body)[None, :]
        mask = todo[:, None] & in_row
        tile = read_tile(tensors, body, columns, mask, rows.y, dtype)
        if SOFTMAX:
            tile = with_softmax(tile, largest, options, mask)
        write_gradients(
            tensors, body, columns, done[:, None] & in_row, tile, result, other, options, SOFTMAX
        )
    if REALIGN:
        edges, in_edges = edges_of(body, classes, PLAN.sector, 32 * PLAN.warps)
        mask = todo[:, None] & in_edges[None, :]
        tile = read_tile(tensors, body, edges, mask, rows.y, dtype)
        if SOFTMAX:
            tile = with_softmax(tile, largest, options, mask)
        write_gradients(
            tensors, body, edges, done[:, None] & in_edges[None, :], tile, result, other, options,
            SOFTMAX,
        )  # fmt: skip
    return result


@triton.jit
def store_per_row(per_row, index, mask, result, ADD: tl.constexpr):
    if not ADD:
        tl.store(per_row.losses + index, result.loss, mask=mask)
    if per_row.logits_scales is not None:
        tl.store(per_row.logits_scales + index, result.logits_unit, mask=mask)
    if per_row.soft_labels_scales is not None:
        tl.store(per_row.soft_labels_scales + index, result.soft_labels_unit, mask=mask)


@triton.jit(do_not_specialize=["rows", "ignore_index"])
def rows_kernel(
    logits,  # [rows, classes], elements of a row side by side
    soft_labels,  # [rows, classes], likewise
    target,  # [rows]
    other_target,  # [rows], or None
    target_weight,  # [rows] or, with a stride of 0, [1]: of mixed labels' first; or None
    weight,  # float64, of each valid row: [1], or [2] for mixed labels
    losses,  # [rows]; [programs] float64 where they are added up
    logits_grad,  # [rows, classes] contiguous, or None
    soft_labels_grad,  # [rows, classes] contiguous, or None
    logits_scales,  # [rows] float32, or None: where logits_grad is float16
    soft_labels_scales,  # [rows] float32, or None: where soft_labels_grad is float16
    rows,
    classes,
    logits_stride,
    soft_labels_stride,
    logits_group_stride,  # of groups of `rows_per_group` rows; None: all rows are alike
    soft_labels_group_stride,  # likewise
    rows_per_group,
    target_stride,
    other_target_stride,
    target_weight_stride,
    ignore_index,
    gamma: tl.float64,
    on_target: tl.float64,
    elsewhere: tl.float64,
    inverse_temperature: tl.float64,
    PLAN: tl.constexpr,
):
    """Losses and gradients of PLAN.rows rows."""
    HALF_LOGITS: tl.constexpr = logits_scales is not None
    HALF_SOFT_LABELS: tl.constexpr = soft_labels_scales is not None
    # Losses of several rows are added up here: 8 bytes a program, not a row of perhaps 20 bytes.
    ADD: tl.constexpr = PLAN.add and PLAN.rows > 1
    per_row = PerRow(losses, logits_scales, soft_labels_scales)
    tensors = Tensors(logits, soft_labels, logits_grad, soft_labels_grad)
    batch = rows_of(target, rows, classes, target_stride, ignore_index, PLAN)
    if other_target is None:
        other = None
        own_weight = tl.full((PLAN.rows,), tl.load(weight), tl.float64)
    else:
        second = rows_of(other_target, rows, classes, other_target_stride, ignore_index, PLAN)
        batch, own_weight, other = two_labels(
            batch, second, target_weight, target_weight_stride, weight
        )
    options = options_of(gamma, on_target, elsewhere, inverse_temperature, own_weight, PLAN)
    whole, body = offsets_of(
        batch, classes, logits_stride, soft_labels_stride, logits_group_stride,
        soft_labels_group_stride, rows_per_group, PLAN,
    )  # fmt: skip

    todo = batch.valid
    zeroed = batch.in_batch & ~batch.valid
    if PLAN.float64:
        loss = tl.full((PLAN.rows,), 0.0, tl.float64)
    else:
        if PLAN.held:
            result = _held_rows(
                tensors, body, batch, other, classes, options, HALF_LOGITS, HALF_SOFT_LABELS, PLAN
            )
        else:
            result = _rows_in_blocks(
                tensors, body, batch, other, classes, todo, zeroed, options, tl.float32,
                PLAN.realign, PLAN.block, HALF_LOGITS, HALF_SOFT_LABELS, PLAN,
            )  # fmt: skip
        loss = result.loss
        store_per_row(per_row, batch.index, batch.in_batch & (result.ordinary | ~todo), result, ADD)
        todo = todo & ~result.ordinary

    zeroed = zeroed & PLAN.float64  # float32 has written them
    if PLAN.float64 or tl.max((todo | zeroed).to(tl.int32), 0) > 0:
        exact = _rows_in_blocks(
            tensors, whole, batch, other, classes, todo, zeroed, options, tl.float64, False,
            PLAN.block64, HALF_LOGITS, HALF_SOFT_LABELS, PLAN,
        )  # fmt: skip
        if ADD:
            loss = tl.where(todo | zeroed, exact.loss, loss)
        store_per_row(per_row, batch.index, todo | zeroed, exact, ADD)
    if ADD:
        tl.store(losses + tl.program_id(0), tl.sum(tl.where(batch.valid, loss, 0.0), 0))
