"""Losses and gradients of rows with top-k labels; a program takes one row, or several short ones.

A row of soft labels has ``values`` at the k classes ``indices`` and ``rest`` everywhere else. Then
t has k + 2 different values at most: of the kept classes, of the target where it is not kept, and
t_rest of all others. Formed one by one they do not cancel, and the sweep needs sum z and |z|^2:

- ``z.t = sum_i t_i z_i + t_y z_y + t_rest (sum z - sum_i z_i - z_y)``;
- the gradient is ``own z_j + constant``, and the kept classes and the target are written over it.

What is of a row or of its kept classes is in float64.

Shapes: logits ``[rows, classes]``; values and indices ``[rows, kept]``; one value per row
``[ROWS]``; tiles ``[ROWS, columns]`` of logits and ``[ROWS, KEPT.block]`` of kept classes.

Traffic of a row, for elements of Z bytes: reads and writes of logits as in ``rows_kernel``,
``classes * Z`` each where the row is held; reads k values and indices, and rest. The logits at the
kept classes and the target are read twice and their gradients written twice, in and out of the
caches. More than ``KEPT.block`` kept classes are read in every pass over them, of which there are
four.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from gift_fast.loss.triton_kernels.packing import (
    Tensors,
    edges_of,
    read,
    softmax_weights,
    store_rounded,
)
from gift_fast.loss.triton_kernels.row import Coefficients, Sums, norm_of_soft_labels
from gift_fast.loss.triton_kernels.rows_kernel import (
    OtherLabel,
    PerRow,
    Rows,
    finished,
    offsets_of,
    options_of,
    rows_of,
    store_per_row,
    two_labels,
)


class Stored(NamedTuple):
    """Where the labels are, and what of a row begins where, ``[ROWS]``."""

    value_pointer: tl.tensor
    index_pointer: tl.tensor
    value_offsets: tl.tensor
    index_offsets: tl.tensor
    rest: tl.tensor | None  # of each row, as it is stored; None: not to be read
    kept: tl.tensor
    classes: tl.tensor
    largest_mass: tl.tensor  # what probabilities may sum to
    fits: tl.tensor  # two flags to take back: of the indices, and of the values or rest


class Block(NamedTuple):
    """Some of the kept classes, ``[ROWS, columns]``."""

    index: tl.tensor  # 0 if it is out of range
    in_range: tl.tensor
    s: tl.tensor  # as it is stored, or as the formulas have it
    z: tl.tensor
    mask: tl.tensor


class Labels(NamedTuple):
    """The labels of a program's rows, ``[ROWS]``."""

    first: Block  # as it is stored
    largest: tl.tensor  # score; the softmax is relative to it
    rest: tl.tensor  # as the formulas have it
    others: tl.tensor  # the number of classes that are not kept
    fit: tl.tensor  # indices, values and rest are what they have to be


class Target(NamedTuple):
    """The hard label of each row, ``[ROWS]``, of which the logit is read where it is not kept."""

    y: tl.tensor
    z: tl.tensor
    alone: tl.tensor  # not a kept class


@triton.jit
def _add_two(a0, a1, b0, b1):
    return a0 + b0, a1 + b1


@triton.jit
def _add_three(a0, a1, a2, b0, b1, b2):
    return a0 + b0, a1 + b1, a2 + b2


@triton.jit
def _sums_of(z, dtype: tl.constexpr):
    """Sum and sum of squares of each row of a tile, in float64: one reduction, so one barrier."""
    z = z.to(dtype)
    total, squares = tl.reduce((z, z * z), 1, _add_two)
    return total.to(tl.float64), squares.to(tl.float64)


