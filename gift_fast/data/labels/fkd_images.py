"""FKD's labels: one file per image, with a few numbers for each of its crops.

A file, ``train/{class folder}/{image}.tar``, is a list [coords, flip, labels] of NumPy arrays saved
with ``torch.save``, for M crops of one image: coords (M, 4), flip bool (M), and labels in one of
these forms:

- hard, (M): the class with the largest probability
- smoothing, (M, 2): that class, and its probability
- MS and MR, (M, 2, k): the k most probable classes, and their probabilities

The labels are float32 (hard ones int64), or float16, which represents class numbers exactly only up
to 2,048. Probabilities are those of a softmax at temperature 1. The other classes have no mass with
hard and MR; smoothing and MS spread the remaining mass evenly over them. The files of MS and MR
with
the same k are equal: MR normalizes the k values to a sum of 1 when they are read.

Source: Shen and Xing, ECCV 2022; szq0214/FKD, commit afd5294, ``FKD_SLG/generate_soft_label.py``
and ``utils_FKD.py``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gift_fast.data.labels.agreement import Agreement, agreement
from gift_fast.data.labels.batch import FkdBatch
from gift_fast.data.labels.batch_file import check_coords, range_of, within_image
from gift_fast.data.labels.stored_labels import (
    ENOUGH_ROWS,
    StoredLabels,
    check_arguments,
    drawn,
    spread,
)
from gift_fast.files.fingerprint import fingerprint
from gift_fast.files.pickles import described, load_tensors, numpy_arrays
from gift_fast.loss import TopKLabels

RESTS = {
    "uniform": "the remaining mass evenly elsewhere",
    "zero": "nothing elsewhere",
}
"""Values of the classes that are not stored."""

LARGEST_HALF = 2048
"""The largest n for which float16 represents all integers up to n exactly."""

READ_BATCH = 64
"""Images per batch if no batch size was chosen, as in an audit."""

COMPARED_IMAGES = 64
"""Number of files, evenly spaced, whose first crops are compared with the images' classes."""


class Crops(NamedTuple):
    """One image's file: coords (M, 4), flip (M), probabilities (M, k) and their classes (M, k).

    ``is_hard`` is whether the file only has classes, whose probabilities are then 1.
    """

    coords: Tensor
    flip: Tensor
    values: Tensor
    indices: Tensor
    is_hard: bool = False


