"""Every mixture of floating-point types against float64 and against plain PyTorch in that type."""

import pytest
import torch
from expected import (
    FLOATS,
    HALVES,
    ROUNDING,
    Options,
    answer,
    assert_exact,
    batch,
    exact,
    gradient_bounds,
    largest_error,
    needs_cpu_kernel,
)

from gift_fast.loss.reference import reference_loss


@pytest.mark.parametrize("temperature", [None, 0.5, 3.0])
@pytest.mark.parametrize("soft_labels_dtype", FLOATS, ids=str)
@pytest.mark.parametrize("logits_dtype", FLOATS, ids=str)
def test_every_mixture_is_exact(logits_dtype, soft_labels_dtype, temperature):
    options = Options(soft_label_temperature=temperature)
    for classes in (3, 37, 300):
        assert_exact(*batch(7, classes, logits_dtype, soft_labels_dtype), options)


@pytest.mark.parametrize(
    "options",
    [
        Options(gamma=0.0),
        Options(gamma=0.5, label_smoothing=0.0),
        Options(gamma=0.5, label_smoothing=1.0),
        Options(gamma=0.5, label_smoothing=0.3, smoothing="others"),
        Options(gamma=1.0, smoothing="others"),
    ],
    ids=lambda options: f"{options.gamma} {options.label_smoothing} {options.smoothing}",
)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_every_option_is_exact(dtype, options):
    for classes in (3, 37, 300):
        assert_exact(*batch(7, classes, dtype), options)


@pytest.mark.parametrize("soft_labels_dtype", FLOATS, ids=str)
@pytest.mark.parametrize("logits_dtype", FLOATS, ids=str)
def test_the_error_is_no_larger_than_that_of_plain_pytorch(logits_dtype, soft_labels_dtype):
    # 8 roundings of the accumulator on top: the order of the sums differs.
    inputs = batch(16, 1000, logits_dtype, soft_labels_dtype)
    accumulator = ROUNDING[torch.float64 if logits_dtype == torch.float64 else torch.float32]
    want = exact(*inputs, reduction="sum")
    fused = answer(*inputs, reduction="sum")
    plain = answer(*inputs, reduction="sum", function=reference_loss)
    assert (fused.loss - want.loss).abs() <= (plain.loss - want.loss).abs() + 8 * 16 * accumulator
    bounds = gradient_bounds(*inputs)
    for got, other, expected, bound in zip(fused[1:], plain[1:], want[1:], bounds, strict=True):
        assert got.dtype == other.dtype
        limit = largest_error(other, expected, bound) + 8 * accumulator
        assert largest_error(got, expected, bound) <= limit


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_stored_gradient_is_rounded_to_nearest_once(dtype):
    # All but the few elements that lie so near a tie that float32's own error decides.
    logits, soft_labels, target = batch(8, 1000, dtype, torch.float32)
    # The upstream factor lifts the gradients out of float16's subnormals, which round twice.
    upstream = torch.tensor(256.0)
    options = {"reduction": "sum", "requested": (True, False)}
    want = exact(logits, soft_labels, target, upstream=upstream.double(), **options)
    want = want.logits_grad.to(dtype)
    got = answer(logits, soft_labels, target, upstream=upstream, **options).logits_grad
    assert (got != want).float().mean() < 0.005


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_int32_targets_change_no_bit(reduction):
    logits, soft_labels, target = batch(9, 33)
    target[3] = -100
    torch.testing.assert_close(
        answer(logits, soft_labels, target.int(), reduction=reduction),
        answer(logits, soft_labels, target, reduction=reduction),
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_every_bit_pattern_of_the_inputs_survives(dtype):
    # NaN payloads, subnormals and negative zeros included: the inputs are never written to.
    bits = {8: torch.int64, 4: torch.int32, 2: torch.int16}[dtype.itemsize]
    logits = torch.randint(-(2**15), 2**15, (64, 100)).to(bits).view(dtype)
    soft_labels = torch.randint(-(2**15), 2**15, (64, 100)).to(bits).view(dtype)
    target = torch.randint(100, (64,))
    copies = [
        x.view(bits).clone() if x is not target else x.clone()
        for x in (logits, soft_labels, target)
    ]
    answer(logits, soft_labels, target)
    assert torch.equal(logits.view(bits), copies[0])
    assert torch.equal(soft_labels.view(bits), copies[1])
    assert torch.equal(target, copies[2])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_every_float_of_sixteen_bits_is_read_and_written(dtype):
    # All 65,536 patterns of each half type pass through the kernel's conversions.
    for half in (torch.float16, torch.bfloat16):
        every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(half)
        every = every[every.isfinite() & (every.abs() < 1e18)]
        soft_labels = torch.randn(1, len(every)).to(dtype)
        assert_exact(every[None], soft_labels, torch.tensor([1]), roundings=256)
        rows = torch.stack([every, every.flip(0).roll(7)], 1)[:: 1 if half == torch.float16 else 3]
        assert_exact(rows, torch.ones(len(rows), 2), torch.zeros(len(rows), dtype=torch.int64))


@needs_cpu_kernel
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_ties_round_to_even(dtype):
    # Every number of the type times 1 + half a unit in the last place, exact in float32: odd
    # significands land on a tie. As long rows and as rows of one element.
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    every = every[every.isfinite()]
    for factor in (1 + torch.finfo(dtype).eps / 2, 1 - torch.finfo(dtype).eps / 4, 0.75, 2.0**-9):
        want = (every.float() * factor).to(dtype)
        got = every[None].clone()
        torch.ops.gift_fast.scale_gradient_(got, torch.tensor(factor), None)
        torch.testing.assert_close(got[0], want, rtol=0, atol=0)
        got = every[:, None].clone()
        torch.ops.gift_fast.scale_gradient_(got, torch.tensor(factor), None)
        torch.testing.assert_close(got[:, 0], want, rtol=0, atol=0)
