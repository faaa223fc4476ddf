"""LPQLD's labels: the k largest logits of every row, in one folder for all epochs.

``batch_{n}.tar``, with n counted from 0 across epochs, is a list of seven items saved with
``torch.save``:

1. coords float16 (B, 4): the crops, as in FKD's files
2. flip bool (B); for ImageNet-21K, cutout (B, 7)
3. mix_index uint8 (B), or None without mixing
4. lam float
5. bbox: four uint8 tensors
6. the largest logits, float16 (B, k)
7. their classes, int16 (B, k)

Labels that are only pruned, not quantized, have the logits of all classes, float16 (B, C), as the
last of six items. ``sampler_indices_batch.json`` maps n to the images of the batch. If an epoch was
pruned and its last batch is not full, that batch is omitted. Lists of eight items, or of seven that
end with the logits of all classes, contain parameters of RandAugment, which is not replayed.

The files have no value for the other classes. LPQLD's "MR" uses a softmax of the k logits only,
which leaves no mass for other classes.

Source: he-y/soft-label-pruning-quantization-for-dataset-distillation, commit 107c7a5,
``relabel_and_validate/generate_soft_label_pruning_batch.py`` and ``train_FKD_LPQLD.py``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gift_fast.data.labels.batch import FkdBatch
from gift_fast.data.labels.batch_file import (
    as_batch,
    check_coords,
    check_kept_classes,
    check_matrix,
    within_image,
)
from gift_fast.data.labels.folder import BATCH_FILE
from gift_fast.data.labels.image_order import BATCH_ORDER_FILE, read_batch_order
from gift_fast.data.labels.stored_labels import (
    StoredLabels,
    check_arguments,
    check_size,
    drawn,
    spread,
)
from gift_fast.files.fingerprint import fingerprint
from gift_fast.files.pickles import described, load_tensors, numpy_scalars
from gift_fast.loss import TopKLabels

RESTS = {
    "mr": "no mass elsewhere (MR: a softmax of the kept logits alone)",
    "min": "the least kept logit elsewhere",
}
"""Values of the classes that are not stored."""


class LpqldLabels(StoredLabels):
    """A folder of LPQLD's labels; see the module.

    Args:
        folder: contains ``sampler_indices_batch.json``, ``batch_0.tar``, ``batch_1.tar`` and so on.
        labels: (N) int64, the class of every image of the distilled set, in the order of the sorted
            folders and names.
        num_classes: C.
        rest: value of the classes that are not stored: ``mr``, as in LPQLD's training, or ``min``,
            for losses that need a number. (LPQLD's "MRS" uses the smallest of all logits, which is
            not in its files.)
        class_map: (C) int64, the column of the stored logits for each class; None for the same.
        at_random: draws the batches of every epoch, without replacement, from the stored full
            batches, as in LPQLD's training. An epoch with more batches than are stored uses all of
            them before it repeats any. Otherwise, batches are replayed in the order of their
            numbers.
        keep: number of stored batches to use, from the first; None uses all.
        verify: compares labels with classes now; :meth:`verify` does so later.

    Raises:
        FileNotFoundError: the order file, or a batch that it lists, is missing.
        ValueError: an argument is invalid; a file is damaged or has unexpected contents; the labels
            belong to other images.
    """

    batch_size: int

    def __init__(
        self,
        folder: Path | str,
        labels: Tensor,
        num_classes: int,
        *,
        rest: str = "mr",
        class_map: Tensor | None = None,
        at_random: bool = True,
        keep: int | None = None,
        verify: bool = True,
    ) -> None:
        check_arguments(labels, num_classes, class_map)
        if rest not in RESTS:
            raise ValueError(f"rest must be one of {', '.join(RESTS)}, got {rest!r}")
        self.folder = Path(folder)
        self.labels = labels.cpu()
        self.num_classes = num_classes
        self.class_map = None if class_map is None else class_map.cpu()
        self.at_random = at_random
        self.rest = rest

        self._order = read_batch_order(self.folder, len(labels))
        self._sizes = sizes_of(self.folder, set(self._order))
        self.keep = len(self._order) if keep is None else keep
        if not 1 <= self.keep <= len(self._order):
            raise ValueError(
                f"keep must be from 1 to {len(self._order)}, all stored batches, got {keep}"
            )
        self._numbers = list(self._order)[: self.keep]
        self.nbytes = sum(self._sizes[n] for n in self._numbers)
        rows = [len(self._order[n]) for n in self._numbers]
        self.batch_size = max(rows)
        full = len(labels) // self.batch_size
        whole = all(count == self.batch_size for count in rows)
        self.batches = max(full, 1) if at_random or whole else -(-len(labels) // self.batch_size)
        self.images = self.batches * self.batch_size if at_random or whole else len(labels)
        self.epochs = None if at_random else self.keep // self.batches
        if self.epochs == 0:
            raise ValueError(
                f"at_random must be True, because {self.folder} has {self.keep} batches, fewer "
                f"than the {self.batches} of an epoch"
            )
        first = read_quantized(self._path(self._numbers[0]), num_classes)
        self._quantized = len(first) == 7
        self.k = first[5].shape[1]
        whole_row = self.k == num_classes
        self.kind = "logits" if rest == "min" or whole_row else "logits without rest"
        self.form = f"LPQLD, {self.k} of {num_classes} logits in {first[5].dtype}, ".replace(
            "torch.", ""
        ) + (RESTS[rest] if not whole_row else "which are all")
        for number in self._numbers:
            entry = first[5].element_size() + (2 if self._quantized else 0)
            least = len(self._order[number]) * self.k * entry
            check_size(self._path(number), self._sizes[number], least)
        if verify:
            self.verify()

    def fingerprint(self) -> str:
        """See :class:`StoredLabels`."""
        contents = [
            hashlib.sha256(self._path(self._numbers[k]).read_bytes()).hexdigest()
            for k in spread(len(self._numbers))
        ]
        order = [self._order[number] for number in self._numbers]
        sizes = repr([(n, self._sizes[n]) for n in self._numbers])
        draws = "without replacement" if self.at_random else "in order"
        arguments = f"lpqld {self.rest} {draws} {self.keep}"
        class_map = [] if self.class_map is None else [self.class_map]
        return fingerprint([*contents, sizes, arguments, *order, self.labels, *class_map])

    def _path(self, number: int) -> Path:
        return self.folder / f"batch_{number}.tar"

    def _plan(self, epoch: int, seed: int) -> list[int]:
        if not self.at_random:
            return self._numbers[epoch * self.batches : (epoch + 1) * self.batches]
        full = [n for n in self._numbers if len(self._order[n]) == self.batch_size]
        generator = drawn(seed, epoch)
        rounds = -(-self.batches // len(full))
        places = torch.cat([torch.randperm(len(full), generator=generator) for _ in range(rounds)])
        return [full[k] for k in places[: self.batches].tolist()]

    def _read_all(self, plan: Iterable[int]) -> Iterator[FkdBatch]:
        for number in plan:
            yield self._read(number)

    def _read(self, number: int) -> FkdBatch:
        path, index = self._path(number), self._order[number]
        items = read_quantized(path, self.num_classes)
        values = items[5]
        if len(values) != len(index) or values.shape[1] != self.k:
            raise ValueError(
                f"{path} must contain {self.k} logits of {len(index)} images, as in "
                f"{BATCH_ORDER_FILE} and the first file, got {described(values)}"
            )
        if self._quantized != (len(items) == 7):
            raise ValueError(
                f"{path} must contain {7 if self._quantized else 6} items, like the first file, "
                f"got {len(items)}"
            )
        labels: Tensor | TopKLabels = values
        if self._quantized:
            least = values.amin(1)
            rest = least if self.rest == "min" else torch.full_like(least, -torch.inf)
            labels = TopKLabels(values, items[6], rest)
        batch = as_batch(path, items, index)
        labels = self._in_class_order(labels)
        return replace(batch, coords=within_image(batch.coords), logits=labels)

    def _parts(self) -> Iterator[tuple[str, Iterable[int]]]:
        yield "the first batches", self._numbers
        yield "the last batches", self._numbers[::-1]

    def _explain_order(self, where: str) -> str:
        return super()._explain_order(where).replace("the files", BATCH_ORDER_FILE)


def sizes_of(folder: Path, listed: set[int]) -> dict[int, int]:
    """The sizes of the batches' files; raises an error unless the files are the listed ones."""
    with os.scandir(folder) as entries:
        sizes = {
            int(match[1]): entry.stat().st_size
            for entry in entries
            if (match := BATCH_FILE.fullmatch(entry.name))
        }
    if missing := listed - set(sizes):
        raise FileNotFoundError(
            f"{folder} must contain the {len(listed)} batches in {BATCH_ORDER_FILE}, "
            f"batch_{min(missing)}.tar is missing"
        )
    if surplus := set(sizes) - listed:
        raise ValueError(
            f"{folder} must contain only the {len(listed)} batches in {BATCH_ORDER_FILE}, got "
            f"batch_{min(surplus)}.tar"
        )
    return sizes