@triton.jit
def _read_block(stored, tensors, offsets, todo, block, KEPT: tl.constexpr):
    lanes = block * KEPT.block + tl.arange(0, KEPT.block)
    mask = todo[:, None] & (lanes < stored.kept)[None, :]
    at = stored.index_offsets[:, None] + lanes[None, :]
    index = tl.load(stored.index_pointer + at, mask=mask, other=0)
    in_range = (index >= 0) & (index < stored.classes)
    tl.device_assert(in_range, "indices must be classes")  # as that of the target
    index = tl.where(in_range, index, 0).to(tl.int32)
    at = stored.value_offsets[:, None] + lanes[None, :]
    s = tl.load(stored.value_pointer + at, mask=mask, other=0.0).to(tl.float64)
    at = offsets.logits[:, None] + (index - offsets.begin)
    z = tl.load(tensors.logits + at, mask=mask, other=0.0).to(tl.float64)
    return Block(index, in_range, s, z, mask)


@triton.jit
def _label(score, largest, options, mask, dtype: tl.constexpr, SOFTMAX: tl.constexpr):
    """The soft label of a score; ``largest`` and what is in ``options`` have its shape."""
    if SOFTMAX:
        below = (score - largest).to(dtype)
        score = softmax_weights(below, 0.0, options.inverse_temperature[:, None], mask)
    return score.to(tl.float64)


@triton.jit
def _labels_of(
    stored, tensors, offsets, todo, options, dtype: tl.constexpr, SOFTMAX: tl.constexpr,
    KEPT: tl.constexpr,
):  # fmt: skip
    """What comes before the sums: the rest, the largest score, and the checks of the labels."""
    first = _read_block(stored, tensors, offsets, todo, 0, KEPT)
    zero = tl.zeros(todo.shape, tl.float64)
    total = zero
    largest = tl.full(todo.shape, float("-inf"), tl.float64)
    wrong = tl.zeros(todo.shape, tl.int32)
    wrong_values = tl.zeros(todo.shape, tl.int32)
    for b in range(0, 1 if KEPT.one else tl.cdiv(stored.kept, KEPT.block)):
        block = first if KEPT.one else _read_block(stored, tensors, offsets, todo, b, KEPT)
        wrong |= tl.max((~block.in_range).to(tl.int32), 1)
        if KEPT.probabilities:
            total += tl.sum(block.s, 1)
            wrong_values |= tl.max((block.s < 0.0).to(tl.int32), 1)
        if SOFTMAX:
            scores = tl.where(block.mask, block.s, float("-inf"))
            largest = tl.maximum(largest, tl.max(scores, 1))

    rest = zero
    others = tl.full(todo.shape, stored.classes - stored.kept, tl.float64)
    if KEPT.probabilities:
        # NaN passes: it stays in its row.
        wrong_values |= (total > stored.largest_mass).to(tl.int32)
        if KEPT.has_others:
            missing = 1.0 - total
            rest = tl.where(missing < 0.0, 0.0, missing) / others
    elif KEPT.has_others:
        rest = stored.rest
        if SOFTMAX:
            largest = tl.maximum(largest, rest)
            rest = _label(rest[:, None], largest[:, None], options, todo[:, None], dtype, True)
            rest = tl.reshape(rest, todo.shape)
        else:
            wrong_values |= (rest == float("-inf")).to(tl.int32)
    _take_back(stored.fits, wrong)
    _take_back(stored.fits + 1, wrong_values)
    return Labels(first, largest, rest, others, (wrong | wrong_values) == 0)


@triton.jit
def _take_back(flag, wrong):
    any_wrong = tl.max(wrong, 0) > 0
    tl.store(flag, ~any_wrong, mask=any_wrong)


@triton.jit
def _block(
    labels, stored, tensors, offsets, todo, options, b, dtype: tl.constexpr, SOFTMAX: tl.constexpr,
    KEPT: tl.constexpr,
):  # fmt: skip
    """A block of kept classes with their soft labels; the first one is not read again."""
    block = labels.first if KEPT.one else _read_block(stored, tensors, offsets, todo, b, KEPT)
    s = _label(block.s, labels.largest[:, None], options, block.mask, dtype, SOFTMAX)
    return Block(block.index, block.in_range, s, block.z, block.mask)


