"""Losses and gradients on a GPU, against the definition in float64 on the same GPU."""

import math
import subprocess
import sys

import pytest
import torch
from expected import Options, answer, assert_exact, batch, exact

from gift_fast import TopKLabels, gift_loss

pytestmark = pytest.mark.gpu

F64, F32, BF16, F16 = torch.float64, torch.float32, torch.bfloat16, torch.float16

# A warp's and a block's share of a row end at powers of two, CUDA's less than a vector behind, and
# a vector at multiples of 8: the regimes' own limits (docs/gpu.md, docs/gpu-triton.md) with a row
# to either side, and what people have: CIFAR, ImageNet-1k and -21k, vocabularies.
CLASSES = [
    *(1, 2, 3, 7, 8, 9, 10, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 200, 255, 256),
    *(257, 258, 511, 512, 513, 515, 516, 1000, 1001, 1023, 1024, 1025, 1031, 1032, 2047, 2048),
    *(2049, 2050, 4095, 4096, 4097, 8191, 8192, 8193, 8195, 8196, 16383, 16384, 16385, 16391),
    *(16392, 21841, 32000, 50257, 128256),
]
DTYPES = [(F32, F32), (BF16, BF16), (F16, F16), (F64, F64)]
MIXED = [(x, y) for x in (F64, F32, BF16, F16) for y in (F64, F32, BF16, F16) if x != y]


def on_gpu(tensors):
    return tuple(x.cuda() for x in tensors)


@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
@pytest.mark.parametrize("classes", CLASSES)
def test_every_length_of_a_row_is_exact(loss, classes, dtypes):
    rows = 67 if classes <= 1025 else 3  # more than any block of short rows has
    assert_exact(*on_gpu(batch(rows, classes, *dtypes)), function=loss)


@pytest.mark.parametrize("dtypes", MIXED, ids=str)
@pytest.mark.parametrize("classes", [10, 100, 1000, 1001, 4096, 8193, 16384, 21841])
def test_every_pair_of_types_is_exact(loss, classes, dtypes):
    assert_exact(*on_gpu(batch(5, classes, *dtypes)), function=loss)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("smoothing", ["uniform", "others"])
@pytest.mark.parametrize("temperature", [None, 0.5, 20.0])
@pytest.mark.parametrize("classes", [10, 1001, 21841])
def test_every_option_is_exact(loss, classes, gamma, label_smoothing, smoothing, temperature):
    options = Options(gamma, label_smoothing, smoothing, temperature)
    assert_exact(*on_gpu(batch(5, classes)), options, function=loss)


def loss_and_gradient(function, logits, *arguments, **options):
    logits = logits.detach().requires_grad_()
    loss = function(logits, *arguments, reduction="none", **options)
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    return loss.detach().double(), grad.double()


def assert_as_defined(loss, logits, labels, *arguments):
    got = loss_and_gradient(loss, logits, labels, *arguments)
    if isinstance(labels, TopKLabels):
        labels = labels.dense(logits.shape[-1])
    want = loss_and_gradient(
        gift_loss, logits.double(), labels.double(), *arguments, backend="reference"
    )
    eps = {F64: 1e-12, F32: 1e-5, BF16: 1e-2, F16: 2e-3}[logits.dtype]
    torch.testing.assert_close(got[0], want[0], rtol=0, atol=min(eps, 1e-5))
    torch.testing.assert_close(got[1], want[1], rtol=eps, atol=eps * want[1].abs().max().item())


@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
@pytest.mark.parametrize("classes", [10, 100, 1000, 1001, 4096, 21841, 50257])
def test_mixed_labels_of_a_slice_are_exact(loss, classes, dtypes):
    logits, soft_labels, target = on_gpu(batch(10, classes, *dtypes))
    logits, soft_labels = (x.unflatten(0, (2, 5))[:, :-1] for x in (logits, soft_labels))
    target = target.unflatten(0, (2, 5))[:, 1:]
    weight = torch.linspace(0.1, 0.9, 8, device="cuda").view(2, 4)
    assert_as_defined(loss, logits, soft_labels, target, target.flip(0), weight)


