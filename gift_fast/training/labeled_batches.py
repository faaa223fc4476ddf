"""The batches of a label set: soft labels that teachers computed before the run."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gift_fast.data.datasets import Split
from gift_fast.data.labels.label_set import LabelSet, StoredEpoch
from gift_fast.loss import TopKLabels
from gift_fast.training.augment import DrawnStep, build_augmentation, described
from gift_fast.training.augment.mixing import Box, DrawnMix, Mixed
from gift_fast.training.batches import Batch, RandomBatches, RandomState, Source
from gift_fast.training.config import ResolvedTrainingConfig
from gift_fast.training.predict import Transform
from gift_fast.training.processes import Processes


class LabeledBatches(RandomBatches):
    """The batches of a label set; order, augmentation and mixing are read from its files.

    Args:
        split: the images, on the device of the training.
        normalize: applied before the augmentation.
        config: of the run, with the augmentation, mixing and batch size of the label set.
        processes: index and number of processes.
        stored: the label set.

    Raises:
        ValueError: the label set was written by a version whose augmentation had other steps.
    """

    def __init__(
        self,
        split: Split,
        normalize: Transform,
        config: ResolvedTrainingConfig,
        processes: Processes,
        stored: LabelSet,
    ) -> None:
        super().__init__(split, normalize, config, processes)
        self.stored = stored
        self.images = stored.manifest.images
        self.steps = stored.manifest.steps
        self.current: tuple[int, StoredEpoch] | None = None
        augmentation = build_augmentation(config.augmentation, seed=0, device="cpu")
        if described(augmentation.steps) != list(map(list, stored.manifest.augmentation_steps)):
            raise ValueError(
                f"{stored.folder} must have the steps of the augmentation {config.augmentation}, "
                f"{described(augmentation.steps)}, got {stored.manifest.augmentation_steps}; "
                "create the label set again with this version of gift-fast"
            )

    def epoch(
        self, epoch: int, start: int = 0, random_state: RandomState | None = None
    ) -> Iterator[Batch]:
        """See :class:`~gift_fast.training.batches.Batches`; ``random_state`` is ignored."""
        return super().epoch(epoch, start)

    def read(self, epoch: int) -> StoredEpoch:
        """Read an epoch of the label set, or return it if it was the last one read."""
        if self.current is None or self.current[0] != epoch:
            self.current = epoch, self.stored.epoch(epoch)
        return self.current[1]

    def order(self, epoch: int) -> Tensor:
        """See :meth:`RandomBatches.order`."""
        image = self.read(epoch).image
        if int(image.max()) >= len(self.split):
            raise ValueError(
                f"{self.stored.folder} must have image indices below {len(self.split)}, the number "
                f"of distilled images, got {int(image.max())} in epoch {epoch}"
            )
        return image

    def source(self, epoch: int, device: torch.device) -> Source:
        """See :meth:`RandomBatches.source`."""
        return StoredSource(self.config, epoch, device, self.read(epoch))

    def labels_of(self, number: int, index: Tensor, rows: slice) -> Tensor | TopKLabels:
        """See :meth:`RandomBatches.labels_of`; in float32."""
        assert self.current is not None
        stored, first = self.current[1], number * self.batch_size
        here = slice(first + rows.start, first + rows.stop)
        device = index.device
        labels = stored.labels[here].to(device).float()
        if stored.indices is None or stored.rest is None:
            return labels
        rest, indices = stored.rest[here].to(device).float(), stored.indices[here].to(device)
        return TopKLabels(labels, indices, rest)

    def random_state(self) -> RandomState:
        """See :class:`~gift_fast.training.batches.Batches`; nothing is drawn."""
        return {}


class StoredSource(Source):
    """Reads the random numbers that are stored with an epoch.

    Args:
        config: augmentation and mixing.
        epoch: from 1.
        device: of the batches.
        stored: the epoch.
    """

    def __init__(
        self,
        config: ResolvedTrainingConfig,
        epoch: int,
        device: torch.device,
        stored: StoredEpoch,
    ) -> None:
        super().__init__(config, epoch, device)
        self.generators = {}
        self.stored, self.device, self.batch_size = stored, device, config.batch_size

    def steps(self, number: int, count: int, height: int, width: int) -> list[DrawnStep]:
        """See :meth:`Source.steps`."""
        rows = slice(number * self.batch_size, number * self.batch_size + count)
        drawn = []
        for choices, operations in self.stored.augmentation:
            choice = int(choices[number])
            parameters = tuple(p[rows].to(self.device) for p in operations[choice])
            drawn.append(DrawnStep(choice, parameters))
        return drawn

    def mix(self, number: int, images: Tensor) -> Mixed:
        """See :meth:`Source.mix`."""
        assert self.stored.partner is not None
        assert self.stored.weight is not None
        first = number * self.batch_size
        partners = self.stored.partner[first : first + len(images)].to(self.device)
        box = None if self.stored.box is None else Box(*self.stored.box[number].tolist())
        drawn = DrawnMix(float(self.stored.weight[number]), box)
        return self.mixing.apply(images, partners, drawn)

    def skip(self, count: int, height: int, width: int) -> None:
        """See :meth:`Source.skip`; nothing is drawn."""
