"""The order of the images in stored epochs whose files do not contain it.

The rows of such files follow a ``torch.utils.data.RandomSampler`` whose generator is seeded once
and continues from epoch to epoch; the same sampler is used here. LPLD also writes the order to
``sampler_indices_epoch.json``. HALD permutes the images of epoch e with the seed 42 + e and writes
the order to ``sampler_indices_dict.pt``.
"""

from __future__ import annotations

import threading
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import RandomSampler

from gift_fast.data.labels.batch_file import check_indices
from gift_fast.files.pickles import described, load_tensors
from gift_fast.files.text_files import read_json

ORDER_FILE = "sampler_indices_epoch.json"
"""LPLD's file with the images of every epoch."""

BATCH_ORDER_FILE = "sampler_indices_batch.json"
"""LPQLD's file with the images of every batch."""

HALD_ORDER_FILE = "sampler_indices_dict.pt"
"""HALD's file with the images of every epoch."""

SAMPLER_SEED = 42
"""The default of ``--fkd-seed`` in all projects that write files without an order."""


def read_order_file(folder: Path, num_images: int) -> list[Tensor] | None:
    """Read the order of the images of every epoch from LPLD's file; None if it is missing.

    Raises:
        ValueError: the file has other contents.
    """
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
        check_indices(path, f"epoch {epoch}", order, order.numel(), num_images)
    return orders


class SamplerOrder:
    """The order in which a ``RandomSampler`` draws the images of each epoch; thread-safe.

    Args:
        num_images: of the distilled set.
        seed: of the generator, once for all epochs.

    Example:
        >>> order = SamplerOrder(3, seed=0)
        >>> sorted(order.of_epoch(5).tolist())
        [0, 1, 2]
    """

    def __init__(self, num_images: int, seed: int) -> None:
        self._sampled = range(num_images)
        self._states = [torch.Generator().manual_seed(seed).get_state()]
        self._lock = threading.Lock()

    def of_epoch(self, epoch: int) -> Tensor:
        """The images of an epoch in order, (N) int64."""
        generator = torch.Generator()
        sampler = RandomSampler(self._sampled, generator=generator)
        with self._lock:
            while True:
                at = min(epoch, len(self._states) - 1)
                generator.set_state(self._states[at])
                order = list(sampler)  # completely, because it draws more numbers than it returns
                if at == len(self._states) - 1:
                    self._states.append(generator.get_state())
                if at == epoch:
                    return torch.tensor(order)


def read_batch_order(folder: Path, num_images: int) -> dict[int, Tensor]:
    """Read the images of every batch from LPQLD's file, in ascending order of the batches.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file has other contents.
    """
    path = folder / BATCH_ORDER_FILE
    try:
        lists = read_json(path)
        orders = {int(number): torch.tensor(images) for number, images in lists.items()}
    except FileNotFoundError:
        raise
    except (AttributeError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} must map numbers of batches to lists of images: {error!r}"
        ) from None
    if not orders or min(orders) < 0:
        raise ValueError(f"{path} must list batches by their numbers from 0, got {len(orders)}")
    for number, order in orders.items():
        if order.numel() == 0:
            raise ValueError(f"{path}: batch {number} must list one image or more, got none")
        check_indices(path, f"batch {number}", order, order.numel(), num_images)
    return dict(sorted(orders.items()))


def read_hald_order(folder: Path, num_images: int, epochs: int) -> list[Tensor] | None:
    """Read the order of the images of every epoch from HALD's file; None if it is missing.

    Raises:
        ValueError: the file has other contents.
    """
    path = folder / HALD_ORDER_FILE
    if not path.is_file():
        return None
    lists = load_tensors(path)
    if not isinstance(lists, dict):
        raise ValueError(f"{path} must map epochs to lists of images, got {described(lists)}")
    orders = []
    for epoch in range(epochs):
        try:
            order = torch.tensor(lists[str(epoch)])
        except (KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} must map epochs, as strings from 0 to {epochs - 1}, to lists of images: "
                f"{error!r}"
            ) from None
        orders.append(check_indices(path, f"epoch {epoch}", order, num_images, num_images))
    return orders


def order_of_sampler(seed: int, images: int, where: str) -> str:
    """Explain why the order of a sampler may be wrong, for an error message.

    Args:
        seed: of the sampler.
        images: number of distilled images.
        where: the part of the labels in which the order seems wrong.
    """
    before = "" if where == "epoch 0" else "In epoch 0 they do, so later epochs differ. "
    return (
        f"{before}The order of the images is that of RandomSampler in torch {torch.__version__} "
        f"with seed {seed} over {images} images sorted by folder and name. The labels were written "
        "with another seed or by a version of torch that draws differently, or some images are "
        "missing or not sorted in this way, or the classes have another order"
    )
