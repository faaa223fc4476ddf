"""Optimizers and learning-rate schedules, each one function and one line in its registry.

The optimizers are PyTorch's. A schedule is a function from the number of epochs E to the factor of
the learning rate in every epoch e, counted from 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from gift_fast.files import spec

if TYPE_CHECKING:  # config reads the registries below
    from gift_fast.evaluation.config import TrainingConfig

LEARNING_RATES = {"swin_v2_t": 1e-4, "vit_b_16": 1e-4}
"""Of the students that do not train at ``LEARNING_RATE``, by the code of GIFT."""

LEARNING_RATE = 1e-3

FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")
"""Where PyTorch updates all parameters in one kernel, the same mathematics in another order."""


def paper_learning_rate(student: str) -> float:
    """The learning rate of a student in the GIFT paper (table 11) and its code.

    Example:
        >>> paper_learning_rate("convnet3:width=32"), paper_learning_rate("swin_v2_t")
        (0.001, 0.0001)
    """
    return LEARNING_RATES.get(spec.split_spec(student)[0], LEARNING_RATE)


# ---- optimizers ----------------------------------------------------------------------------------


def parameter_groups(model: nn.Module, *, decay_1d: bool) -> list[dict[str, Any]]:
    """The parameters of a model, those with one dimension apart when they are not to decay."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if decay_1d:
        return [{"params": parameters}]
    return [
        {"params": [p for p in parameters if p.dim() > 1]},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]


def fused(model: nn.Module) -> bool:
    """Whether PyTorch has one kernel for all parameters of a model."""
    return all(p.device.type in FUSED_DEVICES and p.is_floating_point() for p in model.parameters())


def adamw(model: nn.Module, config: TrainingConfig, *, decay_1d: bool = True) -> Optimizer:
    """AdamW (Loshchilov and Hutter, ICLR 2019): weight decay apart from the gradient.

    Args:
        model: what to optimize.
        config: its learning rate and weight decay are used.
        decay_1d: whether biases and the parameters of norms decay; RDED's code spares them, and
            SRe2L's on ImageNet-1K.
    """
    return AdamW(
        parameter_groups(model, decay_1d=decay_1d),
        lr=rate_of(config),
        weight_decay=config.weight_decay,
        fused=fused(model),
    )


def adam(model: nn.Module, config: TrainingConfig, *, decay_1d: bool = True) -> Optimizer:
    """Adam (Kingma and Ba, ICLR 2015): weight decay is added to the gradient.

    Args:
        model: what to optimize.
        config: its learning rate and weight decay are used.
        decay_1d: whether biases and the parameters of norms decay.
    """
    return Adam(
        parameter_groups(model, decay_1d=decay_1d),
        lr=rate_of(config),
        weight_decay=config.weight_decay,
        fused=fused(model),
    )


def sgd(
    model: nn.Module, config: TrainingConfig, *, decay_1d: bool = True, nesterov: bool = False
) -> Optimizer:
    """Stochastic gradient descent with momentum; weight decay is added to the gradient.

    Args:
        model: what to optimize.
        config: its learning rate, weight decay and momentum are used.
        decay_1d: whether biases and the parameters of norms decay.
        nesterov: takes Nesterov's step (Sutskever et al., ICML 2013).
    """
    if nesterov and config.momentum == 0.0:
        raise ValueError("momentum must be positive for optimizer 'sgd:nesterov=true', got 0.0")
    return SGD(
        parameter_groups(model, decay_1d=decay_1d),
        lr=rate_of(config),
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=nesterov,
        fused=fused(model),
    )


def rate_of(config: TrainingConfig) -> float:
    """The learning rate of a configuration in which it is settled."""
    if config.learning_rate is None:
        raise ValueError("config must be resolved: learning_rate must be a number, got None")
    return config.learning_rate


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adam": adam,
    "adamw": adamw,
    "sgd": sgd,
}

# ---- schedules -----------------------------------------------------------------------------------

Schedule = Callable[[int], float]
"""From the epoch, counted from 0, to the factor of the learning rate."""


def multistep(epochs: int, *, factor: float = 0.2) -> Schedule:
    """Multiplied by ``factor`` after 2E/3 epochs and again after 5E/6, both rounded down.

    Source: Shang, Sun and Lin, ICLR 2025, table 11.
    """
    milestones = (2 * epochs // 3, 5 * epochs // 6)
    return lambda epoch: factor ** sum(epoch >= milestone for milestone in milestones)


def step(epochs: int, *, factor: float = 0.1) -> Schedule:
    """Multiplied by ``factor`` once, after epoch (E - 1)/2 + 1, rounded down and counted from 0.

    Source: the code of dataset condensation (Zhao, Mopuri and Bilen, ICLR 2021) and of DATM, which
    trains for one epoch more than it is told to; it also starts with a fresh momentum there.
    """
    return lambda epoch: factor if epoch > (epochs - 1) // 2 + 1 else 1.0


def cosine(epochs: int) -> Schedule:
    """(1 + cos(pi e / E)) / 2: half a cosine, from the full rate to zero.

    Source: Loshchilov and Hutter, ICLR 2017, without restarts.
    """
    return lambda epoch: 0.5 * (1.0 + math.cos(math.pi * epoch / epochs))


def half_cosine(epochs: int) -> Schedule:
    """(1 + cos(pi e / 2E)) / 2: a quarter of a cosine, from the full rate to half of it.

    Source: the code of RDED (Sun, Shi, Yu and Lin, CVPR 2024).
    """
    return lambda epoch: 0.5 * (1.0 + math.cos(math.pi * epoch / (2 * epochs)))


def constant(epochs: int) -> Schedule:
    """The same rate in every epoch."""
    return lambda epoch: 1.0


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "cosine": cosine,
    "half-cosine": half_cosine,
    "multistep": multistep,
    "step": step,
}


def build_optimizer(model: nn.Module, config: TrainingConfig) -> tuple[Optimizer, LRScheduler]:
    """The optimizer of a model and its schedule, which steps once an epoch.

    Args:
        model: what to optimize.
        config: resolved: learning rate and epochs are numbers.

    Raises:
        ValueError: learning rate or epochs are not settled, or the optimizer cannot take them.

    Example:
        >>> from gift_fast.evaluation.config import TeacherConfig
        >>> config = TeacherConfig(dataset="digits", optimizer="sgd", schedule="cosine", epochs=2)
        >>> optimizer, schedule = build_optimizer(nn.Linear(2, 2), config)
        >>> optimizer.step()
        >>> schedule.step()
        >>> optimizer.param_groups[0]["lr"] / config.learning_rate
        0.5
    """
    if config.epochs is None:
        raise ValueError("config must be resolved: epochs must be a number, got None")
    optimizer = spec.build("optimizer", config.optimizer, OPTIMIZERS, model, config)
    factor = spec.build("schedule", config.schedule, SCHEDULES, config.epochs)
    return optimizer, LambdaLR(optimizer, factor)
