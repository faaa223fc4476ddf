"""The rules of published protocols, by which settings depend on dataset, network and set.

The GIFT paper (Shang, Sun and Lin, ICLR 2025, table 11) derives the batch size from the number of
images, the initial learning rate from the student and the number of epochs from the dataset.
"""

from __future__ import annotations

from collections.abc import Callable

from gift_fast.files import spec

BATCH_SIZES = ((10, 10), (500, 50), (20_000, 100))
"""(largest number of images, batch size), in ascending order (table 11)."""

LARGEST_BATCH_SIZE = 200

RDED_BATCH_SIZES = {1: 10, 10: 50, 50: 100}
"""Batch sizes by images per class; RDED's code has no others."""

RDED_DOUBLED = (100, 1000)
"""Numbers of classes for which RDED's code doubles the batch size."""

LEARNING_RATES = {"swin_v2_t": 1e-4, "vit_b_16": 1e-4}
"""Learning rates of students that differ from ``LEARNING_RATE`` in GIFT's code."""

LEARNING_RATE = 1e-3


TEACHER_AUGMENTATIONS = {"digits": "none"}
"""Datasets whose teachers are not trained with ``TEACHER_AUGMENTATION``."""

TEACHER_AUGMENTATION = "crop-flip"


def paper_batch_size(num_images: int) -> int:
    """The paper's batch size for a distilled set of ``num_images``.

    Example:
        >>> [paper_batch_size(n) for n in (10, 500, 20_000, 20_001)]
        [10, 50, 100, 200]
    """
    for largest, batch_size in BATCH_SIZES:
        if num_images <= largest:
            return batch_size
    return LARGEST_BATCH_SIZE


def rded_batch_size(num_images: int, ipc: int | None) -> int:
    """RDED's batch size for a set of ``num_images``, with ``ipc`` images per class.

    Source: argument.py of github.com/LINs-lab/RDED.

    Example:
        >>> [rded_batch_size(10 * ipc, ipc) for ipc in (1, 10, 50)], rded_batch_size(1000, 10)
        ([10, 50, 100], 100)
    """
    if ipc not in RDED_BATCH_SIZES:
        known = ", ".join(map(str, RDED_BATCH_SIZES))
        raise ValueError(
            f"batch_size must be given, because batch_rule rded is only defined for {known} images "
            f"per class, and the set has {ipc or 'unequal numbers'}"
        )
    factor = 2 if num_images // ipc in RDED_DOUBLED else 1
    return min(factor * RDED_BATCH_SIZES[ipc], num_images)


BATCH_RULES: dict[str, Callable[[int, int | None], int]] = {
    "paper": lambda num_images, ipc: paper_batch_size(num_images),
    "rded": rded_batch_size,
}
"""Map the number of images and the images per class (None if unequal) to the batch size."""


def paper_epochs(dataset: str) -> int:
    """The paper's number of epochs: 300 on ImageNet-1K, else 1000 (table 11).

    Example:
        >>> paper_epochs("imagenet-1k:side=64"), paper_epochs("cifar100")
        (300, 1000)
    """
    return 300 if spec.split_spec(dataset)[0] == "imagenet-1k" else 1000


def paper_learning_rate(student: str) -> float:
    """The learning rate of a student in the GIFT paper (table 11) and its code.

    Example:
        >>> paper_learning_rate("convnet3:width=32"), paper_learning_rate("swin_v2_t")
        (0.001, 0.0001)
    """
    return LEARNING_RATES.get(spec.split_spec(student)[0], LEARNING_RATE)


def teacher_augmentation(dataset: str) -> str:
    """The default augmentation of ``gift-fast train-teacher``.

    ``crop-flip`` is common for photographs. Digits have none, because a mirrored digit is not a
    digit.

    Example:
        >>> teacher_augmentation("cifar10"), teacher_augmentation("digits:validation=300")
        ('crop-flip', 'none')
    """
    return TEACHER_AUGMENTATIONS.get(spec.split_spec(dataset)[0], TEACHER_AUGMENTATION)


def paper_dataset(dataset: str, network: str) -> str:
    """The dataset in the paper's image size for a network, unless a size is given.

    For ConvNets, ImageNet-1K has 64 pixels and its subsets have 128; for other networks, 224.

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
