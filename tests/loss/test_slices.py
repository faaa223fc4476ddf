"""Slices of (B, T, C), as next-token losses have them, are read where they are."""

import pytest
import torch
from expected import FLOATS, answer, batch, needs_cpu_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from gift_fast import gift_loss

pytestmark = needs_cpu_kernel


def tokens(b=3, t=5, classes=11, dtype=torch.float32):
    z, s, y = batch(b * t, classes, dtype)
    return z.view(b, t, classes), s.view(b, t, classes), y.view(b, t)


class Operations(TorchDispatchMode):
    """The names of the operations that ran."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_slice_has_the_bits_of_its_copy(dtype, reduction):
    z, s, y = tokens(dtype=dtype)
    y[0, 2] = -100
    parts = z[:, :-1], s[:, 1:], y[:, 1:]
    got = answer(*parts, reduction=reduction)
    copies = (parts[0].reshape(-1, 11), parts[1].reshape(-1, 11), parts[2].reshape(-1))
    want = answer(*copies, reduction=reduction)
    torch.testing.assert_close(got.loss.flatten(), want.loss.flatten(), rtol=0, atol=0)
    for ours, theirs in zip(got[1:], want[1:], strict=True):
        torch.testing.assert_close(ours.flatten(0, -2), theirs, rtol=0, atol=0)


@pytest.mark.parametrize(
    "slicing",
    [
        lambda x: x[:, :-1],
        lambda x: x[::2],
        lambda x: x[1:, 1::2],
        lambda x: x.transpose(0, 1),
        lambda x: x[:0],
        lambda x: x[:, :0],
        lambda x: x[:1].expand(4, *x.shape[1:]),
        lambda x: x.unsqueeze(0)[:, :, 1:],
    ],
)
def test_every_slice_of_the_leading_dimensions_is_read_right(slicing):
    z, s, y = tokens(dtype=torch.float64)
    parts = [slicing(x) for x in (z, s, y)]
    for reduction in ("none", "sum"):
        got = answer(*parts, reduction=reduction)
        want = answer(*(x.clone() for x in parts), reduction=reduction, backend="reference")
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("grad", [False, True])
def test_nothing_is_copied(grad):
    z, s, y = tokens()
    z = z[:, :-1].detach().requires_grad_(grad)
    with Operations() as operations:
        loss = gift_loss(z, s[:, :-1], y[:, 1:])
        if grad:
            loss.backward()
    copies = {"aten.clone.default", "aten.copy_.default", "aten._to_copy.default"}
    assert not copies & set(operations.names)
    assert "gift_fast.loss_and_gradients.default" in operations.names


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("layout", ["contiguous", "strided", "expanded"])
def test_upstream_gradients_of_single_tokens(layout, kept, dtype):
    z, s, y = tokens(dtype=dtype)
    z = z[:, :-1].detach().requires_grad_()
    rows = gift_loss(z, s[:, :-1], y[:, 1:], reduction="none")
    assert rows.shape == (3, 4)
    upstream = {
        "contiguous": torch.randn(3, 4, dtype=rows.dtype),
        "strided": torch.randn(3, 4, 2, dtype=rows.dtype)[..., 1],
        "expanded": torch.tensor(1.7, dtype=rows.dtype).expand(3, 4),
    }[layout]
    (got,) = torch.autograd.grad(rows, z, upstream, retain_graph=kept)
    plain = answer(z, s[:, :-1], y[:, 1:], reduction="sum").logits_grad
    tolerance = 1e-12 if dtype == torch.float64 else 2 * torch.finfo(dtype).eps
    want = (upstream.unsqueeze(-1).double() * plain.double()).to(dtype)
    torch.testing.assert_close(got, want, rtol=tolerance, atol=1e-6)


def test_derivatives_of_a_slice_are_those_of_finite_differences():
    z, s, y = tokens(2, 3, 4, torch.float64)

    def loss(z, s):
        return gift_loss(z[:, :-1], s[:, :-1], y[:, 1:])

    inputs = z.requires_grad_(), s.requires_grad_()
    assert torch.autograd.gradcheck(loss, inputs)
    assert torch.autograd.gradgradcheck(loss, inputs, fast_mode=True)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_slices_have_the_gradients_of_eager_ones(dynamic):
    torch._dynamo.reset()

    def step(z, s, y):
        return gift_loss(z[:, :-1], s[:, :-1], y[:, 1:], reduction="none").sum()

    compiled = torch.compile(step, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for inputs in (tokens(), tokens(4, 6), tokens(2, 3, dtype=torch.float16)):
        got, want = answer(*inputs, function=compiled), answer(*inputs, function=step)
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-6)
    torch._dynamo.reset()


@pytest.mark.parametrize("reduction", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_the_operator_passes_opcheck_on_slices(dtype, reduction):
    z, s, y = tokens(dtype=dtype)
    torch.library.opcheck(
        torch.ops.gift_fast.gift_loss.default,
        (z[:, :-1], s[:, :-1], y[:, 1:], 0.3, 0.1, False, None, -100, reduction, True, True),
        test_utils=("test_schema", "test_faketensor"),
    )