@pytest.mark.parametrize("mixed", [False, True], ids=["one label", "mixed"])
@pytest.mark.parametrize("dtype", [F64, F32, BF16, F16], ids=str)
@pytest.mark.parametrize("classes", [10, 100, 1000, 1027, 4096, 8195, 21841, 50257, 128256])
@pytest.mark.parametrize("k", [1, 10, 64])
def test_top_k_labels_are_exact(backend, loss, k, classes, dtype, mixed):
    logits, soft_labels, target = on_gpu(batch(5, classes, dtype, F32))
    labels = TopKLabels.from_dense(soft_labels, min(k, classes), rest="min")
    others = (target.flip(0), torch.linspace(0.1, 0.9, 5, device="cuda")) if mixed else ()
    assert_as_defined(loss, logits, labels, target, *others)


@pytest.mark.parametrize("offset", [0, 1, 3, 8])
@pytest.mark.parametrize("padding", [0, 1, 5, 8])
@pytest.mark.parametrize("classes", [10, 100, 1000, 1001, 4096, 21841])
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_rows_may_lie_anywhere(loss, dtype, classes, padding, offset):
    logits, soft_labels, target = on_gpu(batch(5, classes, dtype))

    def placed(x):
        wide = torch.full((5, offset + classes + padding), math.nan, dtype=dtype, device="cuda")
        view = wide[:, offset : offset + classes]
        return view.copy_(x)

    assert_exact(placed(logits), placed(soft_labels), target, function=loss)
    assert_exact(placed(logits), soft_labels, target, function=loss)


@pytest.mark.parametrize("offset", [1, 3, 5, 8])
@pytest.mark.parametrize("classes", [1, 10, 33, 100, 129, 255])
@pytest.mark.parametrize("dtypes", [(F32, F32), (BF16, BF16), (BF16, F32)], ids=str)
def test_a_matrix_without_gaps_may_begin_anywhere(loss, dtypes, classes, offset):
    logits, soft_labels, target = on_gpu(batch(67, classes, *dtypes))

    def placed(x):
        flat = torch.full((offset + x.numel(),), math.nan, dtype=x.dtype, device="cuda")
        return flat[offset:].view(x.shape).copy_(x)

    assert_exact(placed(logits), soft_labels, target, function=loss)
    assert_exact(logits, placed(soft_labels), target, function=loss)


def test_columns_as_rows_and_targets_with_a_stride_are_read(loss):
    logits, soft_labels, target = on_gpu(batch(33, 129))
    every_third = torch.zeros(99, dtype=torch.int64, device="cuda")[::3].copy_(target)
    assert_exact(logits.t().contiguous().t(), soft_labels, every_third, function=loss)
    # One row for all, as a teacher without augmentation has.
    assert_exact(logits, soft_labels[:1].expand(33, 129), target, function=loss)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("classes", [10, 1001, 21841])
def test_ignored_rows_have_no_part_in_it_whatever_they_hold(loss, classes, reduction, dtype):
    logits, soft_labels, target = on_gpu(batch(6, classes))
    logits[1], soft_labels[4], target[[1, 4]] = math.nan, math.inf, -7
    named = {"reduction": reduction, "ignore_index": -7}
    shape = (6,) if reduction == "none" else ()
    upstream = torch.rand(shape, device="cuda") + 0.5
    got = answer(logits, soft_labels, target.to(dtype), function=loss, upstream=upstream, **named)
    kept = [0, 2, 3, 5]
    part = upstream[kept] if reduction == "none" else upstream
    named["upstream"] = part.double()
    want = exact(logits[kept], soft_labels[kept], target[kept], **named)
    ours = got.loss[kept] if reduction == "none" else got.loss
    torch.testing.assert_close(ours.double(), want.loss, rtol=0, atol=2e-6)
    for x, y in zip(got[1:], want[1:], strict=True):
        torch.testing.assert_close(x[kept].double(), y, rtol=1e-4, atol=1e-7)
        assert not x[[1, 4]].any()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("classes", [10, 1000, 1001, 21841])
