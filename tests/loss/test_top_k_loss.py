"""The loss of top-k labels: that of the dense labels they stand for, in float64."""

import itertools
import re

import pytest
import torch
from expected import FLOATS, needs_cpu_kernel
from expected_top_k import ROWS, assert_exact, differentiated, exact, top_k_batch

from gift_fast import GIFTLoss, TopKLabels, gift_loss, refine_labels
from gift_fast.loss.reference import reference_loss

BACKENDS = ["auto", "reference"]


CASES = [("uniform", None), ("zero", None), ("min", None), ("min", 2.0), ("logmeanexp", 2.0)]
CASES += [("-inf", 0.5), ("zero", 20.0)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize(("rest", "temperature"), CASES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_loss_is_that_of_the_dense_labels(dtype, rest, temperature, reduction, backend):
    inputs = top_k_batch(dtypes=(dtype,) * 3, rest=rest)
    options = {"reduction": reduction, "soft_label_temperature": temperature, "backend": backend}
    assert_exact(*inputs, **options)


@pytest.mark.parametrize("indices", [torch.int16, torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("dtypes", list(itertools.product(FLOATS, FLOATS)), ids=str)
def test_types_mix_freely(dtypes, indices):
    for rest in FLOATS:
        assert_exact(*top_k_batch(dtypes=(*dtypes, rest), indices=indices))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("smoothing", ["uniform", "others"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("temperature", [None, 0.5])
def test_options_are_those_of_the_dense_loss(temperature, gamma, smoothing, backend):
    inputs = top_k_batch(dtypes=(torch.float64,) * 3)
    options = {"gamma": gamma, "smoothing": smoothing, "label_smoothing": 0.2}
    assert_exact(*inputs, **options, soft_label_temperature=temperature, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rest", ["uniform", "min"])
@pytest.mark.parametrize(
    ("classes", "k"),
    [
        *((1, 1), (2, 1), (2, 2), (5, 4), (16, 16), (17, 9), (31, 1), (33, 32), (300, 300)),
        *((1000, 10), (4099, 20), (9000, 64)),
    ],
)
def test_any_number_of_classes_and_of_kept_ones(classes, k, rest, backend):
    for dtype in (torch.float32, torch.float64):
        inputs = top_k_batch(classes, k, (dtype, torch.float32, torch.float32), rest=rest)
        assert_exact(*inputs, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weight", ["number", "scalar", "rows"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_mixed_labels(dtype, weight, reduction, backend):
    z, labels, y = top_k_batch(dtypes=(dtype,) * 3)
    other = y.roll(2)
    other[0], other[3] = y[0], int(labels.indices[3, 0])  # equal labels; a kept one
    y[5] = -100
    w = {"number": 0.3, "scalar": torch.tensor(0.3), "rows": torch.linspace(0, 1, ROWS)}[weight]
    assert_exact(z, labels, y, other, w, reduction=reduction, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_leading_dimensions_slices_and_strides(backend):
    z, labels, y = top_k_batch(20, 4, (torch.float64,) * 3, rows=24)
    whole = torch.zeros(2, 3, 8, 20, dtype=torch.float64)
    whole[:, :, 1::2] = z.view(2, 3, 4, 20)
    values, indices = (x.view(2, 3, 4, 4) for x in labels[:2])
    pairs = torch.stack([values, values + 1], -1)
    shaped = TopKLabels(pairs[..., 0], indices.int(), labels.rest.view(2, 3, 4))
    for reduction in ("none", "mean"):
        want = differentiated(gift_loss, z, labels, y, reduction=reduction, backend="reference")
        got = differentiated(
            gift_loss,
            whole[:, :, 1::2],
            shaped,
            y.view(2, 3, 4),
            reduction=reduction,
            backend=backend,
        )
        for x, expected in zip((got[0], *got[1]), (want[0], *want[1]), strict=True):
            torch.testing.assert_close(x.reshape(expected.shape), expected)
    row = TopKLabels(labels.values[0], labels.indices[0], labels.rest[0])
    loss = gift_loss(z[0], row, y[0], backend=backend)
    torch.testing.assert_close(loss, gift_loss(z[:1], row.dense(20)[None], y[:1]))
    empty = TopKLabels(*(x[:0] for x in labels))
    assert gift_loss(z[:0], empty, y[:0], reduction="sum", backend=backend) == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_ignored_rows_are_not_read(backend):
    z, labels, y = top_k_batch()
    z[1], labels.values[1], labels.rest[1], labels.indices[1] = *(torch.nan,) * 3, 10**9
    _, gradients = differentiated(gift_loss, z, labels, y, backend=backend)
    for gradient in gradients:
        assert (gradient[1] == 0).all()
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_nan_stays_in_its_row(backend):
    z, labels, y = top_k_batch()
    labels.values[2, 1], labels.rest[4], z[6, 0] = (torch.nan,) * 3
    loss, gradients = differentiated(gift_loss, z, labels, y, reduction="none", backend=backend)
    damaged = torch.tensor([2, 4, 6])
    clean = [i for i in range(ROWS) if i not in damaged]
    assert loss[damaged].isnan().all()
    assert torch.isfinite(loss[clean]).all()
    assert all(torch.isfinite(x[clean]).all() for x in gradients)


@pytest.mark.parametrize("backend", BACKENDS)
def test_upstream_gradients_do_not_reach_rows_without_a_label(backend):
    upstream = torch.arange(1.0, ROWS + 1)
    upstream[1] = torch.nan
    options = {"reduction": "none", "upstream": upstream, "backend": backend}
    _, gradients = differentiated(gift_loss, *top_k_batch(), **options)
    assert all(torch.isfinite(x).all() for x in gradients)


# ---- where float32 is not enough -----------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3, 4])
def test_a_refined_label_that_nearly_vanishes(k):
    # s = -h up to 1e-4: its norm and the hard label's cancel.
    generator = torch.Generator().manual_seed(0)
    classes, y = 8, torch.tensor([2, 5])
    h = torch.full((2, classes), 0.1 / classes).scatter(1, y[:, None], 0.9 + 0.1 / classes)
    s = -h / h.norm(dim=1, keepdim=True)
    kept = torch.tensor([[2, 0, 7, 1], [5, 6, 3, 0]])[:, :k]
    values = s.gather(1, kept) + 1e-4 * torch.randn(2, k, generator=generator)
    labels = TopKLabels(values, kept, s[:, 1] * (1 if k == 1 else 1.001))
    z = torch.randn(2, classes, generator=generator)
    loss, (gradient, *_) = differentiated(gift_loss, z, labels, y, gamma=0.5)
    want, (expected, *_) = exact(z, labels, y, gamma=0.5)
    torch.testing.assert_close(loss.double(), want, rtol=0, atol=1e-6)
    scale = 0.5 / z.norm(dim=1, keepdim=True).double()
    assert ((gradient - expected).abs() <= 1e-6 * scale + 1e-6 * expected.abs()).all()


@needs_cpu_kernel
@pytest.mark.parametrize("scale", [1e-30, 1e-13, 1e13, 1e25, 1e37])
def test_logits_of_any_magnitude(scale):
    z, labels, y = top_k_batch()
    for factors in ((scale, 1.0), (scale, 1 / scale), (1.0, scale)):
        scaled = TopKLabels(labels.values * factors[1], labels.indices, labels.rest * factors[1])
        inputs = z * factors[0], scaled, y
        loss, (gradient, *_) = differentiated(gift_loss, *inputs)
        want, (expected, *_) = exact(*inputs)
        torch.testing.assert_close(loss.double(), want, rtol=0, atol=1e-6)
        largest = float(expected.abs().max())
        torch.testing.assert_close(
            gradient.double(), expected, rtol=1e-5, atol=2e-6 * largest + 1e-45
        )


@needs_cpu_kernel
def test_long_constant_rows_lose_nothing():
    z = torch.full((2, 300_000), 0.1)
    labels = TopKLabels(
        torch.tensor([[0.5], [0.2]]), torch.tensor([[7], [9]]), torch.full((2,), 0.3)
    )
    loss = gift_loss(z, labels, torch.tensor([7, 0]), reduction="none")
    want = reference_loss(
        z.double(), labels.dense(300_000).double(), torch.tensor([7, 0]), reduction="none"
    )
    torch.testing.assert_close(loss.double(), want, rtol=0, atol=2e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_of_zeros_have_finite_gradients_in_float16(backend):
    z, labels, y = top_k_batch(dtypes=(torch.float16,) * 3)
    z[2], z[4] = 0, 0
    _, (gradient, *_) = differentiated(gift_loss, z, labels, y, reduction="sum", backend=backend)
    assert torch.isfinite(gradient).all()
    assert 0.9 * 2**15 < gradient[2].double().norm() < 1.1 * 2**15
    labels.values[2], labels.rest[2] = 0, 0
    _, (_, values_grad, rest_grad) = differentiated(gift_loss, z, labels, y, backend=backend)
    assert torch.isfinite(values_grad).all()
    assert torch.isfinite(rest_grad).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_float16_gradients_survive_a_loss_scale(backend):
    z, labels, y = top_k_batch(1000, 10, (torch.float16,) * 3, rows=64)
    upstream = torch.tensor(2.0**16)
    _, (gradient, *_) = differentiated(gift_loss, z, labels, y, upstream=upstream, backend=backend)
    _, (expected, *_) = exact(z, labels, y, upstream=upstream.double())
    torch.testing.assert_close(gradient.double(), expected, rtol=2e-3, atol=1e-5)


@needs_cpu_kernel
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_any_number_of_threads_gives_the_same_bits(dtype, mixed):
    z, labels, y = top_k_batch(500, 10, (dtype,) * 3, rows=1000)
    extra = (y.roll(1), torch.linspace(0, 1, 1000)) if mixed else ()
    threads, answers = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            answers.append(differentiated(gift_loss, z, labels, y, *extra))
    finally:
        torch.set_num_threads(threads)
    for loss, gradients in answers[1:]:
        torch.testing.assert_close(loss, answers[0][0], rtol=0, atol=0)
        torch.testing.assert_close(gradients[0], answers[0][1][0], rtol=0, atol=0)


@needs_cpu_kernel
def test_the_order_of_the_kept_classes_and_streamed_rows_change_nothing():
    # 24 MB: gradients of this size are written past the cache.
    z, labels, y = top_k_batch(1003, 10, rows=6000)
    _, (want, *_) = differentiated(
        gift_loss, z[:100], TopKLabels(*(x[:100] for x in labels)), y[:100], reduction="sum"
    )
    _, (got, *_) = differentiated(gift_loss, z, labels, y, reduction="sum")
    torch.testing.assert_close(got[:100], want, rtol=1e-6, atol=1e-7)
    turned = TopKLabels(labels.values.flip(1), labels.indices.flip(1), labels.rest)
    _, (again, *_) = differentiated(gift_loss, z, turned, y, reduction="sum")
    torch.testing.assert_close(again, got, rtol=1e-5, atol=1e-7)


# ---- autograd, transforms and graphs -------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize(("rest", "temperature"), [("uniform", None), ("min", None), ("min", 2.0)])
def test_both_derivatives_are_those_of_finite_differences(rest, temperature, mixed, backend):
    z, labels, y = top_k_batch(6, 3, (torch.float64,) * 3, rest=rest, rows=4)
    if rest == "uniform":  # away from a sum of 1, where the rest has a corner
        labels = labels._replace(values=labels.values * 0.8)
    extra = (y.roll(1), 0.3) if mixed else ()
    inputs = [z.requires_grad_(), labels.values.requires_grad_()]
    if labels.rest is not None:
        inputs.append(labels.rest.requires_grad_())

    def loss(z, values, rest=None):
        return gift_loss(
            z,
            TopKLabels(values, labels.indices, rest),
            y,
            *extra,
            soft_label_temperature=temperature,
            backend=backend,
        )

    assert torch.autograd.gradcheck(loss, inputs, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(loss, inputs, fast_mode=True)


def test_a_kept_graph_gives_the_gradients_twice():
    z, labels, y = top_k_batch()
    z.requires_grad_(), labels.values.requires_grad_()
    loss = gift_loss(z, labels, y)
    first = torch.autograd.grad(loss, (z, labels.values), torch.tensor(2.0), retain_graph=True)
    second = torch.autograd.grad(loss, (z, labels.values), torch.tensor(2.0))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@pytest.mark.parametrize("inputs", ["logits", "values", "rest"])
def test_backward_to_a_single_input(inputs):
    z, labels, y = top_k_batch()
    _, want = differentiated(gift_loss, z, labels, y)
    of = {"logits": z, "values": labels.values, "rest": labels.rest}
    of[inputs].requires_grad_()
    gift_loss(z, labels, y).backward()
    torch.testing.assert_close(of[inputs].grad, want[list(of).index(inputs)])
    assert all(x.grad is None for name, x in of.items() if name != inputs)


@pytest.mark.parametrize("hooks", ["checkpoint", "save_on_cpu", "none"])
def test_saved_tensor_hooks(hooks):
    z, labels, y = top_k_batch()
    _, want = differentiated(gift_loss, z, labels, y)

    def function(z, labels, y):
        if hooks == "checkpoint":
            return torch.utils.checkpoint.checkpoint(
                lambda z, v, u: gift_loss(z * 1, TopKLabels(v, labels.indices, u), y),
                z,
                labels.values,
                labels.rest,
                use_reentrant=False,
            )
        if hooks == "save_on_cpu":
            with torch.autograd.graph.save_on_cpu():
                return gift_loss(z, labels, y)
        return gift_loss(z, labels, y)

    torch.testing.assert_close(differentiated(function, z, labels, y)[1], want)


def test_labels_of_inference_mode():
    z, labels, y = top_k_batch()
    with torch.inference_mode():
        teacher = TopKLabels(*(x.clone() for x in labels))
    want = differentiated(gift_loss, z, labels, y)[1][0]
    z.requires_grad_()
    loss = gift_loss(z, teacher, y)
    (gradient,) = torch.autograd.grad(loss, z, create_graph=True)
    torch.testing.assert_close(gradient.detach(), want, rtol=1e-5, atol=1e-8)
    gradient.sum().backward()
    gift_loss(z, teacher, y).backward()


def test_no_gradient_is_recorded_without_need():
    z, labels, y = top_k_batch()
    assert not gift_loss(z, labels, y).requires_grad
    with torch.no_grad():
        assert not gift_loss(z.requires_grad_(), labels, y).requires_grad


@pytest.mark.parametrize("rest", ["uniform", "min"])
def test_the_transforms_of_torch_func(rest):
    z, labels, y = top_k_batch(7, 3, (torch.float64,) * 3, rest=rest)
    y = y.clamp_min(0)
    dense = labels.dense(7)
    fields = [x for x in labels if x is not None]

    def loss(z, y, *fields):
        return gift_loss(z, TopKLabels(*fields), y)

    grad, vmap = torch.func.grad, torch.func.vmap
    of_dense = torch.func.grad(gift_loss)
    torch.testing.assert_close(grad(loss)(z, y, *fields), of_dense(z, dense, y))
    torch.testing.assert_close(vmap(grad(loss))(z, y, *fields), vmap(of_dense)(z, dense, y))
    for transform in (
        torch.func.hessian,
        lambda f: lambda z: torch.func.jvp(f, (z,), (z.cos(),)),
        torch.func.jacrev,
    ):
        got = transform(lambda z: loss(z, y, *fields))(z)
        torch.testing.assert_close(got, transform(lambda z: gift_loss(z, dense, y))(z))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("rest", "mixed", "labels_grad", "reduction"),
    [
        ("uniform", False, False, "mean"),
        ("min", True, False, "none"),
        ("min", False, True, "mean"),
    ],
)
def test_one_graph_gives_the_loss_and_gradients_of_eager_mode(rest, mixed, labels_grad, reduction):
    torch._dynamo.reset()
    z, labels, y = top_k_batch(rest=rest)
    extra = (y.roll(1), torch.tensor(0.3)) if mixed else ()
    compiled = torch.compile(gift_loss, backend="aot_eager", fullgraph=True, dynamic=True)

    def run(function):
        z_, v = z.clone().requires_grad_(), labels.values.clone().requires_grad_(labels_grad)
        loss = function(z_, labels._replace(values=v), y, *extra, reduction=reduction)
        loss.sum().backward()
        return loss.detach(), z_.grad, v.grad

    got, want = run(compiled), run(gift_loss)
    for x, expected in zip(got, want, strict=True):
        torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-7)
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("rest", ["uniform", "min"])
def test_exported_programs_take_top_k_labels(rest):
    class Step(torch.nn.Module):
        def forward(self, z, labels, y):
            return gift_loss(z, labels, y)

    inputs = top_k_batch(rest=rest)
    program = torch.export.export(Step(), inputs)
    torch.testing.assert_close(program.module()(*inputs), gift_loss(*inputs), rtol=1e-6, atol=1e-7)
    targets = [str(node.target) for node in program.graph.nodes]
    assert any("top_k_gift_loss" in name for name in targets)


OPERATORS = ["top_k_loss_and_gradients", "top_k_gift_loss"]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize(
    ("dtype", "rest", "reduction"),
    [(torch.float32, "uniform", 1), (torch.float32, "min", 2), (torch.float16, "min", 1)],
)
@pytest.mark.parametrize("name", OPERATORS)
def test_the_operators_pass_opcheck(name, dtype, rest, reduction):
    z, labels, y = top_k_batch(5, 2, (dtype,) * 3, rest=rest)
    differentiable = name == "top_k_gift_loss"
    options = 0.3, 0.1, False, None, -100, reduction, True
    all_utils = ("test_schema", "test_autograd_registration", "test_faketensor")
    all_utils += ("test_aot_dispatch_dynamic",)
    torch.library.opcheck(
        getattr(torch.ops.gift_fast, name).default,
        (z.requires_grad_(differentiable), *labels, y, *options),
        test_utils=all_utils if differentiable else ("test_schema", "test_faketensor"),
        rtol=1e-3,
        atol=1e-3,
    )


def test_an_exported_graph_refuses_gradients_of_the_labels():
    z, labels, y = top_k_batch()
    options = 0.3, 0.1, False, None, -100, 1, True
    values = labels.values.requires_grad_()
    operator = torch.ops.gift_fast.top_k_gift_loss
    loss = operator(z.requires_grad_(), values, *labels[1:], y, *options)[0]
    with pytest.raises(RuntimeError, match="no gradient of values and rest in an exported graph"):
        loss.backward()


# ---- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rest", ["uniform", "min"])
def test_the_module_and_refined_labels_take_them(rest):
    z, labels, y = top_k_batch(rest=rest)
    torch.testing.assert_close(GIFTLoss()(z, labels, y), gift_loss(z, labels, y), rtol=0, atol=0)
    y = y.clamp_min(0)
    torch.testing.assert_close(
        refine_labels(labels, y, num_classes=37), refine_labels(labels.dense(37), y)
    )
    with pytest.raises(TypeError, match=r"^num_classes must be given for top-k labels$"):
        refine_labels(labels, y)
    with pytest.raises(ValueError, match=r"^num_classes must be None for dense labels, got \d+$"):
        refine_labels(z, y, num_classes=37)


def test_without_the_hard_label_there_need_be_no_target():
    z, labels, y = top_k_batch()
    got = gift_loss(z, labels, gamma=0.0)
    torch.testing.assert_close(got, gift_loss(z, labels, y.clamp_min(0), gamma=0.0))


VALUES, INDICES = torch.tensor([[0.5, 0.25], [0.5, 0.5]]), torch.tensor([[0, 1], [2, 1]])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("fields", "options", "error", "message"),
    [
        ({"values": [1.0]}, {}, TypeError, "values must be a torch.Tensor, got list"),
        (
            {"values": VALUES.long()},
            {},
            TypeError,
            "values must have one of the dtypes float32, bfloat16, float16, float64, got "
            "torch.int64",
        ),
        (
            {"indices": INDICES.float()},
            {},
            TypeError,
            "indices must have one of the dtypes int64, int32, int16, got torch.float32",
        ),
        (
            {"values": torch.ones(2, 4)},
            {},
            ValueError,
            "values must have the shape (..., k) with 1 <= k <= C = 3, got (2, 4)",
        ),
        (
            {"indices": INDICES[:, :1]},
            {},
            ValueError,
            "indices must have the shape of values (2, 2), got (2, 1)",
        ),
        (
            {"values": VALUES[:1], "indices": INDICES[:1]},
            {},
            ValueError,
            "values must have the shape (..., k) with the leading dimensions of logits (2,), got "
            "(1, 2)",
        ),
        (
            {"rest": torch.zeros(2, 1)},
            {},
            ValueError,
            "rest must have the shape of values without its last dimension (2,), got (2, 1)",
        ),
        (
            {},
            {"soft_label_temperature": 2.0},
            ValueError,
            "soft_label_temperature must be None if rest is None, because the values are then "
            "probabilities, got soft_label_temperature=2.0",
        ),
        (
            {"indices": torch.tensor([[0, 1], [3, 1]])},
            {},
            IndexError,
            "indices must be classes in [0, 3), got 3 in row 1",
        ),
        (
            {"indices": torch.tensor([[0, 1], [2, -1]], dtype=torch.int16)},
            {},
            IndexError,
            "indices must be classes in [0, 3), got -1 in row 1",
        ),
        (
            {"indices": torch.tensor([[0, 1], [2, 2]])},
            {"check_indices": True},
            ValueError,
            "indices must be different within a row, got 2 twice in row 1",
        ),
        (
            {"values": torch.tensor([[0.5, 0.5], [0.75, 0.5]])},
            {},
            ValueError,
            "values must be probabilities for rest=None, got a smallest value of 0.5 and a sum of "
            "1.25 in row 1; give rest for other values",
        ),
        (
            {"values": torch.tensor([[0.5, -0.5], [0.75, 0.25]])},
            {},
            ValueError,
            "values must be probabilities for rest=None, got a smallest value of -0.5 and a sum of "
            "0 in row 0; give rest for other values",
        ),
        (
            {"rest": torch.tensor([0.0, -torch.inf])},
            {},
            ValueError,
            "rest must be finite without soft_label_temperature, got -inf in row 1",
        ),
        (
            {"rest": torch.zeros(2, device="meta")},
            {},
            ValueError,
            "rest must be on the device of values cpu, got meta",
        ),
    ],
)
def test_bad_labels_are_named(fields, options, error, message, backend):
    labels = TopKLabels(**({"values": VALUES, "indices": INDICES} | fields))
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        gift_loss(torch.randn(2, 3), labels, torch.tensor([0, 1]), backend=backend, **options)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_target_that_is_no_class_is_named_with_its_row(backend):
    labels = TopKLabels(VALUES, INDICES)
    message = r"^target must be a class in \[0, 3\) or ignore_index \(-100\), got 3 in row 1$"
    with pytest.raises(IndexError, match=message):
        gift_loss(torch.randn(2, 3), labels, torch.tensor([0, 3]), backend=backend)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_probabilities_may_be_rounded_to_their_type(dtype):
    dense = torch.randn(50, 1000, generator=torch.Generator().manual_seed(0)).mul(8).softmax(-1)
    labels = TopKLabels.from_dense(dense, 100)
    labels = labels._replace(values=labels.values.to(dtype))
    for backend in BACKENDS:
        gift_loss(torch.randn(50, 1000), labels, torch.zeros(50).long(), backend=backend)
