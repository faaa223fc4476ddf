"""Optimizers and learning-rate schedules, each one function and one line in its registry."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR

from gift_fast.student import spec

if TYPE_CHECKING:  # config reads the registries below
    from gift_fast.student.config import TrainingConfig

Parameters = Iterable[nn.Parameter]


def adamw(parameters: Parameters, config: TrainingConfig) -> Optimizer:
    """AdamW (Loshchilov and Hutter, ICLR 2019): weight decay apart from the gradient."""
    return AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)


def adam(parameters: Parameters, config: TrainingConfig) -> Optimizer:
    """Adam (Kingma and Ba, ICLR 2015): weight decay is added to the gradient."""
    return Adam(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)


def sgd(parameters: Parameters, config: TrainingConfig) -> Optimizer:
    """Stochastic gradient descent with momentum, without Nesterov's step."""
    return SGD(
        parameters,
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adam": adam,
    "adamw": adamw,
    "sgd": sgd,
}


def multistep(optimizer: Optimizer, epochs: int, *, factor: float = 0.2) -> LRScheduler:
    """Multiplies the rate by ``factor`` after 2/3 and after 5/6 of the epochs (table 11)."""
    return MultiStepLR(optimizer, milestones=[2 * epochs // 3, 5 * epochs // 6], gamma=factor)


def cosine(optimizer: Optimizer, epochs: int) -> LRScheduler:
    """Half a cosine from the full rate to zero."""
    return CosineAnnealingLR(optimizer, T_max=epochs)


SCHEDULES: dict[str, Callable[..., LRScheduler]] = {
    "cosine": cosine,
    "multistep": multistep,
}


def build_optimizer(model: nn.Module, config: TrainingConfig) -> tuple[Optimizer, LRScheduler]:
    """The optimizer of a model and its schedule, which steps once an epoch."""
    optimizer = spec.build("optimizer", config.optimizer, OPTIMIZERS, model.parameters(), config)
    schedule = spec.build("schedule", config.schedule, SCHEDULES, optimizer, config.epochs)
    return optimizer, schedule
