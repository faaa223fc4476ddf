"""The batches that a network is trained on, the same for any number of processes.

A joint batch is what all processes train on in one step; every process takes a contiguous part of
it. Order, augmentation and mixing are drawn for the joint batch from generators that are seeded
anew for every epoch, so the parts together are what a single process would see. A run is resumed at
any epoch without the state of a generator, and within an epoch with it.
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
    """Everything random about a joint batch.

    Attributes:
        index: (B) int64, its images.
        augmentation: of every step of the augmentation.
        mixed: permutation, weight and box, on mixed images; None without mixing.
    """

    index: Tensor
    augmentation: Sequence[DrawnStep]
    mixed: Mixed | None


@dataclass(frozen=True)
class Batch:
    """One process's part of a joint batch, on its device.

    Attributes:
        images: (B, C, S, S) float32, augmented and normalized.
        target: (B) int64 hard labels.
        soft_labels: (B, C) stored ones, or the largest of each row; None where a teacher is to
            give them.
        mixed_target: (B) int64, the hard labels of what was mixed in; None without mixing.
        weight: of ``target`` against ``mixed_target``.
        share: of this part in the joint batch; the shares of all processes add up to 1.
        joint_size: images of the joint batch.
        drawn: the random numbers behind the images, where they were drawn now.
        temperature: of the softmax of which the soft labels are the probabilities; None for logits.
    """

    images: Tensor
    target: Tensor
    soft_labels: Tensor | TopKLabels | None
    mixed_target: Tensor | None
    weight: float
    share: float
    joint_size: int
    drawn: Drawn | None = None
    temperature: float | None = None


RandomState = dict[str, list[Tensor]]
"""States of generators, by what is drawn from them; the same in all processes."""


class Batches(Protocol):
    """All that a network is trained on, an epoch at a time.

    Attributes:
        images: images of an epoch, over all processes.
        steps: joint batches of an epoch.
    """

    images: int
    steps: int

    def epoch(
        self, epoch: int, start: int = 0, random_state: RandomState | None = None
    ) -> Iterator[Batch]:
        """The batches of an epoch, counted from 1.

        Args:
            epoch: which one.
            start: how many batches to leave out, since they have been trained on.
            random_state: what :meth:`random_state` gave after these; None where ``start`` is 0.
        """

    def random_state(self) -> RandomState:
        """What the batches after the last one that was given depend on, beside their number."""


class RandomBatches:
    """Every image once an epoch, in an order of its own, augmented on the device.

    Args:
        split: the images, on the device where they are trained on.
        normalize: applied before the augmentation.
        config: order, augmentation and mixing follow it.
        processes: which of how many this is.
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
        # Moved at once: a transfer for every batch would make the host wait for the device.
        order = self.order(epoch).to(labels.device)
        sizes = [len(index) for index in order.split(self.batch_size)]
        joint = order.split(self.batch_size)[start:]
        parts = [self.processes.part_of(len(index)) for index in joint]
        own = [index[part.start : part.stop] for index, (part, _) in zip(joint, parts, strict=True)]

        mixes = self.config.mixing != "none"
        # A mixed image needs its partner, which may lie in another process's part.
        read = self.split.batches(joint if mixes else own)
        source: Source | None = None
        for number, (part, share), (images, target) in zip(
            range(start, len(sizes)), parts, read, strict=True
        ):
            if source is None:  # the first batch tells the device
                source = self.source(epoch, images.device)
                self.generators = source.generators
                for purpose, state in (random_state or {}).items():
                    self.generators[purpose].set_state(state)
                if not random_state:
                    for size in sizes[:start]:
                        source.skip(size, *images.shape[2:])
            index = joint[number - start]
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
                joint_size=part.size,
                drawn=Drawn(index, steps, mixed),
            )

    def order(self, epoch: int) -> Tensor:
        """(N) int64, the images of an epoch in order."""
        purpose = f"order/{epoch}"
        generator = torch.Generator().manual_seed(seed_for(self.config.seed, purpose))
        return torch.randperm(self.images, generator=generator)

    def source(self, epoch: int, device: torch.device) -> Source:
        """What gives the random numbers of an epoch."""
        return Source(self.config, epoch, device)

    def labels_of(self, number: int, index: Tensor, rows: slice) -> Tensor | TopKLabels | None:
        """The stored soft labels of some rows of a joint batch, if there are any."""
        return None if self.soft_labels is None else self.soft_labels[index[rows]]

    def random_state(self) -> RandomState:
        """See :class:`Batches`."""
        if not self.generators:  # no batch was left to give
            return self.resumed or {}
        return {purpose: each.get_state() for purpose, each in self.generators.items()}


class Source:
    """Draws the random numbers of the joint batches of an epoch.

    Args:
        config: augmentation, mixing and seed.
        epoch: from 1.
        device: where the batches lie.

    Attributes:
        generators: that it draws from.
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
        """The random numbers of the augmentation of the next joint batch, number ``number``."""
        return self.augmentation.draw(count, height, width)

    def mix(self, number: int, images: Tensor) -> Mixed:
        """The next joint batch, number ``number``, mixed."""
        return self.mixing(images)

    def skip(self, count: int, height: int, width: int) -> None:
        """Leaves out a joint batch that was trained on, by a run that replayed it from files."""
        self.augmentation.draw(count, height, width)
        if self.mixes:
            self.mixing.skip(count, height, width)


class ReplayBatches:
    """The batches that soft labels were stored for, with the augmentation they were stored with.

    Batch size, order, augmentation and mixing are those of the files, not of a configuration.

    Args:
        replay: the stored batches.
        distilled: whose images they are, on the device where they are trained on.
        normalize: applied after the crops.
        seed: draws the files, where they are drawn at random.
        processes: which of how many this is.
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
                joint_size=part.size,
                temperature=here.temperature,
            )

    def random_state(self) -> RandomState:
        """See :class:`Batches`; nothing is drawn but which files, and that before the first."""
        return {}


class PhasedBatches:
    """Batches of one kind in some epochs, and of another in the others.

    Args:
        batches: whose number of images and of steps is that of every epoch.
        others: of at least as many steps; those beyond are left out.
        is_other: whether an epoch, counted from 1, takes ``others``.

    Raises:
        ValueError: ``others`` has fewer steps.
    """

    def __init__(self, batches: Batches, others: Batches, is_other: Callable[[int], bool]) -> None:
        if others.steps < batches.steps:
            raise ValueError(
                f"others must have the {batches.steps} batches of the other epochs or more, got "
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
