"""What every augmentation is made of: parameters are drawn, then applied to a batch.

The two halves are kept apart so that several processes augment as one would. Each draws the
parameters of the whole joint batch, from generators in the same state, and applies the rows that
belong to its own images. Whatever is computed on the way to a parameter is computed for the joint
batch too: the cosines of a slice may round unlike a slice of the cosines.
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
    """Which rows of a joint batch a process holds: those from ``start`` to before ``stop``.

    Attributes:
        start: the first row.
        stop: the row after the last; ``start`` for a part without images.
        size: rows of the joint batch.

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
    """The random numbers of an augmentation: two generators.

    Args:
        seed: of both.
        device: where numbers for images are drawn.

    Attributes:
        choices: draws what is chosen once a batch, on the host, which would otherwise have to wait
            for a number from the device.
        parameters: draws numbers for images, on the device.
    """

    def __init__(self, *, seed: int, device: torch.device | str) -> None:
        self.choices = torch.Generator().manual_seed(seed)
        # Seeded from the other one: with the same seed both would draw the same numbers.
        derived = int(torch.randint(2**62, (), generator=self.choices))
        self.parameters = torch.Generator(device).manual_seed(derived)

    def get_state(self) -> list[Tensor]:
        """The state of both, for :meth:`set_state` on the same kind of device."""
        return [self.choices.get_state(), self.parameters.get_state()]

    def set_state(self, state: list[Tensor]) -> None:
        """Draws go on as they did after :meth:`get_state`."""
        self.choices.set_state(state[0])
        self.parameters.set_state(state[1])


class Draws:
    """Random numbers for every image of a joint batch.

    Args:
        count: N, the images of the joint batch.
        generator: on the device of the images.
    """

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self.count = count
        self.generator = generator

    def uniform(self, low: float, high: float, each: int | None = None) -> Tensor:
        """Float32 between the two, one an image, (N), or ``each`` an image, (N, each)."""
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
    """A change to every image of a batch, with parameters of its own for each.

    Attributes:
        sample: (draws, height, width) -> the parameters, a tuple of tensors with N rows each.
        apply: (images (n, C, H, W), the n rows of every parameter) -> images of the same shape.
            Every image is treated by itself, and the given ones are not written to.

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
    """Operations of which one, each equally likely, is used on all images of a batch."""

    operations: Sequence[Operation]

    def pick(self, choices: torch.Generator) -> int:
        """Which operation the next batch gets, by its place."""
        return int(torch.randint(len(self.operations), (), generator=choices))


Steps = Sequence[Operation | OneOf]
"""What an augmentation does, in order."""


@dataclass(frozen=True)
class DrawnStep:
    """The random numbers of one step for a joint batch.

    Attributes:
        choice: which operation of a :class:`OneOf`; 0 for an :class:`Operation`.
        parameters: of the operation, tensors with N rows each.
    """

    choice: int
    parameters: tuple[Tensor, ...]


class Augmentation:
    """Augments batches; the same seed gives the same sequence of batches.

    Args:
        steps: what is done, in order.
        seed: of all random numbers.
        device: where the batches lie.

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
        """The augmented images; those given are not written to.

        Args:
            images: (n, C, H, W), any floating type. Those of 16 bits are augmented in float32.
            part: which rows of the joint batch they are; None is all of it. The parts of a joint
                batch, augmented one by one from the same state, are the joint batch augmented.

        Returns:
            Images of the same shape, type and memory format.

        Raises:
            TypeError: the images are not floating.
            ValueError: the images have another shape, or are not as many as ``part`` says.
        """
        count, _, height, width = check_images(images)
        part = part or Part(0, count, count)
        return self.apply(images, self.draw(part.size, height, width), part)

    def draw(self, count: int, height: int, width: int) -> list[DrawnStep]:
        """The random numbers of the next joint batch, of ``count`` images of this size."""
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
        """The images augmented by numbers that :meth:`draw` gave, perhaps in another program.

        Args:
            images: see :meth:`__call__`.
            drawn: one for each step, for the whole joint batch, on the device of the images.
            part: which rows of the joint batch the images are; None is all of it.
        """
        count = check_images(images)[0]
        part = part or Part(0, count, count)
        if count != part.stop - part.start:
            raise ValueError(f"images must be as many as {part} says, got {count}")
        result = images if images.dtype in FULL_PRECISION else images.float()
        for step, numbers in zip(self.steps, drawn, strict=True):
            operation = step.operations[numbers.choice] if isinstance(step, OneOf) else step
            rows = (p[part.start : part.stop] for p in numbers.parameters)
            result = operation.apply(result, *rows)
        return result.to(images.dtype).contiguous(memory_format=memory_format_of(images))


def check_images(images: Tensor) -> tuple[int, int, int, int]:
    """The shape (n, C, H, W) of images; raises unless they are floating and have these axes."""
    if not images.is_floating_point():
        raise TypeError(f"images must be floating, got {images.dtype}")
    if images.dim() != 4:
        raise ValueError(f"images must be (n, C, H, W), got {tuple(images.shape)}")
    count, channels, height, width = images.shape
    return count, channels, height, width


def memory_format_of(images: Tensor) -> torch.memory_format:
    """Channels last where the images (N, C, H, W) are, contiguous otherwise."""
    if images.is_contiguous():
        return torch.contiguous_format
    last = images.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def check_at_least(name: str, value: int, least: int) -> None:
    """Raises ValueError unless ``value`` is at least ``least``."""
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def described(steps: Steps) -> list[list[dict[str, Any]]]:
    """For each step the operations that it draws from, in words that JSON can hold.

    Returns:
        For each operation the name of its function, the names of the parameters and the options,
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
    """The function, the parameters and the options of an operation."""
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
