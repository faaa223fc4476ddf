"""What a run depends on, as two frozen dataclasses: training a teacher, evaluating a student.

The defaults are the protocol of the GIFT paper (table 11), and where the paper is silent those of
its code. Two runs with the same configuration and the same inputs are the same run.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from gift_fast.student import spec
from gift_fast.student.augment import PAPER_STRATEGY, parse_strategy
from gift_fast.student.datasets import DATASETS
from gift_fast.student.models import MODELS
from gift_fast.student.objectives import OBJECTIVES
from gift_fast.student.optimizers import OPTIMIZERS, SCHEDULES

BATCH_SIZES = ((10, 10), (500, 50), (20_000, 100))
"""(largest number of images, batch size), in rising order (table 11)."""

LARGEST_BATCH_SIZE = 200

Config = TypeVar("Config", bound="TrainingConfig")


def paper_batch_size(num_images: int) -> int:
    """The paper's batch size for a training set of ``num_images``.

    Example:
        >>> [paper_batch_size(n) for n in (10, 500, 20_000, 20_001)]
        [10, 50, 100, 200]
    """
    for largest, batch_size in BATCH_SIZES:
        if num_images <= largest:
            return batch_size
    return LARGEST_BATCH_SIZE


def check_integer(name: str, value: object, least: int) -> None:
    """Raises unless ``value`` is an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def check_number(name: str, value: object, low: float, high: float, expected: str) -> None:
    """Raises unless ``value`` is a finite number in [low, high); ``expected`` says it in words."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not (math.isfinite(value) and low <= value < high):
        raise ValueError(f"{name} must be {expected}, got {value}")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a network is trained, whatever its loss.

    Attributes:
        optimizer: a name in ``OPTIMIZERS``.
        learning_rate: before the first milestone.
        weight_decay: decoupled in AdamW; added to the gradient in Adam and SGD.
        momentum: of SGD; the others do not read it.
        epochs: passes over the training images.
        batch_size: None follows the paper's rule, see :func:`paper_batch_size`.
        schedule: a name in ``SCHEDULES``.
        augmentation: a DSA strategy, or ``none``.
        seed: initialisation, order and augmentation are each seeded from it.
    """

    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    momentum: float = 0.9
    epochs: int = 1000
    batch_size: int | None = None
    schedule: str = "multistep"
    augmentation: str = PAPER_STRATEGY
    seed: int = 0

    def __post_init__(self) -> None:
        spec.resolve("optimizer", self.optimizer, OPTIMIZERS)
        spec.resolve("schedule", self.schedule, SCHEDULES)
        parse_strategy(self.augmentation)
        if self.learning_rate == 0:
            raise ValueError("learning_rate must be positive, got 0")
        check_number("learning_rate", self.learning_rate, 0.0, math.inf, "positive")
        check_number("weight_decay", self.weight_decay, 0.0, math.inf, "0 or more")
        check_number("momentum", self.momentum, 0.0, 1.0, "in [0, 1)")
        check_integer("epochs", self.epochs, 1)
        if self.batch_size is not None:
            check_integer("batch_size", self.batch_size, 1)
        check_integer("seed", self.seed, 0)

    def batch_size_for(self, num_images: int) -> int:
        """The batch size, by the paper's rule where none was given."""
        return self.batch_size if self.batch_size is not None else paper_batch_size(num_images)

    def to_dict(self) -> dict[str, Any]:
        """A dictionary of plain values that JSON can hold."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls: type[Config], values: Mapping[str, Any]) -> Config:
        """The configuration that ``to_dict`` was called on; absent fields take their defaults.

        Raises:
            TypeError: a value has the wrong type.
            ValueError: an unknown or a missing field, or a value out of range.

        Example:
            >>> config = EvaluationConfig(dataset="digits", ipc=1)
            >>> EvaluationConfig.from_dict(config.to_dict()) == config
            True
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        unknown = [name for name in values if name not in fields]
        if unknown:
            raise ValueError(
                f"{cls.__name__} has the fields {', '.join(fields)}; got {unknown[0]!r}"
            )
        required = [name for name, field in fields.items() if field.default is dataclasses.MISSING]
        missing = [name for name in required if name not in values]
        if missing:
            raise ValueError(f"{cls.__name__} needs the field {missing[0]!r}, got {list(values)}")
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class TeacherConfig(TrainingConfig):
    """How a teacher is trained on the whole training split, with cross-entropy.

    Attributes:
        dataset: a name in ``DATASETS``.
        model: a name in ``MODELS``.
    """

    dataset: str
    model: str = "convnet3"

    def __post_init__(self) -> None:
        super().__post_init__()
        spec.resolve("dataset", self.dataset, DATASETS)
        spec.resolve("model", self.model, MODELS)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(TrainingConfig):
    """One student, trained on a distilled dataset and tested on the real test split.

    Attributes:
        dataset: a name in ``DATASETS``; its test split is what accuracy is measured on.
        ipc: distilled images per class.
        student: a name in ``MODELS``.
        teacher: a name in ``MODELS``: it labels every augmented batch. None takes the soft labels
            that are stored with the distilled set.
        loss: a name in ``OBJECTIVES``, with options: ``kl:temperature=4,scale_t2=true``.
        eval_every: epochs between tests; None is a quarter of all, as the paper's code does. The
            last epoch is always tested.

    Raises:
        TypeError: a value of the wrong type.
        ValueError: a value out of range, or a name that is not registered.

    Example:
        >>> config = EvaluationConfig(dataset="digits", ipc=10, loss="kl:temperature=4")
        >>> config.epochs, config.batch_size_for(100)
        (1000, 50)
    """

    dataset: str
    ipc: int
    student: str = "convnet3"
    teacher: str | None = "convnet3"
    loss: str = "gift"
    eval_every: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        spec.resolve("dataset", self.dataset, DATASETS)
        check_integer("ipc", self.ipc, 1)
        spec.resolve("student", self.student, MODELS)
        if self.teacher is not None:
            spec.resolve("teacher", self.teacher, MODELS)
        spec.build("loss", self.loss, OBJECTIVES)
        if self.eval_every is not None:
            check_integer("eval_every", self.eval_every, 1)

    def is_test_epoch(self, epoch: int) -> bool:
        """Whether the student is tested after ``epoch``, counted from 1."""
        every = self.eval_every if self.eval_every is not None else max(self.epochs // 4, 1)
        return epoch % every == 0 or epoch == self.epochs
