"""FKD labels: soft labels stored with the augmentation of each batch.

SRe2L's relabeling, like that of CDA, G-VBSM and LPLD, writes one file per batch,
``epoch_{e}/batch_{b}.tar``; :mod:`~gift_fast.data.labels.batch_file` describes its contents, and
:mod:`~gift_fast.data.labels.image_order` determines the images of its rows. The labels are compared
with the classes of the images before they are used.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from gift_fast.data.labels.agreement import Agreement
from gift_fast.data.labels.batch import FkdBatch
from gift_fast.data.labels.batch_file import as_batch, check_indices, read_items
from gift_fast.data.labels.folder import LabelsFolder, batch_path
from gift_fast.data.labels.image_order import (
    ORDER_FILE,
    SAMPLER_SEED,
    SamplerOrder,
    order_of_sampler,
    read_order_file,
)
from gift_fast.data.labels.stored_labels import StoredLabels, check_arguments, drawn, spread
from gift_fast.files.fingerprint import fingerprint


class FkdLabels(StoredLabels):
    """A folder of FKD labels, read one batch at a time.

    Opening it lists the files, reads a few and compares their labels with ``labels``.

    Args:
        folder: contains ``epoch_0``, ``epoch_1`` and so on.
        labels: (N) int64, the class of every image of the distilled set, in the order of
            torchvision's ImageFolder.
        num_classes: C.
        seed: seed of the sampler that orders the images of six-item lists.
        class_map: (C) int64, the column of the stored logits for each class, if the teacher that
            computed them had another class order; None for the same order.
        at_random: draws the batches of every epoch, with replacement, from the stored full batches,
            as in LPLD's training on pruned labels. Otherwise epochs are replayed as stored.
        keep: number of stored batches to use, from the first, as in LPLD's pruning; None uses all.
        verify: compares labels with classes now; :meth:`verify` and :meth:`agreement` do so later.

    Attributes:
        epochs: number of epochs; None with ``at_random``, which has no limit.
        batches: number of batches per epoch.
        images: number of images per epoch, over all batches.
        batch_size: number of images per batch; the last batch of an epoch may have fewer.
        nbytes: size of all files.

    Raises:
        FileNotFoundError: there are no labels, or an epoch or a batch is missing.
        ValueError: an argument is invalid; a file is damaged or has unexpected contents; the files
            are for another number of images or classes; the labels belong to other images.
    """

    batch_size: int

    def __init__(
        self,
        folder: Path | str,
        labels: Tensor,
        num_classes: int,
        *,
        seed: int = SAMPLER_SEED,
        class_map: Tensor | None = None,
        at_random: bool = False,
        keep: int | None = None,
        verify: bool = True,
    ) -> None:
        check_arguments(labels, num_classes, class_map)
        self.folder = Path(folder)
        self.labels = labels.cpu()
        self.num_classes = num_classes
        self.seed = seed
        self.class_map = None if class_map is None else class_map.cpu()
        self.at_random = at_random
        self.form = f"logits of all {num_classes} classes"

        first = batch_path(self.folder, 0, 0)
        if not first.is_file():
            found = sorted(os.listdir(self.folder))[:5] if self.folder.is_dir() else []
            raise FileNotFoundError(
                f"{self.folder} must contain FKD labels, starting with epoch_0/batch_0.tar, "
                f"got {', '.join(found) or 'an empty folder'}"
            )
        items = read_items(first, num_classes)
        self.batch_size = len(items[0])
        self._items = len(items)
        self._listed = read_order_file(self.folder, len(labels)) if self._items == 6 else None
        self._sampler = SamplerOrder(len(labels), seed)
        self._files = LabelsFolder(
            self.folder,
            num_images=len(labels),
            batch_size=self.batch_size,
            bytes_per_row=num_classes * items[5].element_size(),
            images_listed=None if self._listed is None else [len(order) for order in self._listed],
        )
        self.nbytes = self._files.nbytes
        self.batches = self._files.batches_of(0)
        stored = sum(map(self._files.batches_of, range(len(self._files.images_of))))
        least = 1 if at_random else self.batches
        self.keep = stored if keep is None else keep
        if not least <= self.keep <= stored:
            raise ValueError(
                f"keep must be from {least}, {'one batch' if at_random else 'one epoch'}, to "
                f"{stored}, all stored batches, got {keep}"
            )
        self.epochs = None if at_random else self.keep // self.batches
        self.images = self.batches * self.batch_size if at_random else self._files.images_of[0]

        self._read(0, self.batches - 1, self._order(0))  # raises if its size is unexpected
        if verify:
            self.verify()

    def agreement(self, epochs: Iterable[int] = (0,)) -> Agreement:
        """Compare the first labels of stored ``epochs`` with the classes of their images.

        Reads at least 256 labels, unless the epochs or their first 16 files have fewer.
        """
        plan = (
            (epoch, batch) for epoch in epochs for batch in range(self._files.batches_of(epoch))
        )
        return self._agreement(plan)

    def _parts(self) -> Iterator[tuple[str, Iterable[tuple[int, int]]]]:
        # Only later epochs show whether the sampler continued in the same way.
        stored = range(len(self._files.images_of))
        for where, epochs in (("epoch 0", stored[:1]), ("the epochs from 1 on", stored[1:])):
            if epochs:
                yield where, ((e, b) for e in epochs for b in range(self._files.batches_of(e)))

    def fingerprint(self) -> str:
        """A digest of the labels' files and of the arguments.

        The digest covers the names and sizes of all files and the contents of a few: ``SAMPLED``
        batches of ``SAMPLED`` epochs, evenly spaced from the first to the last. Folders can have
        100 GB, so differences in other files of the same size are not detected.
        """
        contents = [
            hashlib.sha256(self._files.path(epoch, batch).read_bytes()).hexdigest()
            for epoch in spread(len(self._files.images_of))
            for batch in spread(self._files.batches_of(epoch))
        ]
        arguments = f"{self.seed} {self.at_random} {self.keep}"
        class_map = [] if self.class_map is None else [self.class_map]
        return fingerprint([*contents, *self._files.digests, arguments, self.labels, *class_map])

    def _plan(self, epoch: int, seed: int) -> list[tuple[int, int]]:
        """The stored batches of an epoch, by stored epoch and number."""
        if not self.at_random:
            return [(epoch, batch) for batch in range(self.batches)]
        stored = [divmod(k, self.batches) for k in range(self.keep)]
        full = [place for place in stored if self._files.rows_of(*place) == self.batch_size]
        places = torch.randint(len(full), (self.batches,), generator=drawn(seed, epoch))
        return [full[k] for k in places.tolist()]

    def _order(self, epoch: int) -> Tensor | None:
        """(N) int64, the images of a stored epoch in order; None if its files contain them."""
        if self._items > 6:
            return None
        if self._listed is not None:
            return self._listed[epoch]
        return self._sampler.of_epoch(epoch)

    def _read(self, epoch: int, batch: int, order: Tensor | None) -> FkdBatch:
        path, rows = self._files.path(epoch, batch), self._files.rows_of(epoch, batch)
        items = read_items(path, self.num_classes)
        if len(items) != self._items:
            raise ValueError(
                f"{path} must contain {self._items} items, like the first file, got {len(items)}"
            )
        if len(items[0]) != rows:
            raise ValueError(
                f"{path} must have {rows} rows, because an epoch has "
                f"{self._files.images_of[epoch]} images in batches of {self.batch_size}, "
                f"got {len(items[0])}"
            )
        if order is None:
            index = check_indices(path, "index", items[6], rows, len(self.labels))
        else:
            index = order[batch * self.batch_size :][:rows]
        loaded = as_batch(path, items, index)
        return replace(loaded, logits=self._in_class_order(loaded.logits))

    def _read_all(self, plan: Iterable[tuple[int, int]]) -> Iterator[FkdBatch]:
        order_of, order = -1, None
        for epoch, batch in plan:
            if epoch != order_of:
                order_of, order = epoch, self._order(epoch)
            yield self._read(epoch, batch, order)

    def _explain_order(self, where: str) -> str:
        if self._items > 6 or self._listed is not None:
            source = ORDER_FILE if self._items == 6 else "the files"
            return super()._explain_order(where).replace("the files", source)
        return order_of_sampler(self.seed, len(self.labels), where)
