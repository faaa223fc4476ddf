"""What the loss costs on a GPU: memory, launches, bytes moved, and time next to a plain add."""

import statistics

import pytest
import torch
from expected import batch
from torch.profiler import ProfilerActivity, profile

from gift_fast import gift_loss

pytestmark = pytest.mark.gpu

SHAPES = [(4096, 10), (1024, 1000), (1024, 1001), (64, 21841)]
of_every_regime = pytest.mark.parametrize("shape", SHAPES, ids="{0[0]}x{0[1]}".format)


def batch_on_gpu(shape, dtype=torch.float32):
    logits, soft_labels, target = (x.cuda() for x in batch(*shape, dtype))
    return logits.requires_grad_(), soft_labels, target


def launched(work):
    """The names of the kernels, copies and fills that the work launches."""
    work()  # compiles
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        work()
        torch.cuda.synchronize()
    return [e.name for e in profiler.events() if e.device_type == torch.autograd.DeviceType.CUDA]


# ---- memory --------------------------------------------------------------------------------------


@of_every_regime
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_step_needs_one_gradient_and_little_else(loss, dtype, shape):
    inputs = batch_on_gpu(shape, dtype)
    loss(*inputs).backward()  # compiles
    inputs[0].grad = None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    value = loss(*inputs)
    value.backward()
    gradient = inputs[0].numel() * dtype.itemsize
    # A loss and a scale a row, a few numbers, and the allocator's rounding to 512 bytes.
    little = 16 * shape[0] + 16 * 512
    assert torch.cuda.max_memory_allocated() - before <= gradient + little


@of_every_regime
def test_without_a_gradient_there_is_none_in_memory(loss, shape):
    inputs = batch_on_gpu(shape)
    with torch.no_grad():
        loss(*inputs)
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        loss(*inputs)
    assert torch.cuda.max_memory_allocated() - before <= 16 * shape[0] + 16 * 512


# ---- launches ------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@of_every_regime
def test_a_forward_pass_is_a_few_launches(loss, backend, shape, reduction):
    inputs = batch_on_gpu(shape)
    names = launched(lambda: loss(*inputs, reduction=reduction))
    # CUDA: counting and zeroing, then the rows. Triton: counting, PyTorch's assert, the rows, the
    # sum; its grids have no last program that could do without one.
    most = {"cuda": 2, "triton": 4}[backend] - (reduction == "none")
    assert 1 <= len(names) <= most, names
    assert not [name for name in names if "Memcpy" in name or "Memset" in name]


@of_every_regime
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_backward_pass_after_the_loss_moves_no_data(loss, dtype, shape):
    logits, soft_labels, target = batch_on_gpu(shape, dtype)

    def losses():
        while True:
            yield loss(logits, soft_labels, target)

    values, one = losses(), torch.ones((), device="cuda")
    ready = [next(values) for _ in range(2)]
    # One kernel, which reads the factor and returns: the forward pass's gradient is handed out.
    names = launched(lambda: torch.autograd.grad(ready.pop(), logits, one))
    assert len(names) == 1, names
    assert "scale" in names[0]


def test_the_scale_step_takes_no_time_for_a_factor_of_one(loss, backend):
    # 1 GiB would take 0.6 ms on an H100; a launch that returns takes microseconds.
    scale = torch.ops.gift_fast.scale_gradient_
    if backend == "triton":
        scale = torch.ops.gift_fast.triton_scale_gradient_
    gradient = torch.zeros(1024, 2**18, device="cuda")
    one, two = torch.ones((), device="cuda"), torch.full((), 2.0, device="cuda")
    assert 20 * milliseconds(lambda: scale(gradient, one, None)) < milliseconds(
        lambda: scale(gradient, two, None)
    )


# ---- time ----------------------------------------------------------------------------------------


def milliseconds(work, repeats=30):
    """The median time between two events around the work, the device kept busy before it."""
    for _ in range(3):
        work()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(1_000_000)  # the host is ahead when the work begins
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(65536, 1000), (65536, 1001), (4096, 16384)], ids=str)
def test_a_step_takes_little_more_than_moving_its_bytes(loss, shape, dtype):
    # torch.add reads two such matrices and writes a third.
    inputs = batch_on_gpu(shape, dtype)
    logits, soft_labels, _ = inputs

    def step():
        torch.autograd.grad(loss(*inputs), logits)

    with torch.no_grad():
        floor = milliseconds(lambda: torch.add(logits, soft_labels))
    assert milliseconds(step) < 1.5 * floor


@pytest.mark.parametrize("shape", [(1024, 1000), (64, 21841)], ids=str)
def test_a_step_is_faster_than_the_definition(loss, shape):
    inputs = batch_on_gpu(shape)

    def step(function):
        torch.autograd.grad(function(*inputs), inputs[0])

    def reference(*arguments):
        return gift_loss(*arguments, backend="reference")

    assert milliseconds(lambda: step(loss)) < milliseconds(lambda: step(reference))
