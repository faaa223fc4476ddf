"""Continual learning: the classes of a dataset that a student has seen.

As in GDumb, the classes arrive in steps of equal size. After each step a new student is trained on
the distilled images of all classes seen so far and tested on the test images of the same classes.
Every step is therefore a separate evaluation on a subset of the classes, which :func:`narrow`
selects.

The option ``classes`` is a name with options, ``seen:steps=5,step=2``. A new way to select classes
is a subclass of :class:`Seen` and an entry in ``CLASSES``.

Source: Prabhu, Torr and Dokania, "GDumb: A Simple Approach that Questions Our Progress in Continual
Learning", ECCV 2020.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from gift_fast.data.datasets.image_dataset import ImageDataset
from gift_fast.data.distilled.distilled_set import DistilledSet
from gift_fast.files import spec
from gift_fast.files.checks import check_choice

ALL = "all"

IN_ORDER = "dataset"
"""The order of the labels."""

HEADS = ("seen", "all")
"""The classes for which a student has a logit."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The classes seen after ``step`` of ``steps`` steps.

    These are the first floor(C * step / steps) of C classes, so the sizes of two steps differ by at
    most one class, and the seen classes depend only on the fraction: step 1 of 5 equals step 2 of
    10. Every step trains a new student, so the order in which the seen classes arrived has no
    effect, and they keep the order of the dataset.

    Attributes:
        steps: number of steps.
        step: number of steps completed, from 1.
        order: the order in which the classes arrive: ``dataset``, the order of the labels, or the
            seed of a permutation, ``torch.randperm`` with a generator on the CPU.
        head: ``seen``: student and teacher have a logit for every seen class; the logits of other
            classes are removed from teacher and stored soft labels before any softmax. ``all``:
            they have a logit for every class of the dataset, and the student may predict a class
            that it has not seen. Mixed cases are not supported, because the losses do not agree on
            their gradient.

    Raises:
        ValueError: a value out of range.

    Example:
        >>> Seen(steps=5, step=2).labels(10)
        tensor([0, 1, 2, 3])
        >>> Seen(steps=5, step=2, order="0").labels(10)
        tensor([1, 4, 5, 7])
    """

    steps: int = 5
    step: int = 1
    order: str = IN_ORDER
    head: str = "seen"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"classes: steps must be at least 1, got {self.steps}")
        if not 1 <= self.step <= self.steps:
            raise ValueError(f"classes: step must be from 1 to {self.steps}, got {self.step}")
        if self.order != IN_ORDER and not self.order.isdecimal():
            raise ValueError(f"classes: order must be {IN_ORDER} or a seed, got {self.order!r}")
        check_choice("classes: head", self.head, HEADS)

    @property
    def share(self) -> float:
        """The fraction of the classes that has been seen, above 0 and at most 1."""
        return self.step / self.steps

    def count(self, num_classes: int) -> int:
        """The number of classes seen, out of ``num_classes``.

        Raises:
            ValueError: no class has been seen.
        """
        count = num_classes * self.step // self.steps
        if count == 0:
            raise ValueError(
                f"classes: step must be one with at least one class, got {self.step} of "
                f"{self.steps} steps for {num_classes} classes"
            )
        return count

    def labels(self, num_classes: int) -> Tensor:
        """The seen classes, int64, in ascending order."""
        order = torch.arange(num_classes)
        if self.order != IN_ORDER:
            generator = torch.Generator().manual_seed(int(self.order))
            order = torch.randperm(num_classes, generator=generator)
        return order[: self.count(num_classes)].sort().values


def all_classes() -> Seen:
    """All classes, as after the last step."""
    return Seen(steps=1, step=1)


CLASSES: dict[str, Callable[..., Seen]] = {ALL: all_classes, "seen": Seen}


def build_classes(classes: str) -> Seen:
    """The classes that a specification names; raises ValueError if it is invalid.

    Example:
        >>> build_classes("all").share, build_classes("seen:steps=10,step=3").share
        (1.0, 0.3)
    """
    return spec.build("classes", classes, CLASSES)


def classes_title(classes: str) -> str:
    """Describe a specification for tables.

    Example:
        >>> classes_title("all"), classes_title("seen:steps=10,step=3,order=0")
        ('all classes', '30 % of the classes, order 0')
    """
    seen = build_classes(classes)
    if seen.share == 1.0:
        return "all classes"
    order = "" if seen.order == IN_ORDER else f", order {seen.order}"
    head = "" if seen.head == "seen" else ", a logit for every class"
    return f"{100.0 * seen.share:.3g} % of the classes{order}{head}"


def canonical_classes(classes: str) -> str:
    """The canonical specification: step and steps in lowest terms, and ``all`` for the last step.

    Equal sets of classes thus have the same specification and share their runs.

    Example:
        >>> canonical_classes("seen:steps=10,step=4,order=0"), canonical_classes("seen:step=5")
        ('seen:steps=5,step=2,order=0', 'all')
    """
    seen = build_classes(classes)
    if spec.split_spec(classes)[0] != "seen":
        return spec.canonical("classes", classes, CLASSES)
    if seen.step == seen.steps:
        return ALL
    divisor = math.gcd(seen.steps, seen.step)
    steps, step = seen.steps // divisor, seen.step // divisor
    order = "" if seen.order == IN_ORDER else f",order={seen.order}"
    head = "" if seen.head == "seen" else f",head={seen.head}"
    return f"seen:steps={steps},step={step}{order}{head}"


def narrow(
    classes: str, dataset: ImageDataset, distilled: DistilledSet, teachers: Sequence[nn.Module] = ()
) -> tuple[ImageDataset, DistilledSet, tuple[nn.Module, ...]]:
    """Restrict dataset, distilled set and teachers to some of the classes.

    Args:
        classes: a name in ``CLASSES``, with options. ``all`` changes nothing.
        dataset: with all classes, without its training split.
        distilled: with all classes; the order of its images is kept.
        teachers: with all classes.

    Returns:
        The same with the test and distilled images of the seen classes only. If the head is
        ``seen``, the labels are renumbered in ascending order, and teachers and soft labels have
        one logit per seen class.

    Raises:
        ValueError: an invalid specification, or no class has been seen; the dataset is already
            restricted; the set is not one for the dataset's classes; or stored batches would be
            replayed, which contain images of all classes.
    """
    classes = canonical_classes(classes)
    if classes == ALL:
        return dataset, distilled, tuple(teachers)
    if dataset.classes != ALL:
        raise ValueError(f"dataset must have all classes, got {dataset.classes}")
    if distilled.replay is not None and not teachers:
        raise ValueError(
            f"classes must be {ALL} if stored batches are replayed, because they contain images "
            f"of all classes; got {classes!r}. Use a teacher instead"
        )
    distilled.check_against(dataset)
    seen = build_classes(classes)
    labels = seen.labels(dataset.num_classes)
    new_of_old = torch.full((dataset.num_classes,), -1)
    new_of_old[labels] = torch.arange(len(labels)) if seen.head == "seen" else labels

    target = new_of_old[dataset.test.labels.cpu()]
    index = (target >= 0).nonzero().squeeze(1)
    test = dataset.test.subset(index).with_labels(target[index])
    dataset = replace(dataset, train=None, validation=None, test=test, classes=classes)

    target = new_of_old.to(distilled.labels.device)[distilled.labels]
    index = (target >= 0).nonzero().squeeze(1)
    if not len(index):
        raise ValueError(f"distilled must contain images of the classes {classes}, got none")
    rows = None if distilled.soft_labels is None else distilled.soft_labels[index]
    distilled = replace(
        distilled,
        images=distilled.images[index],
        labels=target[index],
        soft_labels=rows,
        replay=None,
    )
    if seen.head == "all":
        return dataset, distilled, tuple(teachers)
    return (
        replace(
            dataset,
            class_names=of_classes(dataset.class_names, labels),
            class_folders=of_classes(dataset.class_folders, labels),
        ),
        replace(
            distilled,
            soft_labels=None if rows is None else rows[:, labels.to(rows.device)],
            class_names=of_classes(distilled.class_names, labels),
        ),
        tuple(TeacherOfSeen(teacher, labels) for teacher in teachers),
    )


def number_seen(dataset: ImageDataset) -> int:
    """The number of classes with images in a dataset, restricted or not."""
    seen = build_classes(dataset.classes)
    return dataset.num_classes if seen.head == "seen" else seen.count(dataset.num_classes)


def of_classes(names: tuple[str, ...], labels: Tensor) -> tuple[str, ...]:
    """The names at ``labels``; none if there are no names."""
    return tuple(names[label] for label in labels.tolist()) if names else ()


class TeacherOfSeen(nn.Module):
    """A teacher restricted to the logits of some classes.

    Args:
        teacher: maps images to logits (B, C).
        labels: (K) int64, the classes whose logits are kept; part of the state dict, and therefore
            of a run's digest.
    """

    labels: Tensor

    def __init__(self, teacher: nn.Module, labels: Tensor) -> None:
        super().__init__()
        self.teacher = teacher
        self.register_buffer("labels", labels)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, S, S) to logits (B, K)."""
        logits: Tensor = self.teacher(images)
        return logits.index_select(1, self.labels)
