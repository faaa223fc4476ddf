"""The Triton kernels in the interpreter against float64. Run by test_triton.py, in its own process.

Their plugin ``triton_on_cpu`` makes them the kernels of the CPU, so a test here calls the public
loss. The interpreter takes a third of a second a call: batches are small and hold many cases.
"""

import math

import pytest
import torch
import triton
import triton.language as tl
from expected import (
    ROUNDING,
    Options,
    answer,
    assert_exact,
    batch,
    exact,
    gradient_bounds,
    largest_error,
)
from expected_top_k import assert_exact as assert_top_k_exact
from expected_top_k import differentiated, top_k_batch
from expected_top_k import exact as exact_top_k

from gift_fast import TopKLabels, gift_loss
from gift_fast.loss import self_check
from gift_fast.loss.reference import smoothed_label_values
from gift_fast.loss.triton_kernels import launch, row, rows_kernel, top_k_kernel

F64, F32, BF16, F16 = torch.float64, torch.float32, torch.bfloat16, torch.float16


@pytest.mark.parametrize("classes", [1, 2, 3, 31, 32, 33, 127, 128, 129, 1000, 1001, 4096, 4097])
@pytest.mark.parametrize("dtypes", [(F32, F32), (BF16, BF16), (F16, F32), (BF16, F16)], ids=str)
def test_every_length_of_a_row_is_exact(classes, dtypes):
    # 9 rows are a program and one row more, of the shortest.
    rows = 9 if classes < 1000 else 2
    assert_exact(*batch(rows, classes, *dtypes))


@pytest.mark.parametrize("classes", [16384, 16385, 21841])
@pytest.mark.parametrize("dtypes", [(F32, F32), (BF16, F32)], ids=str)
@pytest.mark.parametrize("temperature", [None, 2.0])
def test_rows_about_the_longest_that_is_held_are_exact(classes, dtypes, temperature):
    assert_exact(*batch(2, classes, *dtypes), Options(soft_label_temperature=temperature))


@pytest.mark.parametrize("classes", [1, 33, 1001, 17001])
@pytest.mark.parametrize("soft_labels", [F64, BF16])
@pytest.mark.parametrize("temperature", [None, 0.5])
def test_float64_logits_are_summed_in_float64(classes, soft_labels, temperature):
    inputs = batch(2, classes, F64, soft_labels)
    assert_exact(*inputs, Options(soft_label_temperature=temperature))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("label_smoothing", [0.0, 1.0])
@pytest.mark.parametrize("smoothing", ["uniform", "others"])
@pytest.mark.parametrize("temperature", [None, 4.0])
def test_every_option_is_exact(gamma, label_smoothing, smoothing, temperature):
    options = Options(gamma, label_smoothing, smoothing, temperature)
    assert_exact(*batch(3, 33, F32), options)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("target_dtype", [torch.int64, torch.int32])
@pytest.mark.parametrize("classes", [10, 1001])
def test_ignored_rows_have_no_part_in_it_whatever_they_hold(reduction, target_dtype, classes):
    logits, soft_labels, target = batch(6, classes)
    logits[1], soft_labels[4], target[[1, 4]] = math.nan, math.inf, -7
    target = target.to(target_dtype)
    named = {"reduction": reduction, "ignore_index": -7}
    upstream = torch.randn(6) if reduction == "none" else torch.tensor(3.0)
    got = answer(logits, soft_labels, target, upstream=upstream, **named)
    want = exact(logits, soft_labels, target, upstream=upstream.double(), **named)
    for x, y in zip(got, want, strict=True):
        torch.testing.assert_close(x, y.float(), rtol=1e-5, atol=1e-6)
    assert (got.logits_grad[[1, 4]] == 0).all()
    assert (got.soft_labels_grad[[1, 4]] == 0).all()


