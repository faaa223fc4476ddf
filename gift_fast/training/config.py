"""The part of a configuration that the training loop needs.

The command line options are created from the metadata of the fields.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gift_fast.files import spec
from gift_fast.files.checks import check_bool, check_choice, check_integer, check_number
from gift_fast.training.augment import AUGMENTATIONS
from gift_fast.training.augment.mixing import MIXINGS
from gift_fast.training.optimizers import OPTIMIZERS, SCHEDULES

PRECISIONS = ("no", "bf16", "fp16")
"""Precisions of autocast: no autocast, bfloat16, or float16 with a gradient scaler."""


Config = TypeVar("Config", bound="TrainingConfig")


def option(
    default: Any,
    text: str,
    kind: type = str,
    registry: Mapping[str, object] | None = None,
    *,
    added: bool = False,
) -> Any:
    """A field with a default, a help text and the type that the command line converts it to.

    With a registry, the help text lists its names. Fields that are ``added`` after the first
    release are only recorded if they differ from their default, so that the digests of earlier runs
    stay the same.
    """
    names = f": {', '.join(registry)}" if registry is not None else ""
    return field(default=default, metadata={"help": text + names, "kind": kind, "added": added})


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The settings of a training run, except its loss.

    Attributes:
        optimizer: a name in ``OPTIMIZERS``.
        learning_rate: initial learning rate. None: the paper's for the network, 1e-3, or 1e-4 for
            Swin-V2-T and ViT-B/16; with SGD the one stored with the distilled set, if any.
        weight_decay: decoupled in AdamW; added to the gradient in Adam and SGD.
        momentum: momentum of SGD; other optimizers ignore it.
        epochs: passes over the training images. None: the paper's, 300 on ImageNet-1K, else 1000.
        batch_size: global batch size. None: the paper's, by the number of images.
        schedule: a name in ``SCHEDULES``.
        augmentation: a name in ``AUGMENTATIONS``.
        mixing: a name in ``MIXINGS``.
        ema_decay: decay of an exponential moving average of the weights, per step. The average is
            tested and kept. 0 tests the trained weights.
        ema_buffers: whether the average includes batch norm's running statistics, with the same
            decay; if not, the averaged network has those of the trained network.
        mixed_precision: a name in ``PRECISIONS``.
        channels_last: memory format of images and weights; faster, with other rounding.
        compile: compiles the networks with ``torch.compile``.
        seed: seed of initialization, data order and augmentation.
    """

    optimizer: str = option("adamw", "optimizer", registry=OPTIMIZERS)
    learning_rate: float | None = option(
        None, "initial learning rate (default: the paper's for the student)", float
    )
    weight_decay: float = option(
        1e-4, "weight decay: decoupled in adamw, added to the gradient in others", float
    )
    momentum: float = option(0.9, "momentum of sgd", float)
    epochs: int | None = option(None, "passes over the training images (default: the paper's)", int)
    batch_size: int | None = option(
        None, "global batch size (default: the paper's, by the number of images)", int
    )
    schedule: str = option("multistep", "learning rate schedule", registry=SCHEDULES)
    augmentation: str = option("dsa", "augmentation of the training images", registry=AUGMENTATIONS)
    mixing: str = option("none", "mixing of the images of a batch", registry=MIXINGS)
    ema_decay: float = option(
        0.0,
        "decay of the exponential moving average of the weights that is tested; 0: none",
        float,
        added=True,
    )
    ema_buffers: bool = option(
        True, "average batch norm's running statistics as the weights are", bool, added=True
    )
    mixed_precision: str = option("no", "mixed precision: no, bf16 or fp16")
    channels_last: bool = option(True, "channels-last memory format", bool)
    compile: bool = option(False, "compile the networks with torch.compile", bool)
    seed: int = option(0, "seed of initialization, data order and augmentation", int)

    def __post_init__(self) -> None:
        spec.resolve("optimizer", self.optimizer, OPTIMIZERS)
        spec.build("schedule", self.schedule, SCHEDULES, 1)
        spec.build("augmentation", self.augmentation, AUGMENTATIONS)
        spec.build("mixing", self.mixing, MIXINGS)
        if self.learning_rate is not None:
            if self.learning_rate == 0:
                raise ValueError("learning_rate must be positive, got 0")
            check_number("learning_rate", self.learning_rate, 0.0, math.inf, "positive")
        check_number("weight_decay", self.weight_decay, 0.0, math.inf, "0 or more")
        check_number("momentum", self.momentum, 0.0, 1.0, "in [0, 1)")
        for name in ("epochs", "batch_size"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), 1)
        check_number("ema_decay", self.ema_decay, 0.0, 1.0, "in [0, 1)")
        check_bool("ema_buffers", self.ema_buffers)
        check_choice("mixed_precision", self.mixed_precision, PRECISIONS)
        check_bool("channels_last", self.channels_last)
        check_bool("compile", self.compile)
        check_integer("seed", self.seed, 0)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as JSON-compatible values.

        The digest of a run covers them. Fields that were added later are left out at their
        defaults.
        """
        left_out = {
            field.name
            for field in dataclasses.fields(self)
            if field.metadata.get("added") and getattr(self, field.name) == field.default
        }
        return {k: value for k, value in self.all_fields().items() if k not in left_out}

    def all_fields(self) -> dict[str, Any]:
        """All fields as JSON-compatible values, for display."""
        values = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls: type[Config], values: Mapping[str, Any]) -> Config:
        """The configuration with the values of ``to_dict``; missing fields have their defaults.

        Raises:
            TypeError: a value has the wrong type.
            ValueError: an unknown or a missing field, or a value out of range.

        Example:
            >>> config = TrainingConfig(optimizer="sgd", epochs=10)
            >>> TrainingConfig.from_dict(config.to_dict()) == config
            True
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        unknown = [name for name in values if name not in fields]
        if unknown:
            raise ValueError(
                f"{cls.__name__} has the fields {', '.join(fields)}; got {unknown[0]!r}"
                f"{spec.nearest(str(unknown[0]), fields)}"
            )
        required = [name for name, field in fields.items() if field.default is dataclasses.MISSING]
        missing = [name for name in required if name not in values]
        if missing:
            raise ValueError(
                f"{cls.__name__} must have the field {missing[0]!r}, got {list(values)}"
            )
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class ResolvedTrainingConfig(TrainingConfig):
    """A training configuration in which no field is None.

    Attributes:
        learning_rate: initial learning rate.
        epochs: passes over the training images.
        batch_size: global batch size.
    """

    learning_rate: float
    epochs: int
    batch_size: int

    def __post_init__(self) -> None:
        for name in ("learning_rate", "epochs", "batch_size"):
            check_given(name, getattr(self, name))
        super().__post_init__()


def check_given(name: str, value: object) -> None:
    """Raise ValueError if a field of a resolved configuration is None."""
    if value is None:
        raise ValueError(f"{name} must be a number in a resolved configuration, got None")
