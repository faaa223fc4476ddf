"""FKD labels: soft labels stored a batch at a time, with the augmentation that they belong to.

SRe2L's relabelling, and those of CDA, G-VBSM and LPLD after it, write one file a batch,
``epoch_{e}/batch_{b}.tar``: a list saved with ``torch.save``, whatever its name says, of

1. coords float32 (B, 4): top, left, height and width of the crops, as parts of the image's sides
2. flip bool (B); in LPLD's labels of ImageNet-21K, which flips nothing, cutout float32 (B, 7)
3. mix_index int64 (B): which image of the batch is mixed into each; None without mixing
4. lam float: what each image keeps under mixup; None without mixing
5. bbox: first row, first column, end row, end column of what cutmix replaces; None under mixup
6. logits float16 or float32 (B, C)
7. index int64 (B): which images the batch holds; only G-VBSM's lists have it

A list of six items does not say which images its rows belong to. They come in the order of a
``torch.utils.data.RandomSampler`` whose generator is seeded once and runs on from epoch to epoch,
so that very class is run here; LPLD also writes the order down in ``sampler_indices_epoch.json``.
Whatever says it, the labels are compared with the classes of the images before they are used.

Sources: VILA-Lab/SRe2L (``relabel/utils_fkd.py``), shaoshitong/G_VBSM_Dataset_Condensation,
he-y/soft-label-pruning-for-dataset-distillation (LPLD). FKD: Shen and Xing, ECCV 2022.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import operator
import os
import queue
import re
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import RandomSampler

from gift_fast.data.labels.replay import Box, FkdBatch, replay
from gift_fast.files.fingerprint import fingerprint
from gift_fast.files.pickles import described, load_tensors, numpy_scalars
from gift_fast.files.texts import read_json

__all__ = ["Agreement", "FkdBatch", "FkdLabels", "agreement", "replay"]

SAMPLER_SEED = 42
"""``--fkd-seed`` of every project that writes these files."""

READ_AHEAD = 4
"""Batches that wait in memory while the network trains on another."""

ENOUGH_ROWS, ENOUGH_FILES = 256, 16
"""A comparison of labels with classes ends with the file that reaches one of these."""

SAMPLED = 5
"""Epochs, and batches of each, whose files a fingerprint reads whole: 50 MB of ImageNet-1K."""

SIGNIFICANCE = 0.01
"""An agreement that chance reaches more often than this is none."""

EPOCH_FOLDER = re.compile(r"epoch_(\d+)")
BATCH_FILE = re.compile(r"batch_(\d+)\.tar")
ORDER_FILE = "sampler_indices_epoch.json"

T = TypeVar("T")


@dataclass(frozen=True)
class Agreement:
    """How far stored labels name the classes of the images that they are said to belong to.

    Attributes:
        rows: labels that were compared.
        hits: those whose largest logit is the image's class, or that of the image mixed in.
        chance: the part of hits if the same labels were dealt to the same images at random.
        pairs: pairs of images of one class.
        pair_hits: those whose labels name one class, whichever it is.
        pair_chance: the part of all pairs of labels that name one class.
    """

    rows: int
    hits: int
    chance: float
    pairs: int
    pair_hits: int
    pair_chance: float

    @property
    def share(self) -> float:
        """The part of the labels that are hits."""
        return self.hits / self.rows

    @property
    def near_chance(self) -> bool:
        """Labels dealt at random would do as well in more than one of a hundred cases.

        False where so few labels were compared that even full agreement would tell nothing.
        """
        if self.chance**self.rows > SIGNIFICANCE:
            return False
        return _binomial_tail(self.rows, self.hits, self.chance) > SIGNIFICANCE

    @property
    def classes_are_permuted(self) -> bool:
        """Images of one class get labels of one class, but of which is near chance."""
        # Pairs of many images of few classes depend on each other: the binomial alone is too sure.
        return (
            self.near_chance
            and self.pair_hits > 1.25 * self.pair_chance * self.pairs
            and _binomial_tail(self.pairs, self.pair_hits, self.pair_chance) < SIGNIFICANCE
        )


def _binomial_tail(trials: int, successes: int, chance: float) -> float:
    """Probability of at least so many successes."""
    if successes <= 0 or chance >= 1.0:
        return 1.0
    if chance <= 0.0:
        return 0.0

    def log_of_ways(k: int) -> float:
        return math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)

    return math.fsum(
        math.exp(log_of_ways(k) + k * math.log(chance) + (trials - k) * math.log1p(-chance))
        for k in range(successes, trials + 1)
    )


def agreement(batches: Iterable[FkdBatch], labels: Tensor) -> Agreement:
    """Compares stored labels with the classes of the images that they are said to belong to.

    Args:
        batches: at least one.
        labels: (N) int64, the class of every image of the distilled set.

    Example:
        >>> batch = FkdBatch(
        ...     index=torch.tensor([2, 0]),
        ...     coords=torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(2, 1),
        ...     flip=torch.tensor([False, False]),
        ...     logits=torch.tensor([[0.0, 3.0], [0.0, 3.0]]),
        ... )
        >>> agreement([batch], labels=torch.tensor([0, 1, 1])).share
        0.5
    """
    named, own, mixed_in = [], [], []
    for batch in batches:
        target = labels[batch.index]
        named.append(batch.logits.float().argmax(1))
        own.append(target)
        mixed_in.append(target if batch.mix_index is None else target[batch.mix_index])
    says, first, second = torch.cat(named), torch.cat(own), torch.cat(mixed_in)
    classes = 1 + int(torch.cat([says, first, second]).max())
    # In how many rows a label that names the class would be a hit.
    targets = first.bincount(minlength=classes)
    targets = targets + second[second != first].bincount(minlength=classes)

    def pairs(groups: Tensor) -> int:
        sizes = groups.unique(return_counts=True)[1]
        return int((sizes * (sizes - 1) // 2).sum())

    rows = len(says)
    return Agreement(
        rows=rows,
        hits=int(((says == first) | (says == second)).sum()),
        chance=float(targets[says].double().mean()) / rows,
        pairs=pairs(first),
        pair_hits=pairs(first * classes + says),
        pair_chance=pairs(says) / max(math.comb(rows, 2), 1),
    )


class FkdLabels:
    """A folder of FKD labels, read a batch at a time; the top of this file has the format.

    Opening it lists the files, reads a few and compares their labels with ``labels``.

    Args:
        folder: holds ``epoch_0``, ``epoch_1`` and so on.
        labels: (N) int64, the class of every image of the distilled set, in the order of the sorted
            folders and names, as torchvision's ImageFolder lists them.
        num_classes: C.
        seed: of the sampler whose order six-item lists follow.
        class_map: (C) int64, the column of the stored logits that belongs to each class, where the
            teacher that wrote them numbers the classes differently; None for the same numbers.
        at_random: every epoch draws its batches, with replacement, from the stored ones that are
            full, as LPLD trains on pruned labels. Otherwise epochs come as they were stored.
        keep: only the first so many stored batches are used, which prunes a full folder as LPLD
            does; None for all.
        verify: compares labels with classes; :meth:`verify` and :meth:`agreement` do so later.

    Attributes:
        epochs: how many there are; None for any number (``at_random``).
        batches: of an epoch.
        images: of an epoch, over all its batches.
        batch_size: images of a batch, but for the last of an epoch, which may have fewer.
        nbytes: size of all files.

    Raises:
        FileNotFoundError: there are no labels, or an epoch or a batch is missing.
        ValueError: an argument is wrong; a file is damaged or holds something else than expected;
            the files are for another number of images or classes; the labels are not the images'.
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
        _check_arguments(labels, num_classes, class_map)
        self.folder = Path(folder)
        self.labels = labels.cpu()
        self.num_classes = num_classes
        self.seed = seed
        self.class_map = None if class_map is None else class_map.cpu()
        self.at_random = at_random

        first = self._path(0, 0)
        if not first.is_file():
            found = sorted(os.listdir(self.folder))[:5] if self.folder.is_dir() else []
            raise FileNotFoundError(
                f"{self.folder} must hold FKD labels, the first of them in epoch_0/batch_0.tar; "
                f"it holds {', '.join(found) or 'nothing'}"
            )
        items = _read_items(first, num_classes)
        self.batch_size = len(items[0])
        self._items = len(items)
        self._listed = _listed_order(self.folder, len(labels)) if self._items == 6 else None
        self._generator_states = [torch.Generator().manual_seed(seed).get_state()]
        self._lock = threading.Lock()

        self._images_of: list[int] = []
        self._digests: list[str] = []
        self.nbytes = 0
        self._list_files(bytes_a_row=num_classes * items[5].element_size())
        self.batches = self._batches_of(0)
        stored = sum(map(self._batches_of, range(len(self._images_of))))
        least = 1 if at_random else self.batches
        self.keep = stored if keep is None else keep
        if not least <= self.keep <= stored:
            raise ValueError(
                f"keep must be from {least}, {'one batch' if at_random else 'one epoch'}, to "
                f"{stored}, all that are stored, got {keep}"
            )
        self.epochs = None if at_random else self.keep // self.batches
        self.images = self.batches * self.batch_size if at_random else self._images_of[0]

        self._read(0, self.batches - 1, self._order(0))  # its size tells for how many images
        if verify:
            self.verify()

    def __repr__(self) -> str:
        return f"FkdLabels({str(self.folder)!r}, {len(self.labels)} images, epochs={self.epochs})"

    def epoch(self, epoch: int, *, seed: int = 0, start: int = 0) -> Iterator[FkdBatch]:
        """The batches of an epoch, counted from 0; other epochs' files are not read.

        A thread reads ahead, at most ``READ_AHEAD`` batches. Its errors are raised here, and it
        ends when the iterator does or is dropped.

        Args:
            epoch: below ``epochs``.
            seed: of the batches that are drawn ``at_random``.
            start: how many batches to leave out at its beginning, whose files are not read.

        Raises:
            IndexError: there is no such epoch.
        """
        if epoch < 0 or (self.epochs is not None and epoch >= self.epochs):
            last = "any number" if self.epochs is None else self.epochs - 1
            raise IndexError(f"epoch must be from 0 to {last}, for {self.folder}, got {epoch}")
        return _read_ahead(self._read_all(self._plan(epoch, seed)[start:]))

    def agreement(self, epochs: Iterable[int] = (0,)) -> Agreement:
        """Compares the first labels of stored ``epochs`` with the classes of their images.

        Reads 256 labels or more, unless the epochs have fewer or 16 files do.
        """
        plan = ((epoch, batch) for epoch in epochs for batch in range(self._batches_of(epoch)))
        return agreement(self._enough(plan), self.labels)

    def verify(self) -> None:
        """Stops where labels and classes agree no better than by chance, in epoch 0 or after it.

        Epoch 0 can be right by itself: only later ones tell whether the sampler ran on as it does
        here.

        Raises:
            ValueError: what was seen, and what may be the reason.
        """
        stored = range(len(self._images_of))
        for where, epochs in (("epoch 0", stored[:1]), ("the epochs from 1 on", stored[1:])):
            if epochs and (found := self.agreement(epochs)).near_chance:
                raise ValueError(self._diagnosis(where, found))

    def fingerprint(self) -> str:
        """A digest of the labels' files and of the arguments.

        The files go in by name and size, and a few of them whole: ``SAMPLED`` batches of
        ``SAMPLED`` epochs, spread evenly from the first to the last. A folder may have 100 GB, so
        files of the same size that differ, and are not among these, go unnoticed.
        """
        contents = [
            hashlib.sha256(self._path(epoch, batch).read_bytes()).hexdigest()
            for epoch in _spread(len(self._images_of))
            for batch in _spread(self._batches_of(epoch))
        ]
        arguments = f"{self.seed} {self.at_random} {self.keep}"
        class_map = [] if self.class_map is None else [self.class_map]
        return fingerprint([*contents, *self._digests, arguments, self.labels, *class_map])

    def _path(self, epoch: int, batch: int) -> Path:
        return self.folder / f"epoch_{epoch}" / f"batch_{batch}.tar"

    def _batches_of(self, epoch: int) -> int:
        return -(-self._images_of[epoch] // self.batch_size)

    def _rows(self, epoch: int, batch: int) -> int:
        return min(self.batch_size, self._images_of[epoch] - batch * self.batch_size)

    def _list_files(self, bytes_a_row: int) -> None:
        """Counts images and bytes of every epoch; raises where a file is missing or too short."""
        folders = [EPOCH_FOLDER.fullmatch(name) for name in os.listdir(self.folder)]
        epochs = {int(match[1]) for match in folders if match}
        if missing := sorted(set(range(max(epochs))) - epochs):
            raise FileNotFoundError(
                f"{self.folder} must hold epoch_{missing[0]}, as it holds epoch_{max(epochs)}"
            )
        if self._listed is not None and len(self._listed) != len(epochs):
            raise ValueError(
                f"{self.folder} must hold the {len(self._listed)} epochs that {ORDER_FILE} lists, "
                f"it holds {len(epochs)}"
            )
        for epoch in range(len(epochs)):
            sizes = {}
            with os.scandir(self.folder / f"epoch_{epoch}") as entries:
                for entry in entries:
                    if match := BATCH_FILE.fullmatch(entry.name):
                        sizes[int(match[1])] = entry.stat().st_size
            self._images_of.append(self._images_in(epoch, len(sizes)))
            self._check_sizes(epoch, sizes, bytes_a_row)
            self.nbytes += sum(sizes.values())
            digest = hashlib.sha256(repr(sorted(sizes.items())).encode()).hexdigest()
            self._digests.append(f"epoch_{epoch} {digest}")

    def _images_in(self, epoch: int, files: int) -> int:
        """How many images the files of an epoch should be about."""
        if self._listed is not None:
            return len(self._listed[epoch])
        if epoch > 0:
            return self._images_of[0]
        n = len(self.labels)
        full = n // self.batch_size
        # LPLD leaves out the last batch of an epoch where it is not full.
        return full * self.batch_size if files == full else n

    def _check_sizes(self, epoch: int, sizes: dict[int, int], bytes_a_row: int) -> None:
        count = self._batches_of(epoch)
        missing, surplus = set(range(count)) - set(sizes), set(sizes) - set(range(count))
        if missing or surplus:
            kind = FileNotFoundError if missing else ValueError
            raise kind(
                f"{self.folder / f'epoch_{epoch}'} must hold {count} batches, {self.batch_size} "
                f"images each, for {self._images_of[epoch]} images; it "
                + (f"lacks batch_{min(missing)}.tar" if missing else f"holds {len(sizes)}")
            )
        for batch in range(count):
            least = self._rows(epoch, batch) * bytes_a_row
            if sizes[batch] < least:
                raise ValueError(
                    f"{self._path(epoch, batch)} must have {least} bytes or more, the size of its "
                    f"logits, it has {sizes[batch]}: was it copied whole?"
                )

    def _plan(self, epoch: int, seed: int) -> list[tuple[int, int]]:
        """Which stored batches, by epoch and number, an epoch consists of."""
        if not self.at_random:
            return [(epoch, batch) for batch in range(self.batches)]
        stored = [divmod(k, self.batches) for k in range(self.keep)]
        full = [place for place in stored if self._rows(*place) == self.batch_size]
        # Seeded anew for every epoch, so that a run can go on from any of them.
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
        generator = torch.Generator()
        sampler = RandomSampler(range(len(self.labels)), generator=generator)
        states = self._generator_states
        with self._lock:
            while True:
                at = min(epoch, len(states) - 1)
                generator.set_state(states[at])
                order = list(sampler)  # to its end: it draws more numbers than it gives
                if at == len(states) - 1:
                    states.append(generator.get_state())
                if at == epoch:
                    return torch.tensor(order)

    def _read(self, epoch: int, batch: int, order: Tensor | None) -> FkdBatch:
        path, rows = self._path(epoch, batch), self._rows(epoch, batch)
        items = _read_items(path, self.num_classes)
        if len(items) != self._items:
            raise ValueError(
                f"{path} must hold {self._items} items, as the first file, got {len(items)}"
            )
        if len(items[0]) != rows:
            raise ValueError(
                f"{path} must have {rows} rows, if the labels are for {self._images_of[epoch]} "
                f"images an epoch, got {len(items[0])}"
            )
        if order is None:
            index = _whole_numbers(path, "index", items[6], rows, len(self.labels))
        else:
            index = order[batch * self.batch_size :][:rows]
        loaded = _as_batch(path, items, index)
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
                "Yet images of one class do get labels of one class, in "
                f"{found.pair_hits / found.pairs:.0%} of pairs where chance gives "
                f"{found.pair_chance:.0%}: the images are in order, and the teacher that wrote the "
                "labels numbers the classes differently; --labels-class-map (labels_class_map), "
                "which moves the columns alone, mends that"
            )
        if self._items == 7 or self._listed is not None:
            source = ORDER_FILE if self._items == 6 else "the files"
            return seen + (
                f"The order of the images is read from {source}: these are the labels of another "
                "set, or some images are missing or not sorted by folder and name, or the classes "
                "are in another order"
            )
        before = "" if where == "epoch 0" else "In epoch 0 they do: the sampler ran on otherwise. "
        return seen + (
            f"{before}The order of the images is that of RandomSampler in torch "
            f"{torch.__version__} with seed {self.seed} over {len(self.labels)} images sorted by "
            "folder and name. The labels were written with another seed, or by a torch that draws "
            "differently, or some images are missing or not so sorted, or the classes are in "
            "another order"
        )


