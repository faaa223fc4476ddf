"""What a call of the loss must give: its definition in float64, from the values as they are stored.

Errors of gradients are measured in units of the bound that a row's gradient cannot exceed,
``weight / |z|`` for the logits and ``weight (1 - gamma) / (|s| |t|)`` for the soft labels. Rounding
errors are of that size, however small the gradient itself is: for one class it is exactly zero.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import gift_fast
from gift_fast import gift_loss
from gift_fast.loss.reference import (
    bounded_norm,
    compute_dtype,
    reference_loss,
    refine,
)
from gift_fast.loss.thresholds import COSINE_EPS, NORMALIZE_EPS

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
HALVES = (torch.bfloat16, torch.float16)

ROUNDING = {dtype: torch.finfo(dtype).eps / 2 for dtype in FLOATS}
"""Largest relative error of one rounding to nearest."""

needs_cpu_kernel = pytest.mark.skipif(
    gift_fast.backends()["cpu"] != "available", reason="the C++ kernels are not built"
)


class Answer(NamedTuple):
    """A call's result and its gradients; None where the input is not differentiated."""

    loss: Tensor
    logits_grad: Tensor | None
    soft_labels_grad: Tensor | None


class Options(NamedTuple):
    """The options that change the mathematics, with the defaults of ``gift_loss``."""

    gamma: float = 0.1
    label_smoothing: float = 0.1
    smoothing: str = "uniform"
    soft_label_temperature: float | None = None


DEFAULTS = Options()


def batch(
    rows: int,
    classes: int,
    logits_dtype: torch.dtype = torch.float32,
    soft_labels_dtype: torch.dtype | None = None,
    *,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, soft labels and targets as a training step has them: raw scores of a few units."""
    generator = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return 3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)

    target = torch.randint(classes, (rows,), generator=generator)
    return normal().to(logits_dtype), normal().to(soft_labels_dtype or logits_dtype), target


def answer(
    logits: Tensor,
    soft_labels: Tensor,
    target: Tensor,
    *,
    function: Callable[..., Tensor] = gift_loss,
    requested: tuple[bool, bool] = (True, True),
    upstream: Tensor | None = None,
    **options: Any,
) -> Answer:
    """Loss and gradients of ``function``; the inputs keep their strides and take no gradient."""
    z = logits.detach().requires_grad_(requested[0])
    s = soft_labels.detach().requires_grad_(requested[1])
    loss = function(z, s, target, **options)
    if any(requested):
        loss.backward(torch.ones_like(loss) if upstream is None else upstream)
    return Answer(loss.detach(), z.grad, s.grad)


def exact(logits: Tensor, soft_labels: Tensor, target: Tensor, **options: Any) -> Answer:
    """The definition in float64 on the same values: what every type and kernel is measured with.

    The gradient of a float16 row of zeros, which is 1 over the bound of its norm, is that over
    2^-15.
    """
    inputs = logits.double(), soft_labels.double(), target
    loss, z_grad, s_grad = answer(*inputs, function=reference_loss, **options)
    if z_grad is not None and logits.dtype == torch.float16:
        z_grad[(logits == 0).all(-1)] *= 2**15 * COSINE_EPS
    no_softmax = options.get("soft_label_temperature") is None
    if s_grad is not None and soft_labels.dtype == torch.float16 and no_softmax:
        t_norm = max(options.get("gamma", DEFAULTS.gamma), COSINE_EPS)
        s_grad[(soft_labels == 0).all(-1)] *= 2**15 * NORMALIZE_EPS * t_norm
    return Answer(loss, z_grad, s_grad)


def gradient_bounds(
    logits: Tensor, soft_labels: Tensor, target: Tensor, options: Options = DEFAULTS
) -> tuple[Tensor, Tensor]:
    """What no element of a row's gradients exceeds, (..., 1) each, before the row's weight."""
    z, s = logits.double(), soft_labels.double()
    temperature = options.soft_label_temperature
    t = refine(s, target, *options)
    s = s if temperature is None else torch.softmax(s / temperature, -1)
    n_t, n_s = bounded_norm(t, COSINE_EPS), bounded_norm(s, NORMALIZE_EPS)
    return 1 / bounded_norm(z, COSINE_EPS), (1 - options.gamma) / (n_s * n_t * (temperature or 1))


def largest_error(actual: Tensor, expected: Tensor, bound: Tensor) -> float:
    """The largest error of an element, in units of its row's bound."""
    if actual.numel() == 0:
        return 0.0
    return float(((actual.double() - expected).abs() / bound.clamp_min(1e-300)).max())


def assert_exact(
    logits: Tensor,
    soft_labels: Tensor,
    target: Tensor,
    options: Options = DEFAULTS,
    *,
    function: Callable[..., Tensor] = gift_loss,
    roundings: float = 16.0,
) -> None:
    """The fused loss and gradients, row by row, within so many roundings of float64's answer.

    16: float32 sums over vector lanes wander by a few roundings, the coefficients add as many.
    """
    named = options._asdict()
    got = answer(logits, soft_labels, target, function=function, reduction="none", **named)
    want = exact(logits, soft_labels, target, reduction="none", **named)
    accumulator = ROUNDING[compute_dtype(logits)]
    assert got.loss.dtype == compute_dtype(logits)
    torch.testing.assert_close(
        got.loss.double(), want.loss, rtol=0, atol=roundings * accumulator, equal_nan=True
    )
    bounds = gradient_bounds(logits, soft_labels, target, options)
    for name, x, bound in zip(
        ("logits_grad", "soft_labels_grad"), (logits, soft_labels), bounds, strict=True
    ):
        gradient, expected = getattr(got, name), getattr(want, name)
        assert gradient.dtype == x.dtype
        assert gradient.shape == x.shape
        # On top of the sums' error: one rounding of the stored element, or half the distance of two
        # subnormals. What lies beyond the type's largest number is infinite, as its rounding is.
        info = torch.finfo(x.dtype)
        gradient, expected = (y.double().clamp(-info.max, info.max) for y in (gradient, expected))
        stored = ROUNDING[x.dtype] * expected.abs() + info.smallest_normal * info.eps
        error = ((gradient - expected).abs() - 1.01 * stored).clamp_min(0)
        assert largest_error(error, torch.zeros_like(error), bound) <= roundings * accumulator, name
