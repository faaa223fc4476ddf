"""The configurations of teachers and students.

The defaults are the protocol of the GIFT paper (table 11), or of its code where the paper does not
say. A field that is None follows a rule of the protocol, which ``resolved`` applies. A run is
identified by its resolved configuration and its inputs.

The command line options are created from the metadata of the fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from gift_fast.data.classes import ALL, CLASSES, canonical_classes
from gift_fast.data.datasets import check_dataset
from gift_fast.data.datasets.validation import VALIDATION, split_validation
from gift_fast.evaluation.rules import (
    BATCH_RULES,
    paper_batch_size,
    paper_epochs,
    paper_learning_rate,
)
from gift_fast.files import spec
from gift_fast.files.checks import check_bool, check_choice, check_integer, check_number
from gift_fast.files.record_names import record_name
from gift_fast.training.augment import AUGMENTATIONS
from gift_fast.training.config import ResolvedTrainingConfig, TrainingConfig, check_given, option
from gift_fast.training.models import MODELS
from gift_fast.training.objectives import OBJECTIVES
from gift_fast.training.optimizers import OPTIMIZERS, SCHEDULES

TESTED_ON = ("test", VALIDATION)
"""Splits on which accuracy can be measured, as records spell them: test and validation split."""


@dataclass(frozen=True, kw_only=True)
class TeacherConfig(TrainingConfig):
    """The settings of a teacher, which is trained on the training split with cross-entropy.

    The defaults are common for convolutional networks on small images; the paper does not describe
    its teachers.

    Attributes:
        dataset: a name in ``DATASETS``, with options; a validation split is not trained on.
        model: a name in ``MODELS``.
    """

    dataset: str
    model: str = option("convnet3", "network to train", registry=MODELS)
    optimizer: str = option("sgd", "optimizer", registry=OPTIMIZERS)
    learning_rate: float | None = option(0.05, "initial learning rate", float)
    weight_decay: float = option(
        5e-4, "weight decay: decoupled in adamw, added to the gradient in others", float
    )
    epochs: int | None = option(60, "passes over the training images", int)
    batch_size: int | None = option(128, "global batch size", int)
    schedule: str = option("cosine", "learning rate schedule", registry=SCHEDULES)
    augmentation: str = option(
        "crop-flip", "augmentation of the training images", registry=AUGMENTATIONS
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "dataset", record_name(self.dataset))
        check_dataset(self.dataset)
        spec.resolve("model", self.model, MODELS)

    def resolved(self, num_images: int) -> ResolvedTeacherConfig:
        """Replace fields that are None by the paper's values."""
        return ResolvedTeacherConfig(
            **{**values_of(self), **paper_values(self, self.dataset, self.model, num_images)}
        )


