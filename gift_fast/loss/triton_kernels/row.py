"""One row: from its sums to the loss and to the coefficients of its gradients.

``csrc/gift_row.h`` once more, in float64, on tensors of one value per row, ``[ROWS]``.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from gift_fast.loss import thresholds

_COSINE_EPS = tl.constexpr(thresholds.COSINE_EPS)
_NORMALIZE_EPS = tl.constexpr(thresholds.NORMALIZE_EPS)
_CANCELLATION = tl.constexpr(thresholds.CANCELLATION)
_SMALLEST_INVERSE_NORM = tl.constexpr(thresholds.SMALLEST_INVERSE_NORM)
_LARGEST_INVERSE_NORM = tl.constexpr(thresholds.LARGEST_INVERSE_NORM)
_HALF_EXPONENT = tl.constexpr(thresholds.HALF_EXPONENT)
_HALF_MAX_SHIFT = tl.constexpr(thresholds.HALF_MAX_SHIFT)
_HALF_LARGEST = tl.constexpr(thresholds.HALF_LARGEST)
_ZERO_ROW_GRADIENT = tl.constexpr(thresholds.ZERO_ROW_GRADIENT)


class Options(NamedTuple):
    """The loss's options, one value per row."""

    gamma: tl.tensor
    on_target: tl.tensor  # of the smoothed label of unit norm
    elsewhere: tl.tensor
    inverse_temperature: tl.tensor
    weight: tl.tensor  # of a valid row


class Sums(NamedTuple):
    """What a sweep over a row takes; h is the smoothed label of unit norm."""

    zh: tl.tensor
    sh: tl.tensor
    zz: tl.tensor
    ss: tl.tensor
    zs: tl.tensor


class Norm(NamedTuple):
    """1 / max(norm, eps), and whether the norm is that bound."""

    inverse: tl.tensor
    bounded: tl.tensor


class Coefficients(NamedTuple):
    """A gradient: other_j * other + own_j * own + all + [j = y] * target."""

    other: tl.tensor
    own: tl.tensor
    all: tl.tensor
    target: tl.tensor


class Bounds(NamedTuple):
    """Of the gradients' elements, over both labels of a row, times factors that these share."""

    logits: tl.tensor
    soft_labels: tl.tensor


class Result(NamedTuple):
    """What is written of a row."""

    loss: tl.tensor  # with two labels: their sum, each times its weight
    ordinary: tl.tensor  # float32 is good enough
    of_logits: Coefficients
    of_soft_labels: Coefficients
    logits_unit: tl.tensor  # the inverse of a float16 gradient's power of two
    soft_labels_unit: tl.tensor
    logits_at_other: tl.tensor  # what the gradients have more at the other label of two
    soft_labels_at_other: tl.tensor


@triton.jit
def inverse_norm(square, eps: tl.constexpr, EXACT: tl.constexpr):
    bounded = square < eps * eps
    if EXACT:
        inverse = 1.0 / tl.sqrt(square)
    else:
        # Every thread of the row does this. A float32 estimate and one Newton step are good to
        # 3e-14 and take 6 instructions; the square root and division of float64 take 40.
        estimate = tl.rsqrt(square.to(tl.float32)).to(tl.float64)
        inverse = estimate * (1.5 - 0.5 * square * estimate * estimate)
    return Norm(tl.where(bounded, tl.full(square.shape, 1.0 / eps, tl.float64), inverse), bounded)


@triton.jit
def norm_of_soft_labels(ss, EXACT: tl.constexpr):
    return inverse_norm(ss, _NORMALIZE_EPS, EXACT)


@triton.jit
def products(sums, s, gamma):
    """z.t and |t|^2 in closed form."""
    soft = (1.0 - gamma) * s.inverse
    zt = gamma * sums.zh + soft * sums.zs
    tt = gamma * gamma + soft * (soft * sums.ss + 2.0 * gamma * sums.sh)
    return zt, tt


@triton.jit
def logits_gradient(options, cosine, z, s, t):
    towards_t = -options.weight * z.inverse * t.inverse
    own = tl.where(z.bounded, 0.0, options.weight * cosine * z.inverse * z.inverse)
    hard = towards_t * options.gamma
    return Coefficients(
        towards_t * (1.0 - options.gamma) * s.inverse,
        own,
        hard * options.elsewhere,
        hard * (options.on_target - options.elsewhere),
    )


@triton.jit
def soft_labels_gradient(options, cosine, z, s, t, sums):
    dt_ds = (1.0 - options.gamma) * s.inverse
    along_z = options.weight * z.inverse * t.inverse
    along_t = tl.where(t.bounded, 0.0, options.weight * cosine * t.inverse * t.inverse)
    own = tl.where(
        s.bounded,
        along_t * dt_ds,
        (along_z * sums.zs - along_t * options.gamma * sums.sh) * s.inverse * s.inverse,
    )
    hard = dt_ds * along_t * options.gamma
    return Coefficients(
        -dt_ds * along_z,
        dt_ds * own,
        hard * options.elsewhere,
        hard * (options.on_target - options.elsewhere),
    )


