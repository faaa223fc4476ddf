"""Digests of the inputs and the user-defined code of a run, which identify it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from types import ModuleType

from torch import nn

from gift_fast.data.datasets import ImageDataset
from gift_fast.data.distilled import DistilledSet
from gift_fast.data.zca import ZCA
from gift_fast.evaluation.config import EvaluationConfig
from gift_fast.files import spec
from gift_fast.files.fingerprint import fingerprint
from gift_fast.training.predict import Transform


def inputs_of(
    dataset: ImageDataset,
    distilled: DistilledSet,
    teachers: Sequence[nn.Module],
    whiten: Transform | None = None,
) -> dict[str, str]:
    """Compute the digests of the inputs of a run."""
    constants = f"{dataset.mean} {dataset.std}"
    inputs = {
        "test": fingerprint([dataset.test.fingerprint(), constants]),
        "distilled": distilled.fingerprint(),
    }
    if isinstance(whiten, ZCA):
        inputs["whitening"] = whiten.fingerprint()
    if teachers:
        inputs["teachers"] = fingerprint(
            value for teacher in teachers for value in teacher.state_dict().values()
        )
    return inputs


def code_of(config: EvaluationConfig) -> dict[str, str]:
    """Compute a digest of the modules with user-defined functions, if a configuration names any.

    If ``my_losses`` changes, runs that call ``my_losses.huber`` are repeated.
    """
    specs = (
        *(config.dataset, config.student, *config.teachers, config.loss, config.optimizer),
        *(config.schedule, config.augmentation, config.mixing, config.classes),
    )
    names = sorted({name for name, _ in map(spec.split_spec, specs) if "." in name})
    if not names:
        return {}
    modules = [inspect.getmodule(spec.import_function("config", name)) for name in names]
    return {"code": fingerprint(source_of(module) for module in modules)}


def source_of(module: ModuleType | None) -> str:
    """The source code of a module, or its name if it has none."""
    try:
        return "" if module is None else inspect.getsource(module)
    except (OSError, TypeError):
        return str(module)
