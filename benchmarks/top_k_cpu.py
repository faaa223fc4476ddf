"""Times the loss of top-k labels on the CPU next to its alternatives, interleaved. See README.md.

Measure:  python -m benchmarks.top_k_cpu --out mine
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.competitors import compiled
from benchmarks.loss_cpu import SAMPLE_SECONDS, describe_machine, sample
from benchmarks.sampling import interleaved, quartiles, ratios
from benchmarks.tables import Table, bytes_text, ratio_text, text_tables, time_text, write_text
from gift_fast import TopKLabels, gift_loss
from gift_fast.loss.operators import CPU_LIBRARY, backends

# (N, C, k): ImageNet-1k, ImageNet-21k, and the vocabulary of a language model.
SHAPES = [(1024, 1000, 10), (256, 21841, 20), (64, 128256, 64)]

OURS = "top-k"
FLOOR = "floor"
COMPETITORS = (OURS, "dense", "scatter", "compiled sums", FLOOR)

Case = dict[str, Any]


class Batch(NamedTuple):
    """Logits (N, C) that require grad, probabilities in both forms, targets (N,)."""

    logits: Tensor
    dense: Tensor
    labels: TopKLabels
    target: Tensor


def make_batch(num_rows: int, num_classes: int, k: int) -> Batch:
    """A batch in float32; of the labels k are kept, and the missing mass is spread evenly."""
    generator = torch.Generator().manual_seed(0)
    logits, teacher = (torch.randn(num_rows, num_classes, generator=generator) for _ in range(2))
    target = torch.randint(num_classes, (num_rows,), generator=generator)
    dense = (3 * teacher).softmax(1)
    return Batch(logits.requires_grad_(), dense, TopKLabels.from_dense(dense, k), target)


def sums_and_gather(
    logits: Tensor,
    labels: TopKLabels,
    target: Tensor,
    gamma: float = 0.1,
    label_smoothing: float = 0.1,
) -> Tensor:
    """The loss of top-k probabilities in plain PyTorch, without a dense label."""
    values, indices = labels.values, labels.indices.long()
    num_classes, k = logits.shape[1], values.shape[1]
    elsewhere = label_smoothing / num_classes
    on_target = 1.0 - label_smoothing + elsewhere
    norm = math.sqrt(on_target**2 + (num_classes - 1) * elsewhere**2)
    base, peak = gamma * elsewhere / norm, gamma * (on_target - elsewhere) / norm
    rest = (1.0 - values.sum(1, keepdim=True)).clamp_min(0.0) / (num_classes - k)
    square = (values * values).sum(1, keepdim=True) + (num_classes - k) * rest * rest
    soft = (1.0 - gamma) / square.sqrt().clamp_min(1e-12)
    kept, at_target = logits.gather(1, indices), logits.gather(1, target[:, None])
    is_target = (indices == target[:, None]).float()
    t, t_rest = base + soft * values + peak * is_target, base + soft * rest
    alone = 1.0 - is_target.sum(1, keepdim=True)
    others = logits.sum(1, keepdim=True) - kept.sum(1, keepdim=True)
    dot = (t * kept).sum(1, keepdim=True) + t_rest * others + alone * peak * at_target
    t_square = (t * t).sum(1, keepdim=True) + (num_classes - k) * t_rest * t_rest
    t_square = t_square + alone * peak * (2.0 * t_rest + peak)
    z_square = (logits * logits).sum(1, keepdim=True)
    return (1.0 - dot / (z_square * t_square).sqrt().clamp_min(1e-16)).mean()


def make_step(name: str, batch: Batch) -> Callable[[], None]:
    """One step of the competitor of this name: the loss, its gradient, the gradient dropped."""
    logits, dense, labels, target = batch
    detached = logits.detach()
    if name == FLOOR:  # no loss: reads such a matrix and writes a fresh one

        def floor() -> None:
            torch.neg(detached)

        return floor

    sums = compiled(sums_and_gather) if name == "compiled sums" else sums_and_gather
    losses: dict[str, Callable[[], Tensor]] = {
        OURS: lambda: gift_loss(logits, labels, target),
        "dense": lambda: gift_loss(logits, dense, target),
        "scatter": lambda: gift_loss(logits, labels.dense(logits.shape[1]), target),
        "compiled sums": lambda: sums(logits, labels, target),
    }
    loss = losses[name]

    def step() -> None:
        loss().backward()
        logits.grad = None

    return step


def measure_case(shape: tuple[int, int, int], repeats: int) -> Case:
    """All competitors on one batch. Each repeat runs every one of them once, in a fresh order."""
    batch = make_batch(*shape)
    steps = {name: make_step(name, batch) for name in COMPETITORS}
    numbers = {}
    for name, step in steps.items():
        step()
        fastest, _ = min(sample(step, 1) for _ in range(5))
        numbers[name] = math.ceil(SAMPLE_SECONDS / fastest)
    samplers = {name: partial(sample, step, numbers[name]) for name, step in steps.items()}
    samples = interleaved(samplers, repeats)
    seconds = {name: [second for second, _ in pairs] for name, pairs in samples.items()}
    return {
        "shape": shape,
        "seconds": {name: quartiles(x) for name, x in seconds.items()},
        "ratio_to_ours": {
            name: ratios(x, seconds[OURS]) for name, x in seconds.items() if name != OURS
        },
        "page_faults_per_step": {
            name: statistics.median(fault for _, fault in pairs) for name, pairs in samples.items()
        },
        "gradient_bytes": batch.logits.nbytes,
        "labels_bytes": {
            OURS: batch.labels.values.nbytes + batch.labels.indices.nbytes,
            "dense": batch.dense.nbytes,
        },
    }


def memory_of_a_step(name: str, shape: tuple[int, int, int]) -> int | None:
    """Bytes that the second step needs beyond the batch; ``None`` where Linux does not say.

    The peak of the resident memory is reset before the step, so this runs in a process of its own.
    """
    torch.set_num_threads(1)
    step = make_step(name, make_batch(*shape))
    step()
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        step()
        return _status("VmHWM") - before
    except OSError:
        return None


def _status(field: str) -> int:
    """A field of this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(x for x in lines if x.startswith(field)).split()[1])