def test_a_batch_without_a_valid_row_has_the_mean_nan_and_gradients_of_zero():
    logits, soft_labels, target = batch(4, 10, F16)
    got = answer(logits, soft_labels, torch.full_like(target, -100))
    assert got.loss.isnan()
    assert (got.logits_grad == 0).all()
    assert (got.soft_labels_grad == 0).all()
    assert gift_loss(logits[:0], soft_labels[:0], target[:0]).isnan()
    assert gift_loss(logits[:0], soft_labels[:0], target[:0], reduction="none").shape == (0,)


@pytest.mark.parametrize("requested", [(True, False), (False, True), (False, False)])
def test_what_is_not_asked_for_does_not_change_the_rest(requested):
    inputs = batch(3, 129, F16)
    everything, some = answer(*inputs), answer(*inputs, requested=requested)
    assert some.loss == everything.loss
    for x, y, wanted in zip(some[1:], everything[1:], requested, strict=True):
        assert torch.equal(x, y) if wanted else x is None


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_strided_shifted_and_transposed_rows_are_exact(dtype):
    logits, soft_labels, target = batch(4, 1016, dtype)
    targets = torch.stack((target, target), -1).clamp(max=999)[:, 0]
    for begin, classes in ((0, 1000), (1, 1000), (8, 1001), (3, 1001)):
        columns = slice(begin, begin + classes)
        assert_exact(logits[:, columns], soft_labels[:, columns].contiguous(), targets)
    for begin in (0, 1):  # rows that begin anywhere, of one tensor and of a part of it
        z, s, y = batch(5, 1001, dtype)
        assert_exact(z[begin:], s[begin:], y[begin:])
    assert_exact(logits.T[:4], soft_labels[:1].T[:4].expand(4, 4), targets % 4)


@pytest.mark.parametrize("classes", [33, 1001, 17001])
@pytest.mark.parametrize("temperature", [None, 2.0])
def test_nan_and_infinity_stay_in_their_row(classes, temperature):
    logits, soft_labels, target = batch(6, classes, BF16)
    options = {"reduction": "none", "soft_label_temperature": temperature}
    before = answer(logits, soft_labels, target, **options)
    logits[1, 0], logits[2, classes - 1] = math.nan, -math.inf
    soft_labels[4, 7], soft_labels[5] = math.inf, -math.inf
    after = answer(logits, soft_labels, target, **options)
    for x, y in zip(after, before, strict=True):
        assert torch.equal(x[[0, 3]], y[[0, 3]])
    assert after.loss[[1, 2, 4, 5]].isnan().all()
    assert after.logits_grad[[1, 2, 4, 5]].isnan().all()


