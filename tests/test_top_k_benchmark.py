"""The benchmark of top-k labels: its losses agree, and what it reports."""

import sys
from pathlib import Path

import pytest
import torch
from expected import needs_cpu_kernel

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks is no part of the package

from benchmarks import top_k_cpu
from gift_fast import gift_loss


@needs_cpu_kernel
def test_all_competitors_compute_the_same_loss_and_gradient():
    logits, _, labels, target = top_k_cpu.make_batch(20, 50, 5)
    target[0] = int(labels.indices[0, 2])
    want = gift_loss(logits, labels.dense(50), target, backend="reference")
    (gradient,) = torch.autograd.grad(want, logits)
    for loss in (
        gift_loss(logits, labels, target),
        top_k_cpu.sums_and_gather(logits, labels, target),
    ):
        torch.testing.assert_close(loss, want)
        torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], gradient)


def test_the_table_has_the_ratios_and_the_memory():
    seconds = dict(zip(top_k_cpu.COMPETITORS, (1e-3, 1.5e-3, 4e-3, 3e-3, 0.5e-3), strict=True))
    case = {
        "shape": (1024, 1000, 10),
        "seconds": {name: {"median": x, "q1": x, "q3": x} for name, x in seconds.items()},
        "ratio_to_ours": {
            name: {"median": x / 1e-3} for name, x in seconds.items() if name != top_k_cpu.OURS
        },
        "gradient_bytes": 4_096_000,
        "labels_bytes": {"top-k": 61_440, "dense": 4_096_000},
        "step_bytes": dict.fromkeys(top_k_cpu.COMPETITORS, 4_096_000) | {"scatter": None},
    }
    title, (header, cells) = top_k_cpu.table({"cases": [case]})
    assert title == "float32, 1 thread"
    assert dict(zip(header, cells, strict=True)) == {
        "N x C, k": "1024 x 1000, 10",
        "top-k (quartiles)": "1.00 ms (1.00 to 1.00)",
        "dense / top-k": "1.50",
        "scatter / top-k": "4.00",
        "compiled sums / top-k": "3.00",
        "top-k / floor": "2.00",
        "labels": "61.4 kB for 4.1 MB",
        "memory of a step: top-k, scatter": "1.0 N C, ?",
    }


def test_shapes_are_read_from_the_command_line():
    assert top_k_cpu.shape_argument("64x128256x64") == (64, 128256, 64)
    with pytest.raises(ValueError, match="not enough values"):
        top_k_cpu.shape_argument("64x10")
