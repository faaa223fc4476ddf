"""The same bits from run to run and for any number of threads; every instruction set is exact."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from expected import FLOATS, answer, batch, needs_cpu_kernel

from gift_fast import ops

pytestmark = needs_cpu_kernel
HERE = Path(__file__).parent


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_any_number_of_threads_gives_the_same_bits(dtype, reduction):
    # 1,000 rows of 500: enough work for the pool, and not a multiple of the 256 chunks.
    inputs = batch(1000, 500, dtype)
    upstream = torch.tensor(1.7, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    results = []
    for threads in (1, 2, 3, 4, 1, 2):
        torch.set_num_threads(threads)
        factor = upstream.expand(1000) if reduction == "none" else upstream
        results.append(answer(*inputs, upstream=factor, reduction=reduction))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0, atol=0)


@pytest.mark.parametrize("rows", [1, 255, 256, 257, 511, 513])
def test_every_row_is_visited_once_however_they_are_cut(rows):
    torch.set_num_threads(2)
    logits, soft_labels, target = batch(rows, 300)
    whole = answer(logits, soft_labels, target, reduction="none")
    for row in {0, rows // 2, rows - 1}:
        alone = answer(logits[row], soft_labels[row], target[row], reduction="none")
        for x, y in zip(whole, alone, strict=True):
            torch.testing.assert_close(x[row], y, rtol=0, atol=0)
    total = answer(logits, soft_labels, target, reduction="sum").loss
    torch.testing.assert_close(total, whole.loss.double().sum().float())


def test_python_threads_can_share_the_kernel():
    from concurrent.futures import ThreadPoolExecutor

    inputs = batch(64, 500)
    want = answer(*inputs)
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: answer(*inputs), range(32)):
            torch.testing.assert_close(result, want, rtol=0, atol=0)


def run_with(capability, *command):
    """The output of this Python under GIFT_FAST_CPU_CAPABILITY."""
    environment = os.environ | {"GIFT_FAST_CPU_CAPABILITY": capability}
    return subprocess.run(
        [sys.executable, *command],
        env=environment,
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("wanted", ["default", "avx2", "avx512", "nonsense"])
def test_an_instruction_set_can_be_named_and_falls_back_where_it_is_missing(wanted):
    code = "from gift_fast import ops; print(ops.CPU_LIBRARY.build_info()['cpu_capability'])"
    result = run_with(wanted, "-c", code)
    chosen = result.stdout.strip()
    if wanted == "default":
        assert chosen == "default"
    else:
        assert chosen in {wanted, ops.CPU_LIBRARY.build_info()["cpu_capability"]}


@pytest.mark.skipif(
    "GIFT_FAST_CPU_CAPABILITY" in os.environ, reason="an instruction set is already chosen"
)
@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
def test_every_instruction_set_of_this_machine_is_exact(capability):
    code = "from gift_fast import ops; print(ops.CPU_LIBRARY.build_info()['cpu_capability'])"
    if run_with(capability, "-c", code).stdout.strip() != capability:
        pytest.skip(f"this machine has no {capability}")
    if capability == ops.CPU_LIBRARY.build_info()["cpu_capability"]:
        pytest.skip(f"{capability} is what the other tests run")
    files = [str(HERE / f"test_{x}.py") for x in ("shapes", "dtypes", "numerics", "float16")]
    result = run_with(capability, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files)
    assert result.returncode == 0, result.stdout[-4000:]
