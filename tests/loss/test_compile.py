"""The loss under torch.compile and torch.export: one graph, the bits of eager mode."""

import contextlib
from functools import partial

import pytest
import torch
from expected import Options, answer, batch, needs_cpu_kernel
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters
from torch._inductor.utils import run_and_get_code
from torch.nn import functional as F

from gift_fast import GIFTLoss, gift_loss, refine_labels
from gift_fast.loss.reference import reference_loss

# torch's own, inside its compiler.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(autouse=True)
def empty_caches(tmp_path, monkeypatch):
    # Not the user's cache: its kernels may be of a run with other instruction sets.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def counting(function, backend="aot_eager", **options):
    """The function compiled into one graph, and the counter of its compilations."""
    counter = CompileCounterWithBackend(backend)
    return torch.compile(function, backend=counter, fullgraph=True, **options), counter


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize(
    "dtypes",
    [
        ("float32", "float32"),
        ("float64", "float32"),
        ("bfloat16", "float16"),
        ("float16", "float64"),
    ],
    ids=" ".join,
)
def test_one_graph_gives_the_loss_and_gradients_of_eager_mode(dtypes, reduction, backend):
    inputs = batch(6, 37, *(getattr(torch, x) for x in dtypes))
    upstream = torch.rand(6) + 0.5 if reduction == "none" else torch.tensor(1.5)
    upstream = upstream.to(gift_loss(*inputs).dtype)
    options = {"reduction": reduction, "upstream": upstream, "backend": backend, "gamma": 0.3}
    compiled, counter = counting(gift_loss)
    want = answer(*inputs, **options)
    got = answer(*inputs, function=compiled, **options)
    assert counter.frame_count == 1
    torch.testing.assert_close(got.loss, want.loss)
    for x, y in zip(got[1:], want[1:], strict=True):
        # One rounding of the stored type: float16 rounds before and after the upstream factor.
        eps = torch.finfo(y.dtype).eps
        torch.testing.assert_close(x, y, rtol=max(eps, 1e-6), atol=1e-7)


@needs_cpu_kernel
def test_inductor_compiles_the_loss_among_other_operations():
    def step(logits, soft_labels, target):
        return gift_loss(logits.tanh() * 2, soft_labels, target) * 3

    inputs = batch(6, 37)
    compiled, counter = counting(step, "inductor")
    torch.testing.assert_close(answer(*inputs, function=compiled), answer(*inputs, function=step))
    assert counter.frame_count == 1


@needs_cpu_kernel
def test_a_compiled_backward_pass_writes_over_the_gradient_that_was_saved():
    z, s, y = batch(6, 37)
    z.requires_grad_()
    compiled = torch.compile(gift_loss, fullgraph=True)
    _, (forward, backward) = run_and_get_code(lambda: compiled(z, s, y).backward())
    assert "gift_fast.loss_and_gradients" in forward  # no derivative in Python around the kernel
    assert "gift_fast.scale_gradient_" in backward
    calls = backward.split("def call(")[1]
    assert "empty_strided" not in calls  # nothing of the size of the logits is allocated
    torch.testing.assert_close(z.grad, answer(*batch(6, 37)).logits_grad, rtol=0, atol=0)


@needs_cpu_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_gradients_of_a_compiled_graph_that_is_kept_add_up(reduction, dtype):
    z, s, y = batch(6, 37, dtype)
    z.requires_grad_()
    compiled = torch.compile(gift_loss, fullgraph=True)
    eager = partial(gift_loss, reduction=reduction)
    want = answer(*batch(6, 37, dtype), function=lambda *x: (eager(*x) * 3.0).sum())
    for _ in range(2):  # the second time through the graph of the first
        z.grad = None
        loss = (compiled(z, s, y, reduction=reduction) * 3.0).sum()
        loss.backward(retain_graph=True)
        loss.backward()
        torch.testing.assert_close(z.grad, 2 * want.logits_grad)


def graph_breaks(loss, forward):
    """How often compiled autograd leaves the graph of a step; the logits' gradient."""
    z = batch(6, 37)[0].requires_grad_()
    torch._dynamo.reset()
    counters.clear()

    def step():
        loss(z).backward()

    if forward == "compiled":
        with torch._dynamo.config.patch(compiled_autograd=True):
            torch.compile(step, backend="aot_eager")()
    else:
        with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager")):
            step()
    return sum(counters["graph_break"].values()), z.grad


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # compiled autograd asks for it itself
@pytest.mark.parametrize("forward", ["eager", "compiled"])
def test_compiled_autograd_breaks_the_graph_no_more_often_than_under_cross_entropy(forward):
    _, s, y = batch(6, 37)
    theirs, _ = graph_breaks(lambda z: F.cross_entropy(z, y), forward)
    ours, gradient = graph_breaks(lambda z: gift_loss(z, s, y), forward)
    assert ours <= theirs
    torch.testing.assert_close(gradient, answer(*batch(6, 37)).logits_grad)


