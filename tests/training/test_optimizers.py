from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from gift_fast.evaluation.rules import paper_learning_rate
from gift_fast.training.optimizers import SCHEDULES, Hyperparameters, build_optimizer

RATE, DECAY, MOMENTUM = 0.1, 0.2, 0.7
GRADIENTS = (0.5, -2.0, 1.5)
"""Of three steps."""


def built(
    model: nn.Module,
    optimizer: str = "adamw",
    *,
    schedule: str = "constant",
    epochs: int = 10,
    learning_rate: float = RATE,
    momentum: float = MOMENTUM,
):
    values = Hyperparameters(learning_rate, DECAY, momentum)
    return build_optimizer(model, optimizer, schedule, epochs, values)


# ---- optimizers, as their papers write them ------------------------------------------------------


def adam_by_hand(w: float, *, decoupled: bool) -> float:
    m = v = 0.0
    for t, gradient in enumerate(GRADIENTS, start=1):
        g = gradient if decoupled else gradient + DECAY * w
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        step = m / (1 - 0.9**t) / (math.sqrt(v / (1 - 0.999**t)) + 1e-8)
        w -= RATE * (step + DECAY * w if decoupled else step)
    return w


def sgd_by_hand(w: float, *, nesterov: bool) -> float:
    velocity = 0.0
    for gradient in GRADIENTS:
        g = gradient + DECAY * w
        velocity = MOMENTUM * velocity + g
        w -= RATE * (g + MOMENTUM * velocity if nesterov else velocity)
    return w


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        ("adamw", adam_by_hand(0.8, decoupled=True)),
        ("adam", adam_by_hand(0.8, decoupled=False)),
        ("sgd", sgd_by_hand(0.8, nesterov=False)),
        ("sgd:nesterov=true", sgd_by_hand(0.8, nesterov=True)),
    ],
)
def test_an_optimizer_is_its_formula(optimizer, expected):
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.constant_(model.weight, 0.8)
    steps, _ = built(model, optimizer)
    for gradient in GRADIENTS:
        model.weight.grad = torch.full_like(model.weight, gradient)
        steps.step()
    assert model.weight.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_parameters_with_one_dimension_are_spared_the_decay_where_asked(optimizer):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))

    def decays(options: str) -> dict[int, float]:
        steps, _ = built(model, optimizer + options)
        groups = steps.param_groups
        return {id(p): group["weight_decay"] for group in groups for p in group["params"]}

    assert list(decays("").values()) == [DECAY] * 6
    expected = {id(p): DECAY if p.dim() > 1 else 0.0 for p in model.parameters()}
    assert decays(":decay_1d=false") == expected


def test_a_network_without_parameters_of_one_dimension_is_optimized_too():
    model = nn.Linear(2, 2, bias=False)
    steps, _ = built(model, "adamw:decay_1d=false")
    model(torch.ones(1, 2)).sum().backward()
    steps.step()


def test_frozen_parameters_are_left_alone():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    steps, _ = built(model)
    assert [len(group["params"]) for group in steps.param_groups] == [1]


def test_nesterovs_step_needs_momentum():
    with pytest.raises(ValueError, match=r"momentum must be positive .*, got 0.0"):
        built(nn.Linear(1, 1), "sgd:nesterov=true", momentum=0.0)


@pytest.mark.parametrize(
    ("student", "rate"),
    [
        ("convnet3:width=32", 1e-3),
        ("resnet18_modified", 1e-3),
        ("swin_v2_t", 1e-4),
        ("vit_b_16", 1e-4),
    ],
)
def test_transformers_train_at_a_tenth_of_the_rate(student, rate):
    assert paper_learning_rate(student) == rate


# ---- schedules -----------------------------------------------------------------------------------


def rates(schedule: str, epochs: int) -> list[float]:
    model = nn.Linear(1, 1)
    optimizer, steps = built(model, "sgd", schedule=schedule, epochs=epochs, learning_rate=2.0)
    used = []
    for _ in range(epochs):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        steps.step()
    return used


def rates_of(build, epochs: int) -> list[float]:
    """The same of a scheduler of PyTorch."""
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=2.0)
    steps = build(optimizer)
    used = []
    for _ in range(epochs):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        steps.step()
    return used


@pytest.mark.parametrize("epochs", [1, 2, 3, 11, 12, 300])
@pytest.mark.parametrize("factor", [0.2, 0.5])
def test_multistep_is_pytorchs_at_two_thirds_and_five_sixths(epochs, factor):
    milestones = [2 * epochs // 3, 5 * epochs // 6]
    expected = rates_of(
        lambda o: torch.optim.lr_scheduler.MultiStepLR(o, milestones, factor), epochs
    )
    assert rates(f"multistep:factor={factor}", epochs) == pytest.approx(expected)


def test_multistep_falls_to_a_fifth_by_default():
    assert rates("multistep", 12) == pytest.approx([2.0] * 8 + [0.4] * 2 + [0.08] * 2)


@pytest.mark.parametrize("epochs", [1, 2, 11, 300])
def test_cosine_is_pytorchs(epochs):
    expected = rates_of(
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=epochs), epochs
    )
    assert rates("cosine", epochs) == pytest.approx(expected)


def test_half_cosine_follows_a_cosine_of_twice_the_epochs():
    assert rates("half-cosine", 10) == pytest.approx(rates("cosine", 20)[:10])


def test_a_half_cosine_is_stretched_by_eta():
    assert rates("half-cosine:eta=1", 10) == pytest.approx(rates("cosine", 10))
    assert rates("half-cosine:eta=1.5", 10) == pytest.approx(rates("cosine", 15)[:10])
    with pytest.raises(ValueError, match=r"'half-cosine': eta must be at least 1, got 0.5"):
        rates("half-cosine:eta=0.5", 10)


@pytest.mark.parametrize("last", [20, 21, 1000])
def test_step_falls_to_a_tenth_once_where_datms_loop_does(last):
    expected, rate = [], 2.0
    for epoch in range(last + 1):
        expected.append(rate)
        if epoch in [last // 2 + 1]:
            rate *= 0.1
    assert rates("step", last + 1) == pytest.approx(expected)
    assert rates("step:factor=0.5", last + 1)[-1] == pytest.approx(1.0)


def test_constant_is_constant():
    assert rates("constant", 5) == [2.0] * 5


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_goes_on_from_its_state(schedule):
    epochs, done = 12, 7

    def start(model: nn.Module):
        return built(model, "sgd", schedule=schedule, epochs=epochs)

    first, steps = start(nn.Linear(1, 1))
    for _ in range(done):
        first.step()
        steps.step()
    second, again = start(nn.Linear(1, 1))
    second.load_state_dict(first.state_dict())
    again.load_state_dict(steps.state_dict())
    for _ in range(epochs - done):
        assert second.param_groups[0]["lr"] == first.param_groups[0]["lr"]
        for part in (first, steps, second, again):
            part.step()
