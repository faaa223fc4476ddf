"""Shapes and memory layouts of the fused loss."""

import pytest
import torch
from expected import FLOATS, Options, answer, assert_exact, batch, needs_cpu_kernel
from torch import Tensor

from gift_fast import gift_loss
from gift_fast.loss.reference import reference_loss

# Around one vector, two, and a block of 4,096, for vectors of 2 to 16 lanes.
CLASS_COUNTS = (
    *(1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 65, 100),
    *(1000, 1001, 4095, 4096, 4097, 8193, 21841),
)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("classes", CLASS_COUNTS)
def test_any_number_of_classes_is_exact(classes, dtype):
    assert_exact(*batch(5, classes, dtype))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("classes", CLASS_COUNTS)
def test_any_number_of_classes_is_exact_with_a_temperature(classes, dtype):
    assert_exact(*batch(5, classes, dtype), Options(soft_label_temperature=2.0))


@pytest.mark.parametrize("classes", [2, 7, 16, 33, 100])
def test_every_class_can_be_the_target(classes):
    logits, soft_labels, _ = batch(classes, classes)
    assert_exact(logits, soft_labels, torch.arange(classes))
    assert_exact(logits, soft_labels, torch.arange(classes), Options(soft_label_temperature=0.5))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("leading", [(), (1,), (6,), (2, 3), (2, 1, 3), (2, 0, 3), (0,)])
def test_leading_dimensions_are_batch_dimensions(leading, reduction):
    logits, soft_labels = torch.randn(2, *leading, 5, dtype=torch.float64)
    target = torch.randint(5, leading)
    got = answer(logits, soft_labels, target, reduction=reduction)
    want = answer(logits, soft_labels, target, reduction=reduction, function=reference_loss)
    assert got.loss.shape == (leading if reduction == "none" else ())
    torch.testing.assert_close(got, want, equal_nan=True)


def test_one_class_has_a_loss_and_no_gradient():
    logits = torch.tensor([[2.0], [-2.0]], dtype=torch.float64)
    got = answer(logits, torch.ones(2, 1), torch.tensor([0, 0]), reduction="none")
    assert got.loss.tolist() == [0.0, 2.0]
    torch.testing.assert_close(got.logits_grad, torch.zeros(2, 1, dtype=torch.float64))


def strided_rows(x: Tensor) -> Tensor:
    return x.repeat_interleave(3, 0)[::3]


def rows_of_a_wider_matrix(x: Tensor) -> Tensor:
    return torch.cat([torch.full_like(x, 9.0), x, torch.full_like(x, 9.0)], -1)[
        :, x.shape[1] : 2 * x.shape[1]
    ]


def columns(x: Tensor) -> Tensor:
    return x.t().contiguous().t()


def every_other_column(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 1)[:, ::2]


def misaligned(x: Tensor) -> Tensor:
    memory = torch.full((x.numel() + 1,), 9.0, dtype=x.dtype)
    memory[1:] = x.flatten()
    return memory[1:].view_as(x)


LAYOUTS = (strided_rows, rows_of_a_wider_matrix, columns, every_other_column, misaligned)


@needs_cpu_kernel
@pytest.mark.parametrize("classes", [5, 100])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_in_memory_changes_no_bit(layout, dtype, classes):
    logits, soft_labels, target = batch(6, classes, dtype)
    want = answer(logits, soft_labels, target)
    for z, s in (
        (layout(logits), soft_labels),
        (logits, layout(soft_labels)),
        (layout(logits), layout(soft_labels)),
    ):
        torch.testing.assert_close(answer(z, s, target), want, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_expanded_rows_are_read_as_many_times(dtype):
    logits, soft_labels, target = batch(6, 33, dtype)
    logits, soft_labels = logits[:1].expand(6, -1), soft_labels[2:3].expand(6, -1)
    torch.testing.assert_close(
        gift_loss(logits, soft_labels, target),
        gift_loss(logits.contiguous(), soft_labels.contiguous(), target),
        rtol=0,
        atol=0,
    )


def test_the_gradient_of_an_expanded_row_sums_over_its_copies():
    row, (_, soft_labels, target) = torch.randn(1, 33, requires_grad=True), batch(6, 33)
    gift_loss(row.expand(6, -1), soft_labels, target).backward()
    copies = answer(row.expand(6, -1).contiguous(), soft_labels, target).logits_grad
    torch.testing.assert_close(row.grad, copies.sum(0, keepdim=True))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32], ids=str)
@pytest.mark.parametrize(
    "layout",
    [lambda y: y.repeat_interleave(2)[::2], lambda y: torch.stack([y, y - 1], 1)[:, 0]],
    ids=["every other", "a column"],
)
def test_a_strided_target_is_read_along_its_stride(layout, dtype):
    logits, soft_labels, target = batch(6, 33)
    want = answer(logits, soft_labels, target)
    got = answer(logits, soft_labels, layout(target.to(dtype)))
    torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_one_target_can_be_expanded_over_the_rows():
    logits, soft_labels, _ = batch(6, 33)
    one = torch.tensor(7)
    torch.testing.assert_close(
        gift_loss(logits, soft_labels, one.expand(6)),
        gift_loss(logits, soft_labels, one.repeat(6)),
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize("temperature", [None, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_batch_that_outgrows_the_cache_has_the_bits_of_its_rows(dtype, temperature):
    # 16 MiB of gradient and more are written past the cache, from each row's first aligned vector.
    logits, soft_labels, target = batch(1050, 4001, dtype)
    options = {"reduction": "none", "soft_label_temperature": temperature}
    whole = answer(logits, soft_labels, target, **options)
    pieces = zip(logits.split(210), soft_labels.split(210), target.split(210), strict=True)
    parts = [answer(*piece, **options) for piece in pieces]
    for x, *pieces_of_x in zip(whole, *parts, strict=True):
        torch.testing.assert_close(x, torch.cat(pieces_of_x), rtol=0, atol=0)


def test_no_row_has_no_loss():
    empty = torch.zeros(0, 5), torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64)
    assert answer(*empty).loss.isnan()
    assert answer(*empty, reduction="sum").loss == 0
    assert answer(*empty, reduction="none").loss.shape == (0,)
    assert answer(*empty).logits_grad.shape == (0, 5)
