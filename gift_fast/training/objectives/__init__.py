"""The losses that a student can be trained with.

z are the student's logits (N, C); t the soft labels (N, C), a teacher's logits; y the hard labels
(N). Every loss is a mean over the N rows. Soft labels can be :class:`~gift_fast.TopKLabels`; the
loss is that of ``labels.dense(C)``, but only the losses ``refine+...`` build that matrix.

A new loss is a function that returns an :class:`Objective` and has the loss's options as
keyword-only parameters, one line in ``OBJECTIVES`` and one in ``DISPLAY_NAMES``. A user-defined
loss is such a function named by its import path; it may also return a plain function
(logits, soft_labels, target, epoch) -> scalar.
"""

from __future__ import annotations

from collections.abc import Callable

from gift_fast.files import spec
from gift_fast.training.objectives.compositions import compose, plus_ce, refine
from gift_fast.training.objectives.cross_entropy import ce, softce, wsld
from gift_fast.training.objectives.decoupled import dkd, nkd
from gift_fast.training.objectives.kl_divergence import annealed_kl, kd, kl
from gift_fast.training.objectives.objective import (
    READABLE,
    Formula,
    LossState,
    MixedFormula,
    Objective,
    Reads,
    SoftLabels,
)
from gift_fast.training.objectives.vectors import cosine, gift, mse

__all__ = [
    "DISPLAY_NAMES",
    "OBJECTIVES",
    "READABLE",
    "SOFT_LABEL_LOSSES",
    "Formula",
    "LossState",
    "MixedFormula",
    "Objective",
    "Reads",
    "SoftLabels",
    "annealed_kl",
    "build_objective",
    "ce",
    "compose",
    "cosine",
    "display_name",
    "dkd",
    "gift",
    "kd",
    "kl",
    "mse",
    "nkd",
    "plus_ce",
    "refine",
    "softce",
    "wsld",
]


SOFT_LABEL_LOSSES: dict[str, Callable[..., Objective]] = {
    "cosine": cosine,
    "kl": kl,
    "mse": mse,
    "softce": softce,
    "kl+ce": compose(plus_ce, kl),
    "mse+ce": compose(plus_ce, mse),
    "softce+ce": compose(plus_ce, softce),
}
"""Losses that can be combined with a refined soft label."""


OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "ce": ce,
    **SOFT_LABEL_LOSSES,
    "gift": gift,
    "annealed-kl": annealed_kl,
    "kd": kd,
    "dkd": dkd,
    "nkd": nkd,
    "wsld": wsld,
    **{f"refine+{name}": compose(refine, loss) for name, loss in SOFT_LABEL_LOSSES.items()},
}


DISPLAY_NAMES = {
    "annealed-kl": "annealed KL",
    "ce": "CE",
    "cosine": "cosine",
    "dkd": "DKD",
    "gift": "GIFT",
    "kd": "KD",
    "kl": "KL",
    "mse": "MSE",
    "nkd": "NKD",
    "refine": "refined",
    "softce": "soft CE",
    "wsld": "WSLD",
}
"""Display names of the parts of a loss's name."""


def display_name(loss: str) -> str:
    """The display name of a loss, for reports.

    Example:
        >>> display_name("kl:temperature=4"), display_name("refine+softce+ce")
        ('KL (temperature=4)', 'refined soft CE + CE')
    """
    name, options = spec.split_spec(loss)
    parts = [DISPLAY_NAMES.get(part, part) for part in name.split("+")]
    written = ", ".join(f"{key}={value}" for key, value in options.items())
    title = " + ".join(parts).replace("refined + ", "refined ")
    return title + (f" ({written})" if written else "")


def build_objective(loss: str) -> Objective:
    """Build the objective that a specification names.

    Raises:
        TypeError: the specification is not a string.
        ValueError: no such loss or option, or an option out of its range.

    Example:
        >>> import torch
        >>> objective = build_objective("mse")
        >>> objective(torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2), torch.tensor([1]), 1).item()
        2.5
    """
    built: Objective | Formula = spec.build("loss", loss, OBJECTIVES)
    return built if isinstance(built, Objective) else Objective(built)
