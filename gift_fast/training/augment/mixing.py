"""Mixing of the images of a batch: mixup and cutmix.

As in SRe2L's and RDED's code, a global batch has one permutation, one weight and, for cutmix, one
box. Partners come from anywhere in the global batch, so every process mixes all of it and then
takes its part.

A mixed image has two hard labels: that of the image itself has the weight ``weight``, that of its
partner 1 - ``weight``.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gift_fast.files import spec
from gift_fast.training.augment import Generators


@dataclass(frozen=True)
class Box:
    """A box of pixels; ``bottom`` and ``right`` are exclusive."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def area(self) -> int:
        """Pixels in the box."""
        return (self.bottom - self.top) * (self.right - self.left)


@dataclass(frozen=True)
class Mixed:
    """A mixed global batch.

    Attributes:
        images: (N, C, H, W).
        permutation: int64 (N), every image's partner, on the device of the images.
        weight: of the image itself against its partner, in [0, 1].
        box: the box that cutmix replaced; None for mixup and user-defined mixings.
    """

    images: Tensor
    permutation: Tensor
    weight: float
    box: Box | None = None


Mix = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, float]]
"""(images, permutation, generator on the CPU) -> mixed images and weight."""


def blend(images: Tensor, permutation: Tensor, weight: float) -> Tensor:
    """Mixup: ``weight`` times every image plus 1 - ``weight`` times its partner.

    Example:
        >>> blend(torch.tensor([0.0, 1.0]), torch.tensor([1, 0]), 0.75)
        tensor([0.2500, 0.7500])
    """
    return images[permutation].lerp(images, weight)


def paste(images: Tensor, permutation: Tensor, box: Box) -> Tensor:
    """Cutmix: replaces every image by its partner inside the box."""
    rows, columns = slice(box.top, box.bottom), slice(box.left, box.right)
    result = images.clone()
    result[:, :, rows, columns] = images[:, :, rows, columns][permutation]
    return result


def box_about(row: int, column: int, weight: float, height: int, width: int) -> Box:
    """The box around a center that leaves about ``weight`` of an image, clipped at the border.

    Example:
        >>> box_about(4, 0, 0.75, 8, 8)
        Box(top=2, bottom=6, left=0, right=2)
    """
    part = 0.5 * math.sqrt(1.0 - weight)
    down, across = int(part * height), int(part * width)
    return Box(
        top=max(row - down, 0),
        bottom=min(row + down, height),
        left=max(column - across, 0),
        right=min(column + across, width),
    )


def beta(alpha: float, choices: torch.Generator) -> float:
    """Draw a number from Beta(alpha, alpha)."""
    # torch's Beta takes no generator, so the standard library's is used, seeded from ``choices``.
    seed = int(torch.randint(2**62, (), generator=choices))
    return random.Random(seed).betavariate(alpha, alpha)


def check_alpha(alpha: float) -> None:
    """Raise ValueError unless ``alpha`` is a positive number."""
    if not 0.0 < alpha < math.inf:
        raise ValueError(f"alpha must be positive, got {alpha}")


@dataclass(frozen=True)
class DrawnMix:
    """The random numbers of a mixed batch, except its permutation.

    Attributes:
        weight: of the image itself against its partner.
        box: the box that cutmix replaces, or None.
    """

    weight: float
    box: Box | None = None


@dataclass(frozen=True)
class DrawnFirst:
    """A mixing whose random numbers depend only on the images' size, so that they can be stored.

    Attributes:
        draw: (height, width, generator on the CPU) -> the random numbers.
        apply: (images, permutation, random numbers) -> the mixed images.
    """

    draw: Callable[[int, int, torch.Generator], DrawnMix]
    apply: Callable[[Tensor, Tensor, DrawnMix], Tensor]

    def __call__(
        self, images: Tensor, permutation: Tensor, choices: torch.Generator
    ) -> tuple[Tensor, float]:
        """See :data:`Mix`."""
        height, width = images.shape[2:]
        drawn = self.draw(height, width, choices)
        return self.apply(images, permutation, drawn), drawn.weight


def none() -> Mix:
    """No mixing."""
    return DrawnFirst(
        draw=lambda height, width, choices: DrawnMix(1.0),
        apply=lambda images, permutation, drawn: images,
    )


