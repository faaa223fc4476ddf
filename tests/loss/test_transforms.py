"""The loss under torch.func, and under batched gradients."""

import pytest
import torch
from expected import answer, batch, needs_cpu_kernel
from torch.func import (
    functional_call,
    functionalize,
    grad,
    grad_and_value,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    vjp,
    vmap,
)

from gift_fast import gift_loss
from gift_fast.loss.reference import reference_loss

OPTIONS = [{}, {"gamma": 0.5, "soft_label_temperature": 2.0}, {"smoothing": "others", "gamma": 1.0}]

# A transform, as a function of the loss: each gives the same of the fused loss and the definition.
TRANSFORMS = {
    "grad": lambda f: grad(f, (0, 1)),
    "grad of the soft labels": lambda f: grad(f, 1),
    "grad_and_value": lambda f: grad_and_value(f, (0, 1)),
    "grad of grad": lambda f: grad(
        lambda z, s, y: grad(f)(z, s, y).pow(2).sum() + grad(f, 1)(z, s, y).pow(2).sum(), (0, 1)
    ),
    "grad of grad and value": lambda f: grad(
        lambda z, s, y: sum(x.square().sum() for x in grad_and_value(f)(z, s, y)), (0, 1)
    ),
    "grad thrice": lambda f: grad(
        lambda z, s, y: grad(lambda z, s, y: grad(f)(z, s, y).pow(3).sum())(z, s, y).pow(2).sum()
    ),
    "jacrev": lambda f: jacrev(f, (0, 1)),
    "jacfwd": lambda f: jacfwd(f, (0, 1)),
    "hessian": lambda f: hessian(f, (0, 1)),
    "jacrev of jacrev": lambda f: jacrev(jacrev(f, (0, 1)), (0, 1)),
    "jvp": lambda f: lambda z, s, y: jvp(lambda z, s: f(z, s, y), (z, s), (z.cos(), s.sin())),
    "vjp": lambda f: (
        lambda z, s, y: vjp(lambda z, s: f(z, s, y), z, s)[1](torch.full_like(f(z, s, y), 1.5))
    ),
    "jvp of grad": lambda f: lambda z, s, y: jvp(lambda z: grad(f)(z, s, y), (z,), (z.cos(),)),
    "vmap": lambda f: vmap(f),
    "vmap of one teacher": lambda f: lambda z, s, y: vmap(f, (0, None, None))(z, s[0], y[0]),
    "vmap of one student": lambda f: lambda z, s, y: vmap(f, (None, 0, 0))(z[0], s, y),
    "vmap along another dimension": lambda f: (
        lambda z, s, y: vmap(f, (1, 1, 1))(z.transpose(0, 1), s.transpose(0, 1), y.t())
    ),
    "vmap of grad": lambda f: vmap(grad(f, (0, 1))),
    "grad of vmap": lambda f: grad(lambda z, s, y: vmap(f)(z, s, y).cos().sum(), (0, 1)),
    "vmap of vmap": lambda f: vmap(vmap(f)),
    "vmap of vmap of grad": lambda f: vmap(vmap(grad(f, (0, 1)))),
    "vmap of hessian": lambda f: vmap(hessian(f)),
    "vmap of grad of grad": lambda f: vmap(
        grad(lambda z, s, y: grad(f, 1)(z, s, y).pow(2).sum(), (0, 1))
    ),
    "functionalize": lambda f: functionalize(f),
}
TAKES_ROWS = {"vmap of vmap", "vmap of vmap of grad"}
TAKES_A_SCALAR = {"jacrev", "jacfwd", "jvp", "vjp", "functionalize"}


