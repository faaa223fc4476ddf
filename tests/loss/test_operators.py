"""The operators, their tracing rules, and the binding past the dispatcher."""

import pytest
import torch
from expected import FLOATS, answer, batch, needs_cpu_kernel
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import gift_fast
from gift_fast import backends, gift_loss
from gift_fast.loss import functional
from gift_fast.loss import operators as ops

pytestmark = needs_cpu_kernel

OPTIONS = (0.3, 0.1, False, None, -100)


@pytest.mark.parametrize("asked", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("reduction", [0, 1, 2])
@pytest.mark.parametrize("dtypes", [("float32", "float16"), ("float16", "float64")])
def test_the_operators_pass_opcheck(dtypes, reduction, asked):
    logits, soft_labels, target = batch(6, 5, *(getattr(torch, x) for x in dtypes))
    for operator in (
        torch.ops.gift_fast.loss_and_gradients.default,
        torch.ops.gift_fast.gift_loss.default,
    ):
        torch.library.opcheck(
            operator,
            (logits, soft_labels, target, *OPTIONS, reduction, *asked),
            test_utils=("test_schema", "test_faketensor"),
        )


# opcheck itself asks the clones it makes for their .grad.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("asked", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_the_differentiable_operator_passes_opcheck_with_inputs_that_require_grad(dtype, asked):
    logits, soft_labels, target = batch(6, 5, dtype)
    logits.requires_grad_(asked[0])
    soft_labels.requires_grad_(asked[1])
    torch.library.opcheck(
        torch.ops.gift_fast.gift_loss.default,
        (logits, soft_labels, target, *OPTIONS, 1, *asked),
        rtol=1e-3,
        atol=1e-3,
    )


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_the_differentiable_operator_runs_its_backward_pass_twice(reduction):
    # As an exported program does outside of a compiled graph.
    logits, soft_labels, target = batch(6, 5)
    target[1] = -100
    logits.requires_grad_()
    number = ("none", "mean").index(reduction)
    operator = torch.ops.gift_fast.gift_loss
    outputs = operator(logits, soft_labels, target, *OPTIONS, number, True, False)
    loss = outputs[0].sum() * 3.0
    loss.backward(retain_graph=True)
    loss.backward()
    eager = logits.detach().clone().requires_grad_()
    (gift_loss(eager, soft_labels, target, gamma=0.3, reduction=reduction).sum() * 6.0).backward()
    torch.testing.assert_close(logits.grad, eager.grad)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", [(), (6,)])
def test_the_scale_step_passes_opcheck(dtype, shape):
    scale = torch.rand(6) if dtype == torch.float16 else None
    grad_output = torch.rand(
        shape, dtype=torch.float64 if dtype == torch.float64 else torch.float32
    )
    torch.library.opcheck(
        torch.ops.gift_fast.scale_gradient_.default,
        (torch.randn(6, 5).to(dtype), grad_output, scale),
    )


@pytest.mark.parametrize("upstream", [1.0, 0.3])
@pytest.mark.parametrize("shape", [(), (6,)])
@pytest.mark.parametrize("classes", [1, 5, 16, 37])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_scale_step_is_its_out_of_place_form(dtype, classes, shape, upstream):
    grad = torch.randn(6, classes).to(dtype)
    scale = torch.rand(6) if dtype == torch.float16 else None
    grad_output = torch.full(shape, upstream, dtype=torch.float64)
    want = ops.scaled_gradient(grad, grad_output, scale)
    torch.ops.gift_fast.scale_gradient_(grad, grad_output, scale)
    tolerance = torch.finfo(dtype).eps  # a tie may fall either way after two products
    torch.testing.assert_close(grad, want, rtol=tolerance, atol=1e-7 if scale is not None else 0)


def test_a_scale_of_one_writes_nothing():
    grad = torch.randn(6, 5)
    version, copy = grad.data_ptr(), grad.clone()
    torch.ops.gift_fast.scale_gradient_(grad, torch.tensor(1.0).expand(6), None)
    torch.testing.assert_close(grad, copy, rtol=0, atol=0)
    assert grad.data_ptr() == version


@pytest.mark.parametrize("temperature", [None, 2.0])
@pytest.mark.parametrize("asked", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("soft_labels_dtype", FLOATS, ids=str)
@pytest.mark.parametrize("logits_dtype", FLOATS, ids=str)
def test_the_binding_returns_the_bits_of_the_operator(
    logits_dtype, soft_labels_dtype, asked, temperature
):
    binding = getattr(ops.CPU_LIBRARY, "loss_and_gradients", None)
    if binding is None:
        pytest.skip("this torch lacks what the binding needs")
    inputs = batch(6, 37, logits_dtype, soft_labels_dtype)
    for reduction in (0, 1, 2):
        arguments = (*inputs, 0.3, 0.1, True, temperature, -100, reduction, *asked)
        got = binding(*arguments)
        want = torch.ops.gift_fast.loss_and_gradients(*arguments)
        again = torch.ops.gift_fast.gift_loss(*arguments)
        assert len(got) == 1 + sum(asked) + sum(
            wanted and dtype == torch.float16
            for wanted, dtype in zip(asked, (logits_dtype, soft_labels_dtype), strict=True)
        )
        torch.testing.assert_close(got, want, rtol=0, atol=0)
        torch.testing.assert_close(got, again, rtol=0, atol=0)


def test_the_fake_outputs_have_the_shapes_types_and_strides_of_the_real_ones():
    mode = FakeTensorMode()
    for logits_dtype in FLOATS:
        for soft_labels_dtype in FLOATS:
            inputs = batch(6, 5, logits_dtype, soft_labels_dtype)
            inputs = (inputs[0].t().contiguous().t(), *inputs[1:])  # by columns
            for reduction in (0, 1, 2):
                arguments = (*OPTIONS, reduction, True, True)
                real = torch.ops.gift_fast.loss_and_gradients(*inputs, *arguments)
                with mode:
                    fake = torch.ops.gift_fast.loss_and_gradients(
                        *(mode.from_tensor(x) for x in inputs), *arguments
                    )
                assert [(x.shape, x.dtype, x.stride()) for x in fake] == [
                    (x.shape, x.dtype, x.stride()) for x in real
                ]


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_loss_runs_on_fake_tensors(dtype, reduction):
    with FakeTensorMode():
        logits = torch.empty(2, 3, 5, dtype=dtype, requires_grad=True)
        target = torch.empty(2, 3, dtype=torch.int64)
        loss = gift_loss(logits, torch.empty(2, 3, 5), target, reduction=reduction)
        loss.sum().backward()
    assert loss.shape == ((2, 3) if reduction == "none" else ())
    assert logits.grad.shape == (2, 3, 5)
    assert logits.grad.dtype == dtype


class Log(TorchDispatchMode):
    """Collects the operators that run under it."""

    def __init__(self):
        super().__init__()
        self.operators = []

    def __torch_dispatch__(self, operator, types, arguments=(), keywords=None):
        self.operators.append(operator)
        return operator(*arguments, **(keywords or {}))


def test_a_dispatch_mode_sees_the_operators():
    inputs = batch(6, 5)
    want = answer(*inputs, upstream=torch.tensor(2.0))
    with Log() as log:
        got = answer(*inputs, upstream=torch.tensor(2.0))
    assert torch.ops.gift_fast.loss_and_gradients.default in log.operators
    assert torch.ops.gift_fast.scale_gradient_.default in log.operators
    torch.testing.assert_close(got, want, rtol=0, atol=0)


class Tagged(torch.Tensor):
    """A subclass without behaviour of its own."""


@pytest.mark.parametrize(
    "wrap", [lambda x: x.as_subclass(Tagged), torch.nn.Buffer], ids=["subclass", "buffer"]
)
def test_subclasses_give_the_same_loss(wrap):
    logits, soft_labels, target = batch(6, 5)
    want = answer(logits, soft_labels, target)
    z = wrap(logits.clone()).requires_grad_()
    loss = gift_loss(z, soft_labels, target)
    loss.backward()
    torch.testing.assert_close(loss.detach().as_subclass(torch.Tensor), want.loss, rtol=0, atol=0)
    torch.testing.assert_close(z.grad.as_subclass(torch.Tensor), want.logits_grad, rtol=0, atol=0)
    torch.testing.assert_close(
        gift_loss(logits, wrap(soft_labels), target).as_subclass(torch.Tensor), want.loss
    )
    torch.testing.assert_close(
        gift_loss(logits, soft_labels, target.as_subclass(Tagged)).as_subclass(torch.Tensor),
        want.loss,
    )


def test_a_parameter_takes_the_short_way_and_its_gradient(monkeypatch):
    logits, soft_labels, target = batch(6, 5)
    monkeypatch.setattr(functional, "dispatch", None)  # the long way
    parameter = torch.nn.Parameter(logits)
    gift_loss(parameter, soft_labels, target).backward()
    torch.testing.assert_close(parameter.grad, answer(logits, soft_labels, target).logits_grad)


@pytest.mark.parametrize("which", [0, 1])
def test_the_negative_bit_of_a_view_is_read(which):
    inputs = list(batch(6, 5))
    want = answer(*inputs)
    inputs[which] = torch._neg_view(-inputs[which])
    assert inputs[which].is_neg()
    torch.testing.assert_close(answer(*inputs), want, rtol=0, atol=0)


def test_the_negative_bit_of_a_target_is_read():
    logits, soft_labels, target = batch(6, 5)
    torch.testing.assert_close(
        gift_loss(logits, soft_labels, torch._neg_view(-target)),
        gift_loss(logits, soft_labels, target),
    )


@pytest.mark.parametrize("which", [0, 1])
def test_zeros_without_memory_are_zeros(which):
    # Autograd's own stand-in for a gradient of zeros; it has a null pointer.
    inputs = list(batch(6, 5))
    inputs[which] = torch.zeros(6, 5)
    want = gift_loss(*inputs)
    inputs[which] = torch._efficientzerotensor((6, 5))
    torch.testing.assert_close(gift_loss(*inputs), want)


def test_backends_name_what_is_available_and_why_the_rest_is_not():
    assert list(backends()) == ["cpu", "cuda", "triton", "reference"]
    assert backends()["reference"] == "available"
    assert all(backends().values())


def test_the_build_says_what_it_is():
    info = ops.CPU_LIBRARY.build_info()
    assert info["version"] == gift_fast.__version__
    assert info["cpu_capability"] in info["cpu_capabilities_built"].split()
