"""The former name of ``gift_fast.evaluation`` and ``gift_fast.data``, kept until version 0.3."""

import warnings
from collections.abc import Mapping
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


def moved(module: str, homes: Mapping[str, str], name: str) -> Any:
    """Return a name of a former module from its new module, with a DeprecationWarning.

    Raises:
        AttributeError: the former module had no such public name.
    """
    if name not in homes:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    warnings.warn(
        f"{module}.{name} is now {homes[name]}.{name}; the former name will be removed in "
        "version 0.3",
        DeprecationWarning,
        stacklevel=3,
    )
    return getattr(import_module(homes[name]), name)


def __getattr__(name: str) -> Any:
    return moved(__name__, _HOMES, name)