@pytest.mark.parametrize("options", OPTIONS, ids=["defaults", "temperature", "hard"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_transform_of_the_loss_is_that_of_the_definition(transform, reduction, options):
    batched = transform not in {"grad thrice", "hessian", "jacrev of jacrev"}
    shape = (2, 3, 4) if batched else (2, 4)
    z, s = torch.randn(2, *shape, dtype=torch.float64)
    y = torch.tensor([[0, 3, 1], [2, -100, 2]]) if batched else torch.tensor([2, -100])
    if reduction == "mean" and transform in TAKES_ROWS:
        y = y.clamp_min(0)  # a mean over one ignored row is NaN

    def transformed(function):
        def loss(z, s, y):
            value = function(z, s, y, reduction=reduction, **options)
            takes_rows = transform in TAKES_A_SCALAR or transform.startswith("vmap")
            return value if takes_rows and "grad" not in transform else value.sum()

        return TRANSFORMS[transform](loss)(z, s, y)

    torch.testing.assert_close(transformed(gift_loss), transformed(reference_loss))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_grad_and_vmap_of_grad_are_the_eager_gradients(dtype):
    z, s, y = batch(6, 37, dtype)
    want = answer(z, s, y, reduction="sum")
    got = grad(lambda z, s: gift_loss(z, s, y, reduction="sum"), (0, 1))(z, s)
    each = vmap(grad(gift_loss, (0, 1)))(z, s, y)
    for gradients in (got, each):
        assert gradients[0].dtype == gradients[1].dtype == dtype
        torch.testing.assert_close(gradients, want[1:])


def test_per_sample_gradients_of_a_model():
    model = torch.nn.Linear(8, 5, dtype=torch.float64)
    images, (_, s, y) = torch.randn(6, 8, dtype=torch.float64), batch(6, 5, torch.float64)
    parameters = {name: x.detach() for name, x in model.named_parameters()}

    def loss(parameters, image, soft_labels, target):
        return gift_loss(functional_call(model, parameters, image), soft_labels, target)

    got = vmap(grad(loss), (None, 0, 0, 0))(parameters, images, s, y)
    for row in range(6):
        model.zero_grad()
        gift_loss(model(images[row]), s[row], y[row]).backward()
        for name, x in model.named_parameters():
            torch.testing.assert_close(got[name][row], x.grad)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_backward_runs_through_a_vmapped_loss(reduction):
    z, s, y = batch(6, 5, torch.float64)
    z, s = z.requires_grad_(), s.requires_grad_()
    losses = vmap(lambda *row: gift_loss(*row, reduction=reduction))(
        z.view(2, 3, 5), s.view(2, 3, 5), y.view(2, 3)
    )
    losses.sum().backward()
    want = answer(z, s, y, reduction="sum")
    divisor = 3 if reduction == "mean" else 1
    torch.testing.assert_close(z.grad, want.logits_grad / divisor)
    torch.testing.assert_close(s.grad, want.soft_labels_grad / divisor)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("kept", [False, True])
def test_batched_gradients_are_those_of_a_loop(kept, reduction, dtype):
    z, s, y = batch(6, 5, dtype)
    z, s = z.requires_grad_(), s.requires_grad_()
    loss = gift_loss(z, s, y, reduction=reduction)
    upstream = torch.randn(4, *loss.shape, dtype=loss.dtype)
    got = torch.autograd.grad(loss, (z, s), upstream, is_grads_batched=True, retain_graph=kept)
    loss = gift_loss(z, s, y, reduction=reduction)
    for i in range(4):
        want = torch.autograd.grad(loss, (z, s), upstream[i], retain_graph=True)
        torch.testing.assert_close((got[0][i], got[1][i]), want)


def test_vmap_runs_over_the_backward_pass_of_a_plain_loss():
    z, s, y = batch(6, 5, torch.float64)
    loss = gift_loss(z.requires_grad_(), s, y, reduction="none")
    got = vmap(lambda upstream: torch.autograd.grad(loss, z, upstream)[0])(torch.eye(6).double())
    want = torch.zeros(6, 6, 5, dtype=torch.float64)
    want[range(6), range(6)] = answer(z, s, y, reduction="none").logits_grad
    torch.testing.assert_close(got, want)


def test_the_jacobian_of_row_losses_by_autograd_functional():
    z, s, y = batch(4, 5, torch.float64)

    def jacobian(function):
        return torch.autograd.functional.jacobian(
            lambda z: function(z, s, y, reduction="none"), z, vectorize=True
        )

    torch.testing.assert_close(jacobian(gift_loss), jacobian(reference_loss))


@needs_cpu_kernel
def test_a_bad_target_raises_under_vmap_too():
    z, s, y = batch(4, 5)
    y[2] = 5
    with pytest.raises(IndexError, match="got 5 in row 2"):
        vmap(gift_loss)(z, s, y)
