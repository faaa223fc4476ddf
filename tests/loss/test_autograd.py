"""gift_fast.loss.autograd: derivatives of both orders, kept graphs, upstream gradients, memory."""

import itertools

import pytest
import torch
from expected import FLOATS, HALVES, answer, batch, exact, needs_cpu_kernel
from torch.autograd import forward_ad

from gift_fast import gift_loss
from gift_fast.loss import functional
from gift_fast.loss.reference import reference_loss

GAMMAS = (0.0, 0.1, 0.5, 1.0)
OPTIONS = [
    {
        "gamma": gamma,
        "label_smoothing": alpha,
        "smoothing": smoothing,
        "soft_label_temperature": temperature,
    }
    for gamma, alpha, smoothing, temperature in itertools.product(
        GAMMAS, (0.0, 0.1, 1.0), ("uniform", "others"), (None, 0.5, 3.0)
    )
]
TARGET = torch.tensor([1, 0, 3])


def inputs(*requested):
    return tuple(
        torch.randn(3, 4, dtype=torch.float64, requires_grad=wanted)
        for wanted in requested or (True, True)
    )


def name(options):
    return " ".join(map(str, options.values()))


# ---- against finite differences and the definition -----------------------------------------------


@pytest.mark.parametrize("options", OPTIONS, ids=name)
def test_first_derivatives_are_those_of_finite_differences(options):
    assert torch.autograd.gradcheck(
        lambda z, s: gift_loss(z, s, TARGET, **options), inputs(), check_forward_ad=True
    )


@pytest.mark.parametrize("options", OPTIONS, ids=name)
def test_second_derivatives_are_those_of_finite_differences(options):
    assert torch.autograd.gradgradcheck(
        lambda z, s: gift_loss(z, s, TARGET, **options), inputs(), fast_mode=True
    )


@pytest.mark.parametrize("ignore_index", [-100, 1, 3])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("requested", [(True, True), (True, False), (False, True)])
def test_reductions_ignored_rows_and_single_inputs_have_both_derivatives(
    requested, reduction, ignore_index
):
    target = torch.tensor([1, ignore_index, 3])

    def loss(z, s):
        return gift_loss(z, s, target, reduction=reduction, ignore_index=ignore_index)

    assert torch.autograd.gradcheck(loss, inputs(*requested), check_batched_grad=True)
    assert torch.autograd.gradgradcheck(loss, inputs(*requested), check_batched_grad=True)


