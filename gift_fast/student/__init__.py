"""The former name of ``gift_fast.evaluation`` and ``gift_fast.data``, kept until version 0.3."""

import warnings
from importlib import import_module
from typing import Any

_HOMES = {
    "DistilledSet": "gift_fast.data",
    "EvaluationConfig": "gift_fast.evaluation",
    "ImageDataset": "gift_fast.data",
    "TeacherConfig": "gift_fast.evaluation",
    "evaluate": "gift_fast.evaluation",
    "load_dataset": "gift_fast.data",
    "read_distilled": "gift_fast.data",
    "train_teacher": "gift_fast.evaluation",
}


def __getattr__(name: str) -> Any:
    """Imports a name from its new home, with a DeprecationWarning."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"gift_fast.student.{name} is now {_HOMES[name]}.{name}; the former name will be removed "
        "in version 0.3",
        DeprecationWarning,
        stacklevel=2,
    )
    return getattr(import_module(_HOMES[name]), name)
