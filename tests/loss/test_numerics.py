"""Where rows are hard: bounded norms, cancellation, long rows, magnitudes, NaN and infinity."""

import math

import pytest
import torch
from expected import (
    FLOATS,
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

from gift_fast.loss.reference import smoothed_label_values

FLOAT32_AND_64 = (torch.float32, torch.float64)
LONG_RANGE = (torch.float64, torch.float32, torch.bfloat16)


@pytest.mark.parametrize("temperature", [None, 2.0])
@pytest.mark.parametrize("dtype", FLOAT32_AND_64, ids=str)
@pytest.mark.parametrize("classes", [2, 9, 100])
def test_zero_logits_have_the_loss_one_and_a_finite_gradient(classes, dtype, temperature):
    _, soft_labels, target = batch(4, classes, dtype)
    logits = torch.zeros(4, classes, dtype=dtype)
    assert_exact(logits, soft_labels, target, Options(soft_label_temperature=temperature))
    got = answer(logits, soft_labels, target, reduction="none")
    assert got.loss.tolist() == [1.0] * 4
    assert got.logits_grad.isfinite().all()
    assert got.logits_grad.norm(dim=-1).allclose(torch.tensor(1e8, dtype=dtype))


@pytest.mark.parametrize("gamma", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("dtype", FLOAT32_AND_64, ids=str)
@pytest.mark.parametrize("classes", [2, 9, 100])
def test_zero_soft_labels_have_the_gradient_of_the_bounded_norm(classes, dtype, gamma):
    logits, _, target = batch(4, classes, dtype)
    assert_exact(logits, torch.zeros(4, classes, dtype=dtype), target, Options(gamma=gamma))


@pytest.mark.parametrize("norm", [1e-30, 1e-15, 9.9e-9, 1.01e-8, 1e-7])
@pytest.mark.parametrize("dtype", LONG_RANGE, ids=str)
def test_logits_near_and_below_their_bound_are_exact(dtype, norm):
    logits, soft_labels, target = batch(4, 33, torch.float64)
    logits = (logits / logits.norm(dim=-1, keepdim=True) * norm).to(dtype)
    assert_exact(logits, soft_labels.to(dtype), target)


@pytest.mark.parametrize("gamma", [0.1, 0.5])
@pytest.mark.parametrize("norm", [1e-30, 1e-15, 9.9e-13, 1.01e-12, 1e-11])
@pytest.mark.parametrize("dtype", LONG_RANGE, ids=str)
def test_soft_labels_near_and_below_their_bound_are_exact(dtype, norm, gamma):
    logits, soft_labels, target = batch(4, 33, torch.float64)
    soft_labels = (soft_labels / soft_labels.norm(dim=-1, keepdim=True) * norm).to(dtype)
    assert_exact(logits.to(dtype), soft_labels, target, Options(gamma=gamma))


def test_a_refined_label_below_its_bound_is_divided_by_the_bound():
    # gamma = 0 and |s| = 1e-21: s is divided by 1e-12, |t| = 1e-9 by 1e-8.
    logits, soft_labels, target = batch(4, 33, torch.float64)
    soft_labels = soft_labels / soft_labels.norm(dim=-1, keepdim=True) * 1e-21
    assert_exact(logits, soft_labels, target, Options(gamma=0.0))
    assert_exact(logits.float(), soft_labels.float(), target, Options(gamma=0.0))


@needs_cpu_kernel
@pytest.mark.parametrize("noise", [0.0, 1e-8, 1e-4, 1e-2, 0.03, 0.3])
@pytest.mark.parametrize("classes", [3, 33, 1000])
def test_soft_labels_that_point_away_from_the_hard_one_do_not_cancel_to_nan(classes, noise):
    # t = (h + s)/2 nearly vanishes: |t|^2 by its closed form is negative here as often as not.
    on_target, elsewhere = smoothed_label_values(classes, 0.1, "uniform")
    target = torch.arange(8) % classes
    hard = torch.full((8, classes), elsewhere, dtype=torch.float64)
    hard[torch.arange(8), target] = on_target
    soft_labels = (-hard + noise * torch.randn(8, classes, dtype=torch.float64)).float()
    logits = torch.randn(8, classes)
    got = answer(logits, soft_labels, target, gamma=0.5, reduction="none")
    want = exact(logits, soft_labels, target, gamma=0.5, reduction="none")
    assert all(x.isfinite().all() for x in got)
    bounds = gradient_bounds(logits, soft_labels, target, Options(gamma=0.5))
    if noise:
        # The answer itself moves with the last bit of s: 1e-16 / |t| in float64.
        t_norm = (0.5 / bounds[1] / soft_labels.double().norm(dim=-1, keepdim=True)).min().item()
        tolerance = 16 * ROUNDING[torch.float32] + 1e-15 / t_norm
        assert (got.loss - want.loss).abs().max() < tolerance
        for gradient, expected, bound in zip(got[1:], want[1:], bounds, strict=True):
            assert largest_error(gradient, expected, bound) < tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_constant_row_of_a_million_is_summed_in_blocks(dtype):
    # One float32 sum over it stops growing: off by 5e-4. Equal elements all round the same way, so
    # a block of 4,096 in 8 lanes and more may be off by as much as 512 roundings, 3e-5.
    logits = torch.full((2, 1_000_000), 0.7).to(dtype)
    logits[1, ::2] = -0.3
    soft_labels, target = torch.full_like(logits, 0.1), torch.tensor([3, 999_999])
    for temperature in (None, 1.0):
        options = Options(soft_label_temperature=temperature)
        assert_exact(logits, soft_labels, target, options, roundings=512)


@needs_cpu_kernel
@pytest.mark.parametrize("exponent", [-30, -20, -13, -6, 0, 6, 12, 18, 25, 30, 36])
@pytest.mark.parametrize("dtype", LONG_RANGE, ids=str)
@pytest.mark.parametrize("which", ["logits", "soft_labels", "both"])
def test_row_norms_of_any_magnitude_are_exact(which, dtype, exponent):
    logits, soft_labels, target = (x.double() for x in batch(4, 33))
    if which != "soft_labels":
        logits = logits / logits.norm(dim=-1, keepdim=True) * 10.0**exponent
    if which != "logits":
        soft_labels = soft_labels / soft_labels.norm(dim=-1, keepdim=True) * 10.0**exponent
    assert_exact(logits.to(dtype), soft_labels.to(dtype), target.long())


@needs_cpu_kernel
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_largest_and_smallest_numbers_of_a_type_are_exact(dtype):
    info = torch.finfo(dtype)
    # The square of float64's largest is infinite in any type: 1e150 stands for it.
    largest = min(info.max, 1e150)
    logits, soft_labels, target = batch(4, 33, torch.float64)
    unit = (logits / logits.abs().amax(-1, keepdim=True)).clamp(-0.99, 0.99)
    assert_exact((unit * largest).to(dtype), soft_labels.to(dtype), target)
    assert_exact((unit * info.smallest_normal).to(dtype), soft_labels.to(dtype), target)


def test_rows_of_different_magnitudes_do_not_touch_each_other():
    logits, soft_labels, target = batch(5, 33)
    scales = torch.tensor([1e-20, 1.0, 1e15, 1e-3, 1e18]).unsqueeze(-1)
    assert_exact(logits * scales, soft_labels * scales.flip(0), target)


@pytest.mark.parametrize("position", [0, 17, 32])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", ["logits", "soft_labels"])
@pytest.mark.parametrize("temperature", [None, 2.0])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_nan_and_infinity_stay_in_their_row(dtype, temperature, which, value, position):
    logits, soft_labels, target = batch(5, 33, dtype)
    options = {"reduction": "none", "soft_label_temperature": temperature}
    before = answer(logits, soft_labels, target, **options)
    {"logits": logits, "soft_labels": soft_labels}[which][2, position] = value
    after = answer(logits, soft_labels, target, **options)
    others = [0, 1, 3, 4]
    for x, y in zip(after, before, strict=True):
        torch.testing.assert_close(x[others], y[others], rtol=0, atol=0)
    masked_class = which == "soft_labels" and temperature is not None and value == -math.inf
    assert after.loss[2].isnan() != masked_class
    assert after.logits_grad[2].isnan().all() != masked_class


@pytest.mark.parametrize("pattern", [0x7FFFFFFF, 0x7F800001, -1])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_nan_of_any_payload_is_not_rounded_to_a_number(dtype, pattern):
    # Rounding 0x7fffffff to sixteen bits by an addition carries into the sign: minus zero.
    nan = torch.tensor(pattern, dtype=torch.int32).view(torch.float32)
    logits, soft_labels, target = batch(5, 33, dtype, torch.float32)
    soft_labels[2] = nan
    got = answer(logits, soft_labels, target, requested=(True, False), reduction="none")
    assert got.logits_grad[2].isnan().all()
    assert answer(*batch(5, 33, dtype), upstream=nan.to(got.loss.dtype)).logits_grad.isnan().all()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_score_of_minus_infinity_is_a_class_without_probability(dtype):
    logits, soft_labels, target = batch(5, 33, dtype)
    soft_labels[:, 4] = -math.inf
    soft_labels[1, 0] = -math.inf
    assert_exact(logits, soft_labels, target, Options(soft_label_temperature=2.0))
    got = answer(logits, soft_labels, target, soft_label_temperature=2.0)
    assert (got.soft_labels_grad[:, 4] == 0).all()


@needs_cpu_kernel
@pytest.mark.parametrize("temperature", [1e-40, 1e-3, 1e6, 1e300])
def test_extreme_temperatures_are_exact(temperature):
    logits, soft_labels, target = batch(5, 33)
    # A bound on the gradient of the soft labels says nothing at 1/T = 1e40: float64 is far.
    named = {"soft_label_temperature": temperature, "reduction": "none"}
    got = answer(logits, soft_labels, target, **named)
    want = exact(logits, soft_labels, target, **named)
    torch.testing.assert_close(got.loss, want.loss.float(), rtol=0, atol=1e-6)
    torch.testing.assert_close(got.logits_grad, want.logits_grad.float(), rtol=1e-5, atol=1e-6)
    impossible = torch.softmax(soft_labels.double() / temperature, -1) == 0
    assert (got.soft_labels_grad[impossible] == 0).all()
    if temperature > 1e-30:
        torch.testing.assert_close(
            got.soft_labels_grad, want.soft_labels_grad.float(), rtol=1e-3, atol=1e-6 / temperature
        )


@pytest.mark.parametrize("spread", [10.0, 100.0, 1e4])
def test_peaked_scores_are_exact(spread):
    logits, soft_labels, target = batch(5, 33)
    assert_exact(
        logits,
        soft_labels * spread,
        target,
        Options(soft_label_temperature=1.0),
        roundings=16 + 3 * spread,
    )


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_an_ignored_row_may_hold_anything(dtype):
    logits, soft_labels, target = batch(5, 33, dtype)
    target[1] = target[3] = -100
    before = answer(logits, soft_labels, target)
    logits[1], soft_labels[3] = math.nan, math.inf
    after = answer(logits, soft_labels, target)
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert (after.logits_grad[[1, 3]] == 0).all()
    assert (after.soft_labels_grad[[1, 3]] == 0).all()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_mean_over_no_valid_row_is_nan_and_its_gradient_zero(dtype):
    logits, soft_labels, _ = batch(5, 33, dtype)
    got = answer(logits, soft_labels, torch.full((5,), -100))
    assert got.loss.isnan()
    assert (got.logits_grad == 0).all()
    assert (got.soft_labels_grad == 0).all()


@pytest.mark.parametrize("scale", [1e-4, 1e-2, 0.5])
def test_near_a_perfect_match_the_error_stays_a_few_roundings(scale):
    # cos goes to 1, the gradient to 0: what is left is rounding, bounded by the row's weight / |z|.
    _, soft_labels, target = batch(5, 33)
    logits = soft_labels + scale * torch.randn(5, 33)
    assert_exact(logits, soft_labels, target, Options(gamma=0.0))
