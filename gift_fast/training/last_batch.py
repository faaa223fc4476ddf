"""The last batch of an epoch, which may be too small for batch norm.

During training, batch norm computes its statistics from the batch. For a single image whose feature
maps have one pixel, this is impossible, and torch raises an error at the end of the first epoch. If
the maps are larger, training continues with the statistics of that one image.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def check_last_batch(
    build: Callable[[], nn.Module],
    shape: tuple[int, int, int],
    *,
    images: int,
    batch_size: int,
    network: str,
) -> None:
    """Check that batch norm can train on the smallest batch of an epoch.

    Warns if batch norm has to use the statistics of a single image. The network is only built if a
    process gets a batch of one image.

    Args:
        build: returns the network, on the CPU.
        shape: (C, H, W) of an image.
        images: images per epoch.
        batch_size: global batch size.
        network: name of the network, for the message.

    Raises:
        ValueError: torch would raise an error; the message suggests other batch sizes.

    Example:
        >>> norm = lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(2), nn.BatchNorm1d(2))
        >>> check_last_batch(norm, (1, 8, 8), images=6, batch_size=3, network="mine")
        >>> check_last_batch(norm, (1, 8, 8), images=6, batch_size=5, network="mine")
        Traceback (most recent call last):
        ...
        ValueError: batch_size must give every process at least 2 images per batch, for the batch \
norm of mine: 6 images in batches of 5 end with a batch of 1. Use 4 or 6
    """
    processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    if not has_single_image_batch(images, batch_size, processes):
        return
    model = build()
    if not any(isinstance(module, _BatchNorm) for module in model.modules()):
        return
    rest = images % batch_size
    ends = "have one image" if processes == 1 else "give a process a single image"
    if rest and images > batch_size:
        ends = f"end with a batch of {rest}"
    shared = f", shared by {processes} processes," if processes > 1 else ""
    advice = f"Use {' or '.join(map(str, nearest_sizes(images, batch_size, processes)))}"
    if images < 2 * processes:
        advice = "No batch size helps: use more images, or a network without batch norm"
    what = f"{images} images in batches of {batch_size}{shared} {ends}"
    if trains_on_one(model, shape):
        warnings.warn(
            f"batch norm of {network} uses the statistics of a single image: {what}. {advice} to "
            "avoid this",
            UserWarning,
            stacklevel=2,
        )
        return
    raise ValueError(
        f"batch_size must give every process at least 2 images per batch, for the batch norm of "
        f"{network}: {what}. {advice}"
    )


def has_single_image_batch(images: int, batch_size: int, processes: int = 1) -> bool:
    """Whether a process gets a batch of one image.

    Example:
        >>> [has_single_image_batch(6, size) for size in (1, 2, 3, 4, 5, 6, 7)]
        [True, False, False, False, True, False, False]
        >>> has_single_image_batch(7, 4, processes=2)  # the last three images are split 2 + 1
        True
    """
    sizes = {min(batch_size, images), images % batch_size or batch_size}
    return any(max(min(size, images) // processes, 1) == 1 for size in sizes)


def nearest_sizes(images: int, batch_size: int, processes: int = 1) -> list[int]:
    """The next smaller and the next larger batch size without a batch of one image.

    Example:
        >>> nearest_sizes(6, 5), nearest_sizes(101, 50)
        ([4, 6], [49, 51])
    """
    smaller = range(batch_size - 1, 1, -1)
    larger = range(batch_size + 1, max(images, batch_size + 1) + 1)
    found = []
    for sizes in (smaller, larger):
        found += [n for n in sizes if not has_single_image_batch(images, n, processes)][:1]
    return found


def trains_on_one(model: nn.Module, shape: tuple[int, int, int]) -> bool:
    """Whether a network in training mode accepts a batch of one image."""
    model.train()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):  # dropout draws
            model(torch.zeros(1, *shape))
    except ValueError as error:
        if "more than 1 value per channel" in str(error):
            return False
        raise
    return True
