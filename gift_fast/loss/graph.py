"""The fast path of the loss in a graph that ``torch.compile`` traces.

Dynamo guards each global, builtin and function that it traces, and checks these guards at every
call of the compiled code. The general path, :mod:`gift_fast.loss.dispatch`, has more than a hundred
guards, which take longer than the loss of a small batch; this one has as few as possible.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gift_fast.loss.dispatch import SERVES
from gift_fast.loss.operators import BEST_OPERATORS, UNAVAILABLE
from gift_fast.loss.top_k_labels import TopKLabels
from gift_fast.loss.torch_internals import transforms_active

_OPERATOR = BEST_OPERATORS.gift_loss
_DEVICES = tuple(
    {device for name, devices in SERVES.items() if UNAVAILABLE[name] is None for device in devices}
)


def graph_loss(
    logits: Tensor,
    soft_labels: Tensor | TopKLabels,
    target: Tensor | None,
    gamma: float,
    label_smoothing: float,
    reduction: str,
) -> Tensor | None:
    """Compute the loss of matrices, with the defaults of the other options.

    Returns ``None`` for a call that needs the general path, which has all checks and messages.
    """
    if (
        not isinstance(logits, Tensor)
        or not isinstance(soft_labels, Tensor)
        or not isinstance(target, Tensor)
        or logits.dim() != 2
        or logits.shape[1] < 2
        or logits.shape != soft_labels.shape
        or logits.shape[:1] != target.shape
        or not (logits.is_floating_point() and soft_labels.is_floating_point())
        or logits.dtype.itemsize < 2
        or soft_labels.dtype.itemsize < 2
        or target.dtype != torch.int64
        or not logits.device == soft_labels.device == target.device
        or logits.device.type not in _DEVICES
        or not (isinstance(gamma, float) and 0.0 <= gamma <= 1.0)
        or not (isinstance(label_smoothing, float) and 0.0 <= label_smoothing <= 1.0)
        or reduction not in ("none", "mean", "sum")
        or transforms_active()
    ):
        return None
    grad = torch.is_grad_enabled()
    loss: Tensor = _OPERATOR(
        logits,
        soft_labels,
        target,
        gamma,
        label_smoothing,
        False,
        None,
        -100,
        0 if reduction == "none" else 1 if reduction == "mean" else 2,
        grad and logits.requires_grad,
        grad and soft_labels.requires_grad,
    )[0]
    return loss