@pytest.mark.parametrize("classes", [33, 1001, 17001])
def test_a_score_of_minus_infinity_is_a_class_without_probability(classes):
    logits, soft_labels, target = batch(2, classes)
    soft_labels[:, : classes // 2] = -math.inf  # whole blocks of a long row
    assert_exact(logits, soft_labels, target, Options(soft_label_temperature=2.0))


@pytest.mark.parametrize("classes", [3, 33, 1001, 17001])
@pytest.mark.parametrize("noise", [1e-8, 1e-4, 0.03])
def test_soft_labels_that_point_away_from_the_hard_one_do_not_cancel_to_nan(classes, noise):
    on_target, elsewhere = smoothed_label_values(classes, 0.1, "uniform")
    target = torch.arange(2) % classes
    hard = torch.full((2, classes), elsewhere, dtype=F64)
    hard[torch.arange(2), target] = on_target
    soft_labels = (-hard + noise * torch.randn(2, classes, dtype=F64)).float()
    logits = torch.randn(2, classes)
    got = answer(logits, soft_labels, target, gamma=0.5, reduction="none")
    want = exact(logits, soft_labels, target, gamma=0.5, reduction="none")
    bounds = gradient_bounds(logits, soft_labels, target, Options(gamma=0.5))
    # The answer itself moves with the last bit of s: 1e-16 / |t| in float64.
    t_norm = (0.5 / bounds[1] / soft_labels.double().norm(dim=-1, keepdim=True)).min().item()
    tolerance = 1e-6 + 1e-15 / t_norm
    assert (got.loss - want.loss).abs().max() < tolerance
    for gradient, expected, bound in zip(got[1:], want[1:], bounds, strict=True):
        assert largest_error(gradient, expected, bound) < tolerance


@pytest.mark.parametrize("which", ["logits", "soft_labels", "both"])
@pytest.mark.parametrize("classes", [33, 1001])
def test_row_norms_of_any_magnitude_are_exact(which, classes):
    exponents = torch.tensor([-30, -20, -13, -6, 0, 6, 13, 18, 30, 36], dtype=F64)
    logits, soft_labels, target = (x.double() for x in batch(10, classes))
    logits /= logits.norm(dim=-1, keepdim=True)
    soft_labels /= soft_labels.norm(dim=-1, keepdim=True)
    scale = 10 ** exponents.unsqueeze(-1)
    logits = logits * (scale if which != "soft_labels" else 1)
    soft_labels = soft_labels * (scale if which != "logits" else 1)
    assert_exact(logits.float(), soft_labels.float(), target.long())


@pytest.mark.parametrize("dtype", [F32, F16], ids=str)
@pytest.mark.parametrize("classes", [33, 17001])
def test_zero_rows_are_exact(classes, dtype):
    logits, soft_labels, target = batch(4, classes, dtype)
    logits[1], soft_labels[2], logits[3], soft_labels[3] = 0, 0, 0, 0
    for gamma in (0.0, 0.1, 1.0):
        assert_exact(logits, soft_labels, target, Options(gamma=gamma))


def test_a_long_constant_row_is_summed_in_blocks():
    logits = torch.full((1, 300_000), 0.7)
    # Equal elements round the same way: a block may be off by 512 roundings, as on the CPU.
    assert_exact(logits, torch.full_like(logits, 0.1), torch.tensor([299_999]), roundings=512)


def test_float16_gradients_survive_a_gradient_scaler():
    logits, soft_labels, target = batch(3, 1001, F16)
    upstream = torch.tensor(2.0**16)
    got = answer(logits, soft_labels, target, upstream=upstream)
    want = exact(logits, soft_labels, target, upstream=upstream.double())
    for x, y in zip(got[1:], want[1:], strict=True):
        torch.testing.assert_close(x.double(), y, rtol=2e-3, atol=1e-4 * y.abs().max().item())
        assert (x != 0).double().mean() > 0.99


def assert_close(got, want):
    """Against float64's answer, in units of the largest element of each row."""
    torch.testing.assert_close(got.loss.double(), want.loss, rtol=1e-5, atol=1e-6, equal_nan=True)
    for x, y in zip(got[1:], want[1:], strict=True):
        assert x.shape == y.shape
        assert x.is_contiguous()
        largest = y.abs().amax(-1, keepdim=True)
        assert largest_error(x, y, largest) < 1e-5 + 4 * ROUNDING[x.dtype]
        assert (x[largest.expand_as(x) == 0] == 0).all()


def mixed_batch(classes, *dtypes):
    """Seven rows with two labels, one label twice, one of the two ignored, and both ignored."""
    logits, soft_labels, target = batch(7, classes, *dtypes)
    other = (target + torch.arange(7)) % classes
    target[[2, 4]], other[[3, 4]] = -100, -100
    return logits, soft_labels, target, other


OF_ROWS = torch.tensor([0.3, 0.9, 0.25, 0.6, 0.5, 0.0, 1.0])


@pytest.mark.parametrize(
    ("classes", "dtypes", "reduction", "weight", "temperature"),
    [
        (10, (F16, F16), "mean", OF_ROWS, None),
        (33, (F32, BF16), "sum", 0.3, 2.0),
        (1001, (BF16, F16), "none", OF_ROWS, 2.0),
        (4097, (F32, F32), "mean", torch.tensor(0.7, dtype=F64), None),
        (16500, (F32, F32), "none", OF_ROWS.double(), 2.0),
        (16500, (F32, F32), "mean", OF_ROWS, None),
        (1001, (F64, F32), "mean", OF_ROWS, None),
    ],
    ids=str,
)
def test_mixed_labels_are_exact(classes, dtypes, reduction, weight, temperature):
    logits, soft_labels, target, other = mixed_batch(classes, *dtypes)
    named = {
        "other_target": other,
        "reduction": reduction,
        "soft_label_temperature": temperature,
        "upstream": torch.arange(1.0, 8) if reduction == "none" else torch.tensor(3.0),
    }
    of_float64 = weight.double() if isinstance(weight, torch.Tensor) else weight
    got = answer(logits, soft_labels, target.int(), target_weight=weight, **named)
    named["upstream"] = named["upstream"].double()
    assert_close(got, exact(logits, soft_labels, target, target_weight=of_float64, **named))


@pytest.mark.parametrize("classes", [33, 16500])
def test_mixed_labels_do_not_cancel(classes):
    logits, soft_labels, target, other = mixed_batch(classes)
    on_target, elsewhere = smoothed_label_values(classes, 0.1, "uniform")
    hard = torch.full((7, classes), elsewhere, dtype=F64)
    hard[torch.arange(7), other.clamp(min=0)] = on_target  # t of the second label nearly vanishes
    soft_labels = (-hard + 0.03 * torch.randn(7, classes, dtype=F64) / classes**0.5).float()
    named = {"gamma": 0.5, "other_target": other, "target_weight": 0.4}
    got = answer(logits, soft_labels, target, **named)
    assert_close(got, exact(logits, soft_labels, target, **named))


def test_mixed_labels_of_no_valid_row_have_the_mean_nan():
    logits, soft_labels, target, other = mixed_batch(10)
    named = {"other_target": torch.full_like(other, -100), "target_weight": 0.3}
    got, want = (f(logits, soft_labels, target, **named) for f in (answer, exact))
    assert got.loss.isnan()
    assert_close(got, want)
    wrong = other.clone()
    wrong[1] = 10
    with pytest.raises(RuntimeError, match=r"other_target must be a class in \[0, 10\)"):
        gift_loss(logits, soft_labels, target, wrong, 0.3)


# ---- top-k labels ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "k", "dtypes", "rest", "named"),
    [
        (10, 1, (F32, F32, F32), "min", {}),  # several rows a program
        (10, 10, (F16, BF16, F32), "uniform", {"reduction": "none"}),  # k = C
        (10, 9, (F32, F16, F32), "zero", {}),  # few other classes
        (33, 20, (BF16, F32, BF16), "min", {"soft_label_temperature": 2.0}),
        (100, 5, (F16, F16, F16), "-inf", {"soft_label_temperature": 0.5}),
        (1000, 10, (BF16, F16, F32), "uniform", {"reduction": "sum"}),
        (1001, 10, (F32, F64, F32), "zero", {"gamma": 0.5, "smoothing": "others"}),  # realigned
        (1001, 70, (F32, F32, F64), "logmeanexp", {"soft_label_temperature": 2.0}),  # in blocks
        (16500, 600, (F16, F16, F16), "uniform", {}),  # and in a row that is not held
        (16501, 10, (BF16, F32, F32), "-inf", {"soft_label_temperature": 2.0}),
        (33, 4, (F64, F64, F64), "min", {"soft_label_temperature": 2.0}),
        (1001, 10, (F64, F32, F32), "uniform", {}),
    ],
    ids=str,
)
def test_top_k_labels_are_exact(classes, k, dtypes, rest, named):
    indices = (torch.int16, torch.int32, torch.int64)[k % 3]
    # 9 rows are a program and one row more, of the shortest.
    rows = 9 if classes < 100 else 3
    inputs = top_k_batch(classes, k, dtypes, rest=rest, rows=rows, indices=indices)
    assert_top_k_exact(*inputs, **named)


