"""How the loss fits into a step on a GPU: streams, graphs, devices, and the compiler."""

import pytest
import torch
from expected import answer, batch, exact

from gift_fast.loss.reference import reference_loss

pytestmark = pytest.mark.gpu

SHAPES = [(100, 10), (33, 1000), (33, 1001), (9, 21841)]
of_every_regime = pytest.mark.parametrize("shape", SHAPES, ids="{0[0]}x{0[1]}".format)


def on_gpu(tensors, device="cuda"):
    return tuple(x.to(device) for x in tensors)


def assert_close(got, want):
    torch.testing.assert_close(got.loss.double(), want.loss, rtol=0, atol=2e-6)
    for x, y in zip(got[1:], want[1:], strict=True):
        if y is not None:
            torch.testing.assert_close(x.double(), y, rtol=1e-3, atol=1e-6 * y.abs().max().item())


# ---- nothing waits for the device ----------------------------------------------------------------


@pytest.fixture
def no_synchronisation():
    """Whatever makes the host wait for the device raises."""
    before = torch.cuda.get_sync_debug_mode()

    def forbid():
        torch.cuda.set_sync_debug_mode("error")

    yield forbid
    torch.cuda.set_sync_debug_mode(before)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
@of_every_regime
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_neither_pass_waits_for_the_device(loss, no_synchronisation, reduction, dtype, shape):
    logits, soft_labels, target = on_gpu(batch(*shape, dtype))
    logits.requires_grad_()
    soft_labels.requires_grad_()
    upstream = torch.full(shape[:1] if reduction == "none" else (), 3.0, device="cuda")
    one = torch.ones_like(upstream)
    loss(logits, soft_labels, target, reduction=reduction).backward(upstream)  # compiles
    logits.grad = soft_labels.grad = None
    no_synchronisation()
    for factor in (upstream, one):
        loss(logits, soft_labels, target, reduction=reduction).backward(factor)
    value = loss(logits, soft_labels, target, reduction=reduction)
    value.backward(upstream, retain_graph=True)
    value.backward(upstream)


# ---- CUDA graphs ---------------------------------------------------------------------------------


def captured(loss, logits, soft_labels, target, **options):
    """A graph of a forward and a backward pass, and what its replay writes."""
    logits = logits.clone().requires_grad_()
    static = (logits, soft_labels.clone(), target.clone())
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            logits.grad = None
            loss(*static, **options).backward()
    torch.cuda.current_stream().wait_stream(stream)
    logits.grad = None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = loss(*static, **options)
        value.backward()
    return graph, static, value.detach(), logits.grad


@of_every_regime
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_captured_step_is_right_for_every_batch_it_is_replayed_on(loss, dtype, shape):
    graph, static, value, gradient = captured(loss, *on_gpu(batch(*shape, dtype)))
    for seed in (1, 2, 3):
        inputs = on_gpu(batch(*shape, dtype, seed=seed))
        inputs[2][seed] = -100  # a valid row less than when it was captured
        with torch.no_grad():
            for to, x in zip(static, inputs, strict=True):
                to.copy_(x)
        graph.replay()
        want = exact(*inputs, requested=(True, False))
        torch.testing.assert_close(value.double(), want.loss, rtol=0, atol=2e-6)
        largest = want.logits_grad.abs().max().item()
        torch.testing.assert_close(
            gradient.double(), want.logits_grad, rtol=1e-2, atol=1e-5 * largest
        )


def test_graphs_that_are_replayed_at_once_share_nothing(loss):
    # A workspace that is not the graph's own would be written by both.
    streams = [torch.cuda.Stream() for _ in range(2)]
    inputs = [on_gpu(batch(1024, 1000, seed=seed)) for seed in range(2)]
    graphs = [captured(loss, *x) for x in inputs]
    for _ in range(50):
        for stream, (graph, *_) in zip(streams, graphs, strict=True):
            with torch.cuda.stream(stream):
                graph.replay()
    torch.cuda.synchronize()
    for x, (_, _, value, gradient) in zip(inputs, graphs, strict=True):
        want = exact(*x, requested=(True, False))
        torch.testing.assert_close(value.double(), want.loss, rtol=0, atol=2e-6)
        torch.testing.assert_close(gradient.double(), want.logits_grad, rtol=1e-3, atol=1e-9)


# ---- streams and devices -------------------------------------------------------------------------


@of_every_regime
def test_the_kernels_run_on_the_current_stream(loss, shape):
    inputs = on_gpu(batch(*shape))
    stale = on_gpu(batch(*shape, seed=1))
    answer(*inputs, function=loss)  # compiles
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        # The kernels read what the stream writes late; on another stream they would read the old.
        torch.cuda._sleep(20_000_000)
        for old, new in zip(stale, inputs, strict=True):
            old.copy_(new)
        got = answer(*stale, function=loss)
    stream.synchronize()
    assert_close(got, exact(*inputs))


def test_calls_on_two_streams_at_once_do_not_disturb_each_other(loss):
    streams = [torch.cuda.Stream() for _ in range(2)]
    inputs = [on_gpu(batch(1024, 1000, seed=seed)) for seed in range(2)]
    torch.cuda.synchronize()
    got = [None, None]
    for _ in range(50):
        for i, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                got[i] = answer(*inputs[i], function=loss)
    torch.cuda.synchronize()
    for result, x in zip(got, inputs, strict=True):
        assert_close(result, exact(*x))


@of_every_regime
def test_the_kernels_run_on_the_device_of_the_tensors(loss, shape):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    inputs = on_gpu(batch(*shape), "cuda:1")
    assert torch.cuda.current_device() == 0
    got = answer(*inputs, function=loss, upstream=torch.tensor(2.0, device="cuda:1"))
    assert torch.cuda.current_device() == 0
    assert got.logits_grad.device == inputs[0].device
    assert_close(got, exact(*inputs, upstream=torch.tensor(2.0, device="cuda:1").double()))


# ---- torch.compile -------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning")
@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
def test_a_compiled_step_is_one_graph_and_right(loss, mode):
    def step(logits, soft_labels, target):
        return loss(logits.tanh() * 2, soft_labels, target) * 3

    def definition(logits, soft_labels, target):
        return reference_loss(logits.tanh() * 2, soft_labels, target) * 3

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, mode=mode)
    for seed in range(3):  # the second call captures a CUDA graph, the third replays it
        inputs = on_gpu(batch(64, 1000, seed=seed))
        logits = inputs[0].requires_grad_()
        value = compiled(*inputs)
        value.backward()
        want = answer(
            *(x.detach().double() for x in inputs[:2]),
            inputs[2],
            function=definition,
            requested=(True, False),
        )
        torch.testing.assert_close(value.double(), want.loss, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(logits.grad.double(), want.logits_grad, rtol=1e-3, atol=1e-9)