def _spread(count: int) -> list[int]:
    """Up to ``SAMPLED`` numbers below ``count``, evenly from the first to the last."""
    return sorted({k * (count - 1) // (SAMPLED - 1) for k in range(SAMPLED)})


def _check_arguments(labels: Tensor, num_classes: int, class_map: Tensor | None) -> None:
    if labels.dim() != 1 or labels.dtype != torch.int64 or len(labels) == 0:
        raise ValueError(f"labels must be int64 (N), N >= 1, got {described(labels)}")
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise ValueError(f"labels must be from 0 to {num_classes - 1}, got {_range_of(labels)}")
    if class_map is not None and class_map.sort().values.tolist() != list(range(num_classes)):
        raise ValueError(
            f"class_map must hold every class from 0 to {num_classes - 1} once, got "
            f"{described(class_map)} with {len(class_map.unique())} different values"
        )


def _listed_order(folder: Path, n: int) -> list[Tensor] | None:
    """The images of every epoch in order, from LPLD's file; None where there is none."""
    path = folder / ORDER_FILE
    if not path.is_file():
        return None
    try:
        lists = read_json(path)
        orders = [torch.tensor(lists.pop(str(epoch))) for epoch in range(len(lists))]
    except (AttributeError, KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} must map epochs, counted from 0, to lists of images: {error!r}"
        ) from None
    for epoch, order in enumerate(orders):
        _whole_numbers(path, f"epoch {epoch}", order, len(order), n)
    return orders


def _read_items(path: Path, num_classes: int) -> list[Any]:
    """The list in a file, of which length, crops and logits are checked."""
    items = load_tensors(path, numpy_scalars())
    if not isinstance(items, list) or len(items) not in (6, 7):
        got = len(items) if isinstance(items, list) else described(items)
        raise ValueError(f"{path} must hold a list of 6 or 7 items, got {got}")
    coords, logits = items[0], items[5]
    if not (isinstance(coords, Tensor) and coords.dtype == torch.float32 and coords.dim() == 2):
        raise ValueError(f"{path}: coords must be float32 (B, 4), got {described(coords)}")
    rows = len(coords)
    if rows == 0 or coords.shape[1] != 4:
        raise ValueError(f"{path}: coords must be float32 (B, 4), got {described(coords)}")
    # Parts of a side are rounded: a box that ends at the border may seem to cross it.
    ends = coords[:, :2] + coords[:, 2:]
    if not (coords.min() >= 0 and coords[:, 2:].min() > 0 and ends.max() < 1 + 1e-4):
        raise ValueError(f"{path}: coords must be boxes within [0, 1], got {_range_of(coords)}")
    if not (isinstance(logits, Tensor) and logits.is_floating_point()) or logits.shape != (
        rows,
        num_classes,
    ):
        raise ValueError(
            f"{path}: logits must be floating ({rows}, {num_classes}), got {described(logits)}"
        )
    if not logits.isfinite().all():
        broken = int((~logits.isfinite()).any(1).sum())
        raise ValueError(f"{path}: logits must be finite, {broken} of {rows} rows are not")
    return items


def _as_batch(path: Path, items: list[Any], index: Tensor) -> FkdBatch:
    """The items of a file, checked, as a batch of the images ``index``."""
    coords, flip_or_cutout, mix_index, lam, bbox, logits = items[:6]
    rows = len(coords)
    flip, cutout = flip_or_cutout, None
    if isinstance(flip_or_cutout, Tensor) and flip_or_cutout.dtype == torch.float32:
        flip, cutout = torch.zeros(rows, dtype=torch.bool), flip_or_cutout
    if not isinstance(flip, Tensor) or flip.dtype != torch.bool or flip.shape != (rows,):
        raise ValueError(f"{path}: flip must be bool ({rows}), got {described(flip)}")
    if cutout is not None and cutout.shape != (rows, 7):
        raise ValueError(f"{path}: cutout must be float32 ({rows}, 7), got {described(cutout)}")
    if mix_index is None:
        return FkdBatch(index, coords, flip, logits, cutout=cutout)
    lam, bbox = _mixing(path, lam, bbox)
    mix_index = _whole_numbers(path, "mix_index", mix_index, rows, rows)
    return FkdBatch(index, coords, flip, logits, mix_index, lam, bbox, cutout)


def _whole_numbers(path: Path, name: str, value: Any, count: int, below: int) -> Tensor:
    if not isinstance(value, Tensor) or value.dtype != torch.int64 or value.shape != (count,):
        raise ValueError(f"{path}: {name} must be int64 ({count}), got {described(value)}")
    if int(value.min()) < 0 or int(value.max()) >= below:
        raise ValueError(f"{path}: {name} must be from 0 to {below - 1}, got {_range_of(value)}")
    return value


def _mixing(path: Path, lam: Any, bbox: Any) -> tuple[float, Box | None]:
    """Lam and bbox of a mixed batch as Python's numbers; files hold NumPy's too."""
    try:
        weight = float(lam)
        box = None
        if bbox is not None:
            row, column, end_row, end_column = map(operator.index, bbox)
            box = row, column, end_row, end_column
    except (TypeError, ValueError):
        raise ValueError(
            f"{path}: lam must be a number and bbox 4 whole numbers or None where mix_index is "
            f"given, got {lam!r} and {bbox!r}"
        ) from None
    if not 0.0 <= weight <= 1.0:
        raise ValueError(f"{path}: lam must be from 0 to 1, got {weight}")
    if box is not None and not (0 <= box[0] <= box[2] and 0 <= box[1] <= box[3]):
        raise ValueError(f"{path}: bbox must be first row and column, then the ends, got {box}")
    return weight, box


def _range_of(values: Tensor) -> str:
    return f"{values.min().item():g} to {values.max().item():g}"


def _read_ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, fetched by a thread that keeps ``READ_AHEAD`` of them waiting."""
    waiting: queue.Queue[T | _Ended] = queue.Queue(READ_AHEAD)
    dropped = threading.Event()

    def fetch() -> None:
        error = None
        try:
            for item in items:
                waiting.put(item)
                if dropped.is_set():
                    return
        except BaseException as raised:
            error = raised
        waiting.put(_Ended(error))

    threading.Thread(target=fetch, name="fkd-read-ahead", daemon=True).start()
    try:
        while not isinstance(item := waiting.get(), _Ended):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        # The thread may be waiting for room: it finds it, sees that it was dropped, and ends.
        dropped.set()
        while not waiting.empty():
            waiting.get_nowait()


@dataclass(frozen=True)
class _Ended:
    """Stands at the end of a queue of items, with the error that ended it."""

    error: BaseException | None
