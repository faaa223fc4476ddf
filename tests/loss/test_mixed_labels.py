"""Mixed labels: w L(target) + (1 - w) L(other_target) in one call, and a loss without a target."""

import itertools
import re

import pytest
import torch
from expected import FLOATS, answer, batch, needs_cpu_kernel

import gift_fast
from gift_fast import GIFTLoss, gift_loss
from gift_fast.loss import operators as ops
from gift_fast.loss import plain_operator
from gift_fast.loss.arguments import OperatorArguments

WEIGHTS = {
    "number": 0.3,
    "scalar": torch.tensor(0.3, dtype=torch.float64),
    "rows": torch.tensor([0.3, 0.9, 0.0, 1.0, 0.5, 0.25, 0.75]),
}
ROWS = 7
TOLERANCE = {
    torch.float64: {"rtol": 1e-12, "atol": 1e-14},
    torch.float32: {"rtol": 1e-5, "atol": 1e-7},
    torch.bfloat16: {"rtol": 1.6e-2, "atol": 1e-5},
    torch.float16: {"rtol": 2e-3, "atol": 1e-6},
}


def mixed_batch(classes=37, *dtypes):
    """Rows with two labels, one label twice, one of the two ignored, and both ignored."""
    z, s, y = batch(ROWS, classes, *dtypes)
    other = y.roll(1).clone()
    other[1] = y[1]
    y[2], other[3] = -100, -100
    y[4] = other[4] = -100
    return z, s, y, other


def weighted(z, s, y, other, weight, *, reduction="mean", ignore_index=-100, **options):
    """The same by calls with one target each, in float64 and by the definition."""
    options = {**options, "ignore_index": ignore_index, "backend": "reference"}

    def term(labels, share):
        rows = gift_loss(z, s, labels, reduction="none", **options)
        valid = labels != ignore_index
        rows = torch.where(valid, share * rows, 0.0)
        return {"none": rows, "sum": rows.sum(), "mean": rows.sum() / valid.sum()}[reduction]

    return term(y, weight) + term(other, 1 - weight)


def exact(z, s, y, other, weight, **options):
    if isinstance(weight, torch.Tensor):
        weight = weight.double()
    return answer(
        z.double(),
        s.double(),
        y,
        function=lambda *x, **o: weighted(*x, other, weight, **o),
        **options,
    )


def ours(z, s, y, other, weight, **options):
    return answer(z, s, y, other_target=other, target_weight=weight, **options)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("dtypes", list(itertools.product(FLOATS, FLOATS)), ids=str)
def test_the_loss_is_the_weighted_sum_of_the_losses_of_both_labels(
    dtypes, weight, reduction, backend
):
    inputs = (*mixed_batch(37, *dtypes), WEIGHTS[weight])
    got, want = (
        ours(*inputs, reduction=reduction, backend=backend),
        exact(*inputs, reduction=reduction),
    )
    sums = torch.float64 if dtypes[0] == torch.float64 else torch.float32
    torch.testing.assert_close(got.loss.double(), want.loss, **TOLERANCE[sums])
    for gradient, expected, dtype in zip(got[1:], want[1:], dtypes, strict=True):
        tolerance = TOLERANCE[sums if dtype == torch.float64 else dtype]
        torch.testing.assert_close(gradient.double(), expected, **tolerance)


@pytest.mark.parametrize("smoothing", ["uniform", "others"])
@pytest.mark.parametrize("temperature", [None, 0.5])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_options_apply_to_both_labels(gamma, temperature, smoothing):
    inputs = (*mixed_batch(5, torch.float64), 0.3)
    options = {
        "gamma": gamma,
        "soft_label_temperature": temperature,
        "smoothing": smoothing,
        "label_smoothing": 0.2,
    }
    torch.testing.assert_close(
        ours(*inputs, **options), exact(*inputs, **options), rtol=1e-11, atol=1e-13
    )


