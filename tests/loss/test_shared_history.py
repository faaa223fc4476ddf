"""What a loss does to tensors that are computed from each other, hooked, ignored, or exported."""

from __future__ import annotations

import pytest
import torch
from expected import needs_cpu_kernel
from torch.nn import functional as F

from gift_fast import gift_loss
from gift_fast.loss.reference import reference_loss

IGNORED = -100


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits, soft_labels = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    return logits, soft_labels, torch.randint(5, (6,), generator=generator)


@pytest.mark.parametrize(
    "labels_of",
    [lambda z, s: 2.0 * z + s, lambda z, s: z.sin(), lambda z, s: z],
    ids=["affine", "sine", "the logits themselves"],
)
def test_soft_labels_that_come_from_the_logits_count_once(labels_of):
    z0, s, y = batch()
    gradients = []
    for loss, graph in ((gift_loss, True), (gift_loss, False), (reference_loss, True)):
        z = z0.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(z, labels_of(z, s), y), z, create_graph=graph)
        gradients.append(gradient.detach())
        if graph:
            (second,) = torch.autograd.grad(gradient.square().sum(), z)
            gradients.append(second)
    fused, fused_second, plain, expected, expected_second = gradients
    torch.testing.assert_close(fused, expected)
    torch.testing.assert_close(plain, expected)
    torch.testing.assert_close(fused_second, expected_second)


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph:UserWarning")
@pytest.mark.parametrize("graph", [False, True])
def test_hooks_run_once(graph):
    z0, s, y = batch()
    leaf = z0.clone().requires_grad_()
    leaf.register_hook(lambda gradient: 3.0 * gradient)
    inner = leaf * 1.0
    inner.retain_grad()
    gift_loss(inner, s, y).backward(create_graph=graph)
    plain = z0.clone().requires_grad_()
    reference_loss(plain, s, y).backward()
    torch.testing.assert_close(inner.grad.detach(), plain.grad)
    torch.testing.assert_close(leaf.grad.detach(), 3.0 * plain.grad)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("compiled", [False, True])
def test_what_is_upstream_of_an_ignored_row_does_not_reach_it(dtype, compiled):
    z, s, y = batch()
    y[0] = IGNORED
    z = z.to(dtype).requires_grad_()
    loss = torch.compile(gift_loss, backend="aot_eager") if compiled else gift_loss
    loss(z, s.to(dtype), y, reduction="none").sqrt().sum().backward()  # inf times 0
    assert z.grad[0].eq(0.0).all()
    assert z.grad[1:].isfinite().all()


def test_no_valid_row_has_no_gradient_under_torch_func():
    z, s, y = batch()
    ignored = torch.full_like(y, IGNORED)
    assert torch.func.grad(gift_loss)(z, s, ignored).eq(0.0).all()
    y[0] = IGNORED
    each = torch.vmap(torch.func.grad(gift_loss))(z, s, y)
    expected = torch.vmap(torch.func.grad(reference_loss))(z, s, y)
    torch.testing.assert_close(each, expected)


@pytest.mark.parametrize("ignore_index", [2**32, 2**40, -(2**33)])
def test_an_ignore_index_that_an_int32_cannot_hold_ignores_no_row(ignore_index):
    z, s, y = batch()
    y = y.int()
    y[0] = 0
    expected = reference_loss(z, s, y)
    torch.testing.assert_close(gift_loss(z, s, y, ignore_index=ignore_index), expected)
    reference = gift_loss(z, s, y, ignore_index=ignore_index, backend="reference")
    torch.testing.assert_close(reference, expected)
    _, under_func = torch.func.grad_and_value(
        lambda z: gift_loss(z, s, y, ignore_index=ignore_index)
    )(z)
    torch.testing.assert_close(under_func, expected)


class Joint(torch.nn.Module):
    def forward(self, z, s, y):
        return F.cross_entropy(z, y) + gift_loss(z, s, y)


@pytest.mark.parametrize("enabled", [False, True])
def test_an_exported_graph_can_be_trained_with(enabled):
    z, s, y = batch()
    with torch.set_grad_enabled(enabled):  # nothing requires a gradient yet
        exported = torch.export.export(Joint(), (z, s, y)).module()
    gradients = []
    for loss in (exported, Joint()):
        own = z.clone().requires_grad_()
        loss(2.0 * own, s, y).backward()
        gradients.append(own.grad)
    torch.testing.assert_close(*gradients)


@needs_cpu_kernel
def test_a_graph_without_second_derivatives_says_so():
    z, s, y = batch()
    z.requires_grad_()
    compiled = torch.compile(gift_loss, backend="eager", fullgraph=True)
    with pytest.raises(RuntimeError, match="no second derivative in a compiled or exported graph"):
        torch.autograd.grad(compiled(z, s, y), z, create_graph=True)