@triton.jit
def _products(
    y, z_sum, s_norm, labels, stored, tensors, offsets, todo, options, dtype: tl.constexpr,
    SOFTMAX: tl.constexpr, KEPT: tl.constexpr,
):  # fmt: skip
    """z.t and |t|^2 under a label y, and whether this is a kept class.

    ``z_sum``: of the classes that are not kept.
    """
    base = options.gamma * options.elsewhere
    scale = (1.0 - options.gamma) * s_norm.inverse
    at_target = options.gamma * (options.on_target - options.elsewhere)
    zt = tl.zeros_like(z_sum)
    tt = tl.zeros_like(z_sum)
    found = tl.zeros_like(z_sum)
    for b in range(0, 1 if KEPT.one else tl.cdiv(stored.kept, KEPT.block)):
        block = _block(labels, stored, tensors, offsets, todo, options, b, dtype, SOFTMAX, KEPT)
        is_target = block.mask & (block.index == y[:, None])
        t = base[:, None] + scale[:, None] * block.s
        t = tl.where(block.mask, t + tl.where(is_target, at_target[:, None], 0.0), 0.0)
        more = tl.reduce((t * block.z, t * t, is_target.to(tl.float64)), 1, _add_three)
        zt += more[0]
        tt += more[1]
        found += more[2]
    alone = todo & (found == 0.0)
    z = tl.load(tensors.logits + (offsets.logits + (y - offsets.begin)), mask=alone, other=0.0)
    z = z.to(tl.float64)
    if KEPT.has_others:
        one = alone.to(tl.float64)
        t_rest = base + scale * labels.rest
        t_target = one * (t_rest + at_target)
        zt += t_target * z + t_rest * (z_sum - z)
        tt += t_target * t_target + t_rest * t_rest * (labels.others - one)
    return zt, tt, Target(y, z, alone)


@triton.jit
def _gradient_at(index, s, z, y, other_y, k, at_other):
    """The gradient at classes of any shape, and all else of the same."""
    gradient = k.own * z + (k.other * s + k.all) + tl.where(index == y, k.target, 0.0)
    if other_y is not None:
        gradient += tl.where(index == other_y, at_other, 0.0)
    return gradient


@triton.jit
def _write_kept(tensors, offsets, block, done, y, other_label, result):
    k = result.of_logits
    columns = Coefficients(k.other[:, None], k.own[:, None], k.all[:, None], k.target[:, None])
    other_y = None if other_label is None else other_label.y[:, None]
    gradient = _gradient_at(
        block.index, block.s, block.z, y[:, None], other_y, columns, result.logits_at_other[:, None]
    )
    at = offsets.grad[:, None] + (block.index - offsets.begin)
    store_rounded(tensors.logits_grad + at, gradient, block.mask & done[:, None])


@triton.jit
def _write_target(tensors, offsets, target, rest, done, y, other_label, result):
    other_y = None if other_label is None else other_label.y
    gradient = _gradient_at(
        target.y, rest, target.z, y, other_y, result.of_logits, result.logits_at_other
    )
    at = offsets.grad + (target.y - offsets.begin)
    store_rounded(tensors.logits_grad + at, gradient, target.alone & done)


@triton.jit
def _write_elsewhere(tensors, offsets, columns, mask, z, own, constant):
    """The gradient of a tile, as if no class were kept."""
    gradient = z * own.to(z.dtype)[:, None] + constant.to(z.dtype)[:, None]
    at = offsets.grad[:, None] + columns[None, :]
    store_rounded(tensors.logits_grad + at, gradient, mask)