@pytest.mark.parametrize(
    ("classes", "k", "dtypes", "temperature"),
    [
        (10, 4, (F16, F16, F16), None),
        (37, 5, (F64, F64, F64), 2.0),
        (1001, 70, (BF16, F32, F32), 2.0),
        (16500, 10, (F32, F32, F32), None),
    ],
    ids=str,
)
def test_mixed_top_k_labels_are_exact(classes, k, dtypes, temperature):
    logits, labels, target = top_k_batch(classes, k, dtypes, rows=6)
    other = target.roll(2)
    other[0], other[3] = target[0], int(labels.indices[3, 0])  # equal labels; a kept one
    other[4] = target[4]
    target[5] = -100
    for weight in (torch.linspace(0, 1, 6), 0.3):
        named = {"soft_label_temperature": temperature}
        assert_top_k_exact(logits, labels, target, other, weight, **named)


def assert_close_in_logits(logits, labels, target, **named):
    """The loss and the gradient of the logits, in units of the largest element of each row."""
    loss, (gradient, *_) = differentiated(gift_loss, logits, labels, target, **named)
    want, (expected, *_) = exact_top_k(logits, labels, target, **named)
    torch.testing.assert_close(loss.double(), want, rtol=0, atol=1e-6)
    assert largest_error(gradient, expected, expected.abs().amax(-1, keepdim=True)) < 2e-6


