"""What a run depends on, as two frozen dataclasses: training a teacher, evaluating a student.

The defaults are the protocol of the GIFT paper (table 11), and where the paper is silent those of
its code; a field that is None follows a rule of the protocol, which ``resolved`` applies. Two runs
with the same resolved configuration and the same inputs are the same run.

Every field says in its metadata what it is; the command line is made from that.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from gift_fast.data.classes import ALL, CLASSES, canonical_classes
from gift_fast.data.datasets import check_dataset
from gift_fast.data.datasets.heldout import HELDOUT, split_heldout
from gift_fast.files import spec
from gift_fast.training.augment import AUGMENTATIONS
from gift_fast.training.augment.mixing import MIXINGS
from gift_fast.training.models import MODELS
from gift_fast.training.objectives import OBJECTIVES
from gift_fast.training.optimizers import OPTIMIZERS, SCHEDULES, paper_learning_rate

BATCH_SIZES = ((10, 10), (500, 50), (20_000, 100))
"""(largest number of images, batch size), in rising order (table 11)."""

LARGEST_BATCH_SIZE = 200

RDED_BATCH_SIZES = {1: 10, 10: 50, 50: 100}
"""By images per class; RDED's code has no others."""

RDED_DOUBLED = (100, 1000)
"""Numbers of classes for which RDED's code doubles the batch."""

PRECISIONS = ("no", "bf16", "fp16")
"""Of autocast: none, bfloat16, or float16 with a gradient scaler."""

TESTED_ON = ("test", "heldout")
"""What accuracy may be measured on: the test split, or held-out training images."""

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


def rded_batch_size(num_images: int, ipc: int | None) -> int:
    """RDED's batch size for a set of ``num_images``, ``ipc`` of each class.

    Source: argument.py of github.com/LINs-lab/RDED.

    Example:
        >>> [rded_batch_size(10 * ipc, ipc) for ipc in (1, 10, 50)], rded_batch_size(1000, 10)
        ([10, 50, 100], 100)
    """
    if ipc not in RDED_BATCH_SIZES:
        known = ", ".join(map(str, RDED_BATCH_SIZES))
        raise ValueError(
            f"batch_size must be given where batch_rule is rded, which is for {known} images per "
            f"class, and the set has {ipc or 'unequal numbers'}"
        )
    factor = 2 if num_images // ipc in RDED_DOUBLED else 1
    return min(factor * RDED_BATCH_SIZES[ipc], num_images)


BATCH_RULES: dict[str, Callable[[int, int | None], int]] = {
    "paper": lambda num_images, ipc: paper_batch_size(num_images),
    "rded": rded_batch_size,
}
"""From the images of a set, and those of each class (None if unequal), to the batch size."""


def paper_epochs(dataset: str) -> int:
    """The paper's number of epochs: 300 on ImageNet-1K, else 1000 (table 11).

    Example:
        >>> paper_epochs("imagenet-1k:side=64"), paper_epochs("cifar100")
        (300, 1000)
    """
    return 300 if spec.split_spec(dataset)[0] == "imagenet-1k" else 1000


def paper_dataset(dataset: str, network: str) -> str:
    """The dataset at the size that the paper's ConvNets take it, unless a size is given.

    ImageNet-1K at 64 pixels, its subsets at 128; other networks take them at 224.

    Example:
        >>> paper_dataset("imagenet-1k", "convnet4"), paper_dataset("imagenet-1k", "resnet18")
        ('imagenet-1k:side=64', 'imagenet-1k')
    """
    name, options = spec.split_spec(dataset)
    convnet = spec.split_spec(network)[0].startswith("convnet")
    if not convnet or not name.startswith("imagenet-") or "side" in options:
        return dataset
    side = 64 if name == "imagenet-1k" else 128
    return f"{dataset}{',' if options else ':'}side={side}"


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


