"""The same bits from run to run and for any number of threads; every instruction set is exact."""

import os
from pathlib import Path

import pytest
import torch
from expected import FLOATS, answer, batch, needs_cpu_kernel
from instruction_sets import CHOSEN, run_with, skip_without

from gift_fast.loss import operators as ops

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


@pytest.mark.parametrize("wanted", ["default", "avx2", "avx512"])
def test_an_instruction_set_can_be_named_and_is_never_replaced(wanted):
    result = run_with(wanted, "-c", CHOSEN)
    if result.returncode == 0:
        assert result.stdout.strip() == wanted
    else:  # this processor lacks it
        assert wanted != "default"
        assert f'got "{wanted}"' in result.stderr


def test_without_a_name_the_best_one_is_taken():
    assert run_with("", "-c", CHOSEN).stdout.strip() in ("avx512", "avx2", "default")


CALLS = {
    "eager": "gift_loss(z.requires_grad_(), s, y)",
    "operator": "torch.ops.gift_fast.gift_loss(z, s, y, .1, .1, False, None, -100, 1, True, False)",
}


@pytest.mark.parametrize("call", CALLS)
def test_an_unknown_instruction_set_is_an_error_that_names_the_known_ones(call):
    code = "import torch; from gift_fast import gift_loss; z, s = torch.ones(2, 2, 3);"
    code += f"y = torch.tensor([0, 1]); {CALLS[call]}"
    result = run_with("AVX2", "-c", code)
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ValueError: GIFT_FAST_CPU_CAPABILITY must be one of ")
    assert "default" in last
    assert 'got "AVX2"' in last


def test_importing_the_package_does_not_fail_for_it():
    result = run_with("nonsense", "-c", "import gift_fast; print(gift_fast.backends()['cpu'])")
    assert result.stdout.strip() == "available"
    assert result.stderr == ""


@pytest.mark.skipif(
    "GIFT_FAST_CPU_CAPABILITY" in os.environ, reason="an instruction set is already chosen"
)
@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
def test_every_instruction_set_of_this_machine_is_exact(capability):
    skip_without(capability)
    if capability == ops.CPU_LIBRARY.build_info()["cpu_capability"]:
        pytest.skip(f"{capability} is what the other tests run")
    files = [str(HERE / f"test_{x}.py") for x in ("shapes", "dtypes", "numerics", "float16")]
    result = run_with(capability, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files)
    assert result.returncode == 0, result.stdout[-4000:]