@triton.jit
def half_factor(largest):
    """The power of two that a float16 row is stored with, given a bound of its elements."""
    exponent = ((largest.to(tl.int64, bitcast=True) >> 52) & 0x7FF) - 1022
    shift = tl.minimum(tl.maximum(-(exponent - _HALF_EXPONENT), -_HALF_MAX_SHIFT), _HALF_MAX_SHIFT)
    power = ((shift + 1023) << 52).to(tl.float64, bitcast=True)
    return tl.where((largest > 0.0) & (largest < _HALF_LARGEST), power, 1.0)


@triton.jit
def scaled(k, scale):
    return Coefficients(k.other * scale, k.own * scale, k.all * scale, k.target * scale)


@triton.jit
def zero_unless(condition, k):
    return Coefficients(
        tl.where(condition, k.other, 0.0),
        tl.where(condition, k.own, 0.0),
        tl.where(condition, k.all, 0.0),
        tl.where(condition, k.target, 0.0),
    )


@triton.jit
def bounds_of_two(options, other_weight, tt, other_tt, EXACT: tl.constexpr):
    """What float16's factors are taken from: the sum over both labels."""
    own, other = tl.abs(options.weight), tl.abs(other_weight)
    t = inverse_norm(tt, _COSINE_EPS, EXACT)
    other_t = inverse_norm(other_tt, _COSINE_EPS, EXACT)
    return Bounds(own + other, own * t.inverse + other * other_t.inverse)


@triton.jit
def finish(
    valid, in_range, sums, s, zt, tt, options, bounds, SOFTMAX: tl.constexpr,
    HALF_LOGITS: tl.constexpr, HALF_SOFT_LABELS: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """From the sums of a row to its :class:`Result`; that of a row that is not valid is zero.

    ``bounds``: those of both labels, where this is one of two; else None.
    """
    z = inverse_norm(sums.zz, _COSINE_EPS, EXACT)
    t = inverse_norm(tt, _COSINE_EPS, EXACT)
    # An out-of-range target must be noticed even if asserts are disabled.
    cosine = tl.where(in_range, zt * z.inverse * t.inverse, float("nan"))
    of_logits = logits_gradient(options, cosine, z, s, t)
    of_soft_labels = soft_labels_gradient(options, cosine, z, s, t, sums)
    logits_unit = tl.full(zt.shape, 1.0, tl.float64)
    soft_labels_unit = tl.full(zt.shape, 1.0, tl.float64)
    if HALF_LOGITS:
        if bounds is None:
            scale = half_factor(tl.where(valid, options.weight * z.inverse, 0.0))
        else:
            scale = half_factor(bounds.logits * z.inverse)
        of_logits = scaled(of_logits, scale)
        logits_unit = tl.where(z.bounded, _ZERO_ROW_GRADIENT * _COSINE_EPS, 1.0) / scale
    if HALF_SOFT_LABELS:
        if bounds is None:
            bound = options.weight * (1.0 - options.gamma) * s.inverse * t.inverse
        else:
            bound = bounds.soft_labels * (1.0 - options.gamma) * s.inverse
        if SOFTMAX:
            bound *= options.inverse_temperature
        if bounds is None:
            bound = tl.where(valid, bound, 0.0)
        scale = half_factor(bound)
        of_soft_labels = scaled(of_soft_labels, scale)
        of_zeros = _ZERO_ROW_GRADIENT * _NORMALIZE_EPS / t.inverse
        soft_labels_unit = tl.where(s.bounded, of_zeros, 1.0) / scale
    # Float32 has room for a product of three and digits to spare while norms lie between these.
    ordinary = (z.inverse >= _SMALLEST_INVERSE_NORM) & (z.inverse <= _LARGEST_INVERSE_NORM)
    ordinary = ordinary & (s.inverse >= _SMALLEST_INVERSE_NORM)
    ordinary = ordinary & (s.inverse <= _LARGEST_INVERSE_NORM)
    return Result(
        tl.where(valid, 1.0 - cosine, 0.0),
        ordinary & (tt >= _CANCELLATION) & (tl.abs(sums.zs) < float("inf")),
        zero_unless(valid, of_logits),
        zero_unless(valid, of_soft_labels),
        logits_unit,
        soft_labels_unit,
        tl.zeros_like(zt),
        tl.zeros_like(zt),
    )


@triton.jit
def _sum_of_coefficients(a, b):
    return Coefficients(a.other + b.other, a.own + b.own, a.all + b.all, a.target)


@triton.jit
def sum_of_two(own, other, own_valid, other_valid, own_weight, other_weight):
    """The result of a row with two labels from those of each."""
    return Result(
        own_weight * own.loss + other_weight * other.loss,
        (own.ordinary | ~own_valid) & (other.ordinary | ~other_valid),
        _sum_of_coefficients(own.of_logits, other.of_logits),
        _sum_of_coefficients(own.of_soft_labels, other.of_soft_labels),
        own.logits_unit,
        own.soft_labels_unit,
        other.of_logits.target,
        other.of_soft_labels.target,
    )