def read_quantized(path: Path, num_classes: int) -> list[Any]:
    """Read the list in a file and check its length, crops, logits and classes."""
    items = load_tensors(path, numpy_scalars())
    if not isinstance(items, list) or len(items) not in (6, 7, 8):
        got = f"{len(items)} items" if isinstance(items, list) else described(items)
        raise ValueError(f"{path} must contain LPQLD's list of 6 or 7 items, got {got}")
    last = items[-1]
    ends_with_logits = isinstance(last, Tensor) and last.is_floating_point()
    if len(items) == 8 or (len(items) == 7 and ends_with_logits):
        raise ValueError(
            f"{path} must contain labels that can be replayed, got parameters of RandAugment "
            f"(a list of {len(items)} items that ends with {described(last)}), which is not "
            "supported"
        )
    if isinstance(last, Tensor) and last.dtype == torch.int64:
        raise ValueError(
            f"{path} must contain int16 classes as its last item, got {described(last)}, a list of "
            "G-VBSM, whose files are epoch_{e}/batch_{b}.tar"
        )
    check_coords(path, items[0], torch.float16)
    values, rows = items[5], len(items[0])
    k = values.shape[-1] if isinstance(values, Tensor) and values.dim() == 2 else 0
    if not 1 <= k <= num_classes:
        raise ValueError(
            f"{path}: logits must be floating-point ({rows}, k), k from 1 to {num_classes}, got "
            f"{described(values)}"
        )
    if len(items) == 6:
        check_matrix(path, "logits", values, (rows, num_classes))
        return items
    check_matrix(path, "logits", values, (rows, k))
    check_kept_classes(path, last, (rows, k), num_classes)
    return items