def test_what_is_not_a_number_stays_in_its_row(loss, classes, which, value):
    inputs = on_gpu(batch(9, classes))
    inputs[which][4, classes // 2] = value
    got = answer(*inputs, function=loss, reduction="none")
    others = [row for row in range(9) if row != 4]
    want = exact(*(x[others] for x in inputs), reduction="none")
    assert got.loss[4].isnan()
    torch.testing.assert_close(got.loss[others].double(), want.loss, rtol=0, atol=2e-6)
    for x, y in zip(got[1:], want[1:], strict=True):
        torch.testing.assert_close(x[others].double(), y, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("classes", [33, 1001, 17001])
def test_row_norms_of_any_magnitude_are_exact(loss, classes, which):
    exponents = torch.tensor([-30, -20, -13, -6, 0, 6, 13, 18, 30, 36], dtype=F64)
    inputs = [x.double() for x in batch(10, classes)]
    inputs[which] *= 10 ** exponents.unsqueeze(-1) / inputs[which].norm(dim=-1, keepdim=True)
    logits, soft_labels, target = on_gpu(inputs)
    assert_exact(logits.float(), soft_labels.float(), target.long(), function=loss)


@pytest.mark.parametrize("classes", [33, 1001, 17001])
def test_zero_rows_are_exact(loss, classes):
    logits, soft_labels, target = on_gpu(batch(4, classes))
    logits[1], soft_labels[2], logits[3], soft_labels[3] = 0, 0, 0, 0
    for gamma in (0.0, 0.1, 1.0):
        assert_exact(logits, soft_labels, target, Options(gamma=gamma), function=loss)


@pytest.mark.parametrize("rows", [1, 2, 1023, 70_001])
def test_any_number_of_rows_has_its_mean(loss, rows):
    inputs = on_gpu(batch(rows, 10))
    inputs[2][::3] = -100
    if rows == 1:
        inputs[2][0] = 3
    got, want = answer(*inputs, function=loss), exact(*inputs)
    torch.testing.assert_close(got.loss.double(), want.loss, rtol=1e-6, atol=1e-7)
    for x, y in zip(got[1:], want[1:], strict=True):
        torch.testing.assert_close(x.double(), y, rtol=1e-3, atol=1e-6 / rows)


def test_no_row_has_no_loss_and_no_valid_row_has_no_mean(loss):
    logits, soft_labels, target = on_gpu(batch(4, 33))
    assert answer(*(x[:0] for x in (logits, soft_labels, target)), function=loss).loss.isnan()
    got = answer(logits, soft_labels, torch.full_like(target, -100), function=loss)
    assert got.loss.isnan()
    assert not got.logits_grad.any()
    assert not got.soft_labels_grad.any()


def test_more_than_2_to_the_31_elements_are_addressed(loss):
    rows, classes = 70_000, 32_768
    if torch.cuda.mem_get_info()[0] < 24 * 2**30:
        pytest.skip("needs 24 GiB of free GPU memory")
    logits = torch.zeros(rows, classes, dtype=BF16, device="cuda").requires_grad_()
    soft_labels = torch.ones(1, classes, dtype=BF16, device="cuda").expand(rows, classes)
    last = on_gpu(batch(2, classes, BF16))
    with torch.no_grad():
        logits[-2:] = last[0]
    target = torch.full((rows,), -100, device="cuda")
    target[-2:] = last[2]
    loss(logits, soft_labels, target).backward()
    want = exact(last[0], soft_labels[:2].contiguous(), last[2], requested=(True, False))
    torch.testing.assert_close(logits.grad[-2:].double(), want.logits_grad, rtol=1e-2, atol=1e-6)
    assert not logits.grad[:-2].any()


# ---- the upstream gradient -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [F32, BF16, F16, F64], ids=str)
@pytest.mark.parametrize("classes", [10, 1001, 21841])
@pytest.mark.parametrize("upstream", ["one", "scalar", "rows", "rows of stride 0"])
def test_the_gradient_is_scaled_by_what_comes_from_above(loss, upstream, classes, dtype):
    inputs = on_gpu(batch(9, classes, dtype))
    scale = {
        "one": torch.tensor(1.0),
        "scalar": torch.tensor(-2.5),
        "rows": torch.randn(9),
        "rows of stride 0": torch.tensor(0.3).expand(9),
    }[upstream].cuda()
    reduction = "none" if scale.dim() else "mean"
    ours = scale.to(F64 if dtype == F64 else F32)
    got = answer(*inputs, function=loss, upstream=ours, reduction=reduction)
    want = exact(*inputs, upstream=ours.double(), reduction=reduction)
    # The stored gradient is rounded before the factor and after it.
    tolerance = max(2.1 * torch.finfo(dtype).eps, 1e-5)
    for x, y in zip(got[1:], want[1:], strict=True):
        torch.testing.assert_close(x.double(), y, rtol=tolerance, atol=1e-5 * y.abs().max().item())


@pytest.mark.parametrize("classes", [10, 1001, 21841])
def test_a_graph_that_is_kept_gives_its_gradient_again(loss, classes):
    logits, soft_labels, target = on_gpu(batch(5, classes))
    logits.requires_grad_()
    value = loss(logits, soft_labels, target)
    first, second, third = (
        torch.autograd.grad(value, logits, torch.tensor(x, device="cuda"), retain_graph=x != 2.0)[0]
        for x in (1.0, 3.0, 2.0)
    )
    torch.testing.assert_close(second, 3 * first)
    torch.testing.assert_close(third, 2 * first)


@pytest.mark.parametrize("classes", [10, 1001])
def test_the_second_derivative_is_that_of_the_definition(loss, classes):
    def second(function, logits, soft_labels, target):
        logits = logits.clone().requires_grad_()
        value = function(logits, soft_labels, target)
        (gradient,) = torch.autograd.grad(value, logits, create_graph=True)
        return torch.autograd.grad(gradient.pow(2).sum(), logits)[0]

    from gift_fast.loss.reference import reference_loss

    inputs = on_gpu(batch(5, classes, F64))
    torch.testing.assert_close(second(loss, *inputs), second(reference_loss, *inputs))


@pytest.mark.parametrize("classes", [10, 1001, 21841])
def test_float16_gradients_survive_a_gradient_scaler(loss, classes):
    logits, soft_labels, target = on_gpu(batch(8, classes, F16))
    parameter = torch.nn.Parameter(logits.float())
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**16)
    value = loss(parameter.half(), soft_labels, target)
    scaler.scale(value).backward()
    scaler.unscale_(optimizer)
    want = exact(logits, soft_labels, target, requested=(True, False)).logits_grad
    torch.testing.assert_close(
        parameter.grad.double(), want, rtol=2e-3, atol=1e-4 * want.abs().max().item()
    )
    assert (parameter.grad != 0).double().mean() > 0.99
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**16  # nothing was infinite


# ---- the same bits, and the assert ---------------------------------------------------------------


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize("shape", [(4099, 10), (513, 1000), (513, 1001), (67, 21841)], ids=str)
def test_a_run_has_the_bits_of_the_run_before(loss, shape, dtype):
    inputs = on_gpu(batch(*shape, dtype))
    first = answer(*inputs, function=loss)
    for _ in range(10):
        torch.testing.assert_close(answer(*inputs, function=loss), first, rtol=0, atol=0)


OUT_OF_RANGE = """
import sys, torch
from gift_fast import gift_loss
backend, classes, wrong = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
z, s = torch.randn(2, 9, classes, device="cuda")
y = torch.zeros(9, dtype=torch.int64, device="cuda")
y[5] = wrong
gift_loss(z.requires_grad_(), s, y, backend=backend).backward()
torch.cuda.synchronize()
"""


@pytest.mark.parametrize("wrong", ["-1", "classes", "2147483648"])
@pytest.mark.parametrize("classes", [10, 1001, 21841])
def test_a_target_that_is_no_class_trips_the_assert(backend, classes, wrong):
    # In a process of its own: the context is lost with the assert.
    arguments = [backend, str(classes), str(classes) if wrong == "classes" else wrong]
    run = subprocess.run(
        [sys.executable, "-c", OUT_OF_RANGE, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0
    assert "device-side assert" in run.stderr
