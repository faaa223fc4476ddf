"""Optimizers and learning rate schedules, each one function and one line in its registry.

The optimizers are PyTorch's. A schedule is a function of the number of epochs E that returns the
factor of the learning rate in every epoch e, counted from 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from gift_fast.files import spec

FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")
"""Devices on which PyTorch has fused optimizers, which update all parameters in one kernel."""


# ---- optimizers ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hyperparameters:
    """The hyperparameters that all optimizers receive.

    Attributes:
        learning_rate: initial learning rate.
        weight_decay: decoupled in AdamW, added to the gradient in Adam and SGD.
        momentum: of SGD; other optimizers ignore it.
    """

    learning_rate: float
    weight_decay: float = 0.0
    momentum: float = 0.0


def parameter_groups(model: nn.Module, *, decay_1d: bool) -> list[dict[str, Any]]:
    """The parameters of a model; without ``decay_1d``, those with one dimension do not decay."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if decay_1d:
        return [{"params": parameters}]
    return [
        {"params": [p for p in parameters if p.dim() > 1]},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]


def fused(model: nn.Module) -> bool:
    """Whether PyTorch's fused optimizers support the parameters of a model."""
    return all(p.device.type in FUSED_DEVICES and p.is_floating_point() for p in model.parameters())


def adamw(model: nn.Module, values: Hyperparameters, *, decay_1d: bool = True) -> Optimizer:
    """AdamW (Loshchilov and Hutter, ICLR 2019): Adam with decoupled weight decay.

    Args:
        model: what to optimize.
        values: learning rate and weight decay.
        decay_1d: whether biases and the parameters of norms decay; they do not in RDED's code, nor
            in SRe2L's for ImageNet-1K.
    """
    return AdamW(
        parameter_groups(model, decay_1d=decay_1d),
        lr=values.learning_rate,
        weight_decay=values.weight_decay,
        fused=fused(model),
    )


def adam(model: nn.Module, values: Hyperparameters, *, decay_1d: bool = True) -> Optimizer:
    """Adam (Kingma and Ba, ICLR 2015): weight decay is added to the gradient.

    Args:
        model: what to optimize.
        values: learning rate and weight decay.
        decay_1d: whether biases and the parameters of norms decay.
    """
    return Adam(
        parameter_groups(model, decay_1d=decay_1d),
        lr=values.learning_rate,
        weight_decay=values.weight_decay,
        fused=fused(model),
    )


def sgd(
    model: nn.Module, values: Hyperparameters, *, decay_1d: bool = True, nesterov: bool = False
) -> Optimizer:
    """Stochastic gradient descent with momentum; weight decay is added to the gradient.

    Args:
        model: what to optimize.
        values: learning rate, weight decay and momentum.
        decay_1d: whether biases and the parameters of norms decay.
        nesterov: uses Nesterov momentum (Sutskever et al., ICML 2013).
    """
    if nesterov and values.momentum == 0.0:
        raise ValueError("momentum must be positive for optimizer 'sgd:nesterov=true', got 0.0")
    return SGD(
        parameter_groups(model, decay_1d=decay_1d),
        lr=values.learning_rate,
        momentum=values.momentum,
        weight_decay=values.weight_decay,
        nesterov=nesterov,
        fused=fused(model),
    )


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adam": adam,
    "adamw": adamw,
    "sgd": sgd,
}

OPTIMIZER_NAMES = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD"}
"""Display names of the optimizers."""


def optimizer_name(optimizer: str) -> str:
    """The display name of an optimizer, for reports."""
    return OPTIMIZER_NAMES.get(optimizer, optimizer)


# ---- schedules -----------------------------------------------------------------------------------

Schedule = Callable[[int], float]
"""Maps the epoch, counted from 0, to the factor of the learning rate."""


def multistep(epochs: int, *, factor: float = 0.2) -> Schedule:
    """Multiply the rate by ``factor`` after 2E/3 epochs and again after 5E/6, rounded down.

    Source: Shang, Sun and Lin, ICLR 2025, table 11.
    """
    milestones = (2 * epochs // 3, 5 * epochs // 6)
    return lambda epoch: factor ** sum(epoch >= milestone for milestone in milestones)


def step(epochs: int, *, factor: float = 0.1) -> Schedule:
    """Multiply the rate by ``factor`` once, after epoch floor((E - 1)/2) + 1, counted from 0.

    Source: the code of dataset condensation (Zhao, Mopuri and Bilen, ICLR 2021) and of DATM, which
    trains one epoch more than its argument says. Their code also resets the momentum at this epoch.
    """
    return lambda epoch: factor if epoch > (epochs - 1) // 2 + 1 else 1.0


def cosine(epochs: int) -> Schedule:
    """(1 + cos(pi e / E)) / 2: cosine annealing from the initial rate to zero.

    Source: Loshchilov and Hutter, ICLR 2017, without restarts.
    """
    return lambda epoch: 0.5 * (1.0 + math.cos(math.pi * epoch / epochs))


def half_cosine(epochs: int, *, eta: float = 2.0) -> Schedule:
    """(1 + cos(pi e / (eta E))) / 2: the first E epochs of cosine annealing over eta E epochs.

    With the default, the rate falls to half of its initial value; with ``eta=1``, to zero.

    Args:
        epochs: E.
        eta: ratio of the annealing period to the epochs, at least 1.

    Sources: the code of RDED (Sun, Shi, Yu and Lin, CVPR 2024) and EDC for eta = 2; SRe2L++, CV-DD
    and HALD have an eta of 1 or 2, depending on network, dataset and images per class.
    """
    if not 1.0 <= eta < math.inf:
        raise ValueError(f"schedule 'half-cosine': eta must be at least 1, got {eta}")
    return lambda epoch: 0.5 * (1.0 + math.cos(math.pi * epoch / (eta * epochs)))


def constant(epochs: int) -> Schedule:
    """A constant learning rate."""
    return lambda epoch: 1.0


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "cosine": cosine,
    "half-cosine": half_cosine,
    "multistep": multistep,
    "step": step,
}


def build_optimizer(
    model: nn.Module, optimizer: str, schedule: str, epochs: int, values: Hyperparameters
) -> tuple[Optimizer, LRScheduler]:
    """Build the optimizer of a model and its schedule, which steps once per epoch.

    Args:
        model: what to optimize.
        optimizer: a name in ``OPTIMIZERS``, with options.
        schedule: a name in ``SCHEDULES``, with options.
        epochs: of the whole run.
        values: learning rate, weight decay and momentum.

    Raises:
        ValueError: an unknown name or option, or values that the optimizer does not support.

    Example:
        >>> values = Hyperparameters(learning_rate=0.1, momentum=0.9)
        >>> optimizer, schedule = build_optimizer(nn.Linear(2, 2), "sgd", "cosine", 2, values)
        >>> optimizer.step()
        >>> schedule.step()
        >>> optimizer.param_groups[0]["lr"]
        0.05
    """
    built = spec.build("optimizer", optimizer, OPTIMIZERS, model, values)
    factor = spec.build("schedule", schedule, SCHEDULES, epochs)
    return built, LambdaLR(built, factor)
