"""FKD labels: soft labels stored with the augmentation of each batch.

SRe2L's relabeling, and those of CDA, G-VBSM and LPLD after it, write one file per batch,
``epoch_{e}/batch_{b}.tar``; :mod:`~gift_fast.data.labels.batch_file` describes its contents, and
:mod:`~gift_fast.data.labels.image_order` says which images its rows belong to. The labels are
compared with the classes of the images before they are used.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from gift_fast.data.labels.agreement import Agreement, agreement
from gift_fast.data.labels.batch import FkdBatch
from gift_fast.data.labels.batch_file import as_batch, check_indices, range_of, read_items
from gift_fast.data.labels.folder import LabelsFolder, batch_path
from gift_fast.data.labels.image_order import ORDER_FILE, SamplerOrder, read_order_file
from gift_fast.data.labels.read_ahead import read_ahead
from gift_fast.files.fingerprint import fingerprint
from gift_fast.files.pickles import described

SAMPLER_SEED = 42
"""The default of ``--fkd-seed`` in every project that writes these files."""

ENOUGH_ROWS, ENOUGH_FILES = 256, 16
"""A comparison of labels with classes reads files until it reaches one of these numbers."""

SAMPLED = 5
"""Epochs, and batches per epoch, whose files a fingerprint reads: 50 MB of ImageNet-1K."""


class FkdLabels:
    """A folder of FKD labels, read one batch at a time.

    Opening it lists the files, reads a few and compares their labels with ``labels``.

    Args:
        folder: holds ``epoch_0``, ``epoch_1`` and so on.
        labels: (N) int64, the class of every image of the distilled set, in the order of the sorted
            folders and names, as torchvision's ImageFolder lists them.
        num_classes: C.
        seed: seed of the sampler that orders the images of six-item lists.
        class_map: (C) int64, the column of the stored logits for each class, if the teacher that
            computed them had another class order; None for the same order.
        at_random: draws the batches of every epoch, with replacement, from the stored full batches,
            as LPLD trains on pruned labels. Otherwise epochs are replayed as stored.
        keep: number of stored batches to use, from the first, which prunes a folder as LPLD does;
            None uses all.
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

        first = batch_path(self.folder, 0, 0)
        if not first.is_file():
            found = sorted(os.listdir(self.folder))[:5] if self.folder.is_dir() else []
            raise FileNotFoundError(
                f"{self.folder} must hold FKD labels, the first of them in epoch_0/batch_0.tar; "
                f"it holds {', '.join(found) or 'nothing'}"
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
                f"{stored}, all that are stored, got {keep}"
            )
        self.epochs = None if at_random else self.keep // self.batches
        self.images = self.batches * self.batch_size if at_random else self._files.images_of[0]

        self._read(0, self.batches - 1, self._order(0))  # raises if its size is unexpected
        if verify:
            self.verify()

    def __repr__(self) -> str:
        return f"FkdLabels({str(self.folder)!r}, {len(self.labels)} images, epochs={self.epochs})"

    def epoch(self, epoch: int, *, seed: int = 0, start: int = 0) -> Iterator[FkdBatch]:
        """The batches of an epoch, counted from 0; other epochs' files are not read.

        A thread reads up to ``READ_AHEAD`` batches ahead. Its errors are raised here, and it ends
        when the iterator ends or is dropped.

        Args:
            epoch: below ``epochs``.
            seed: seed of the draws with ``at_random``.
            start: number of batches to skip at the beginning; their files are not read.

        Raises:
            IndexError: there is no such epoch.
        """
        if epoch < 0 or (self.epochs is not None and epoch >= self.epochs):
            last = "any number" if self.epochs is None else self.epochs - 1
            raise IndexError(f"epoch must be from 0 to {last}, for {self.folder}, got {epoch}")
        return read_ahead(self._read_all(self._plan(epoch, seed)[start:]))

    def agreement(self, epochs: Iterable[int] = (0,)) -> Agreement:
        """Compares the first labels of stored ``epochs`` with the classes of their images.

        Reads at least 256 labels, unless the epochs or their first 16 files have fewer.
        """
        plan = (
            (epoch, batch) for epoch in epochs for batch in range(self._files.batches_of(epoch))
        )
        return agreement(self._enough(plan), self.labels)

    def verify(self) -> None:
        """Checks that labels and classes agree better than by chance, in epoch 0 and after it.

        Epoch 0 alone is not enough: only later epochs show whether the sampler continued as it
        does here.

        Raises:
            ValueError: they do not; the error names possible reasons.
        """
        stored = range(len(self._files.images_of))
        for where, epochs in (("epoch 0", stored[:1]), ("the epochs from 1 on", stored[1:])):
            if epochs and (found := self.agreement(epochs)).near_chance:
                raise ValueError(self._diagnosis(where, found))

    def fingerprint(self) -> str:
        """A digest of the labels' files and of the arguments.

        The digest covers the names and sizes of all files and the contents of a few: ``SAMPLED``
        batches of ``SAMPLED`` epochs, evenly spaced from the first to the last. Folders may have
        100 GB, so other differences between files of the same size are not noticed.
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
        """Which stored batches, by epoch and number, an epoch consists of."""
        if not self.at_random:
            return [(epoch, batch) for batch in range(self.batches)]
        stored = [divmod(k, self.batches) for k in range(self.keep)]
        full = [place for place in stored if self._files.rows_of(*place) == self.batch_size]
        # Seeded for every epoch, so that a run can resume from any of them.
        digest = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:6], "big"))
        drawn = torch.randint(len(full), (self.batches,), generator=generator)
        return [full[k] for k in drawn.tolist()]

    def _order(self, epoch: int) -> Tensor | None:
        """(N) int64, the images of a stored epoch in order; None where its files say it."""
        if self._items == 7:
            return None
        if self._listed is not None:
            return self._listed[epoch]
        return self._sampler.of_epoch(epoch)

    def _read(self, epoch: int, batch: int, order: Tensor | None) -> FkdBatch:
        path, rows = self._files.path(epoch, batch), self._files.rows_of(epoch, batch)
        items = read_items(path, self.num_classes)
        if len(items) != self._items:
            raise ValueError(
                f"{path} must hold {self._items} items, as the first file, got {len(items)}"
            )
        if len(items[0]) != rows:
            raise ValueError(
                f"{path} must have {rows} rows, as an epoch has {self._files.images_of[epoch]} "
                f"images in batches of {self.batch_size}, got {len(items[0])}"
            )
        if order is None:
            index = check_indices(path, "index", items[6], rows, len(self.labels))
        else:
            index = order[batch * self.batch_size :][:rows]
        loaded = as_batch(path, items, index)
        if self.class_map is not None:
            loaded = replace(loaded, logits=loaded.logits[:, self.class_map])
        return loaded

    def _read_all(self, plan: Iterable[tuple[int, int]]) -> Iterator[FkdBatch]:
        order_of, order = -1, None
        for epoch, batch in plan:
            if epoch != order_of:
                order_of, order = epoch, self._order(epoch)
            yield self._read(epoch, batch, order)

    def _enough(self, plan: Iterable[tuple[int, int]]) -> Iterator[FkdBatch]:
        rows = 0
        for batch in itertools.islice(self._read_all(plan), ENOUGH_FILES):
            yield batch
            rows += len(batch)
            if rows >= ENOUGH_ROWS:
                return

    def _diagnosis(self, where: str, found: Agreement) -> str:
        seen = (
            f"labels in {self.folder} must name the classes of their images, but in {where} "
            f"{found.hits} of {found.rows} do; chance alone gives {found.chance * found.rows:.1f}. "
        )
        if found.classes_are_permuted:
            return seen + (
                "But images of the same class do get labels of the same class, in "
                f"{found.pair_hits / found.pairs:.0%} of pairs where chance gives "
                f"{found.pair_chance:.0%}: the images are in order, and the teacher that computed "
                "the labels numbers the classes differently; --labels-class-map "
                "(labels_class_map), which moves only the columns, fixes that"
            )
        if self._items == 7 or self._listed is not None:
            source = ORDER_FILE if self._items == 6 else "the files"
            return seen + (
                f"The order of the images is read from {source}: these are the labels of another "
                "set, or some images are missing or not sorted by folder and name, or the classes "
                "are in another order"
            )
        before = (
            "" if where == "epoch 0" else "In epoch 0 they do: the sampler continued otherwise. "
        )
        return seen + (
            f"{before}The order of the images is that of RandomSampler in torch "
            f"{torch.__version__} with seed {self.seed} over {len(self.labels)} images sorted by "
            "folder and name. The labels were written with another seed or by a version of torch "
            "that draws differently, or some images are missing or not so sorted, or the classes "
            "are in another order"
        )


def spread(count: int) -> list[int]:
    """Up to ``SAMPLED`` numbers below ``count``, evenly from the first to the last."""
    return sorted({k * (count - 1) // (SAMPLED - 1) for k in range(SAMPLED)})


def check_arguments(labels: Tensor, num_classes: int, class_map: Tensor | None) -> None:
    """Raises ValueError if labels or class map are not those of ``num_classes`` classes."""
    if labels.dim() != 1 or labels.dtype != torch.int64 or len(labels) == 0:
        raise ValueError(f"labels must be int64 (N), N >= 1, got {described(labels)}")
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise ValueError(f"labels must be from 0 to {num_classes - 1}, got {range_of(labels)}")
    if class_map is not None and class_map.sort().values.tolist() != list(range(num_classes)):
        raise ValueError(
            f"class_map must hold every class from 0 to {num_classes - 1} once, got "
            f"{described(class_map)} with {len(class_map.unique())} different values"
        )