@triton.jit
def _top_k_rows(
    tensors, stored, offsets, rows, other, classes, todo, zeroed, options, dtype: tl.constexpr,
    HELD: tl.constexpr, REALIGN: tl.constexpr, BLOCK: tl.constexpr, HALF: tl.constexpr,
    PLAN: tl.constexpr, KEPT: tl.constexpr,
):  # fmt: skip
    """The results of rows ``todo``. Float32 writes those that it is good enough for.

    Rows ``zeroed`` have gradients of zero, and are not read. ``HELD``: a row is one block, which is
    read once.
    """
    SOFTMAX: tl.constexpr = PLAN.softmax
    EXACT: tl.constexpr = dtype == tl.float64
    # Of a few other classes the logits are a small difference of large sums.
    sums_dtype: tl.constexpr = tl.float64 if KEPT.few_others else dtype
    lanes = tl.arange(0, BLOCK)
    blocks = 1 if HELD else tl.cdiv(offsets.body, BLOCK)
    held_mask = todo[:, None] & (lanes < offsets.body)[None, :]
    if HELD:
        held = read(tensors.logits, offsets.logits, lanes, held_mask, dtype)
    if REALIGN:
        edges, in_edges = edges_of(offsets, classes, PLAN.sector, 32 * PLAN.warps)
        edge_mask = todo[:, None] & in_edges[None, :]
        edge_z = read(tensors.logits, offsets.logits, edges, edge_mask, dtype)
    labels = _labels_of(stored, tensors, offsets, todo, options, dtype, SOFTMAX, KEPT)

    zero = tl.zeros(todo.shape, tl.float64)
    z_sum, zz = zero, zero
    if REALIGN:
        z_sum, zz = _sums_of(edge_z, sums_dtype)
    for block in range(0, blocks):
        columns = block * BLOCK + lanes
        mask = todo[:, None] & (columns < offsets.body)[None, :]
        z = held if HELD else read(tensors.logits, offsets.logits, columns, mask, dtype)
        total, squares = _sums_of(z, sums_dtype)
        z_sum += total
        zz += squares

    ss = labels.others * labels.rest * labels.rest if KEPT.has_others else zero
    for b in range(0, 1 if KEPT.one else tl.cdiv(stored.kept, KEPT.block)):
        kept = _block(labels, stored, tensors, offsets, todo, options, b, dtype, SOFTMAX, KEPT)
        squares, z_kept = tl.reduce((kept.s * kept.s, kept.z), 1, _add_two)
        ss += squares
        z_sum -= z_kept
    s_norm = norm_of_soft_labels(ss, EXACT)
    zt, tt, target = _products(
        rows.y, z_sum, s_norm, labels, stored, tensors, offsets, todo, options, dtype, SOFTMAX, KEPT
    )
    rows = Rows(rows.index, rows.in_batch, rows.valid, rows.in_range & labels.fit, rows.y)
    other_zt, other_tt = zt, tt
    if other is not None:
        other_zt, other_tt, other_target = _products(
            other.y, z_sum, s_norm, labels, stored, tensors, offsets, todo, options, dtype, SOFTMAX,
            KEPT,
        )  # fmt: skip
        other = OtherLabel(
            other.own_valid, other.valid, other.in_range & labels.fit, other.y, other.weight
        )
    sums = Sums(zero, zero, zz, ss, zero)
    result = finished(
        todo, rows, other, sums, sums, s_norm, zt, tt, other_zt, other_tt, options, SOFTMAX, HALF,
        False, EXACT,
    )  # fmt: skip

    if tensors.logits_grad is not None:
        k = result.of_logits
        constant = k.all + k.other * labels.rest
        done = todo if EXACT else todo & result.ordinary
        swept = done | zeroed if KEPT.has_others else zeroed
        if REALIGN:
            if not HELD:
                edge_z = read(tensors.logits, offsets.logits, edges, edge_mask, dtype)
            edge_mask = swept[:, None] & in_edges[None, :]
            _write_elsewhere(tensors, offsets, edges, edge_mask, edge_z, k.own, constant)
        # In reverse order: what was read last is the likeliest to be in the cache still.
        for i in range(0, blocks):
            columns = (blocks - 1 - i) * BLOCK + lanes
            mask = todo[:, None] & (columns < offsets.body)[None, :]
            z = held if HELD else read(tensors.logits, offsets.logits, columns, mask, dtype)
            mask = swept[:, None] & (columns < offsets.body)[None, :]
            _write_elsewhere(tensors, offsets, columns, mask, z, k.own, constant)
        tl.debug_barrier()  # other threads have written what is written over
        for b in range(0, 1 if KEPT.one else tl.cdiv(stored.kept, KEPT.block)):
            kept = _block(labels, stored, tensors, offsets, todo, options, b, dtype, SOFTMAX, KEPT)
            _write_kept(tensors, offsets, kept, done, rows.y, other, result)
        _write_target(tensors, offsets, target, labels.rest, done, rows.y, other, result)
        if other is not None:
            _write_target(tensors, offsets, other_target, labels.rest, done, rows.y, other, result)
    return result


