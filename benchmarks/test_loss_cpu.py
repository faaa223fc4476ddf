"""Each competitor's training step under pytest-benchmark: ``python -m pytest benchmarks``.

For a look at one case, and for comparing two commits (``--benchmark-autosave``,
``--benchmark-compare``). The competitors run one after the other here; for ratios that hold on a
noisy machine, :mod:`benchmarks.loss_cpu` interleaves them. Nothing asserts on time.
"""

from collections.abc import Iterator

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.competitors import (
    COMPETITORS,
    DTYPES,
    FLOOR,
    LOSSES,
    OURS,
    SHAPES,
    THREADS,
    make_batch,
    make_step,
)


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", COMPETITORS)
@pytest.mark.parametrize("shape", SHAPES, ids="{0[0]}x{0[1]}".format)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", THREADS, indirect=True, ids="{}-threads".format)
def test_step(
    benchmark: BenchmarkFixture, threads: int, dtype: str, shape: tuple[int, int], name: str
) -> None:
    benchmark.group = f"{shape[0]} x {shape[1]}, {dtype}, threads: {threads}"
    step = make_step(name, *make_batch(*shape, DTYPES[dtype]))
    step()  # compiles where there is something to compile
    benchmark(step)


@pytest.mark.parametrize("name", ["eager", "reference", "compiled"])
def test_the_forms_of_gift_are_one_loss(name: str) -> None:
    gradients = []
    for one in (OURS, name):
        logits, soft_labels, target = make_batch(100, 200, torch.float32)
        loss = LOSSES[one](logits, soft_labels, target)
        loss.backward()
        gradients.append((loss.detach(), logits.grad))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", [one for one in COMPETITORS if one != FLOOR])
def test_a_step_leaves_no_gradient_behind(name: str) -> None:
    batch = make_batch(10, 10, torch.float32)
    make_step(name, *batch)()
    assert batch[0].grad is None
