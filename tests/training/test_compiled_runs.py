"""Runs that compile their networks, one after the other in a process."""

from __future__ import annotations

from dataclasses import replace

from torch._dynamo.utils import counters

from gift_fast.evaluation import EvaluationConfig
from gift_fast.evaluation.student import train_student

CONFIG = EvaluationConfig(
    dataset="digits",
    ipc=2,
    student="convnet3:width=16",
    teachers=("convnet3:width=16",),
    epochs=1,
    augmentation="none",
    batch_size=10,
    mixed_precision="bf16",
    compile=True,
)


def test_every_run_of_a_process_is_compiled(dataset, distilled, teacher):
    """torch compiles a function 8 times at most and then runs it as it is."""
    compiled = []
    for seed in range(4):
        counters.clear()
        train_student(replace(CONFIG, seed=seed), dataset, distilled, [teacher])
        compiled.append(counters["stats"]["unique_graphs"])
    assert compiled[0] > 0
    assert len(set(compiled)) == 1