@dataclass(frozen=True, kw_only=True)
class ResolvedTeacherConfig(TeacherConfig, ResolvedTrainingConfig):
    """A teacher's configuration in which every field has a value."""

    learning_rate: float
    epochs: int
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(TrainingConfig):
    """The settings of a student, which is trained on a distilled set and tested on real images.

    Attributes:
        dataset: a name in ``DATASETS``.
        tested_on: split on which accuracy is measured: ``test``, or ``validation``, for which the
            dataset must have the option ``validation``, as in ``fashion-mnist:validation=5000``.
            Records and this field spell it ``heldout``.
        ipc: distilled images per class; None if the classes have unequal numbers.
        student: a name in ``MODELS``.
        teachers: names in ``MODELS``. They label every augmented batch, and the logits of several
            are averaged. If empty, the soft labels stored with the distilled set are used.
        loss: a name in ``OBJECTIVES``, with options: ``kl:temperature=4,scale_t2=true``.
        mixed_targets: whether a loss that reads hard labels uses both hard labels of a mixed image,
            weighted. If False, it uses the image's own, as in G-VBSM's code.
        batch_rule: a name in ``BATCH_RULES``, the rule for the batch size if ``batch_size`` is
            None.
        forward_twice: runs every batch through the student a first time, in training mode without
            gradient. Batch norm's running statistics are then updated twice per step, as in RDED's
            code. Apart from the random numbers of dropout, nothing else changes.
        eval_every: epochs between tests; None is a quarter of all epochs, as in the paper's code.
            The last epoch is always followed by a test.
        eval_after: fraction of the epochs before the first test, in [0, 1); RDED's code only tests
            in the last fifth.
        hard_loss: loss of a middle part of the run, in which augmented and mixed batches have hard
            labels only; ``none`` uses soft labels in all epochs.
        hard_start: fraction of the epochs before that part.
        hard_stop: fraction of the epochs at the end of that part.
        classes: the classes that the student is trained and tested on: a name in ``CLASSES``, with
            options, such as ``seen:steps=5,step=2``.

    Raises:
        TypeError: a value of the wrong type.
        ValueError: a value out of range, or a name that is not registered.

    Example:
        >>> config = EvaluationConfig(dataset="digits", ipc=10, loss="kl:temperature=4")
        >>> config = config.resolved(num_images=100)
        >>> config.epochs, config.batch_size, config.learning_rate
        (1000, 50, 0.001)
    """

    dataset: str
    ipc: int | None = None
    student: str = option("convnet3", "network to train", registry=MODELS)
    teachers: tuple[str, ...] = ("convnet3",)
    loss: str = option("gift", "training loss", registry=OBJECTIVES)
    mixed_targets: bool = option(True, "use both hard labels of a mixed image, weighted", bool)
    batch_rule: str = option(
        "paper", "rule for the default batch size", registry=BATCH_RULES, added=True
    )
    forward_twice: bool = option(
        False,
        "run every batch through the student twice, as in RDED's code",
        bool,
        added=True,
    )
    eval_every: int | None = option(
        None, "epochs between tests (default: a quarter of all epochs)", int
    )
    eval_after: float = option(
        0.0, "fraction of the epochs before the first test", float, added=True
    )
    hard_loss: str = option(
        "none", "loss of a middle part of the run, on hard labels only: ce, or none", added=True
    )
    hard_start: float = option(
        0.25, "fraction of the epochs before the part with --hard-loss", float, added=True
    )
    hard_stop: float = option(
        0.75, "fraction of the epochs at the end of that part", float, added=True
    )
    tested_on: str = option("test", "split to measure accuracy on: test or validation")
    classes: str = option(ALL, "classes to train and test on", registry=CLASSES)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "dataset", record_name(self.dataset))
        object.__setattr__(self, "tested_on", record_name(self.tested_on))
        check_dataset(self.dataset)
        if self.tested_on not in TESTED_ON:
            raise ValueError(f"tested_on must be test or validation, got {self.tested_on!r}")
        if self.tested_on == VALIDATION and not split_validation(self.dataset)[1]:
            raise ValueError(
                "dataset must have a validation split for tested_on='validation', as in "
                f"{self.dataset}:validation=5000; got {self.dataset!r}"
            )
        object.__setattr__(self, "classes", canonical_classes(self.classes))
        if self.ipc is not None:
            check_integer("ipc", self.ipc, 1)
        spec.resolve("student", self.student, MODELS)
        if isinstance(self.teachers, str) or not isinstance(self.teachers, Sequence):
            raise TypeError(f"teachers must be a sequence of names, got {self.teachers!r}")
        object.__setattr__(self, "teachers", tuple(self.teachers))
        for teacher in self.teachers:
            spec.resolve("teachers", teacher, MODELS)
        spec.build("loss", self.loss, OBJECTIVES)
        # The canonical form, because the digest of a run covers it.
        object.__setattr__(self, "loss", spec.canonical("loss", self.loss, OBJECTIVES))
        check_bool("mixed_targets", self.mixed_targets)
        check_choice("batch_rule", self.batch_rule, BATCH_RULES)
        check_bool("forward_twice", self.forward_twice)
        if self.eval_every is not None:
            check_integer("eval_every", self.eval_every, 1)
        check_number("eval_after", self.eval_after, 0.0, 1.0, "in [0, 1)")
        if self.hard_loss != "none":
            if spec.build("hard_loss", self.hard_loss, OBJECTIVES).reads_soft_labels:
                raise ValueError(
                    f"hard_loss must not read soft labels, use ce; got {self.hard_loss!r}"
                )
            hard_loss = spec.canonical("hard_loss", self.hard_loss, OBJECTIVES)
            object.__setattr__(self, "hard_loss", hard_loss)
        check_number("hard_start", self.hard_start, 0.0, 1.0, "in [0, 1)")
        if isinstance(self.hard_stop, bool) or not isinstance(self.hard_stop, int | float):
            raise TypeError(f"hard_stop must be a number, got {self.hard_stop!r}")
        if not self.hard_start <= self.hard_stop <= 1.0:
            raise ValueError(
                f"hard_stop must be between hard_start, {self.hard_start}, and 1, "
                f"got {self.hard_stop}"
            )

    def resolved(
        self, num_images: int, learned_rate: float | None = None, ipc: int | None = None
    ) -> ResolvedEvaluationConfig:
        """Replace fields that are None by the protocol's values.

        Args:
            num_images: number of distilled images, which determines the batch size.
            learned_rate: learning rate stored with the set, if any; used with SGD, for which it
                was learned.
            ipc: images per class of the set, if the configuration has none; None if they are
                unequal.

        Raises:
            ValueError: ``batch_rule`` has no batch size for this set.
        """
        given = values_of(self)
        if self.batch_size is None:
            given["batch_size"] = BATCH_RULES[self.batch_rule](num_images, self.ipc or ipc)
        if self.learning_rate is None and spec.split_spec(self.optimizer)[0] == "sgd":
            given["learning_rate"] = learned_rate
        config = EvaluationConfig(**given)
        values = paper_values(config, self.dataset, self.student, num_images)
        every = self.eval_every or max(values["epochs"] // 4, 1)
        return ResolvedEvaluationConfig(**{**given, **values, "eval_every": every})


@dataclass(frozen=True, kw_only=True)
class ResolvedEvaluationConfig(EvaluationConfig, ResolvedTrainingConfig):
    """A student's configuration in which no field is None; it is recorded with the run.

    Attributes:
        eval_every: epochs between tests.
    """

    learning_rate: float
    epochs: int
    batch_size: int
    eval_every: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_given("eval_every", self.eval_every)

    def is_hard_epoch(self, epoch: int) -> bool:
        """Whether ``epoch``, counted from 1, uses ``hard_loss``.

        Example:
            >>> config = EvaluationConfig(dataset="digits", epochs=300, hard_loss="ce")
            >>> config = config.resolved(num_images=100)
            >>> [epoch for epoch in (75, 76, 225, 226) if config.is_hard_epoch(epoch)]
            [76, 225]
        """
        start, stop = (part * self.epochs for part in (self.hard_start, self.hard_stop))
        return self.hard_loss != "none" and start < epoch <= stop

    def is_test_epoch(self, epoch: int) -> bool:
        """Whether the student is tested after ``epoch``, counted from 1."""
        late = epoch > self.eval_after * self.epochs
        return (late and epoch % self.eval_every == 0) or epoch == self.epochs


def values_of(config: TrainingConfig) -> dict[str, Any]:
    """The fields of a configuration by name."""
    return {field.name: getattr(config, field.name) for field in fields(config)}


def paper_values(
    config: TrainingConfig, dataset: str, network: str, num_images: int
) -> dict[str, Any]:
    """The paper's values for settings that are None."""
    return {
        "learning_rate": config.learning_rate or paper_learning_rate(network),
        "epochs": config.epochs or paper_epochs(dataset),
        "batch_size": config.batch_size or paper_batch_size(num_images),
    }