@triton.jit(do_not_specialize=["rows", "ignore_index"])
def top_k_kernel(
    logits,  # [rows, classes], elements of a row side by side
    values,  # [rows, kept], likewise
    indices,  # [rows, kept], likewise
    rest,  # [rows]; None: not to be read
    target,  # [rows]
    other_target,  # [rows], or None
    target_weight,  # [rows] or, with a stride of 0, [1]: of mixed labels' first; or None
    weight,  # float64, of each valid row: [1], or [2] for mixed labels
    fits,  # [2] bool, to be set to false where indices, or values or rest, are wrong
    losses,  # [rows]; [programs] float64 where they are added up
    logits_grad,  # [rows, classes] contiguous, or None
    logits_scales,  # [rows] float32, or None: where logits_grad is float16
    rows,
    classes,
    kept,
    logits_stride,
    values_stride,
    indices_stride,
    rest_stride,
    logits_group_stride,  # of groups of `rows_per_group` rows; None: all rows are alike
    rows_per_group,
    target_stride,
    other_target_stride,
    target_weight_stride,
    ignore_index,
    gamma: tl.float64,
    on_target: tl.float64,
    elsewhere: tl.float64,
    inverse_temperature: tl.float64,
    largest_mass: tl.float64,
    PLAN: tl.constexpr,
    KEPT: tl.constexpr,
):
    """Losses and gradients of PLAN.rows rows."""
    HALF: tl.constexpr = logits_scales is not None
    ADD: tl.constexpr = PLAN.add and PLAN.rows > 1  # as in rows_kernel
    per_row = PerRow(losses, logits_scales, None)
    tensors = Tensors(logits, None, logits_grad, None)
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
        batch, classes, logits_stride, logits_stride, logits_group_stride, logits_group_stride,
        rows_per_group, PLAN,
    )  # fmt: skip
    stored_rest = None
    if rest is not None:
        at = rest + batch.index * rest_stride
        stored_rest = tl.load(at, mask=batch.valid, other=0.0).to(tl.float64)
    stored = Stored(
        values, indices, batch.index * values_stride, batch.index * indices_stride, stored_rest,
        kept, classes, largest_mass, fits,
    )  # fmt: skip

    todo = batch.valid
    zeroed = batch.in_batch & ~batch.valid
    if PLAN.float64:
        loss = tl.full((PLAN.rows,), 0.0, tl.float64)
    else:
        result = _top_k_rows(
            tensors, stored, body, batch, other, classes, todo, zeroed, options, tl.float32,
            PLAN.held, PLAN.realign, PLAN.block, HALF, PLAN, KEPT,
        )  # fmt: skip
        loss = result.loss
        store_per_row(per_row, batch.index, batch.in_batch & (result.ordinary | ~todo), result, ADD)
        todo = todo & ~result.ordinary

    zeroed = zeroed & PLAN.float64  # float32 has written them
    if PLAN.float64 or tl.max((todo | zeroed).to(tl.int32), 0) > 0:
        exact = _top_k_rows(
            tensors, stored, whole, batch, other, classes, todo, zeroed, options, tl.float64, False,
            False, PLAN.block64, HALF, PLAN, KEPT,
        )  # fmt: skip
        if ADD:
            loss = tl.where(todo | zeroed, exact.loss, loss)
        store_per_row(per_row, batch.index, todo | zeroed, exact, ADD)
    if ADD:
        tl.store(losses + tl.program_id(0), tl.sum(tl.where(batch.valid, loss, 0.0), 0))