@needs_cpu_kernel
@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("hooks", [False, True], ids=["plain", "hooks"])
def test_compiled_autograd_differentiates_an_eager_loss_in_one_graph(hooks, reduction):
    z, s, y = batch(6, 37)
    z.requires_grad_()
    y[1] = -100

    def tripled(*inputs):
        return gift_loss(*inputs, reduction=reduction).sum() * 3.0

    saved = torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x)
    with saved if hooks else contextlib.nullcontext():
        loss = tripled(z, s, y)
    compiler = torch.compile(backend="aot_eager", fullgraph=True)
    with torch._dynamo.compiled_autograd._enable(compiler):
        loss.backward(retain_graph=True)
        loss.backward()
    want = answer(*batch(6, 37)[:2], y, function=tripled)
    torch.testing.assert_close(z.grad, 2 * want.logits_grad)


@pytest.mark.parametrize("dynamic", [None, True])
def test_changing_shapes_do_not_compile_again_and_again(dynamic):
    compiled, counter = counting(gift_loss, dynamic=dynamic)
    counts = []
    for rows, classes in ((6, 37), (7, 37), (8, 41), (9, 5), (30, 100), (31, 101)):
        inputs = batch(rows, classes)
        torch.testing.assert_close(answer(*inputs, function=compiled), answer(*inputs))
        counts.append(counter.frame_count)
    # None: for the first shape, then with dynamic rows, then with dynamic classes.
    assert counts[2:] == counts[2:3] * 4
    assert counts[-1] <= 3
    if dynamic:
        assert counts[0] == counts[-1]


def test_leading_dimensions_and_ignored_rows_compile():
    logits, soft_labels = torch.randn(2, 2, 3, 5)
    target = torch.tensor([[0, -100, 4], [1, 1, -100]])
    compiled, _ = counting(gift_loss)
    for reduction in ("none", "mean"):
        torch.testing.assert_close(
            answer(logits, soft_labels, target, function=compiled, reduction=reduction),
            answer(logits, soft_labels, target, reduction=reduction),
        )


def test_the_module_compiles_with_all_its_options():
    options = Options(0.5, 0.2, "others", 3.0)
    criterion = GIFTLoss(**options._asdict())
    compiled, counter = counting(criterion)
    inputs = batch(6, 5)
    torch.testing.assert_close(
        answer(*inputs, function=compiled), answer(*inputs, **options._asdict())
    )
    assert counter.frame_count == 1


def test_refined_labels_compile():
    _, soft_labels, target = batch(6, 5)
    compiled, _ = counting(refine_labels)
    torch.testing.assert_close(compiled(soft_labels, target), refine_labels(soft_labels, target))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_loss_without_a_gradient_compiles(mode):
    inputs = batch(6, 37)
    compiled, _ = counting(gift_loss)
    with mode():
        got = compiled(inputs[0].clone().requires_grad_(), *inputs[1:])
    torch.testing.assert_close(got, gift_loss(*inputs))


def test_a_bad_option_is_named_in_compiled_code_too():
    compiled = torch.compile(lambda *x: gift_loss(*x, gamma=1.5), backend="eager")
    with pytest.raises(Exception, match="gamma must be in"):
        compiled(*batch(6, 37))


@needs_cpu_kernel
def test_a_bad_target_raises_in_compiled_code_too():
    logits, soft_labels, target = batch(6, 37)
    target[2] = 37
    compiled, _ = counting(gift_loss)
    with pytest.raises(IndexError, match="got 37 in row 2"):
        compiled(logits, soft_labels, target)


class Model(torch.nn.Module):
    """A classifier with its loss inside."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(8, 5)
        self.criterion = GIFTLoss(gamma=0.2)

    def forward(self, images, soft_labels, target):
        return self.criterion(self.linear(images), soft_labels, target)


@needs_cpu_kernel
@pytest.mark.parametrize("strict", [False, True])
def test_a_module_with_the_loss_is_exported_and_runs(strict):
    model, (images, _, _) = Model(), batch(6, 8)
    _, soft_labels, target = batch(6, 5)
    rows = torch.export.Dim("rows", min=2)
    program = torch.export.export(
        model,
        (images, soft_labels, target),
        strict=strict,
        dynamic_shapes=({0: rows}, {0: rows}, {0: rows}),
    )
    targets = {str(node.target) for node in program.graph.nodes}
    assert "gift_fast.gift_loss.default" in targets
    for count in (6, 3):
        arguments = images[:count], soft_labels[:count], target[:count]
        torch.testing.assert_close(program.module()(*arguments), model(*arguments))


def test_the_compiled_reference_is_the_definition():
    inputs = batch(6, 37)
    compiled, _ = counting(reference_loss)
    torch.testing.assert_close(
        answer(*inputs, function=compiled), answer(*inputs, function=reference_loss)
    )


@needs_cpu_kernel
def test_torch_func_transforms_compile():
    inputs = batch(6, 5)
    compiled, _ = counting(torch.func.grad(gift_loss))
    torch.testing.assert_close(compiled(*inputs), torch.func.grad(gift_loss)(*inputs))
