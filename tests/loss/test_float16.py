"""float16 gradients: kept with a power of two a row, and scaled in float32 before they round."""

import pytest
import torch
from expected import ROUNDING, Options, answer, batch, exact, gradient_bounds, largest_error

from gift_fast import gift_loss
from gift_fast.loss.reference import reference_loss

SCALE = 2.0**16  # a GradScaler's first


def tiny_gradients(rows=256, classes=1000):
    """A batch whose gradients lie below float16's smallest number, 6e-8, before the upstream."""
    logits, soft_labels, target = batch(rows, classes, torch.float16)
    return logits * 32, soft_labels, target


def test_the_scaler_keeps_what_a_gradient_stored_in_float16_would_lose():
    inputs = tiny_gradients()
    upstream = torch.tensor(SCALE)
    want = exact(*inputs, upstream=upstream.double())
    got = answer(*inputs, upstream=upstream)
    lost = (want.logits_grad / SCALE).half() == 0
    assert lost.float().mean() > 0.4  # the test has something to test
    for gradient, expected in zip(got[1:], want[1:], strict=True):
        torch.testing.assert_close(
            gradient.double(), expected, rtol=1.1 * ROUNDING[torch.float16], atol=2e-7
        )
        assert ((gradient == 0) == (expected.half() == 0)).float().mean() > 0.9999


def test_a_training_step_under_grad_scaler_unscales_to_the_exact_gradient():
    logits, soft_labels, target = tiny_gradients()
    weight = torch.ones(1, requires_grad=True)  # float32, as mixed precision keeps them
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
    z = (logits.float() * weight).half()
    z.retain_grad()
    scaler.scale(gift_loss(z, soft_labels, target)).backward()
    scaler.unscale_(optimizer)
    want = exact(logits, soft_labels, target).logits_grad
    torch.testing.assert_close(
        z.grad.double() / SCALE, want, rtol=1.1 * ROUNDING[torch.float16], atol=2e-7 / SCALE
    )
    scaler.step(optimizer)
    assert weight.isfinite().all()


@pytest.mark.parametrize("exponent", [-6, -4, -2, 0, 2, 4])
def test_every_row_has_a_power_of_two_of_its_own(exponent):
    # Norms over ten powers of ten in one batch, upstream factors that bring all into float16.
    logits, soft_labels, target = batch(6, 100, torch.float64)
    logits = logits / logits.norm(dim=-1, keepdim=True)
    logits = (logits * 10.0 ** torch.tensor([-3.0, -2.0, 0.0, 1.0, 3.0, 4.0]).unsqueeze(-1)).half()
    upstream = 10.0**exponent * logits.float().norm(dim=-1)
    got = answer(logits, soft_labels, target, upstream=upstream, reduction="none")
    want = exact(logits, soft_labels, target, upstream=upstream.double(), reduction="none")
    # Two roundings: as stored, and after an upstream factor that is no power of two.
    torch.testing.assert_close(
        got.logits_grad.double(),
        want.logits_grad,
        rtol=2.0**-10,
        atol=3.1e-8 + 1e-6 * 10.0**exponent,
    )


