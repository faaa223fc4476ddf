"""The exponential moving average of the weights, from the weights of every step in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gift_fast.evaluation import EvaluationConfig
from gift_fast.evaluation.student import batches_of, train_student
from gift_fast.training.models import new_model
from gift_fast.training.predict import Accuracy
from gift_fast.training.processes import new_accelerator, processes_of
from gift_fast.training.train import fit

CONFIG = EvaluationConfig(
    dataset="digits",
    ipc=2,
    student="tests.networks.normalized_dropout",
    teachers=(),
    loss="ce",
    epochs=3,
    augmentation="none",
    batch_size=8,  # 8, 8 and 4 images
)
DECAY = 0.7


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: value.detach().double().clone()
        for name, value in model.state_dict().items()
        if value.is_floating_point()
    }


def trained(dataset, distilled, decay: float, **changes: object):
    """The weights before every step, those of the trained model, and those that were tested."""
    config = replace(CONFIG, ema_decay=decay, **changes).resolved(len(distilled))
    before, tested = [], []

    def batch_loss(model: nn.Module, batch, epoch: int) -> torch.Tensor:
        before.append(state(model))
        return F.cross_entropy(model(batch.images), batch.target)

    def run_test(model: nn.Module) -> Accuracy:
        tested.append(state(model))
        return Accuracy(0.0, 0.0, 0.0)

    accelerator = new_accelerator(config)
    model, _ = fit(
        new_model(config.student, dataset, 0),
        batches_of(config, dataset, distilled, processes_of(accelerator)),
        config,
        batch_loss,
        accelerator,
        run_test=run_test,
        is_test_epoch=lambda epoch: epoch >= 2,
        identity={},
    )
    return before, state(model), tested


def test_it_is_tested_and_kept_with_the_average_of_the_running_statistics(dataset, distilled):
    before, last, _ = trained(dataset, distilled, 0.0)
    steps = [*before[1:], last]  # the weights after every step
    averages = [steps[0]]
    for weights in steps[1:]:
        averages.append(
            {k: DECAY * old + (1 - DECAY) * weights[k] for k, old in averages[-1].items()}
        )
    assert any("running_mean" in name for name in last)
    before, kept, tested = trained(dataset, distilled, DECAY)
    for found, step in [(tested[0], 5), (tested[1], 8), (kept, 8)]:
        for name, expected in averages[step].items():
            torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-7)
    # It changes nothing of the training itself.
    assert all(torch.equal(a[k], b[k]) for a, b in zip(before[1:], steps, strict=False) for k in a)


def test_the_running_statistics_may_be_those_of_the_trained_weights(dataset, distilled):
    before, last, _ = trained(dataset, distilled, 0.0)
    steps = [*before[1:], last]
    _, averaged, _ = trained(dataset, distilled, DECAY)
    _, kept, tested = trained(dataset, distilled, DECAY, ema_buffers=False)
    for name, expected in averaged.items():
        if "running" in name:
            assert torch.equal(kept[name], last[name])
            assert torch.equal(tested[0][name], steps[5][name])
            assert not torch.equal(kept[name], expected)
        else:
            assert torch.equal(kept[name], expected)


def test_a_run_is_recorded_with_it_only_if_it_has_one(dataset, distilled):
    assert "ema_decay" not in CONFIG.to_dict()
    config = replace(CONFIG, ema_decay=0.9, epochs=1)
    result = train_student(config, dataset, distilled)[1]
    assert result.config.to_dict()["ema_decay"] == 0.9


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_the_decay_must_be_below_one(decay):
    with pytest.raises(ValueError, match=rf"ema_decay must be in \[0, 1\), got {decay}"):
        replace(CONFIG, ema_decay=decay)
