"""LPQLD's loss: the temperatures of teacher and student, in Python's own numbers."""

from __future__ import annotations

import math

import pytest
import torch

from gift_fast import TopKLabels
from gift_fast.training.objectives import build_objective

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = 0.3 * torch.randn(7, 6, generator=GENERATOR, dtype=torch.float64)
TEACHER = 9.0 * torch.randn(7, 6, generator=GENERATOR, dtype=torch.float64)
TARGET = torch.zeros(7, dtype=torch.int64)


def softmax(row, temperature):
    powers = [math.exp((x - max(row)) / temperature) for x in row]
    return [power / sum(powers) for power in powers]


def kl(logits, teacher, student_temperature, temperature):
    total = 0.0
    for z, t in zip(logits.tolist(), teacher.tolist(), strict=True):
        p, q = softmax(t, temperature), softmax(z, student_temperature)
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)
    return total / len(logits)


@pytest.mark.parametrize(
    ("epoch", "temperature"),
    [(1, 20.0), (29, 20.0), (30, 14.0), (60, 9.8), (209, 20 * 0.7**6), (210, 2.0), (300, 2.0)],
)
def test_the_teachers_temperature_falls_every_thirty_epochs_to_two(epoch, temperature):
    objective = build_objective("annealed-kl:student_temperature=0.5")
    result = objective(LOGITS, TEACHER, TARGET, epoch)
    assert result.item() == pytest.approx(kl(LOGITS, TEACHER, 0.5, temperature))


def test_the_students_temperature_is_the_best_of_a_hundred_on_the_last_batch():
    objective = build_objective("annealed-kl")
    assert objective(LOGITS, TEACHER, TARGET, 1).item() == pytest.approx(
        kl(LOGITS, TEACHER, 1.0, 20.0)
    )
    last = 0.02 * TEACHER[:4] + 0.3 * LOGITS[:4]
    objective(last, TEACHER[:4], TARGET[:4], 1)
    objective.state.end_epoch()
    losses = {k / 100: kl(last, TEACHER[:4], k / 100, 20.0) for k in range(1, 101)}
    best = min(losses, key=losses.get)
    assert 0.02 < best < 1.0
    assert objective.state.state_dict() == {"student_temperature": best}
    result = objective(LOGITS, TEACHER, TARGET, 2)
    assert result.item() == pytest.approx(kl(LOGITS, TEACHER, best, 20.0))


def test_it_is_fitted_to_the_kept_logits_alone():
    kept = TEACHER.topk(2)
    labels = TopKLabels(kept.values, kept.indices, torch.full((7,), -torch.inf))
    dense, compressed = build_objective("annealed-kl"), build_objective("annealed-kl")
    dense(0.02 * TEACHER, labels.dense(6), TARGET, 1)
    compressed(0.02 * TEACHER, labels, TARGET, 1)
    for objective in (dense, compressed):
        objective.state.end_epoch()
    assert compressed.state.value == dense.state.value < 1.0


def test_a_given_temperature_is_not_fitted():
    assert build_objective("annealed-kl:student_temperature=0.5").state is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("temperature=0", "temperature must be positive and finite, got 0"),
        ("least=-1", "temperature must be positive and finite, got -1"),
        ("factor=1.5", r"factor must be in \(0, 1\], got 1.5"),
        ("every=0", "every must be 1 or more, got 0"),
        ("student_temperature=-1", "student_temperature must be 0 or more"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build_objective(f"annealed-kl:{options}")