def mixup(*, alpha: float = 0.8) -> Mix:
    """Blend every image with its partner, with a weight from Beta(alpha, alpha).

    Source: Zhang, Cisse, Dauphin and Lopez-Paz, ICLR 2018; alpha as in SRe2L's code.
    """
    check_alpha(alpha)
    return DrawnFirst(
        draw=lambda height, width, choices: DrawnMix(beta(alpha, choices)),
        apply=lambda images, permutation, drawn: blend(images, permutation, drawn.weight),
    )


def cutmix(*, alpha: float = 1.0) -> Mix:
    """Replace a box of every image by its partner's; the area is drawn from Beta(alpha, alpha).

    The weight is the exact area outside of the box after clipping.

    Source: Yun et al., ICCV 2019; alpha as in SRe2L's and RDED's code.
    """
    check_alpha(alpha)

    def draw(height: int, width: int, choices: torch.Generator) -> DrawnMix:
        weight = beta(alpha, choices)
        row, column = (int(torch.randint(s, (), generator=choices)) for s in (height, width))
        box = box_about(row, column, weight, height, width)
        return DrawnMix(1.0 - box.area / (height * width), box)

    def apply(images: Tensor, permutation: Tensor, drawn: DrawnMix) -> Tensor:
        assert drawn.box is not None
        return paste(images, permutation, drawn.box)

    return DrawnFirst(draw, apply)


MIXINGS: dict[str, Callable[..., Mix]] = {"none": none, "mixup": mixup, "cutmix": cutmix}


class Mixing:
    """Mixes global batches; the same seed gives the same sequence.

    Args:
        mix: the mixing function.
        seed: of all random numbers.
        device: of the batches.
    """

    def __init__(self, mix: Mix, *, seed: int, device: torch.device | str) -> None:
        self.mix = mix
        self.generators = Generators(seed=seed, device=device)

    def __call__(self, images: Tensor) -> Mixed:
        """Mix a global batch (N, C, H, W) of a floating-point type; the input is not modified."""
        permutation = self.draw_partners(len(images))
        if isinstance(self.mix, DrawnFirst):
            height, width = images.shape[2:]
            drawn = self.mix.draw(height, width, self.generators.choices)
            return self.apply(images, permutation, drawn)
        mixed, weight = self.mix(images, permutation, self.generators.choices)
        return Mixed(mixed, permutation, weight)

    def draw_partners(self, count: int) -> Tensor:
        """The permutation of the next global batch, int64 (count)."""
        parameters = self.generators.parameters
        return torch.randperm(count, generator=parameters, device=parameters.device)

    def apply(self, images: Tensor, permutation: Tensor, drawn: DrawnMix) -> Mixed:
        """Mix a global batch with random numbers that were drawn earlier, or stored.

        Raises:
            TypeError: the mixing is user-defined and draws while it mixes.
        """
        mix = self.storable
        return Mixed(mix.apply(images, permutation, drawn), permutation, drawn.weight, drawn.box)

    def skip(self, count: int, height: int, width: int) -> None:
        """Draw the random numbers of a global batch of ``count`` images and discard them."""
        self.draw_partners(count)
        self.storable.draw(height, width, self.generators.choices)

    @property
    def storable(self) -> DrawnFirst:
        """The mixing, if its random numbers can be stored.

        Raises:
            TypeError: it is user-defined and draws while it mixes.
        """
        if not isinstance(self.mix, DrawnFirst):
            raise TypeError(
                f"mixing must be one of {', '.join(MIXINGS)}, whose random numbers can be stored; "
                f"got the user-defined function {self.mix!r}"
            )
        return self.mix


def build_mixing(mixing: str, *, seed: int, device: torch.device | str) -> Mixing:
    """Build the mixing that a specification names.

    Args:
        mixing: a name in ``MIXINGS`` with options, or the import path of a function like those.
        seed: of all random numbers.
        device: of the batches.

    Raises:
        TypeError: the specification is not a string.
        ValueError: an unknown name or option, or a value out of range.

    Example:
        >>> mix = build_mixing("cutmix:alpha=1", seed=0, device="cpu")
        >>> mix(torch.ones(4, 3, 8, 8)).images.shape
        torch.Size([4, 3, 8, 8])
    """
    return Mixing(spec.build("mixing", mixing, MIXINGS), seed=seed, device=device)
