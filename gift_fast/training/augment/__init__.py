"""Batch augmentation on the device, without loops over images and without synchronization.

An augmentation is selected by a specification, such as ``dsa`` or ``rrc:min_scale=0.5``. A
user-defined function, ``package.module.name``, has keyword-only options with defaults and returns a
list of :class:`Operation` and :class:`OneOf`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from gift_fast.files import spec
from gift_fast.training.augment.crops import crop_flip, mosaic_dsa, rded, rrc
from gift_fast.training.augment.dsa import PAPER_STRATEGY, dsa, dsa_one
from gift_fast.training.augment.pipeline import (
    Augmentation,
    DrawnStep,
    Draws,
    Generators,
    OneOf,
    Operation,
    Part,
    Steps,
    described,
)

__all__ = [
    "AUGMENTATIONS",
    "PAPER_STRATEGY",
    "Augmentation",
    "DrawnStep",
    "Draws",
    "Generators",
    "OneOf",
    "Operation",
    "Part",
    "Steps",
    "build_augmentation",
    "described",
]


def none() -> Steps:
    """No augmentation."""
    return []


AUGMENTATIONS: dict[str, Callable[..., Steps]] = {
    "none": none,
    "dsa": dsa,
    "dsa-one": dsa_one,
    "crop-flip": crop_flip,
    "rrc": rrc,
    "rded": rded,
    "mosaic-dsa": mosaic_dsa,
}


def build_augmentation(augmentation: str, *, seed: int, device: torch.device | str) -> Augmentation:
    """Build the augmentation that a specification names.

    Args:
        augmentation: a name in ``AUGMENTATIONS`` with options, or an import path.
        seed: of all random numbers.
        device: of the batches.

    Raises:
        TypeError: the specification is not a string.
        ValueError: an unknown name or option, or a value out of range.

    Example:
        >>> augment = build_augmentation("dsa:strategy=crop_flip", seed=0, device="cpu")
        >>> augment(torch.ones(4, 3, 8, 8)).shape
        torch.Size([4, 3, 8, 8])
    """
    steps = spec.build("augmentation", augmentation, AUGMENTATIONS)
    return Augmentation(steps, seed=seed, device=device)
