"""Texts that describe the settings and inputs of a run, as the commands print them."""

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
"""Registries of the settings whose options are printed."""


def setting_texts(config: TrainingConfig) -> dict[str, str]:
    """All settings except the seed as texts, including options at their defaults."""
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
    return {name: setting_text(value) for name, value in values.items()}


def setting_lines(values: Mapping[str, str], width: int) -> str:
    """Format settings, one per line, with names padded to ``width``."""
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in values.items())


def describe_settings(config: TrainingConfig) -> str:
    """Describe all settings of a run before they are resolved, one per line."""
    values = setting_texts(config)
    return setting_lines(values, max(map(len, values)))


def describe_inputs(given: EvaluationConfig, config: EvaluationConfig, inputs: Inputs) -> str:
    """Describe the inputs of runs and the settings that were resolved from them, one per line.

    Args:
        given: the configuration before it was resolved.
        config: the resolved configuration.
        inputs: of the configuration's classes.
    """
    tested = current_name(config.tested_on)
    before, values = setting_texts(given), setting_texts(config)
    if inputs.distilled.replay is not None and not config.teachers:
        stored = ["augmentation", "mixing"] if config.hard_loss == "none" else []
        stored += ["batch_size"] if inputs.distilled.replay.batch_size else []
        values.update(dict.fromkeys(stored, "as stored"))
    changed = {name: value for name, value in values.items() if value != before[name]}
    lines = [
        f"distilled set: {len(inputs.distilled)} images, {inputs.distilled.source}",
        f"soft labels: {describe_labels(config, inputs)}",
        f"test set: {len(inputs.dataset.test)} {tested} images of {inputs.dataset.name}",
        *(["resolved settings:"] if changed else []),
        *([setting_lines(changed, max(map(len, values)))] if changed else []),
    ]
    return "\n".join(lines)


def setting_text(value: object) -> str:
    """Format a setting.

    Example:
        >>> setting_text(["convnet3", "resnet18"]), setting_text([]), setting_text(None)
        ('convnet3, resnet18', 'none', "by the protocol's rules")
    """
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "by the protocol's rules" if value is None else str(value)


def describe_labels(config: EvaluationConfig, inputs: Inputs) -> str:
    """Describe the source of a run's soft labels."""
    distilled = inputs.distilled
    stored = distilled.soft_labels is not None or distilled.replay is not None
    if not build_objective(config.loss).reads_soft_labels:
        return f"not read by the loss {config.loss}"
    if not config.teachers:
        if distilled.replay is None:
            return "stored with the set"
        return f"stored with the set: {distilled.replay.form}"
    if inputs.label_sets is not None:
        return f"{', '.join(config.teachers)}, replayed: {inputs.label_sets.description}"
    unread = "; those stored with the set are not used, `--teacher` without a name uses them"
    return f"{', '.join(config.teachers)}, for every batch{unread if stored else ''}"
