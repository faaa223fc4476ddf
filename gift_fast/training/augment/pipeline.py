"""The steps of an augmentation: parameters are drawn, then applied to a batch.

Drawing and applying are separate so that several processes augment exactly as one process would.
Each draws the parameters of the whole global batch, from generators in the same state, and applies
the rows that belong to its own images. Parameters are computed for the global batch too: the
cosines of a slice may round differently from a slice of the cosines.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

FULL_PRECISION = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Part:
    """The rows of a global batch that a process trains on: ``start`` to ``stop``, exclusive.

    Attributes:
        start: the first row.
        stop: the row after the last; ``start`` for a part without images.
        size: rows of the global batch.

    Raises:
        ValueError: unless 0 <= start <= stop <= size.
    """

    start: int
    stop: int
    size: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop <= self.size:
            raise ValueError(f"part must have 0 <= start <= stop <= size, got {self}")


class Generators:
    """The two random number generators of an augmentation.

    Args:
        seed: of both.
        device: of ``parameters``.

    Attributes:
        choices: draws choices per batch, on the CPU, which would otherwise have to wait for a
            number from the device.
        parameters: draws parameters per image, on the device.
    """

    def __init__(self, *, seed: int, device: torch.device | str) -> None:
        self.choices = torch.Generator().manual_seed(seed)
        # Seeded from the other generator: with the same seed, both would draw the same numbers.
        derived = int(torch.randint(2**62, (), generator=self.choices))
        self.parameters = torch.Generator(device).manual_seed(derived)

    def get_state(self) -> list[Tensor]:
        """The state of both generators, for :meth:`set_state` on the same kind of device."""
        return [self.choices.get_state(), self.parameters.get_state()]

    def set_state(self, state: list[Tensor]) -> None:
        """Restore what :meth:`get_state` returned."""
        self.choices.set_state(state[0])
        self.parameters.set_state(state[1])


class Draws:
    """Draws random numbers for every image of a global batch.

    Args:
        count: N, the number of images in the global batch.
        generator: on the device of the images.
    """

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self.count = count
        self.generator = generator

    def uniform(self, low: float, high: float, each: int | None = None) -> Tensor:
        """Float32 in [low, high): one per image, (N), or ``each`` per image, (N, each)."""
        shape = (self.count,) if each is None else (self.count, each)
        unit = torch.rand(
            shape, generator=self.generator, device=self.generator.device, dtype=torch.float32
        )
        return low + (high - low) * unit

    def integer(self, low: int, high: int) -> Tensor:
        """Int64 (N) in [low, high], both ends included."""
        return torch.randint(
            low,
            high + 1,
            (self.count,),
            generator=self.generator,
            device=self.generator.device,
        )


@dataclass(frozen=True)
class Operation:
    """An operation on every image of a batch, with parameters per image.

    Attributes:
        sample: (draws, height, width) -> the parameters, a tuple of tensors with N rows.
        apply: (images (n, C, H, W), n rows of every parameter) -> images of the same shape. Every
            image is processed independently, and the input is not modified.

    Example:
        >>> Operation(lambda draws, height, width: (draws.uniform(0.0, 0.1),),
        ...           lambda images, amount: images + amount.view(-1, 1, 1, 1)).apply(
        ...     torch.zeros(2, 1, 1, 1), torch.tensor([0.25, 0.5])).flatten()
        tensor([0.2500, 0.5000])
    """

    sample: Callable[[Draws, int, int], tuple[Tensor, ...]]
    apply: Callable[..., Tensor]


@dataclass(frozen=True)
class OneOf:
    """A random choice of one operation per batch; all are equally likely."""

    operations: Sequence[Operation]

    def pick(self, choices: torch.Generator) -> int:
        """Draw the index of the operation for the next batch."""
        return int(torch.randint(len(self.operations), (), generator=choices))


Steps = Sequence[Operation | OneOf]
"""The steps of an augmentation, in order."""


@dataclass(frozen=True)
class DrawnStep:
    """The random numbers of one step for a global batch.

    Attributes:
        choice: index of the operation in a :class:`OneOf`; 0 for an :class:`Operation`.
        parameters: of the operation, tensors with N rows.
    """

    choice: int
    parameters: tuple[Tensor, ...]


class Augmentation:
    """Augments batches; the same seed gives the same sequence of batches.

    Args:
        steps: the operations, in order.
        seed: of all random numbers.
        device: of the batches.

    Example:
        >>> from gift_fast.training.augment import build_augmentation
        >>> augment = build_augmentation("crop-flip", seed=0, device="cpu")
        >>> augment(torch.ones(4, 1, 8, 8)).shape
        torch.Size([4, 1, 8, 8])
    """

    def __init__(self, steps: Steps, *, seed: int, device: torch.device | str) -> None:
        self.steps = steps
        self.generators = Generators(seed=seed, device=device)

    def __call__(self, images: Tensor, part: Part | None = None) -> Tensor:
        """Augment a batch; the input is not modified.

        Args:
            images: (n, C, H, W), any floating-point type; 16-bit types are augmented in float32.
            part: the rows of the global batch that the images are; None for all. Augmenting the
                parts one by one, from the same state, gives the augmented global batch.

        Returns:
            Images of the same shape, type and memory format.

        Raises:
            TypeError: the images are not floating-point.
            ValueError: the images do not have four dimensions, or their number differs from that
                of ``part``.
        """
        count, _, height, width = check_images(images)
        part = part or Part(0, count, count)
        return self.apply(images, self.draw(part.size, height, width), part)

    def draw(self, count: int, height: int, width: int) -> list[DrawnStep]:
        """Draw the random numbers of the next global batch of ``count`` images of this size."""
        draws = Draws(count, self.generators.parameters)
        drawn = []
        for step in self.steps:
            choice, operation = 0, step
            if isinstance(operation, OneOf):
                choice = operation.pick(self.generators.choices)
                operation = operation.operations[choice]
            drawn.append(DrawnStep(choice, operation.sample(draws, height, width)))
        return drawn

    def apply(self, images: Tensor, drawn: Sequence[DrawnStep], part: Part | None = None) -> Tensor:
        """Augment a batch with random numbers from :meth:`draw`, or stored ones.

        Args:
            images: see :meth:`__call__`.
            drawn: one item per step, for the whole global batch, on the device of the images.
            part: the rows of the global batch that the images are; None for all.
        """
        count = check_images(images)[0]
        part = part or Part(0, count, count)
        if count != part.stop - part.start:
            raise ValueError(
                f"images must be the {part.stop - part.start} images of {part}, got {count}"
            )
        result = images if images.dtype in FULL_PRECISION else images.float()
        for step, numbers in zip(self.steps, drawn, strict=True):
            operation = step.operations[numbers.choice] if isinstance(step, OneOf) else step
            rows = (p[part.start : part.stop] for p in numbers.parameters)
            result = operation.apply(result, *rows)
        return result.to(images.dtype).contiguous(memory_format=memory_format_of(images))


def check_images(images: Tensor) -> tuple[int, int, int, int]:
    """The shape (n, C, H, W) of images; raises if their type or number of dimensions is wrong."""
    if not images.is_floating_point():
        raise TypeError(f"images must be floating-point, got {images.dtype}")
    if images.dim() != 4:
        raise ValueError(f"images must be (n, C, H, W), got {tuple(images.shape)}")
    count, channels, height, width = images.shape
    return count, channels, height, width


def memory_format_of(images: Tensor) -> torch.memory_format:
    """Channels-last if the images (N, C, H, W) are, contiguous otherwise."""
    if images.is_contiguous():
        return torch.contiguous_format
    last = images.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def check_at_least(name: str, value: int, least: int) -> None:
    """Raise ValueError unless ``value`` is at least ``least``."""
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def described(steps: Steps) -> list[list[dict[str, Any]]]:
    """Describe the operations of every step in values that JSON can represent.

    Returns:
        For each operation, the name of its function, the names of its parameters, and its options,
        which are the same for all images.

    Example:
        >>> from gift_fast.training.augment import AUGMENTATIONS
        >>> described(AUGMENTATIONS["crop-flip"]())[0]
        [{'operation': 'crop', 'parameters': ['top', 'left'], 'options': {'padding': [4, 4]}}]
    """
    return [
        [of_operation(o) for o in (step.operations if isinstance(step, OneOf) else [step])]
        for step in steps
    ]


def of_operation(operation: Operation) -> dict[str, Any]:
    """Describe one operation: its function, its parameters and its options."""
    function: Callable[..., Any] = operation.apply
    options: dict[str, Any] = {}
    if isinstance(function, partial):
        options, function = function.keywords, function.func
    names = [name for name in inspect.signature(function).parameters if name not in options][1:]
    return {
        "operation": getattr(function, "__name__", str(function)).removeprefix("apply_"),
        "parameters": names,
        "options": {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in options.items()
        },
    }
