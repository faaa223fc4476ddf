"""The base class of readers of stored soft labels."""

from __future__ import annotations

import abc
import copy
import hashlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from gift_fast.data.labels.agreement import Agreement, agreement
from gift_fast.data.labels.batch import FkdBatch
from gift_fast.data.labels.batch_file import range_of
from gift_fast.data.labels.read_ahead import read_ahead
from gift_fast.files.pickles import described
from gift_fast.loss import TopKLabels

Kind = Literal["logits", "logits without rest", "probabilities"]
"""The kinds of stored labels: the teacher's logits; the largest logits, of a softmax without the
other classes; or probabilities, after a softmax."""

ENOUGH_ROWS, ENOUGH_FILES = 256, 16
"""A comparison of labels with classes reads files until it reaches one of these numbers."""

SAMPLED = 5
"""Number of files per list whose contents a fingerprint covers."""


class StoredLabels(abc.ABC):
    """Soft labels that are stored with the augmentation of their images; read batch by batch.

    Attributes:
        folder: of the files.
        labels: (N) int64, the class of every image of the distilled set.
        num_classes: C.
        class_map: (C) int64, the column of the stored labels for each class, or None.
        epochs: number of epochs; None without a limit.
        batches: number of batches per epoch.
        images: number of images per epoch, over all batches.
        batch_size: number of images per batch; the last batch of an epoch may have fewer. None if
            the files do not determine it; :meth:`in_batches` does.
        nbytes: size of all files.
        kind: what the labels are.
        temperature: of the softmax, if the labels are probabilities; None for logits.
        form: a description of what is stored and of the value of the classes that are not.
    """

    folder: Path
    labels: Tensor
    num_classes: int
    class_map: Tensor | None
    epochs: int | None
    batches: int
    images: int
    batch_size: int | None
    nbytes: int
    kind: Kind = "logits"
    temperature: float | None = None
    form: str

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"{name}({str(self.folder)!r}, {len(self.labels)} images, epochs={self.epochs})"

    def epoch(self, epoch: int, *, seed: int = 0, start: int = 0) -> Iterator[FkdBatch]:
        """The batches of an epoch, counted from 0; other epochs' files are not read.

        A thread reads up to ``READ_AHEAD`` batches ahead. Its errors are raised here, and it ends
        when the iterator ends or is garbage-collected.

        Args:
            epoch: below ``epochs``.
            seed: of random choices of batches.
            start: number of batches to skip at the beginning; their files are not read.

        Raises:
            IndexError: there is no such epoch.
        """
        if epoch < 0 or (self.epochs is not None and epoch >= self.epochs):
            last = "any number" if self.epochs is None else self.epochs - 1
            raise IndexError(f"epoch must be from 0 to {last} for {self.folder}, got {epoch}")
        return read_ahead(self._read_all(self._plan(epoch, seed)[start:]))

    def in_batches(self, batch_size: int) -> StoredLabels:
        """The same labels in batches of this size, if the files do not determine it.

        Raises:
            ValueError: they determine another size.
        """
        if self.batch_size not in (None, batch_size):
            raise ValueError(f"batch_size must be that of the files, {self.batch_size}")
        if self.batch_size == batch_size:
            return self
        other = copy.copy(self)
        other.batch_size = batch_size
        other.batches = -(-self.images // batch_size)
        return other

    def verify(self) -> None:
        """Check that labels and classes agree better than by chance, in every part of the files.

        Raises:
            ValueError: they do not; the message states possible reasons.
        """
        for where, plan in self._parts():
            if (found := self._agreement(plan)).near_chance:
                raise ValueError(self._diagnosis(where, found))

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """A digest of the labels' files and of the arguments.

        The digest covers the names and sizes of all files and the contents of a few.
        """

    @abc.abstractmethod
    def _plan(self, epoch: int, seed: int) -> list[Any]:
        """Which batches an epoch consists of."""

    @abc.abstractmethod
    def _read_all(self, plan: Iterable[Any]) -> Iterator[FkdBatch]:
        """Read batches of a plan."""

    @abc.abstractmethod
    def _parts(self) -> Iterable[tuple[str, Iterable[Any]]]:
        """The parts of the files to compare with classes: a name for messages, and a plan."""

    def _explain_order(self, where: str) -> str:
        """Explain how the order of the images is determined and why it may be wrong."""
        return (
            "The order of the images is read from the files: these are the labels of another set, "
            "or some images are missing or not sorted by folder and name, or the classes have "
            "another order"
        )

    def _agreement(self, plan: Iterable[Any]) -> Agreement:
        return agreement(self._enough(plan), self.labels)

    def _enough(self, plan: Iterable[Any]) -> Iterator[FkdBatch]:
        rows = 0
        for batch in itertools.islice(self._read_all(plan), ENOUGH_FILES):
            yield batch
            rows += len(batch)
            if rows >= ENOUGH_ROWS:
                return

    def _diagnosis(self, where: str, found: Agreement) -> str:
        seen = (
            f"labels in {self.folder} must predict the classes of their images, but in {where} "
            f"{found.hits} of {found.rows} do; by chance, {found.chance * found.rows:.1f} would. "
        )
        if found.classes_are_permuted:
            return seen + (
                "But images of the same class have labels of the same class in "
                f"{found.pair_hits / found.pairs:.0%} of pairs, by chance in "
                f"{found.pair_chance:.0%}: the order of the images is right, but the teacher that "
                "computed the labels has another class order; correct the columns with "
                "--labels-class-map (labels_class_map)"
            )
        return seen + self._explain_order(where)

    def _in_class_order(self, labels: Tensor | TopKLabels) -> Tensor | TopKLabels:
        """Put the classes of stored labels in the order of ``class_map``."""
        if self.class_map is None:
            return labels
        if isinstance(labels, Tensor):
            return labels[:, self.class_map]
        class_of_column = self.class_map.argsort().to(labels.indices.dtype)
        return labels._replace(indices=class_of_column[labels.indices.long()])


def drawn(seed: int, epoch: int) -> torch.Generator:
    """A random number generator for one epoch, so that a run can resume from any epoch."""
    digest = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:6], "big"))


def spread(count: int) -> list[int]:
    """Up to ``SAMPLED`` evenly spaced numbers from 0 to ``count - 1``."""
    return sorted({k * (count - 1) // (SAMPLED - 1) for k in range(SAMPLED)})


def check_arguments(labels: Tensor, num_classes: int, class_map: Tensor | None) -> None:
    """Raise ValueError if labels or class map are not those of ``num_classes`` classes."""
    if labels.dim() != 1 or labels.dtype != torch.int64 or len(labels) == 0:
        raise ValueError(f"labels must be int64 (N), N >= 1, got {described(labels)}")
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise ValueError(f"labels must be from 0 to {num_classes - 1}, got {range_of(labels)}")
    if class_map is not None and class_map.sort().values.tolist() != list(range(num_classes)):
        raise ValueError(
            f"class_map must have every class from 0 to {num_classes - 1} once, got "
            f"{described(class_map)} with {len(class_map.unique())} different values"
        )


def check_size(path: Path, size: int, least: int) -> None:
    """Raise ValueError if a file is smaller than its labels."""
    if size < least:
        raise ValueError(
            f"{path} must have at least {least} bytes, the size of its labels, got {size}; the "
            "file may be incomplete, copy it again"
        )