@pytest.mark.parametrize("classes", [1, 2, 3, 16, 17, 1000, 4099])
def test_rows_of_any_length_have_both_targets(classes):
    inputs = (*mixed_batch(classes), 0.3)
    got, want = ours(*inputs), exact(*inputs)
    torch.testing.assert_close(got.loss.double(), want.loss, rtol=1e-5, atol=1e-6)
    for gradient, expected in zip(got[1:], want[1:], strict=True):
        torch.testing.assert_close(gradient.double(), expected, rtol=1e-4, atol=1e-6)


@needs_cpu_kernel
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_weight_of_one_or_zero_and_equal_labels_give_the_loss_of_one_label(dtype):
    z, s, y = batch(9, 37, dtype)
    other = y.roll(1)
    alone = answer(z, s, y)
    for got in (
        ours(z, s, y, other, 1.0),
        ours(z, s, other, y, 0.0),
        ours(z, s, y, y, 0.25),
    ):
        torch.testing.assert_close(got.loss, alone.loss)
        torch.testing.assert_close(got[1:], alone[1:], **TOLERANCE[dtype])


def test_rows_that_float32_is_not_good_enough_for_have_both_labels():
    s = torch.zeros(3, 4)
    s[0, 1], s[1] = -1.0, torch.tensor([1e30, 1.0, 1.0, 1.0])
    z = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1e25, 1.0, 0.0, 0.0], [0.0] * 4])
    inputs = (z, s, torch.tensor([1, 0, 2]), torch.tensor([2, 1, 3]), 0.4)
    options = {"gamma": 0.5, "label_smoothing": 0.0, "reduction": "sum"}
    got, want = ours(*inputs, **options), exact(*inputs, **options)
    torch.testing.assert_close(got.loss.double(), want.loss, rtol=1e-6, atol=1e-6)
    for gradient, expected in zip(got[1:], want[1:], strict=True):
        torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=1e-9)