def measure(shapes: list[tuple[int, int, int]], repeats: int) -> dict[str, Any]:
    """Everything that the JSON file holds, on one thread."""
    torch.set_num_threads(1)
    cases = []
    spawn = multiprocessing.get_context("spawn")
    for shape in shapes:
        cases.append(measure_case(shape, repeats))
        cases[-1]["step_bytes"] = {}
        for name in COMPETITORS:
            with ProcessPoolExecutor(1, mp_context=spawn) as process:
                job = process.submit(memory_of_a_step, name, shape)
                cases[-1]["step_bytes"][name] = job.result()
    return {"machine": describe_machine(), "repeats": repeats, "cases": cases}


HEADER = ["N x C, k", "top-k (quartiles)", "dense / top-k", "scatter / top-k"]
HEADER += ["compiled sums / top-k", "top-k / floor", "labels", "memory of a step: top-k, scatter"]


def row(case: Case) -> list[str]:
    """A line of the table, as HEADER names its cells."""
    ours = case["seconds"][OURS]
    ratio = {name: quartile["median"] for name, quartile in case["ratio_to_ours"].items()}
    num_rows, num_classes, k = case["shape"]
    steps = (case["step_bytes"][name] for name in (OURS, "scatter"))
    return [
        f"{num_rows} x {num_classes}, {k}",
        time_text(ours["median"], ours["q1"], ours["q3"]),
        *(ratio_text(ratio[name]) for name in COMPETITORS[1:-1]),
        ratio_text(1 / ratio[FLOOR]),
        " for ".join(bytes_text(case["labels_bytes"][name]) for name in (OURS, "dense")),
        ", ".join("?" if x is None else f"{x / case['gradient_bytes']:.1f} N C" for x in steps),
    ]


def table(result: dict[str, Any]) -> Table:
    """The title and the rows, header first."""
    return "float32, 1 thread", [HEADER, *map(row, result["cases"])]


def shape_argument(text: str) -> tuple[int, int, int]:
    """``1024x1000x10`` as N, C and k."""
    num_rows, num_classes, k = map(int, text.split("x"))
    return num_rows, num_classes, k


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.top_k_cpu", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--shapes", type=shape_argument, nargs="+", default=SHAPES, metavar="NxCxk")
    parser.add_argument("--repeats", type=int, default=31, help="samples of each step, at least 2")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write top_k_cpu.json here")
    args = parser.parse_args()
    if CPU_LIBRARY is None:
        raise SystemExit(f"no CPU kernels to measure: {backends()['cpu']}")
    result = measure(args.shapes, args.repeats)
    print("\n".join(text_tables([table(result)])))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        write_text(args.out / "top_k_cpu.json", json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
