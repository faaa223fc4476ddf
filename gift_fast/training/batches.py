"""The batches that a network is trained on, the same for any number of processes.

A global batch is what all processes train on in one step; every process takes a contiguous part of
it. Order, augmentation and mixing are drawn for the global batch, from generators that are seeded
for every epoch, so the parts together are what a single process would see. Resuming a run between
epochs needs no generator state; resuming it within an epoch does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor

from gift_fast.data.datasets import Split
from gift_fast.data.distilled import DistilledSet
from gift_fast.data.labels.replay import replay
from gift_fast.data.labels.stored_labels import StoredLabels
from gift_fast.loss import TopKLabels
from gift_fast.training.augment import DrawnStep, Generators, build_augmentation
from gift_fast.training.augment.mixing import Mixed, build_mixing
from gift_fast.training.config import ResolvedTrainingConfig
from gift_fast.training.predict import Transform
from gift_fast.training.processes import Processes
from gift_fast.training.seeds import seed_for


@dataclass(frozen=True)
class Drawn:
    """The random numbers of a global batch.

    Attributes:
        index: (B) int64, its images.
        augmentation: random numbers of every step of the augmentation.
        mixed: mixed images with their permutation, weight and box; None without mixing.
    """

    index: Tensor
    augmentation: Sequence[DrawnStep]
    mixed: Mixed | None


@dataclass(frozen=True)
class Batch:
    """One process's part of a global batch, on its device.

    Attributes:
        images: (B, C, S, S) float32, augmented and normalized.
        target: (B) int64 hard labels.
        soft_labels: (B, C) stored soft labels, dense or top-k; None if a teacher computes them.
        mixed_target: (B) int64, the partners' hard labels; None without mixing.
        weight: of ``target`` against ``mixed_target``.
        share: fraction of the global batch in this part; the shares of all processes sum to 1.
        global_size: number of images in the global batch.
        drawn: the random numbers of the batch; None if it is replayed from files.
        temperature: of the softmax, if the soft labels are probabilities; None for logits.
    """

    images: Tensor
    target: Tensor
    soft_labels: Tensor | TopKLabels | None
    mixed_target: Tensor | None
    weight: float
    share: float
    global_size: int
    drawn: Drawn | None = None
    temperature: float | None = None


RandomState = dict[str, list[Tensor]]
"""States of random number generators by purpose; the same in all processes."""


class Batches(Protocol):
    """The batches of every epoch of a run.

    Attributes:
        images: images per epoch, over all processes.
        steps: global batches per epoch.
    """

    images: int
    steps: int

    def epoch(
        self, epoch: int, start: int = 0, random_state: RandomState | None = None
    ) -> Iterator[Batch]:
        """Yield the batches of an epoch.

        Args:
            epoch: from 1.
            start: number of batches to skip, because they have been trained on.
            random_state: what :meth:`random_state` returned after them; None if ``start`` is 0.
        """

    def random_state(self) -> RandomState:
        """The state from which the batches after the last one are drawn."""


class RandomBatches:
    """Every image once per epoch, in random order, augmented on the device.

    Args:
        split: the images, on the device of the training.
        normalize: applied before the augmentation.
        config: batch size, augmentation, mixing and seed.
        processes: index and number of processes.
        soft_labels: (N, C) stored with the images, or None.
    """

    def __init__(
        self,
        split: Split,
        normalize: Transform,
        config: ResolvedTrainingConfig,
        processes: Processes,
        soft_labels: Tensor | None = None,
    ) -> None:
        self.split = split
        self.normalize = normalize
        self.config = config
        self.batch_size = config.batch_size
        self.processes = processes
        self.soft_labels = soft_labels
        self.images = len(split)
        self.steps = -(-self.images // self.batch_size)
        self.generators: dict[str, Generators] = {}
        self.resumed: RandomState | None = None

    def epoch(
        self, epoch: int, start: int = 0, random_state: RandomState | None = None
    ) -> Iterator[Batch]:
        """See :class:`Batches`."""
        self.generators, self.resumed = {}, random_state
        labels = self.split.labels
        # One transfer per epoch: with one per batch, the host would wait for the device.
        order = self.order(epoch).to(labels.device)
        sizes = [len(index) for index in order.split(self.batch_size)]
        indices = order.split(self.batch_size)[start:]
        parts = [self.processes.part_of(len(index)) for index in indices]
        own = [
            index[part.start : part.stop] for index, (part, _) in zip(indices, parts, strict=True)
        ]

        mixes = self.config.mixing != "none"
        # A mixed image needs its partner, which may be in another process's part.
        read = self.split.batches(indices if mixes else own)
        source: Source | None = None
        for number, (part, share), (images, target) in zip(
            range(start, len(sizes)), parts, read, strict=True
        ):
            if source is None:  # the device is that of the first batch
                source = self.source(epoch, images.device)
                self.generators = source.generators
                for purpose, state in (random_state or {}).items():
                    self.generators[purpose].set_state(state)
                if not random_state:
                    for size in sizes[:start]:
                        source.skip(size, *images.shape[2:])
            index = indices[number - start]
            steps = source.steps(number, part.size, *images.shape[2:])
            images = source.augmentation.apply(
                self.normalize(images), steps, None if mixes else part
            )
            mixed, mixed_target, weight = None, None, 1.0
            rows = slice(part.start, part.stop)
            if mixes:
                mixed = source.mix(number, images)
                mixed_target = target[mixed.permutation][rows]
                images, target, weight = mixed.images[rows], target[rows], mixed.weight
            yield Batch(
                images=images,
                target=target,
                soft_labels=self.labels_of(number, index, rows),
                mixed_target=mixed_target,
                weight=weight,
                share=share,
                global_size=part.size,
                drawn=Drawn(index, steps, mixed),
            )

    def order(self, epoch: int) -> Tensor:
        """The order of the images in an epoch, (N) int64."""
        purpose = f"order/{epoch}"
        generator = torch.Generator().manual_seed(seed_for(self.config.seed, purpose))
        return torch.randperm(self.images, generator=generator)

    def source(self, epoch: int, device: torch.device) -> Source:
        """The source of the random numbers of an epoch."""
        return Source(self.config, epoch, device)

    def labels_of(self, number: int, index: Tensor, rows: slice) -> Tensor | TopKLabels | None:
        """The stored soft labels of some rows of a global batch; None if there are none."""
        return None if self.soft_labels is None else self.soft_labels[index[rows]]

    def random_state(self) -> RandomState:
        """See :class:`Batches`."""
        if not self.generators:  # all batches of the epoch were skipped
            return self.resumed or {}
        return {purpose: each.get_state() for purpose, each in self.generators.items()}


class Source:
    """Draws the random numbers of the global batches of an epoch.

    Args:
        config: augmentation, mixing and seed.
        epoch: from 1.
        device: of the batches.

    Attributes:
        generators: the random number generators by purpose.
    """

    def __init__(self, config: ResolvedTrainingConfig, epoch: int, device: torch.device) -> None:
        seed = config.seed
        self.augmentation = build_augmentation(
            config.augmentation, seed=seed_for(seed, f"augmentation/{epoch}"), device=device
        )
        self.mixing = build_mixing(
            config.mixing, seed=seed_for(seed, f"mixing/{epoch}"), device=device
        )
        self.mixes = config.mixing != "none"
        self.generators: dict[str, Generators] = {
            "augmentation": self.augmentation.generators,
            "mixing": self.mixing.generators,
        }

    def steps(self, number: int, count: int, height: int, width: int) -> list[DrawnStep]:
        """Draw the random numbers that augment the next global batch, ``number`` of the epoch."""
        return self.augmentation.draw(count, height, width)

    def mix(self, number: int, images: Tensor) -> Mixed:
        """Mix the next global batch, ``number`` of the epoch."""
        return self.mixing(images)

    def skip(self, count: int, height: int, width: int) -> None:
        """Advance the generators past a global batch that was replayed from files."""
        self.augmentation.draw(count, height, width)
        if self.mixes:
            self.mixing.skip(count, height, width)


class ReplayBatches:
    """Stored batches: published soft labels, with the augmentation that they were computed for.

    Batch size, order, augmentation and mixing are those of the files, not of a configuration.

    Args:
        replay: the stored batches.
        distilled: the set with their images, on the device of the training.
        normalize: applied after the crops.
        seed: seeds the order of the files, if it is random.
        processes: index and number of processes.
    """

    def __init__(
        self,
        replay: StoredLabels,
        distilled: DistilledSet,
        normalize: Transform,
        seed: int,
        processes: Processes,
    ) -> None:
        self.distilled = distilled
        self.replay = replay
        self.normalize = normalize
        self.seed = seed
        self.processes = processes
        self.images = self.replay.images
        self.steps = self.replay.batches

    def epoch(
        self, epoch: int, start: int = 0, random_state: RandomState | None = None
    ) -> Iterator[Batch]:
        """See :class:`Batches`."""
        images, labels = self.distilled.images, self.distilled.labels
        seed = seed_for(self.seed, f"order/{epoch}")
        for stored in self.replay.epoch(epoch - 1, seed=seed, start=start):
            here = stored.to(images.device)
            part, share = self.processes.part_of(len(here))
            rows = slice(part.start, part.stop)
            target = labels[here.index]
            mixed = here.mix_index
            crops = replay(images[here.index], here, self.distilled.side, (part.start, part.stop))
            yield Batch(
                images=self.normalize(crops),
                target=target[rows],
                soft_labels=here.soft_labels(rows),
                mixed_target=None if mixed is None else target[mixed][rows],
                weight=here.mix_weight(self.distilled.side),
                share=share,
                global_size=part.size,
                temperature=here.temperature,
            )

    def random_state(self) -> RandomState:
        """See :class:`Batches`; only the order of the files is random, and it has its own seed."""
        return {}


class PhasedBatches:
    """Takes the batches of some epochs from another source.

    Args:
        batches: the source of most epochs; it determines the images and steps of every epoch.
        others: the other source, with at least as many steps; further steps are not used.
        is_other: whether an epoch, counted from 1, uses ``others``.

    Raises:
        ValueError: ``others`` has fewer steps than ``batches``.
    """

    def __init__(self, batches: Batches, others: Batches, is_other: Callable[[int], bool]) -> None:
        if others.steps < batches.steps:
            raise ValueError(
                f"others must have at least as many steps as batches, {batches.steps}, got "
                f"{others.steps}"
            )
        self.images, self.steps = batches.images, batches.steps
        self.batches, self.others, self.is_other = batches, others, is_other
        self.current = batches

    def epoch(
        self, epoch: int, start: int = 0, random_state: RandomState | None = None
    ) -> Iterator[Batch]:
        """See :class:`Batches`."""
        self.current = self.others if self.is_other(epoch) else self.batches
        yield from islice(self.current.epoch(epoch, start, random_state), self.steps - start)

    def random_state(self) -> RandomState:
        """See :class:`Batches`."""
        return self.current.random_state()