def test_a_mean_over_no_valid_label_is_nan_as_in_two_calls():
    z, s, y, other = mixed_batch()
    got = ours(z, s, y, torch.full_like(other, -100), 0.5)
    assert got.loss.isnan()
    assert torch.isfinite(got.logits_grad).all()


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_both_derivatives_are_those_of_finite_differences(backend, weight, reduction):
    z, s, y, other = mixed_batch(4, torch.float64)
    z, s = z.requires_grad_(), s.requires_grad_()

    def loss(z, s):
        return gift_loss(z, s, y, other, WEIGHTS[weight], reduction=reduction, backend=backend)

    assert torch.autograd.gradcheck(loss, (z, s), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(loss, (z, s), fast_mode=True)


@needs_cpu_kernel
def test_the_sweep_over_the_rows_is_a_single_one(monkeypatch):
    calls = []
    operators = gift_fast.loss.functional._CPU_OPERATORS

    def counting(*arguments):
        calls.append(arguments)
        return operators.loss_and_gradients(*arguments)

    counted = operators._replace(loss_and_gradients=counting)
    monkeypatch.setattr("gift_fast.loss.functional._CPU_OPERATORS", counted)
    for weight in WEIGHTS.values():
        ours(*mixed_batch(), weight)
    assert len(calls) == len(WEIGHTS)


@needs_cpu_kernel
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_any_number_of_threads_gives_the_same_bits(dtype):
    z, s, y = batch(300, 501, dtype)
    threads = torch.get_num_threads()
    answers = []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            answers.append(ours(z, s, y, y.roll(1), torch.linspace(0, 1, 300)))
    finally:
        torch.set_num_threads(threads)
    for other in answers[1:]:
        torch.testing.assert_close(other, answers[0], rtol=0, atol=0)


@pytest.mark.parametrize("weight", [0.3, torch.rand(2, 3, 4)], ids=["number", "rows"])
def test_leading_dimensions_strides_and_int32_targets(weight):
    z, s = torch.randn(2, 5, 4, 3, 7, dtype=torch.float64).transpose(1, 3)
    z, s = z[:, :, :4].transpose(1, 2).transpose(1, 2)[:2, :3], s[:2, :3, :4]
    y = torch.randint(7, (2, 4, 3), dtype=torch.int32).transpose(1, 2)
    other = torch.randint(7, (2, 3, 8))[..., ::2]
    z, s = (torch.randn(2, 3, 8, 7, dtype=torch.float64)[:, :, ::2] for _ in range(2))
    for reduction in ("none", "mean"):
        got = ours(z, s, y, other, weight, reduction=reduction)
        want = exact(z, s, y.long(), other, weight, reduction=reduction)
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_upstream_gradients_do_not_reach_rows_without_a_label():
    z, s, y, other = mixed_batch()
    upstream = torch.ones(ROWS)
    upstream[4] = torch.nan
    got = ours(z, s, y, other, 0.3, reduction="none", upstream=upstream)
    assert (got.logits_grad[4] == 0).all()
    assert torch.isfinite(got.logits_grad).all()


# ---- transforms and graphs -----------------------------------------------------------------------


def test_the_transforms_of_torch_func_see_both_labels():
    z, s, y, other = mixed_batch(5, torch.float64)
    rows = WEIGHTS["rows"]
    for weight in WEIGHTS.values():
        got = torch.func.grad(gift_loss)(z, s, y, other, weight)
        torch.testing.assert_close(got, exact(z, s, y, other, weight).logits_grad)
    y, other = y.clamp_min(0), other.clamp_min(0)
    each = torch.func.vmap(torch.func.grad(gift_loss))(z, s, y, other, rows)
    want = exact(z, s, y, other, rows, reduction="sum").logits_grad
    torch.testing.assert_close(each, want)
    shared = torch.func.vmap(gift_loss, in_dims=(0, 0, 0, None, None))(z, s, y, other[0], 0.3)
    torch.testing.assert_close(
        shared, weighted(z, s, y, other[:1].expand(ROWS), 0.3, reduction="none")
    )


@needs_cpu_kernel
def test_compiled_code_takes_weights_that_change_without_compiling_again():
    torch._dynamo.reset()
    graphs = []

    def counting(graph, inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(gift_loss, fullgraph=True, backend=counting)
    z, s, y, other = mixed_batch()
    for weight in torch.tensor([0.3, 0.7, 0.1, 0.9]).unbind():
        got = answer(z, s, y, function=lambda *x, w=weight: compiled(*x, other, w))
        torch.testing.assert_close(got, ours(z, s, y, other, weight), rtol=1e-6, atol=1e-8)
    assert len(graphs) == 1
    got = answer(z, s, y, function=lambda *x: compiled(*x, other, 0.3))
    torch.testing.assert_close(got, ours(z, s, y, other, 0.3), rtol=1e-6, atol=1e-8)
    torch._dynamo.reset()


@needs_cpu_kernel
def test_exported_programs_hold_both_labels():
    class Step(torch.nn.Module):
        def forward(self, z, s, y, other, weight):
            return gift_loss(z, s, y, other, weight)

    inputs = (*mixed_batch(), WEIGHTS["rows"])
    program = torch.export.export(Step(), inputs)
    torch.testing.assert_close(program.module()(*inputs), gift_loss(*inputs), rtol=0, atol=0)


@needs_cpu_kernel
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("weight", ["scalar", "rows"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_the_operators_pass_opcheck(dtype, weight):
    z, s, y, other = mixed_batch(5, dtype)
    arguments = (0.3, 0.1, False, None, -100, 1, True, True, other, WEIGHTS[weight])
    torch.library.opcheck(
        torch.ops.gift_fast.gift_loss.default,
        (z.requires_grad_(), s.requires_grad_(), y, *arguments),
        rtol=1e-3,
        atol=1e-3,
    )


def test_the_schemas_list_the_arguments_of_the_operators():
    names = [x.name for x in torch.ops.gift_fast.gift_loss.default._schema.arguments]
    assert names == ["logits", "soft_labels", "target", *OperatorArguments._fields]


@needs_cpu_kernel
@pytest.mark.parametrize("reduction", [0, 1, 2])
@pytest.mark.parametrize("weight", ["scalar", "rows"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_operator_in_plain_pytorch_is_that_of_the_kernels(dtype, weight, reduction):
    z, s, y, other = mixed_batch(11, dtype)
    arguments = (0.3, 0.1, False, 2.0, -100, reduction, True, True, other, WEIGHTS[weight])
    kernel = torch.ops.gift_fast.loss_and_gradients(z, s, y, *arguments)
    plain = plain_operator.loss_and_gradients(z, s, y, *arguments)
    torch.testing.assert_close(plain[0], kernel[0], rtol=1e-5, atol=1e-6)
    upstream = torch.ones_like(kernel[0])
    for one, two in zip(
        ops.unpack_gradients(plain, True, True),
        ops.unpack_gradients(kernel, True, True),
        strict=True,
    ):
        gradients = [ops.scaled_gradient(x[0], upstream, x[1]) for x in (one, two)]
        torch.testing.assert_close(*gradients, **TOLERANCE[dtype])


# ---- arguments -----------------------------------------------------------------------------------


def test_the_module_takes_mixed_labels():
    inputs = (*mixed_batch(), 0.3)
    torch.testing.assert_close(GIFTLoss()(*inputs), gift_loss(*inputs), rtol=0, atol=0)


@pytest.mark.parametrize("ignore_index", [-100, 0])
def test_without_the_hard_label_there_need_be_no_target(ignore_index):
    z, s, y = batch(6, 5)
    options = {"gamma": 0.0, "ignore_index": ignore_index}
    got = answer(z, s, None, **options)
    torch.testing.assert_close(got, answer(z, s, y, gamma=0.0))
    assert GIFTLoss(**options)(z[None], s[None]) == got.loss
    each = torch.func.vmap(torch.func.grad(lambda z, s: gift_loss(z, s, **options)))(z, s)
    torch.testing.assert_close(each, got.logits_grad * 6)


@pytest.mark.parametrize("compiling", [False, True])
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"target": None},
            TypeError,
            "target must be given with other_target and target_weight, got None",
        ),
        (
            {"target": None, "other_target": None, "target_weight": None},
            TypeError,
            "target must be given unless gamma is 0, got None and gamma=0.1",
        ),
        (
            {"target_weight": None},
            TypeError,
            "target_weight must be given with other_target, got None",
        ),
        (
            {"other_target": None},
            TypeError,
            "other_target must be given with target_weight, got None",
        ),
        ({"target_weight": 1.5}, ValueError, "target_weight must be in [0, 1], got 1.5"),
        ({"target_weight": "half"}, TypeError, "target_weight must be a float, got str"),
        (
            {"target_weight": torch.ones(3)},
            ValueError,
            "target_weight must be a scalar or have the shape of target (2,), got (3,)",
        ),
        (
            {"target_weight": torch.ones(2, dtype=torch.int64)},
            TypeError,
            "target_weight must be a number or a floating-point tensor, got a tensor of "
            "torch.int64",
        ),
        (
            {"target_weight": torch.ones(2, requires_grad=True)},
            ValueError,
            "target_weight must not require a gradient; pass target_weight.detach(), or use the "
            "weighted sum of two calls",
        ),
        (
            {"other_target": torch.tensor([0])},
            ValueError,
            "other_target must have the shape of logits without its last dimension (2,), got (1,)",
        ),
        (
            {"target": torch.ones(2, 3)},
            TypeError,
            "target must have one of the dtypes int64, int32, got torch.float32; class "
            "probabilities are not supported: pass the two labels of a mixed image as target and "
            "other_target, and the weight of the first as target_weight",
        ),
    ],
)
def test_bad_arguments_are_named(changes, error, message, compiling):
    arguments = {
        "logits": torch.ones(2, 3),
        "soft_labels": torch.ones(2, 3),
        "target": torch.tensor([0, 1]),
        "other_target": torch.tensor([1, 2]),
        "target_weight": 0.5,
        "backend": "reference" if compiling else "auto",
    } | changes
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        gift_loss(**arguments)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("name", ["target", "other_target"])
def test_a_label_that_is_no_class_is_named_with_its_row(name, backend):
    labels = {"target": torch.tensor([0, 1, -100]), "other_target": torch.tensor([1, 2, 0])}
    labels[name][1] = 3
    message = f"{name} must be a class in [0, 3) or ignore_index (-100), got 3 in row 1"
    with pytest.raises(IndexError, match=f"^{re.escape(message)}$"):
        gift_loss(torch.ones(3, 3), torch.ones(3, 3), **labels, target_weight=0.5, backend=backend)