@pytest.mark.parametrize(("classes", "k"), [(10, 4), (1001, 40), (16500, 8)])
def test_top_k_labels_that_point_away_from_the_hard_one_do_not_cancel(classes, k):
    on_target, elsewhere = smoothed_label_values(classes, 0.1, "uniform")
    kept = torch.stack([torch.randperm(classes)[:k] for _ in range(2)])
    target = kept[:, -1]
    hard = torch.full((2, classes), elsewhere).scatter(1, target[:, None], on_target)
    values = -hard.gather(1, kept) * (1 + 1e-4 * torch.randn(2, k))
    labels = TopKLabels(values, kept, torch.full((2,), -elsewhere * 1.001))
    assert_close_in_logits(torch.randn(2, classes), labels, target, gamma=0.5)


def test_a_rest_above_all_values_is_the_largest_score():
    logits, labels, target = top_k_batch(33, 4)
    labels = labels._replace(rest=labels.rest + 200)
    assert_close_in_logits(logits, labels, target, soft_label_temperature=0.5)


def test_one_class_that_is_not_kept_is_no_small_difference_of_large_sums():
    classes = 1001
    indices = torch.arange(1, classes).expand(2, -1)
    labels = TopKLabels(torch.full((2, classes - 1), 0.01), indices, torch.full((2,), 30.0))
    assert_close_in_logits(torch.full((2, classes), 0.7), labels, torch.tensor([0, 5]))


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e14, 1e30])
def test_logits_of_any_magnitude_with_top_k_labels(scale):
    for classes, k in ((10, 3), (1001, 10)):
        logits, labels, target = top_k_batch(classes, k, rows=4)
        logits[::2] *= scale
        assert_close_in_logits(logits, labels, target)


@pytest.mark.parametrize("classes", [10, 1001])
def test_rows_that_are_ignored_or_broken_reach_no_other(classes):
    logits, labels, target = top_k_batch(classes, 4)
    logits[1], labels.values[1], labels.rest[1], labels.indices[1] = *(math.nan,) * 3, 10**9
    before = differentiated(gift_loss, logits, labels, target, reduction="none")
    labels.values[2, 1], labels.rest[4], logits[6, 0] = (math.nan,) * 3
    after = differentiated(gift_loss, logits, labels, target, reduction="none")
    for x, y in ((after[0], before[0]), (after[1][0], before[1][0])):
        assert torch.equal(x[[0, 1, 3, 5, 7, 8]], y[[0, 1, 3, 5, 7, 8]])
        assert (x[1] == 0).all()
        assert x[[2, 4, 6]].isnan().all()


VALUES, INDICES = [[0.5, 0.25], [0.75, 0.25]], [[0, 1], [2, 1]]


