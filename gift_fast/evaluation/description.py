"""The settings and inputs of a run in words, as the commands print them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gift_fast.evaluation.config import EvaluationConfig
from gift_fast.evaluation.inputs import Inputs
from gift_fast.files import spec
from gift_fast.files.record_names import current_name
from gift_fast.training.augment import AUGMENTATIONS
from gift_fast.training.augment.mixing import MIXINGS
from gift_fast.training.config import TrainingConfig
from gift_fast.training.models import MODELS
from gift_fast.training.objectives import OBJECTIVES, build_objective
from gift_fast.training.optimizers import OPTIMIZERS, SCHEDULES

REGISTRIES: dict[str, Mapping[str, Callable[..., Any]]] = {
    "student": MODELS,
    "model": MODELS,
    "loss": OBJECTIVES,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "augmentation": AUGMENTATIONS,
    "mixing": MIXINGS,
}
"""Of the settings that have options, which are printed too."""


def values_in_words(config: TrainingConfig) -> dict[str, str]:
    """Every setting but the seed, with the options of what has some."""
    values = config.all_fields()
    del values["seed"]
    if isinstance(config, EvaluationConfig) and config.ipc is None:
        values["ipc"] = "all"
    for name, registry in REGISTRIES.items():
        if name in values:
            values[name] = spec.with_defaults(name, values[name], registry)
    for name in ("dataset", "tested_on"):
        if name in values:
            values[name] = current_name(values[name])
    return {name: value_in_words(value) for name, value in values.items()}


def setting_lines(values: Mapping[str, str], width: int) -> str:
    """Settings, one per line."""
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in values.items())


def settings_in_words(config: TrainingConfig) -> str:
    """Every setting of a run as given by the user, one per line."""
    values = values_in_words(config)
    return setting_lines(values, max(map(len, values)))


def inputs_in_words(asked: EvaluationConfig, config: EvaluationConfig, inputs: Inputs) -> str:
    """The inputs of runs, and the settings that follow from them, one per line.

    Args:
        asked: the configuration as it was asked for.
        config: settled.
        inputs: narrowed to its classes.
    """
    tested = current_name(config.tested_on)
    before, values = values_in_words(asked), values_in_words(config)
    if inputs.distilled.replay is not None and not config.teachers:
        stored = ["augmentation", "mixing"] if config.hard_loss == "none" else []
        stored += ["batch_size"] if inputs.distilled.replay.batch_size else []
        values.update(dict.fromkeys(stored, "as stored"))
    changed = {name: value for name, value in values.items() if value != before[name]}
    lines = [
        f"distilled set: {len(inputs.distilled)} images, {inputs.distilled.source}",
        f"soft labels: {labels_in_words(config, inputs)}",
        f"test set: {len(inputs.dataset.test)} {tested} images of {inputs.dataset.name}",
        *(["settings that follow:"] if changed else []),
        *([setting_lines(changed, max(map(len, values)))] if changed else []),
    ]
    return "\n".join(lines)


def value_in_words(value: object) -> str:
    """A setting as it is printed.

    Example:
        >>> value_in_words(["convnet3", "resnet18"]), value_in_words([]), value_in_words(None)
        ('convnet3, resnet18', 'none', 'by the rules of the protocol')
    """
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "by the rules of the protocol" if value is None else str(value)


def labels_in_words(config: EvaluationConfig, inputs: Inputs) -> str:
    """Where the soft labels of a run come from."""
    distilled = inputs.distilled
    stored = distilled.soft_labels is not None or distilled.replay is not None
    if not build_objective(config.loss).reads_soft_labels:
        return f"not read by the loss {config.loss}"
    if not config.teachers:
        if distilled.replay is None:
            return "stored with the set"
        return f"stored with the set: {distilled.replay.form}"
    if inputs.label_sets is not None:
        return f"{', '.join(config.teachers)}, replayed: {inputs.label_sets.in_words}"
    unread = "; those stored with the set are not read, `--teacher` without a name reads them"
    return f"{', '.join(config.teachers)}, for every batch{unread if stored else ''}"