@pytest.mark.parametrize("options", OPTIONS, ids=name)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_loss_and_gradients_are_those_of_the_definition(options, reduction):
    z, s, y = batch(9, 5, torch.float64)
    y[4] = -100
    got = answer(z, s, y, reduction=reduction, **options)
    want = exact(z, s, y, reduction=reduction, **options)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_a_class_can_be_the_one_that_is_ignored(reduction):
    z, s, y = batch(9, 5, torch.float64)
    y[:3] = torch.tensor([2, 1, 2])
    got = answer(z, s, y, ignore_index=2, reduction=reduction)
    y[y == 2] = -100
    torch.testing.assert_close(got, answer(z, s, y, reduction=reduction), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_one_gradient_alone_has_the_bits_of_both(dtype):
    z, s, y = batch(9, 37, dtype)
    both = answer(z, s, y)
    alone = answer(z, s, y, requested=(True, False))
    torch.testing.assert_close(alone.logits_grad, both.logits_grad, rtol=0, atol=0)
    assert alone.soft_labels_grad is None
    alone = answer(z, s, y, requested=(False, True))
    torch.testing.assert_close(alone.soft_labels_grad, both.soft_labels_grad, rtol=0, atol=0)
    assert alone.logits_grad is None


# ---- upstream gradients and kept graphs ----------------------------------------------------------

TOLERANCE = {
    torch.float64: {"rtol": 1e-14, "atol": 0.0},
    torch.float32: {"rtol": 3e-7, "atol": 0.0},
    torch.bfloat16: {"rtol": 2.0**-7, "atol": 0.0},  # rounded as stored and as scaled
    torch.float16: {"rtol": 2.0**-10, "atol": 1.2e-7},
}


@needs_cpu_kernel
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("upstream", [1.0, 3.0, -0.7, 0.0])
def test_a_scalar_upstream_gradient_multiplies_both(upstream, dtype):
    z, s, y = batch(9, 37, dtype)
    got = answer(z, s, y, upstream=torch.tensor(upstream, dtype=gift_loss(z, s, y).dtype))
    plain = answer(z, s, y)
    torch.testing.assert_close(got.logits_grad, upstream * plain.logits_grad, **TOLERANCE[dtype])
    torch.testing.assert_close(
        got.soft_labels_grad, upstream * plain.soft_labels_grad, **TOLERANCE[dtype]
    )


@needs_cpu_kernel
@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("layout", ["contiguous", "strided", "expanded"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_rows_upstream_gradient_multiplies_its_row(dtype, layout, kept):
    z, s, y = batch(9, 37, dtype)
    z, s = z.requires_grad_(), s.requires_grad_()
    rows = gift_loss(z, s, y, reduction="none")
    upstream = {
        "contiguous": torch.randn(9, dtype=rows.dtype),
        "strided": torch.randn(9, 4, dtype=rows.dtype)[:, 1],
        "expanded": torch.tensor(1.7, dtype=rows.dtype).expand(9),
    }[layout]
    got = torch.autograd.grad(rows, (z, s), upstream, retain_graph=kept)
    plain = answer(z, s, y, reduction="none")
    for gradient, unscaled in zip(got, plain[1:], strict=True):
        expected = (upstream.double()[:, None] * unscaled.double()).to(dtype)
        torch.testing.assert_close(gradient, expected, **TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_sum_of_the_rows_is_the_reduction_sum(dtype):
    z, s, y = batch(9, 37, dtype)
    z.requires_grad_()
    gift_loss(z, s, y, reduction="none").sum().backward()  # an upstream of ones with stride 0
    torch.testing.assert_close(z.grad, answer(z, s, y, reduction="sum").logits_grad, rtol=0, atol=0)


@pytest.mark.parametrize("upstream", [1.0, 3.0])
@pytest.mark.parametrize("soft_labels_dtype", FLOATS, ids=str)
@pytest.mark.parametrize("logits_dtype", FLOATS, ids=str)
def test_a_kept_graph_gives_the_same_gradients_again(logits_dtype, soft_labels_dtype, upstream):
    z, s, y = batch(9, 37, logits_dtype, soft_labels_dtype)
    z, s = z.requires_grad_(), s.requires_grad_()
    loss = gift_loss(z, s, y) * upstream
    first = torch.autograd.grad(loss, (z, s), retain_graph=True)
    copies = [x.clone() for x in first]
    second = torch.autograd.grad(loss, (z, s), retain_graph=True)
    last = torch.autograd.grad(loss, (z, s))
    for gradients in (first, second, last):
        torch.testing.assert_close(list(gradients), copies, rtol=0, atol=0)
    assert first[0].data_ptr() != second[0].data_ptr()


def test_writing_to_a_gradient_leaves_a_kept_graph_alone():
    z, s, y = batch(9, 37)
    loss = gift_loss(z.requires_grad_(), s, y)
    (first,) = torch.autograd.grad(loss, z, retain_graph=True)
    expected = first.clone()
    first.zero_()
    torch.testing.assert_close(torch.autograd.grad(loss, z)[0], expected, rtol=0, atol=0)


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_second_backward_pass_raises_torchs_error(create_graph):
    z, s, y = batch(9, 37)
    loss = gift_loss(z.requires_grad_(), s, y)
    loss.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(loss, z, create_graph=create_graph)


def test_gradients_accumulate():
    z, s, y = batch(9, 37)
    z.requires_grad_()
    gift_loss(z, s, y).backward()
    once = z.grad.clone()
    gift_loss(z, s, y).backward()
    torch.testing.assert_close(z.grad, 2 * once, rtol=0, atol=0)
    (gift_loss(z, s, y) * 2).backward()
    torch.testing.assert_close(z.grad, 4 * once)


def test_a_loss_used_twice_adds_its_upstream_gradients():
    z, s, y = batch(9, 37)
    z.requires_grad_()
    loss = gift_loss(z, s, y)
    (loss * 2 + loss * loss.detach()).backward()
    torch.testing.assert_close(z.grad, (2 + loss.detach()) * answer(z, s, y).logits_grad)


def test_one_pair_of_tensors_in_two_losses_adds_their_gradients():
    z, s, y = (x.requires_grad_() if x.is_floating_point() else x for x in batch(9, 37))
    (gift_loss(z, s, y) + gift_loss(z, s, y, gamma=0.9)).backward()
    one, other = answer(z, s, y), answer(z, s, y, gamma=0.9)
    torch.testing.assert_close(z.grad, one.logits_grad + other.logits_grad)
    torch.testing.assert_close(s.grad, one.soft_labels_grad + other.soft_labels_grad)


def test_logits_can_be_their_own_soft_labels():
    x, _ = inputs()
    y = TARGET
    assert torch.autograd.gradcheck(lambda x: gift_loss(x, x, y, gamma=0.4), (x,))
    assert torch.autograd.gradgradcheck(lambda x: gift_loss(x, x, y, gamma=0.4), (x,))


def test_hooks_see_and_change_the_gradients():
    z, s, y = batch(9, 37)
    z.requires_grad_()
    seen = []
    z.register_hook(lambda grad: seen.append(grad.clone()) or grad * 10)
    loss = gift_loss(z, s, y)
    loss.register_hook(lambda grad: grad * 2)
    loss.backward()
    want = 2 * answer(z, s, y).logits_grad
    torch.testing.assert_close(seen[0], want)
    torch.testing.assert_close(z.grad, 10 * want)


def test_gradients_flow_through_what_comes_before():
    z, s, y = batch(9, 37, torch.float64)
    weight = torch.randn(37, 37, dtype=torch.float64, requires_grad=True)
    gift_loss(z @ weight, torch.tanh(s @ weight), y).backward()
    got, weight.grad = weight.grad, None
    reference_loss(z @ weight, torch.tanh(s @ weight), y).backward()
    torch.testing.assert_close(got, weight.grad)


def test_checkpointing_gives_the_same_gradient():
    z, s, y = batch(9, 37)
    z.requires_grad_()

    def step(z):
        return gift_loss(z * 2, s, y)

    torch.utils.checkpoint.checkpoint(step, z, use_reentrant=False).backward()
    got, z.grad = z.grad, None
    step(z).backward()
    torch.testing.assert_close(got, z.grad, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled:UserWarning")
def test_runs_under_anomaly_detection():
    with torch.autograd.detect_anomaly():
        assert answer(*batch(9, 37)).logits_grad.isfinite().all()


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("wanted", [(True, False), (False, True), (False, False)])
def test_the_backward_pass_keeps_which_inputs_the_forward_pass_was_asked_for(
    wanted, reduction, monkeypatch
):
    # torch may come to tell the backward pass of backward(inputs=[...]) by needs_input_grad.
    z, s, y = (x.requires_grad_() if x.is_floating_point() else x for x in batch(9, 37))
    expected = torch.autograd.grad(gift_loss(z, s, y, reduction=reduction).sum(), (z, s))
    backward = functional.GiftLossFunction.backward

    def refreshed(ctx, grad_output):
        ctx.needs_input_grad = (*wanted, False, False, False)
        return backward(ctx, grad_output)

    monkeypatch.setattr(functional.GiftLossFunction, "backward", staticmethod(refreshed))
    for create_graph in (False, True):
        for leaf, want in ((z, expected[0]), (s, expected[1])):
            loss = gift_loss(z, s, y, reduction=reduction).sum()
            (got,) = torch.autograd.grad(loss, leaf, create_graph=create_graph)
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-7)


def test_a_backward_pass_to_one_of_two_inputs_gives_it_its_own_gradient():
    z, s, y = (x.requires_grad_() if x.is_floating_point() else x for x in batch(9, 37))
    expected = torch.autograd.grad(gift_loss(z, s, y), (z, s))
    for leaf, want in zip((z, s), expected, strict=True):
        gift_loss(z, s, y).backward(inputs=[leaf])
        torch.testing.assert_close(leaf.grad, want, rtol=0, atol=0)
        leaf.grad = None
    assert z.grad is None


# ---- what is not requested is not computed -------------------------------------------------------


@pytest.fixture
def kernel_calls(monkeypatch):
    """The numbers of tensors that the calls of the kernel returned."""
    calls, operators = [], functional._CPU_OPERATORS

    def counting(*arguments):
        outputs = operators.loss_and_gradients(*arguments)
        calls.append(len(outputs))
        return outputs

    counted = operators and operators._replace(loss_and_gradients=counting)
    monkeypatch.setattr(functional, "_CPU_OPERATORS", counted)
    return calls


@needs_cpu_kernel
def test_no_gradient_is_computed_that_nobody_asked_for(kernel_calls):
    z, s, y = batch(9, 37)
    gift_loss(z, s, y)
    with torch.no_grad():
        gift_loss(z.requires_grad_(), s, y)
    with torch.inference_mode():
        gift_loss(z, s, y)
    assert kernel_calls == [1, 1, 1]
    gift_loss(z, s, y)
    gift_loss(z.detach(), s.requires_grad_(), y)
    gift_loss(z, s, y)
    assert kernel_calls[3:] == [2, 2, 3]


def test_without_grad_mode_the_loss_has_the_same_bits_and_no_graph():
    for shape in ((9, 37), (3, 3, 37)):
        z, s, y = (x.reshape(shape[: x.dim() + len(shape) - 2]) for x in batch(9, 37))
        with_graph = gift_loss(z.requires_grad_(), s, y)
        with torch.no_grad():
            without = gift_loss(z, s, y)
        assert not without.requires_grad
        torch.testing.assert_close(without, with_graph.detach(), rtol=0, atol=0)


@needs_cpu_kernel
def test_the_memory_kept_for_the_backward_pass_is_one_gradient():
    # The inputs are saved by reference; what the graph holds beyond them is one N * C gradient.
    z, s, y = batch(64, 1000)
    loss = gift_loss(z.requires_grad_(), s, y)
    saved = loss.grad_fn.saved_tensors
    assert {x.data_ptr() for x in saved} == {z.data_ptr(), s.data_ptr(), y.data_ptr()}
    gradients = loss.grad_fn.gradients
    assert [x.numel() for x in gradients] == [64 * 1000]


@needs_cpu_kernel
def test_the_backward_pass_hands_out_the_gradient_that_it_holds():
    z, s, y = batch(64, 1000)
    loss = gift_loss(z.requires_grad_(), s, y)
    held = loss.grad_fn.gradients[0].data_ptr()
    loss.backward()
    assert z.grad.data_ptr() == held
    z.grad = None
    loss = gift_loss(z, s, y)
    held = loss.grad_fn.gradients[0].data_ptr()
    (loss * 3).backward()  # in place
    assert z.grad.data_ptr() == held


# ---- inference mode, autocast --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_soft_labels_and_target_may_come_from_inference_mode(dtype):
    z, s, y = batch(9, 37, dtype)
    with torch.inference_mode():
        teacher, labels = s.clone(), y.clone()
    want = answer(z, s, y, requested=(True, False))
    z.requires_grad_()
    for soft_labels, target in ((teacher, y), (s, labels), (teacher, labels)):
        (grad,) = torch.autograd.grad(gift_loss(z, soft_labels, target), z)
        torch.testing.assert_close(grad, want.logits_grad, rtol=0, atol=0)


def test_second_derivatives_work_with_an_inference_teacher():
    z, s, y = batch(3, 5, torch.float64)
    with torch.inference_mode():
        teacher = s.clone()
    z.requires_grad_()

    def second(loss):
        (grad,) = torch.autograd.grad(loss, z, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), z)[0]

    torch.testing.assert_close(second(gift_loss(z, teacher, y)), second(reference_loss(z, s, y)))


@pytest.mark.parametrize("autocast_dtype", HALVES, ids=str)
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_under_autocast_the_inputs_arrive_uncast(dtype, backend, autocast_dtype):
    inputs = batch(9, 37, dtype)
    want = answer(*inputs, backend=backend)
    with torch.autocast("cpu", autocast_dtype):
        got = answer(*inputs, backend=backend)
    torch.testing.assert_close(got, want, rtol=0, atol=0)


# ---- second derivatives --------------------------------------------------------------------------


def second_order(loss, z, s, weights):
    """The gradients of a function of the gradients."""
    grads = torch.autograd.grad(loss, (z, s), create_graph=True)
    mixed = sum((g * w).sum() for g, w in zip(grads, weights, strict=True))
    return torch.autograd.grad(mixed, (z, s))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("temperature", [None, 2.0])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_hessian_vector_product_is_that_of_the_definition(dtype, temperature, reduction):
    z, s, y = batch(9, 37, dtype)
    z, s, weights = z.requires_grad_(), s.requires_grad_(), torch.randn(2, 9, 37).to(dtype)
    options = {"soft_label_temperature": temperature, "reduction": reduction}
    got = second_order(gift_loss(z, s, y, **options), z, s, weights)
    want = second_order(reference_loss(z, s, y, **options), z, s, weights)
    torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_the_first_gradient_with_a_graph_is_the_one_without():
    z, s, y = (
        x.requires_grad_() if x.is_floating_point() else x for x in batch(9, 37, torch.float64)
    )
    loss = gift_loss(z, s, y)
    with_graph = torch.autograd.grad(loss, (z, s), create_graph=True)
    torch.testing.assert_close(with_graph, torch.autograd.grad(loss, (z, s)))


def test_an_unrolled_training_step_is_differentiated_to_the_soft_labels():
    # Distillation: soft labels that make one SGD step good.
    images = torch.randn(6, 8, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 0, 1, -100])
    weight = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)

    def outer(function):
        inner = function(images @ weight, labels, y)
        (step,) = torch.autograd.grad(inner, weight, create_graph=True)
        loss = function(images @ (weight - 0.5 * step), labels.detach() + 1, y)
        return torch.autograd.grad(loss, (labels, weight))

    torch.testing.assert_close(outer(gift_loss), outer(reference_loss))
    labels_grad = outer(gift_loss)[0]
    assert labels_grad[:5].abs().min() > 0


# ---- forward mode --------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_forward_mode_is_right(backend):
    z, s, y = batch(9, 37, torch.float64)
    dz, ds = torch.randn(2, 9, 37, dtype=torch.float64)
    want = answer(z, s, y)
    with forward_ad.dual_level():
        loss = gift_loss(
            forward_ad.make_dual(z, dz), forward_ad.make_dual(s, ds), y, backend=backend
        )
        tangent = forward_ad.unpack_dual(loss).tangent
    expected = (want.logits_grad * dz).sum() + (want.soft_labels_grad * ds).sum()
    torch.testing.assert_close(tangent, expected)


def test_a_plain_loss_inside_a_dual_level_keeps_its_gradient():
    z, s, y = batch(9, 37, torch.float64)
    with forward_ad.dual_level():
        got = answer(z, s, y)
    torch.testing.assert_close(got, answer(z, s, y))