@pytest.mark.parametrize(
    ("values", "indices", "rest", "message"),
    [
        (VALUES, [[0, 1], [3, 1]], None, r"indices must be classes in \[0, 3\)"),
        (VALUES, [[0, 1], [2, -1]], [0.0, 1.0], r"indices must be classes in \[0, 3\)"),
        ([[0.5, 0.5], [0.75, 0.5]], INDICES, None, "values must be probabilities for rest=None"),
        ([[0.5, 0.5], [0.75, -0.5]], INDICES, None, "values must be probabilities for rest=None"),
        (VALUES, INDICES, [0.0, -math.inf], "rest must be finite without soft_label_temperature"),
    ],
)
def test_top_k_labels_that_are_none_trip_the_assert(values, indices, rest, message):
    fields = torch.tensor(values), torch.tensor(indices)
    labels = TopKLabels(*fields, None if rest is None else torch.tensor(rest))
    logits = torch.randn(2, 3)
    with pytest.raises(RuntimeError, match=message):
        gift_loss(logits, labels, torch.tensor([0, 1]))
    assert gift_loss(logits, labels, torch.tensor([0, -100])).isfinite()


class Spy:
    """A kernel that says where the logits and soft labels of its launch are."""

    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        def launched(*arguments, **keywords):
            self.pointers = [x.data_ptr() for x in arguments[:3]]
            self.kernel[grid](*arguments, **keywords)

        return launched


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize(("classes", "dtype"), [(10, F16), (1000, BF16), (1001, F32)], ids=str)
def test_slices_are_read_where_they_are(classes, dtype, mixed, monkeypatch):
    spy = Spy(launch.rows_kernel)
    monkeypatch.setattr(launch, "rows_kernel", spy)
    logits, soft_labels, target = (x.unflatten(0, (2, 4)) for x in batch(8, classes, dtype, dtype))
    target[0, 2] = -100
    weights = torch.linspace(0, 1, 8).reshape(2, 4)
    inputs = logits[:, :-1], soft_labels[:, :3], target[:, 1:]
    named = {"reduction": "none", "upstream": torch.arange(1.0, 7).reshape(2, 3)}
    if mixed:
        named |= {"other_target": target[:, :-1], "target_weight": weights[:, 1:]}
    got = answer(*inputs, **named)
    assert spy.pointers[:2] == [x.data_ptr() for x in inputs[:2]]
    named["upstream"] = named["upstream"].double()
    if mixed:
        named["target_weight"] = named["target_weight"].double()
    assert_close(got, exact(*inputs, **named))


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize(("classes", "dtype"), [(10, F16), (1001, F32)], ids=str)
def test_slices_and_strides_with_top_k_labels_are_exact(classes, dtype, mixed, monkeypatch):
    spy = Spy(launch.top_k_kernel)
    monkeypatch.setattr(launch, "top_k_kernel", spy)
    logits, labels, target = top_k_batch(classes, 4, (dtype,) * 3, rows=8)
    logits, target, *fields = (x.unflatten(0, (2, 4)) for x in (logits, target, *labels))
    shifted = TopKLabels(*(x[:, 1:] for x in fields))
    others = (target[:, :-1], torch.linspace(0, 1, 8).reshape(2, 4)[:, 1:]) if mixed else ()
    assert_top_k_exact(logits[:, :-1], shifted, target[:, 1:], *others, reduction="none")
    assert spy.pointers[0] == logits.data_ptr()
    # Labels with gaps between their rows, where they are.
    values, indices = torch.randn(6, 9).to(dtype), torch.arange(54).view(6, 9) % classes
    labels = TopKLabels(values[:, 2:6], indices[:, 2:6], torch.randn(12).to(dtype)[::2])
    assert_top_k_exact(logits[0, :1].expand(6, -1), labels, torch.arange(6))
    assert spy.pointers == [x.data_ptr() for x in (logits, *labels[:2])]