def check_bool(name: str, value: object) -> None:
    """Raises unless ``value`` is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def option(
    default: Any,
    text: str,
    kind: type = str,
    registry: Mapping[str, object] | None = None,
    *,
    added: bool = False,
) -> Any:
    """A field with a default, its explanation and the type in which the command line reads it.

    Where it is a name in a registry, the explanation goes on with the names. A field that is
    ``added`` after runs have been recorded is written only where it is not at its default, so that
    these runs keep their names.
    """
    names = f": {', '.join(registry)}" if registry is not None else ""
    return field(default=default, metadata={"help": text + names, "kind": kind, "added": added})


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a network is trained, whatever its loss.

    Attributes:
        optimizer: a name in ``OPTIMIZERS``.
        learning_rate: at the start. None: the paper's for the network, 1e-3, or 1e-4 for Swin-V2-T
            and ViT-B/16; under SGD the one that came with the distilled set, if any.
        weight_decay: decoupled in AdamW; added to the gradient in Adam and SGD.
        momentum: of SGD; the others do not read it.
        epochs: passes over the training images. None: the paper's, 300 on ImageNet-1K, else 1000.
        batch_size: of all processes together. None: the paper's, see :func:`paper_batch_size`.
        schedule: a name in ``SCHEDULES``.
        augmentation: a name in ``AUGMENTATIONS``.
        mixing: a name in ``MIXINGS``.
        mixed_precision: a name in ``PRECISIONS``.
        channels_last: memory format of images and weights; changes rounding, and is faster.
        compile: runs the networks through ``torch.compile``.
        seed: initialisation, order and augmentation are each seeded from it.
    """

    optimizer: str = option("adamw", "optimizer", registry=OPTIMIZERS)
    learning_rate: float | None = option(
        None, "rate at the start (default: the paper's for the student)", float
    )
    weight_decay: float = option(1e-4, "decoupled in adamw, in the gradient in adam and sgd", float)
    momentum: float = option(0.9, "of sgd", float)
    epochs: int | None = option(None, "passes over the images (default: the paper's)", int)
    batch_size: int | None = option(
        None, "of all processes together (default: the paper's, by the number of images)", int
    )
    schedule: str = option("multistep", "of the learning rate", registry=SCHEDULES)
    augmentation: str = option("dsa", "augmentation of every batch", registry=AUGMENTATIONS)
    mixing: str = option("none", "of the images of a batch", registry=MIXINGS)
    mixed_precision: str = option("no", "autocast: no, bf16 or fp16")
    channels_last: bool = option(True, "memory format of images and weights", bool)
    compile: bool = option(False, "torch.compile student and teachers", bool)
    seed: int = option(0, "of initialisation, order and augmentation", int)

    def __post_init__(self) -> None:
        spec.resolve("optimizer", self.optimizer, OPTIMIZERS)
        spec.resolve("schedule", self.schedule, SCHEDULES)
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
        if self.mixed_precision not in PRECISIONS:
            raise ValueError(
                f"mixed_precision must be one of {', '.join(PRECISIONS)}, "
                f"got {self.mixed_precision!r}"
            )
        check_bool("channels_last", self.channels_last)
        check_bool("compile", self.compile)
        check_integer("seed", self.seed, 0)

    def to_dict(self) -> dict[str, Any]:
        """A dictionary of plain values that JSON can hold.

        It names the run. Fields that were added later are left out at their defaults.
        """
        left_out = {
            field.name
            for field in dataclasses.fields(self)
            if field.metadata.get("added") and getattr(self, field.name) == field.default
        }
        return {k: value for k, value in self.all_fields().items() if k not in left_out}

    def all_fields(self) -> dict[str, Any]:
        """Every field as a plain value, to be shown."""
        values = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

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

    The defaults are usual for convolutional networks on small images; the paper says nothing of
    its teachers.

    Attributes:
        dataset: a name in ``DATASETS``, with options; held-out images are not trained on.
        model: a name in ``MODELS``.
    """

    dataset: str
    model: str = option("convnet3", "the network to train", registry=MODELS)
    optimizer: str = option("sgd", "optimizer", registry=OPTIMIZERS)
    learning_rate: float | None = option(0.05, "rate at the start", float)
    weight_decay: float = option(5e-4, "decoupled in adamw, in the gradient in adam and sgd", float)
    epochs: int | None = option(60, "passes over the training images", int)
    batch_size: int | None = option(128, "of all processes together", int)
    schedule: str = option("cosine", "of the learning rate", registry=SCHEDULES)
    augmentation: str = option("crop-flip", "augmentation of every batch", registry=AUGMENTATIONS)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_dataset(self.dataset)
        spec.resolve("model", self.model, MODELS)

    def resolved(self, num_images: int) -> TeacherConfig:
        """The same with the protocol's value where a field is None."""
        return resolve_training(self, self.dataset, self.model, num_images)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(TrainingConfig):
    """One student, trained on a distilled dataset and tested on the real test split.

    Attributes:
        dataset: a name in ``DATASETS``.
        tested_on: what accuracy is measured on: ``test``, or ``heldout``, for which the dataset
            must have the option: ``fashion-mnist:heldout=5000``.
        ipc: distilled images per class; None where the set has other numbers in every class.
        student: a name in ``MODELS``.
        teachers: names in ``MODELS``: they label every augmented batch, and where there are several
            their logits are averaged. Empty takes the soft labels stored with the distilled set.
        loss: a name in ``OBJECTIVES``, with options: ``kl:temperature=4,scale_t2=true``.
        mixed_targets: on a batch mixed by mixup or cutmix, a loss that reads hard labels takes both
            of every image, weighted; False takes the image's own, as G-VBSM's code does.
        batch_rule: a name in ``BATCH_RULES``: gives the batch size where ``batch_size`` is None.
        forward_twice: every batch also passes through the student in training mode without a
            gradient, before the pass that has one. Batch norm's running statistics then move twice
            a step, as in RDED's code; nothing else changes but the random numbers of dropout.
        eval_every: epochs between tests; None is a quarter of all, as the paper's code does. The
            last epoch is always tested.
        eval_after: fraction of the epochs before the first test, in [0, 1); RDED's code tests in
            the last fifth alone.
        classes: of the dataset, that the student has seen: a name in ``CLASSES``, with options:
            ``seen:steps=5,step=2``.

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
    student: str = option("convnet3", "the network to train", registry=MODELS)
    teachers: tuple[str, ...] = ("convnet3",)
    loss: str = option("gift", "loss", registry=OBJECTIVES)
    mixed_targets: bool = option(True, "both hard labels of a mixed image, weighted", bool)
    batch_rule: str = option(
        "paper", "gives the batch size where none is given", registry=BATCH_RULES, added=True
    )
    forward_twice: bool = option(
        False,
        "forward every batch once more, as RDED's code does",
        bool,
        added=True,
    )
    eval_every: int | None = option(None, "epochs between tests (default: a quarter of all)", int)
    eval_after: float = option(0.0, "fraction of the epochs without a test", float, added=True)
    tested_on: str = option("test", "split that accuracy is measured on: test or heldout")
    classes: str = option(ALL, "of the dataset, that the student has seen", registry=CLASSES)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_dataset(self.dataset)
        if self.tested_on not in TESTED_ON:
            raise ValueError(
                f"tested_on must be one of {', '.join(TESTED_ON)}, got {self.tested_on!r}"
            )
        if self.tested_on == HELDOUT and not split_heldout(self.dataset)[1]:
            raise ValueError(
                f"dataset must have held-out images for tested_on={HELDOUT!r}, as in "
                f"{self.dataset}:{HELDOUT}=5000; got {self.dataset!r}"
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
        # One way to write a loss, so that a run is found again however it was asked for.
        object.__setattr__(self, "loss", spec.canonical("loss", self.loss, OBJECTIVES))
        check_bool("mixed_targets", self.mixed_targets)
        if self.batch_rule not in BATCH_RULES:
            raise ValueError(
                f"batch_rule must be one of {', '.join(BATCH_RULES)}, got {self.batch_rule!r}"
            )
        check_bool("forward_twice", self.forward_twice)
        if self.eval_every is not None:
            check_integer("eval_every", self.eval_every, 1)
        check_number("eval_after", self.eval_after, 0.0, 1.0, "in [0, 1)")

    def resolved(
        self, num_images: int, learned_rate: float | None = None, ipc: int | None = None
    ) -> EvaluationConfig:
        """The same with the protocol's value where a field is None.

        Args:
            num_images: images of the distilled set, which the batch size follows.
            learned_rate: the learning rate that came with the set; SGD takes it, for which it was
                learned.
            ipc: images of each class of the set, where the configuration does not say; None where
                they are unequal.

        Raises:
            ValueError: ``batch_rule`` has no batch size for such a set.
        """
        config = self
        if config.batch_size is None:
            rule = BATCH_RULES[config.batch_rule]
            config = replace(config, batch_size=rule(num_images, config.ipc or ipc))
        if config.learning_rate is None and spec.split_spec(config.optimizer)[0] == "sgd":
            config = replace(config, learning_rate=learned_rate)
        config = resolve_training(config, self.dataset, self.student, num_images)
        assert config.epochs is not None
        return replace(config, eval_every=config.eval_every or max(config.epochs // 4, 1))

    def is_test_epoch(self, epoch: int) -> bool:
        """Whether the student of a resolved configuration is tested after ``epoch``, from 1."""
        assert self.eval_every is not None
        assert self.epochs is not None
        late = epoch > self.eval_after * self.epochs
        return (late and epoch % self.eval_every == 0) or epoch == self.epochs


def resolve_training(config: Config, dataset: str, model: str, num_images: int) -> Config:
    """Fills in what the protocol derives from the dataset, the network and the number of images."""
    return replace(
        config,
        learning_rate=config.learning_rate or paper_learning_rate(model),
        epochs=config.epochs or paper_epochs(dataset),
        batch_size=config.batch_size or paper_batch_size(num_images),
    )
