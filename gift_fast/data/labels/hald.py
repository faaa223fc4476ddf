"""HALD's labels: one file per epoch, with probabilities.

``epoch_{e}.tar`` is a list of batches saved with ``torch.save``, each a list with the six items of
FKD's files: coords float16, flip, mix_index, lam, bbox, and float16 probabilities (B, C) instead of
logits, after a softmax at a temperature that is not in the file. ``sampler_indices_dict.pt`` maps
"0", "1" and so on to the images of that epoch in order. Without it, the order of epoch e is a
permutation with the seed 42 + e, as in HALD's code.

Source: Jiacheng8/HALD, commit ffbca04, ``relabel/relabel_slc.py`` and ``validate/train_fkd.py``.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gift_fast.data.labels.batch import FkdBatch
from gift_fast.data.labels.batch_file import as_batch, check_coords, check_matrix, within_image
from gift_fast.data.labels.image_order import HALD_ORDER_FILE, SAMPLER_SEED, read_hald_order
from gift_fast.data.labels.stored_labels import StoredLabels, check_arguments, check_size, spread
from gift_fast.files.fingerprint import fingerprint
from gift_fast.files.pickles import described, load_tensors, numpy_scalars

EPOCH_FILE = re.compile(r"epoch_(\d+)\.tar")

ROUNDING = 1e-2
"""Tolerance for the sum of a row of C float16 probabilities."""


class HaldLabels(StoredLabels):
    """A folder of HALD's labels; see the module.

    The files are memory-mapped, so a batch is read from disk when it is needed.

    Args:
        folder: contains ``epoch_0.tar``, ``epoch_1.tar`` and so on.
        labels: (N) int64, the class of every image of the distilled set, in the order of the sorted
            folders and names.
        num_classes: C.
        temperature: of the softmax that gave the probabilities.
        seed: of the order of the images, if no file has it, and of the order of the batches.
        class_map: (C) int64, the column of the stored labels for each class; None for the same.
        at_random: draws the batches of every epoch, without replacement, from those of all stored
            epochs; after all of them, drawing starts over. HALD's code also draws the same batches
            in every run, but starts over at the first and after the last hard epoch, too.
            Otherwise, epochs are replayed as stored, and repeated after the last one.
        verify: compares labels with classes now; :meth:`verify` does so later.

    Raises:
        FileNotFoundError: an epoch is missing.
        ValueError: an argument is invalid; a file is damaged or has unexpected contents; the labels
            belong to other images.
    """

    batch_size: int
    kind = "probabilities"

    def __init__(
        self,
        folder: Path | str,
        labels: Tensor,
        num_classes: int,
        *,
        temperature: float = 20.0,
        seed: int = SAMPLER_SEED,
        class_map: Tensor | None = None,
        at_random: bool = True,
        verify: bool = True,
    ) -> None:
        check_arguments(labels, num_classes, class_map)
        if not 0.0 < temperature < math.inf:
            raise ValueError(f"temperature must be positive and finite, got {temperature}")
        self.folder = Path(folder)
        self.labels = labels.cpu()
        self.num_classes = num_classes
        self.temperature = temperature
        self.seed = seed
        self.class_map = None if class_map is None else class_map.cpu()
        self.at_random = at_random
        self.epochs = None
        self.form = (
            f"HALD, probabilities of all {num_classes} classes at temperature {temperature:g}"
        )

        self._sizes = epochs_in(self.folder)
        self.nbytes = sum(self._sizes)
        self._listed = read_hald_order(self.folder, len(labels), len(self._sizes))
        first = read_epoch(self._path(0))
        self.batch_size = rows_of(self._path(0), first[0])
        full = len(labels) // self.batch_size
        # The last batch of an epoch may be dropped if it is not full, as in LPLD.
        whole = len(first) == full
        self.images = full * self.batch_size if whole else len(labels)
        self.batches = -(-self.images // self.batch_size)
        for epoch, size in enumerate(self._sizes):
            check_size(self._path(epoch), size, 2 * self.images * num_classes)
        self._check_count(0, first)
        # Raises if its size is unexpected.
        self._as_batch(0, self.batches - 1, first[-1], self._order(0))
        if verify:
            self.verify()

    def fingerprint(self) -> str:
        """See :class:`StoredLabels`; up to ``SAMPLED`` files are read completely."""
        contents = [
            hashlib.sha256(self._path(epoch).read_bytes()).hexdigest()
            for epoch in spread(len(self._sizes))
        ]
        draws = "all epochs at random" if self.at_random else "in order"
        arguments = f"hald {self.temperature} {self.seed} {self._sizes} {draws}"
        class_map = [] if self.class_map is None else [self.class_map]
        return fingerprint([*contents, arguments, self.labels, *(self._listed or []), *class_map])

    def _path(self, epoch: int) -> Path:
        return self.folder / f"epoch_{epoch}.tar"

    def _order(self, epoch: int) -> Tensor:
        """(N) int64, the images of a stored epoch in order."""
        if self._listed is not None:
            return self._listed[epoch]
        generator = torch.Generator().manual_seed(self.seed + epoch)
        return torch.randperm(len(self.labels), generator=generator)

    def _plan(self, epoch: int, seed: int) -> list[tuple[int, int]]:
        drawing, place = divmod(epoch, len(self._sizes))
        if not self.at_random:
            return [(place, batch) for batch in range(self.batches)]
        generator = torch.Generator().manual_seed(self.seed + drawing)
        drawn = torch.randperm(self.batches * len(self._sizes), generator=generator)
        mine = drawn[place * self.batches :][: self.batches].tolist()
        return [divmod(number, self.batches) for number in mine]

    def _read_all(self, plan: Iterable[tuple[int, int]]) -> Iterator[FkdBatch]:
        opened: dict[int, tuple[list[Any], Tensor]] = {}
        for epoch, batch in plan:
            if epoch not in opened:
                batches = read_epoch(self._path(epoch))
                self._check_count(epoch, batches)
                opened[epoch] = batches, self._order(epoch)
            batches, order = opened[epoch]
            yield self._as_batch(epoch, batch, batches[batch], order)

    def _check_count(self, epoch: int, batches: list[Any]) -> None:
        if len(batches) != self.batches:
            raise ValueError(
                f"{self._path(epoch)} must contain {self.batches} batches of {self.batch_size} "
                f"for {self.images} images, got {len(batches)}"
            )

    def _as_batch(self, epoch: int, number: int, items: Any, order: Tensor) -> FkdBatch:
        path = self._path(epoch)
        index = order[: self.images][number * self.batch_size :][: self.batch_size]
        if (rows := rows_of(path, items)) != len(index):
            raise ValueError(
                f"{path}: batch {number} must have {len(index)} rows, because an epoch has "
                f"{self.images} images in batches of {self.batch_size}, got {rows}"
            )
        probabilities = items[5]
        check_matrix(path, "probabilities", probabilities, (rows, self.num_classes))
        sums = probabilities.float().sum(1)
        if probabilities.min() < 0 or (sums - 1).abs().max() > ROUNDING:
            raise ValueError(
                f"{path}: labels must be probabilities, with rows that sum to 1, got sums from "
                f"{sums.min():g} to {sums.max():g}; read logits as FKD labels"
            )
        batch = as_batch(path, items, index)
        return replace(
            batch,
            coords=within_image(batch.coords),
            logits=self._in_class_order(batch.logits),
            temperature=self.temperature,
        )

    def _parts(self) -> Iterator[tuple[str, Iterable[tuple[int, int]]]]:
        # Only later epochs show whether their order follows the same rule as that of epoch 0.
        stored = range(len(self._sizes))
        for where, epochs in (("epoch 0", stored[:1]), ("the epochs from 1 on", stored[1:])):
            if epochs:
                yield where, ((e, b) for e in epochs for b in range(self.batches))

    def _explain_order(self, where: str) -> str:
        if self._listed is not None:
            return super()._explain_order(where).replace("the files", HALD_ORDER_FILE)
        return (
            f"There is no {HALD_ORDER_FILE}, so the order of the images is torch.randperm of "
            f"{len(self.labels)} images with the seed {self.seed} plus the epoch. The labels were "
            "written with another seed or by a version of torch that draws differently, or some "
            "images are missing or not sorted by folder and name, or the classes have another "
            "order"
        )


def epochs_in(folder: Path) -> list[int]:
    """The sizes of the epochs' files."""
    found = {
        int(match[1]): (folder / name).stat().st_size
        for name in (os.listdir(folder) if folder.is_dir() else ())
        if (match := EPOCH_FILE.fullmatch(name))
    }
    count = max(found, default=0) + 1
    if missing := sorted(set(range(count)) - set(found)):
        raise FileNotFoundError(
            f"{folder} must contain HALD's epoch_{missing[0]}.tar"
            + (f", because it has epoch_{count - 1}.tar" if found else "")
        )
    return [found[epoch] for epoch in range(count)]


def read_epoch(path: Path) -> list[Any]:
    """Read the batches in a file; their contents are checked later."""
    batches = load_tensors(path, numpy_scalars(), mapped=True)
    if not isinstance(batches, list) or not batches:
        raise ValueError(f"{path} must contain a list of batches, got {described(batches)}")
    return batches


def rows_of(path: Path, items: Any) -> int:
    """Check the length and the crops of a batch and return the number of its rows."""
    if not isinstance(items, list) or len(items) != 6:
        got = f"{len(items)} items" if isinstance(items, list) else described(items)
        raise ValueError(f"{path}: every batch must be a list of 6 items, got {got}")
    check_coords(path, items[0], torch.float16)
    return len(items[0])
