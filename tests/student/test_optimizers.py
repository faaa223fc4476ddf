from __future__ import annotations

import pytest
import torch
from torch import nn

from gift_fast.student.config import TeacherConfig
from gift_fast.student.optimizers import build_optimizer


def rates(epochs: int, schedule: str) -> list[float]:
    config = TeacherConfig(
        dataset="digits", epochs=epochs, schedule=schedule, optimizer="sgd", learning_rate=1.0
    )
    optimizer, steps = build_optimizer(nn.Linear(1, 1), config)
    used = []
    for _ in range(epochs):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        steps.step()
    return used


def test_multistep_falls_to_a_fifth_after_two_thirds_and_five_sixths():
    assert rates(12, "multistep") == pytest.approx([1.0] * 8 + [0.2] * 2 + [0.04] * 2)


def test_the_milestones_are_integer_divisions():
    # 2 * 11 // 3 = 7 and 5 * 11 // 6 = 9
    assert rates(11, "multistep:factor=0.5") == pytest.approx([1.0] * 7 + [0.5] * 2 + [0.25] * 2)


def test_cosine_falls_to_half_at_half_time():
    assert rates(10, "cosine")[5] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)],
)
def test_an_optimizer_gets_the_settings(name, kind):
    config = TeacherConfig(
        dataset="digits", optimizer=name, learning_rate=0.3, weight_decay=0.2, momentum=0.7
    )
    optimizer, _ = build_optimizer(nn.Linear(1, 1), config)
    assert type(optimizer) is kind
    assert optimizer.defaults["lr"] == 0.3
    assert optimizer.defaults["weight_decay"] == 0.2
    if name == "sgd":
        assert optimizer.defaults["momentum"] == 0.7
        assert not optimizer.defaults["nesterov"]