@pytest.mark.parametrize("dtype", [F64, F32, BF16, F16], ids=str)
@pytest.mark.parametrize("classes", [7, 2048, 2999])
def test_gradients_are_scaled_in_place(dtype, classes):
    scale_ = torch.ops.gift_fast.scale_gradient_
    grad = torch.randn(5, classes).to(dtype)
    rows, powers = torch.randn(5), 2.0 ** torch.arange(5)
    for upstream in (torch.tensor(3.0), torch.tensor(0.3, dtype=F64), rows, rows[:1].expand(5)):
        for scale in (None, powers):
            scaled = grad.clone()
            scale_(scaled, upstream, scale)
            factor = upstream.double().expand(5) * (1 if scale is None else scale)
            want = grad.double() * factor.unsqueeze(-1)
            if dtype != F64:
                want = (grad.float() * factor.float().unsqueeze(-1)).to(dtype)
            assert torch.equal(scaled, want)


@pytest.mark.parametrize("wrong", [-1, 10, 2**31 - 1])
def test_a_target_that_is_no_class_trips_the_assert(wrong):
    logits, soft_labels, target = batch(3, 10)
    target[1] = wrong
    with pytest.raises(RuntimeError, match=r"target must be a class in \[0, 10\)"):
        gift_loss(logits, soft_labels, target)


# ---- the self-check, with faults in the kernels --------------------------------------------------


def failures():
    return self_check._in_a_thread(("triton", torch.device("cpu")), self_check.QUICK)


def test_the_kernels_pass_the_self_check():
    assert failures() == []


@triton.jit
def products_without_the_mixed_term(sums, s, gamma):
    soft = (1.0 - gamma) * s.inverse
    return gamma * sums.zh + soft * sums.zs, gamma * gamma + soft * (soft * sums.ss)


@triton.jit
def gradient_of_the_wrong_sign_at_the_target(options, cosine, z, s, t):
    towards_t = -options.weight * z.inverse * t.inverse
    own = tl.where(z.bounded, 0.0, options.weight * cosine * z.inverse * z.inverse)
    hard = towards_t * options.gamma
    return row.Coefficients(
        towards_t * (1.0 - options.gamma) * s.inverse,
        own,
        hard * options.elsewhere,
        hard * (options.elsewhere - options.on_target),
    )


@triton.jit
def gradient_without_the_label(index, s, z, y, other_y, k, at_other):
    return k.own * z + k.all + tl.where(index == y, k.target, 0.0)


@triton.jit
def not_scaled(k, scale):
    return k


class Launch:
    """A kernel whose launch fails, or is lost."""

    def __init__(self, error=None):
        self.error = error

    def __getitem__(self, grid):
        return self

    def __call__(self, *arguments, **keywords):
        if self.error is not None:
            raise self.error


FAULTS = {
    "|t|": (rows_kernel, "products", products_without_the_mixed_term, "the loss is off by"),
    "the target's element": (
        row,
        "logits_gradient",
        gradient_of_the_wrong_sign_at_the_target,
        "the gradient of the logits is off by",
    ),
    "kept classes": (
        top_k_kernel,
        "_gradient_at",
        gradient_without_the_label,
        "float16 and float32, reduction mean, soft_label_temperature None, top-5 labels",
    ),
    "float16's factor": (row, "scaled", not_scaled, "float16"),
    "a launch": (
        launch,
        "rows_kernel",
        Launch(RuntimeError("Triton Error [CUDA]: device kernel image is invalid")),
        "RuntimeError: Triton Error [CUDA]: device kernel image is invalid",
    ),
    "a compiler": (
        launch,
        "targets_kernel",
        Launch(OSError("ptxas is not there")),
        "ptxas is not there",
    ),
    "a factor that is not applied": (
        launch,
        "scale_kernel",
        Launch(),
        "the gradient of the logits is off",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_by_the_self_check(fault, monkeypatch):
    module, name, wrong, words = FAULTS[fault]
    monkeypatch.setattr(module, name, wrong)
    (failure,) = failures()
    assert words in failure.reason
    assert not failure.device_lost
