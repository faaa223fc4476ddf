"""GIFT: a fused loss for soft labels, and the evaluation of students trained with it.

``import gift_fast`` does not import torch, so that ``gift-fast --version`` is fast; torch is
imported when one of the names below is first used. This also registers the operators
``torch.ops.gift_fast.*``, as does ``import gift_fast`` if torch has already been imported. A
program that only loads an exported graph registers them with ``import gift_fast.loss``.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gift_fast.evaluation.from_files import (
        audit,
        evaluate,
        label,
        load_teacher,
        read_distilled,
        train_teacher,
    )
if TYPE_CHECKING or "torch" in sys.modules:
    from gift_fast.loss import GIFTLoss, TopKLabels, gift_loss, refine_labels
    from gift_fast.loss.operators import backends

__all__ = [
    "GIFTLoss",
    "TopKLabels",
    "audit",
    "backends",
    "evaluate",
    "gift_loss",
    "label",
    "load_teacher",
    "read_distilled",
    "refine_labels",
    "train_teacher",
]
__version__ = "0.1.0"

_HOMES = {
    **dict.fromkeys(("GIFTLoss", "TopKLabels", "gift_loss", "refine_labels"), "gift_fast.loss"),
    "backends": "gift_fast.loss.operators",
}
"""The modules of the public names; the others are in ``gift_fast.evaluation.from_files``."""


def __getattr__(name: str) -> Any:
    """Import a public name, and torch, on first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(_HOMES.get(name, "gift_fast.evaluation.from_files"))
    return globals().setdefault(name, getattr(module, name))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