class FkdImageLabels(StoredLabels):
    """A folder of FKD's labels, one file per image; see the module.

    Every epoch uses one random crop of each image, in random order.

    Args:
        folder: contains one folder per class, at any depth, with one file per image.
        labels: (N) int64, the class of every image of the distilled set, in the order of the sorted
            folders and names, which must also be the order of the files.
        num_classes: C.
        rest: value of the classes that are not stored: ``uniform``; or ``zero`` for MR and hard
            labels, which normalizes the k values to a sum of 1. ``auto`` is ``zero`` for hard
            labels, otherwise ``uniform``, FKD's default.
        class_map: (C) int64, the stored class number for each class; None for the same.
        verify: compares labels with classes now; :meth:`verify` does so later.

    Raises:
        FileNotFoundError: there are no files.
        ValueError: an argument is invalid; a file is damaged or has unexpected contents; the
            number of files differs from that of the images, in total or for a class; or the labels
            belong to other images.
    """

    kind = "probabilities"
    temperature = 1.0

    def __init__(
        self,
        folder: Path | str,
        labels: Tensor,
        num_classes: int,
        *,
        rest: str = "auto",
        class_map: Tensor | None = None,
        verify: bool = True,
    ) -> None:
        check_arguments(labels, num_classes, class_map)
        if rest not in ("auto", *RESTS):
            raise ValueError(f"rest must be one of auto, {', '.join(RESTS)}, got {rest!r}")
        self.folder = Path(folder)
        self.labels = labels.cpu()
        self.num_classes = num_classes
        self.class_map = None if class_map is None else class_map.cpu()
        self.epochs = None
        self.images = len(labels)
        self.batch_size = None
        self.batches = -(-self.images // READ_BATCH)

        self._files = files_of(self.folder, self.labels)
        sizes = [file.stat().st_size for file in self._files]
        self.nbytes = sum(sizes)
        names = (file.relative_to(self.folder).as_posix() for file in self._files)
        self._names = [f"{name} {size}" for name, size in zip(names, sizes, strict=True)]
        first = self._read(0)
        self.k = first.values.shape[1]
        self.rest = rest if rest != "auto" else ("zero" if first.is_hard else "uniform")
        self.form = f"FKD, {self.k} of {num_classes} probabilities of each crop, {RESTS[self.rest]}"
        if verify:
            self.verify()

    def fingerprint(self) -> str:
        """See :class:`StoredLabels`."""
        contents = [
            hashlib.sha256(self._files[k].read_bytes()).hexdigest()
            for k in spread(len(self._files))
        ]
        listed = hashlib.sha256("\n".join(self._names).encode()).hexdigest()
        class_map = [] if self.class_map is None else [self.class_map]
        return fingerprint([*contents, listed, f"fkd {self.rest}", self.labels, *class_map])

    def _read(self, image: int) -> Crops:
        return read_crops(self._files[image], self.num_classes)

    def _plan(self, epoch: int, seed: int) -> list[tuple[Tensor, Tensor]]:
        """The images of every batch, and the position of each crop in its image's list, [0, 1)."""
        generator = drawn(seed, epoch)
        order = torch.randperm(self.images, generator=generator)
        place = torch.rand(self.images, generator=generator, dtype=torch.float64)
        size = self.batch_size or READ_BATCH
        return list(zip(order.split(size), place.split(size), strict=True))

    def _read_all(self, plan: Iterable[tuple[Tensor, Tensor]]) -> Iterator[FkdBatch]:
        for index, places in plan:
            rows = []
            for image, place in zip(index.tolist(), places.tolist(), strict=True):
                crops = self._read(image)
                if crops.values.shape[1] != self.k:
                    raise ValueError(
                        f"{self._files[image]} must contain {self.k} probabilities per crop, like "
                        f"{self._files[0].name}, got {crops.values.shape[1]}"
                    )
                rows.append([tensor[int(place * len(tensor))] for tensor in crops[:4]])
            coords, flip, values, indices = map(torch.stack, zip(*rows, strict=True))
            yield self._as_batch(index, Crops(coords, flip, values, indices))

    def _as_batch(self, index: Tensor, crops: Crops) -> FkdBatch:
        values, rest = crops.values, None
        if self.rest == "zero":
            values = values / values.sum(1, keepdim=True)
            rest = torch.zeros_like(values[:, 0])
        return FkdBatch(
            index=index,
            coords=crops.coords,
            flip=crops.flip,
            logits=self._in_class_order(TopKLabels(values, crops.indices, rest)),
            temperature=self.temperature,
        )

    def _parts(self) -> Iterator[tuple[str, Iterable[Any]]]:
        step = max(self.images // COMPARED_IMAGES, 1)
        yield "the first crops", range(0, self.images, step)

    def _agreement(self, plan: Iterable[Any]) -> Agreement:
        """Compare the first crops of evenly spaced images, which covers many classes."""
        images = list(plan)
        most = max(ENOUGH_ROWS // len(images), 1)
        read = ((image, first_crops(self._read(image), most)) for image in images)
        batches = (self._as_batch(torch.full((len(c.flip),), image), c) for image, c in read)
        return agreement(batches, self.labels)


def first_crops(crops: Crops, count: int) -> Crops:
    """The first crops of an image, at most ``count``."""
    coords, flip, values, indices = (tensor[:count] for tensor in crops[:4])
    return Crops(coords, flip, values, indices)


def files_of(folder: Path, labels: Tensor) -> list[Path]:
    """The files of the images in order; raises an error unless every class has one per image."""
    files = sorted(folder.rglob("*.tar"), key=lambda file: (file.parent.name, file.name))
    if not files:
        raise FileNotFoundError(
            f"{folder} must contain one folder per class with one .tar file per image, got no file"
        )
    if len(files) != len(labels):
        raise ValueError(
            f"{folder} must contain one file for each of {len(labels)} images, got {len(files)}"
        )
    classes: dict[str, int] = {}
    for file, label in zip(files, labels.tolist(), strict=True):
        if classes.setdefault(file.parent.name, label) != label:
            raise ValueError(
                f"{folder} must contain one file per image in every class folder; the files in "
                f"{file.parent.name} would belong to the classes {classes[file.parent.name]} and "
                f"{label}"
            )
    if len(set(classes.values())) < len(classes):
        raise ValueError(
            f"{folder} must contain one folder for each of {len(labels.unique())} classes, got "
            f"{len(classes)}"
        )
    return files


def read_crops(path: Path, num_classes: int) -> Crops:
    """Read and check the crops in a file and their labels."""
    import numpy as np

    items = load_tensors(path, numpy_arrays())
    if not isinstance(items, list) or len(items) != 3:
        got = f"{len(items)} items" if isinstance(items, list) else described(items)
        raise ValueError(f"{path} must contain a list of coords, flip and labels, got {got}")
    coords, flip, labels = (
        torch.from_numpy(item.copy()) if isinstance(item, np.ndarray) else item for item in items
    )
    dtype = coords.dtype if isinstance(coords, Tensor) else torch.float32
    check_coords(path, coords, dtype if dtype == torch.float16 else torch.float32)
    crops = len(coords)
    if not isinstance(flip, Tensor) or flip.dtype != torch.bool or flip.shape != (crops,):
        raise ValueError(f"{path}: flip must be bool ({crops}), got {described(flip)}")
    if not isinstance(labels, Tensor) or labels.shape[:1] != (crops,) or not known_form(labels):
        raise ValueError(
            f"{path}: labels must be ({crops}), hard; ({crops}, 2), smoothing; or ({crops}, 2, k), "
            f"MS or MR; got {described(labels)}"
        )
    if labels.dtype == torch.float16 and num_classes - 1 > LARGEST_HALF:
        raise ValueError(
            f"{path}: labels must not be float16 with {num_classes} classes, because class numbers "
            f"are only exact up to {LARGEST_HALF}; store them as float32"
        )
    if labels.dim() == 1:
        named, values = labels.unsqueeze(1), torch.ones(crops, 1)
    else:
        named, values = (part.reshape(crops, -1) for part in labels.unbind(1))
    values = values.float()
    indices = named.long()
    if not torch.equal(indices.to(named.dtype), named) or not (
        0 <= int(indices.min()) <= int(indices.max()) < num_classes
    ):
        raise ValueError(
            f"{path}: classes must be whole numbers from 0 to {num_classes - 1}, got "
            f"{range_of(named)}"
        )
    ranked = indices.sort(dim=1).values
    if (ranked[:, 1:] == ranked[:, :-1]).any():
        raise ValueError(f"{path}: the classes of a crop must be unique")
    # NaN fails the comparisons.
    sums = values.sum(1)
    if not (values.min() >= 0 and sums.min() > 0 and sums.max() < 1 + 2e-3):
        raise ValueError(
            f"{path}: probabilities must be 0 or more and sum to more than 0 and at most 1, got "
            f"values from {range_of(values)} and sums from {sums.min():g} to {sums.max():g}"
        )
    return Crops(within_image(coords), flip, values, indices, is_hard=labels.dim() == 1)


def known_form(labels: Tensor) -> bool:
    """Whether labels have the shape of one of FKD's forms."""
    return labels.dim() == 1 or (
        labels.is_floating_point()
        and labels.dim() in (2, 3)
        and labels.shape[1] == 2
        and labels.numel() > 0
    )
