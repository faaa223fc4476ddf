"""The mean and standard deviation of a pixel that networks are trained with, by dataset.

They are those of the evaluation code of GIFT and of the methods that it compares. CIFAR-10 and
CIFAR-100 share theirs, as do ImageNet, its subsets and Tiny-ImageNet. Those of Fashion-MNIST are of
its 28 x 28 images, before the padding.
"""

from __future__ import annotations

from typing import NamedTuple


class Normalization(NamedTuple):
    """One number a channel, on the scale of [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


NORMALIZATIONS: dict[str, Normalization] = {
    "cifar": Normalization((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "fashion-mnist": Normalization((0.2861,), (0.3530,)),
    "imagenet": Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
