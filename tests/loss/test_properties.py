"""What holds for every row: hypothesis draws the shapes, types, layouts, magnitudes and options."""

import torch
from expected import (
    FLOATS,
    ROUNDING,
    Options,
    answer,
    assert_exact,
    gradient_bounds,
    largest_error,
    needs_cpu_kernel,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from gift_fast import gift_loss
from gift_fast.loss.reference import compute_dtype

examples = settings(max_examples=150, deadline=None, derandomize=True)

classes = st.one_of(st.integers(2, 70), st.integers(2, 3000))
options = st.builds(
    Options,
    gamma=st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, 1.0]),
    label_smoothing=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    smoothing=st.sampled_from(["uniform", "others"]),
    soft_label_temperature=st.sampled_from([None, None, 0.7, 4.0]),
)


@st.composite
def matrices(draw, rows, count, dtype):
    """(rows, count) of random numbers: some rows zero, some large or small, in any layout."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    x = torch.randn(rows, count, generator=generator, dtype=torch.float64)
    largest = 3 if dtype == torch.float16 else 15
    exponents = draw(
        st.lists(st.integers(-largest, largest) | st.just(0), min_size=rows, max_size=rows)
    )
    zero = draw(st.lists(st.integers(0, 9), min_size=rows, max_size=rows))
    scale = [0.0 if z == 0 else 10.0**e for z, e in zip(zero, exponents, strict=True)]
    x = (x * torch.tensor(scale, dtype=torch.float64).unsqueeze(-1)).to(dtype)
    layout = draw(st.sampled_from(["contiguous", "offset", "strided rows", "columns", "wide"]))
    if layout == "offset":
        memory = torch.full((x.numel() + 3,), 7.0, dtype=dtype)
        memory[3:] = x.flatten()
        x = memory[3:].view_as(x)
    elif layout == "strided rows":
        x = x.repeat_interleave(2, 0)[::2]
    elif layout == "columns":
        x = x.t().contiguous().t()
    elif layout == "wide":
        x = torch.cat([x, torch.full_like(x, 7.0)], 1)[:, :count]
    return x


@st.composite
def calls(draw, dtypes=FLOATS):
    """Logits, soft labels, targets and options."""
    rows, count = draw(st.integers(0, 6)), draw(classes)
    logits = draw(matrices(rows, count, draw(st.sampled_from(dtypes))))
    soft_labels = draw(matrices(rows, count, draw(st.sampled_from(dtypes))))
    index = st.sampled_from([0, count - 1]) | st.integers(0, count - 1)
    target = torch.tensor(draw(st.lists(index, min_size=rows, max_size=rows)), dtype=torch.int64)
    return logits, soft_labels, target, draw(options)


@examples
@given(calls())
def test_loss_and_gradients_are_exact(call):
    # Long rows of float32 add up to a few roundings more than short ones; cancelling t more again.
    logits, soft_labels, target, drawn = call
    assert_exact(logits, soft_labels, target, drawn, roundings=64)


@examples
@given(calls())
def test_the_loss_lies_between_zero_and_two(call):
    logits, soft_labels, target, drawn = call
    loss = gift_loss(logits, soft_labels, target, reduction="none", **drawn._asdict())
    rounding = 8 * ROUNDING[compute_dtype(logits)]
    assert ((loss >= -rounding) & (loss <= 2 + rounding)).all()


@examples
@given(calls(dtypes=[torch.float64]), st.sampled_from([0.5, 3.0, 1e3]))
def test_the_loss_does_not_change_with_the_length_of_the_logits(call, factor):
    logits, soft_labels, target, drawn = call
    logits = logits[(keep := logits.norm(dim=-1) > 1e-5)]
    soft_labels, target = soft_labels[keep], target[keep]
    named = drawn._asdict() | {"reduction": "none"}
    torch.testing.assert_close(
        gift_loss(logits * factor, soft_labels, target, **named),
        gift_loss(logits, soft_labels, target, **named),
        rtol=0,
        atol=1e-12,
    )


@examples
@given(calls(dtypes=[torch.float64]), st.sampled_from([0.5, 3.0, 1e3]))
def test_the_loss_does_not_change_with_the_length_of_the_soft_labels(call, factor):
    logits, soft_labels, target, drawn = call
    keep = soft_labels.norm(dim=-1) > 1e-9
    logits, soft_labels, target = logits[keep], soft_labels[keep], target[keep]
    named = drawn._asdict() | {"reduction": "none", "soft_label_temperature": None}
    torch.testing.assert_close(
        gift_loss(logits, soft_labels * factor, target, **named),
        gift_loss(logits, soft_labels, target, **named),
        rtol=0,
        atol=1e-12,
    )


@examples
@given(calls(dtypes=[torch.float64, torch.float32]))
def test_a_gradient_is_orthogonal_to_what_it_is_the_gradient_of(call):
    # The loss does not change with the length, so its derivative along the row is zero.
    logits, soft_labels, target, drawn = call
    drawn = drawn._replace(soft_label_temperature=None)
    got = answer(logits, soft_labels, target, reduction="none", **drawn._asdict())
    bounds = gradient_bounds(logits, soft_labels, target, drawn)
    for x, gradient, bound, eps in zip(
        (logits, soft_labels), got[1:], bounds, (1e-8, 1e-12), strict=True
    ):
        x = x.double()
        along = (x * gradient.double()).sum(-1)
        rounding = 64 * max(ROUNDING[gradient.dtype], ROUNDING[compute_dtype(logits)])
        limit = rounding * x.norm(dim=-1) * bound.squeeze(-1)
        assert (along.abs() <= limit)[x.norm(dim=-1) > 2 * eps].all()


@examples
@given(calls(dtypes=[torch.float64]), st.randoms(use_true_random=False))
def test_an_order_of_the_classes_is_as_good_as_another(call, random):
    logits, soft_labels, target, drawn = call
    count = logits.shape[1]
    order = torch.tensor(random.sample(range(count), count))
    named = drawn._asdict() | {"reduction": "none"}
    before = answer(logits, soft_labels, target, **named)
    after = answer(logits[:, order], soft_labels[:, order], order.argsort()[target], **named)
    bounds = gradient_bounds(logits, soft_labels, target, drawn)
    torch.testing.assert_close(after.loss, before.loss, rtol=0, atol=1e-12)
    for x, y, bound in zip(after[1:], before[1:], bounds, strict=True):
        assert largest_error(x, y[:, order], bound) < 1e-12


@needs_cpu_kernel
@examples
@given(calls(), st.data())
def test_ignoring_a_row_is_leaving_it_out(call, data):
    logits, soft_labels, target, drawn = call
    rows = len(target)
    ignored = torch.tensor(
        data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows)), dtype=torch.bool
    )
    named = drawn._asdict()
    without = answer(logits[~ignored], soft_labels[~ignored], target[~ignored], **named)
    target = target.masked_fill(ignored, -100)
    got = answer(logits, soft_labels, target, **named)
    torch.testing.assert_close(got.loss, without.loss, rtol=1e-6, atol=1e-6, equal_nan=True)
    for gradient, expected in zip(got[1:], without[1:], strict=True):
        assert (gradient[ignored] == 0).all()
        torch.testing.assert_close(gradient[~ignored], expected, rtol=0, atol=0)