@pytest.mark.parametrize("length", [0.01, 0.26, 0.7, 1.0, 1.001, 3.0, 300.0, 6e4])
def test_a_gradient_as_large_as_its_bound_keeps_its_digits(length):
    # Orthogonal to the refined label, all of the gradient lies in one element: no factor may lift
    # it out of float16.
    logits = torch.tensor([[length, 0.0]], dtype=torch.float16)
    soft_labels = torch.tensor([[0.0, length]], dtype=torch.float16)
    upstream = logits[:, 0].float()  # 1 / |z| back to 1
    options = {"gamma": 0.0, "reduction": "none", "upstream": upstream}
    got = answer(logits, soft_labels, torch.tensor([0]), **options)
    one = torch.tensor([[0.0, -1.0]], dtype=torch.float16)
    torch.testing.assert_close(got.logits_grad, one, rtol=2.0**-10, atol=0)
    torch.testing.assert_close(got.soft_labels_grad, one.flip(1), rtol=2.0**-10, atol=0)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("logits_dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_both_gradients_are_scaled_back(logits_dtype, keep):
    logits, soft_labels, target = batch(6, 37, logits_dtype, torch.float16)
    z, s = logits.requires_grad_(), soft_labels.requires_grad_()
    gift_loss(z, s, target, reduction="sum").backward(retain_graph=keep)
    want = exact(z.detach(), s.detach(), target, reduction="sum")
    bounds = gradient_bounds(z.detach(), s.detach(), target)
    tolerance = 1.01 * 2.0**-11
    assert largest_error(z.grad, want.logits_grad, bounds[0]) <= tolerance
    assert largest_error(s.grad, want.soft_labels_grad, bounds[1]) <= tolerance


def test_with_a_temperature_the_soft_labels_gradient_is_scaled_back():
    logits, soft_labels, target = batch(6, 1000, torch.float16)
    upstream = torch.tensor(SCALE)
    options = {"soft_label_temperature": 4.0}
    got = answer(logits, soft_labels, target, upstream=upstream, **options)
    want = exact(logits, soft_labels, target, upstream=upstream.double(), **options)
    bound = gradient_bounds(logits, soft_labels, target, Options(soft_label_temperature=4.0))[1]
    assert largest_error(got.soft_labels_grad, want.soft_labels_grad, bound * SCALE / 6) < 1e-3
    torch.testing.assert_close(
        got.soft_labels_grad.double(), want.soft_labels_grad, rtol=2.0**-10, atol=1e-5
    )


def test_a_gradient_beyond_float16_is_infinite_as_its_rounding_is():
    logits = torch.ones(2, 3, dtype=torch.float16)
    logits[0] = torch.tensor([0.0, 0.0, 1e-6])  # a short row, but not one of zeros
    got = answer(logits, torch.ones(2, 3), torch.tensor([0, 0]))
    assert got.logits_grad[0, :2].isinf().all()
    assert got.logits_grad[1].isfinite().all()


def zero_rows(rows=4, classes=5):
    """A batch whose first row of logits and second row of soft labels are zero."""
    logits, soft_labels, target = batch(rows, classes, torch.float16)
    logits[0] = 0
    soft_labels[1] = 0
    return logits, soft_labels, target


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("gamma", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_row_of_zeros_has_a_finite_gradient_in_the_right_direction(reduction, gamma, backend):
    inputs, options = zero_rows(), {"reduction": reduction, "gamma": gamma}
    got = answer(*inputs, backend=backend, **options)
    want = answer(*(x.double() for x in inputs[:2]), inputs[2], function=reference_loss, **options)
    for gradient, expected, row in ((got[1], want[1], 0), (got[2], want[2], 1)):
        assert gradient.isfinite().all()
        direction = torch.nn.functional.normalize(expected[row], dim=0)
        length = gradient[row].double().norm()
        torch.testing.assert_close(
            gradient[row].double(), length * direction, rtol=0, atol=2e-3 * length.item() + 1e-12
        )
        assert length <= 2**15 * 1.001
    weight = 0.25 if reduction == "mean" else 1.0
    torch.testing.assert_close(
        got.logits_grad[0].double().norm().item(), 2**15 * weight, rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_other_rows_and_other_types_do_not_know_of_it(backend):
    logits, soft_labels, target = zero_rows()
    alone = answer(logits[2:], soft_labels[2:], target[2:], reduction="none", backend=backend)
    among = answer(logits, soft_labels, target, reduction="none", backend=backend)
    for x, y in zip(among, alone, strict=True):
        torch.testing.assert_close(x[2:], y, rtol=0, atol=0)
    half, single = (
        answer(x, soft_labels.float(), target, reduction="none", backend=backend).logits_grad
        for x in (logits, logits.float())
    )
    torch.testing.assert_close(half[0].float(), single[0] * 2**15 * 1e-8, rtol=1e-3, atol=0)


@pytest.mark.parametrize("function", [gift_loss, reference_loss])
def test_zero_rows_are_finite_under_transforms_and_with_a_graph(function):
    logits, soft_labels, target = zero_rows()
    want = answer(logits, soft_labels, target, reduction="sum")[1:]

    def total(z, s):
        return function(z, s, target, reduction="sum")

    got = torch.func.grad(total, (0, 1))(logits, soft_labels)
    torch.testing.assert_close(got, want, rtol=2e-3, atol=1e-6)
    z, s = logits.requires_grad_(), soft_labels.requires_grad_()
    with_graph = torch.autograd.grad(total(z, s), (z, s), create_graph=True)
    torch.testing.assert_close(with_graph, want, rtol=2e-3, atol=1e-6)


def test_an_ignored_row_scales_to_zero():
    logits, soft_labels, target = tiny_gradients(4, 20)
    target[2] = -100
    got = answer(logits, soft_labels, target, upstream=torch.tensor(SCALE))
    assert (got.logits_grad[2] == 0).all()
    assert (got.soft_labels_grad[2] == 0).all()


@pytest.mark.parametrize("upstream", [0.0, float("nan"), float("inf")])
def test_zero_nan_and_infinite_upstream_factors_reach_the_gradient(upstream):
    got = answer(*batch(4, 20, torch.float16), upstream=torch.tensor(upstream)).logits_grad
    if upstream == 0:
        assert (got == 0).all()
    else:
        assert not got.isfinite().any()
