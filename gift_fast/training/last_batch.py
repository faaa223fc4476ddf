"""The last batch of an epoch, which may be too small for batch norm.

In training batch norm takes its statistics from the batch. Of a single image whose feature maps are
down to one pixel there are none, and torch raises in the middle of the first epoch; where the maps
are larger it trains, on the statistics of that image alone.
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
    """Raises where batch norm could not train on the smallest batch, and warns where it hardly can.

    The network is built only where a process gets a batch of one image.

    Args:
        build: gives the network, on the CPU.
        shape: (C, H, W) of an image.
        images: of an epoch.
        batch_size: global batch size.
        network: what the message calls it.

    Raises:
        ValueError: torch would raise; the message names batch sizes that leave no image alone.

    Example:
        >>> norm = lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(2), nn.BatchNorm1d(2))
        >>> check_last_batch(norm, (1, 8, 8), images=6, batch_size=3, network="mine")
        >>> check_last_batch(norm, (1, 8, 8), images=6, batch_size=5, network="mine")
        Traceback (most recent call last):
        ...
        ValueError: batch_size must leave no image alone for the batch norm of mine: 6 images in \
batches of 5 end with a batch of 1. Take 4 or 6
    """
    processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    if not leaves_one_alone(images, batch_size, processes):
        return
    model = build()
    if not any(isinstance(module, _BatchNorm) for module in model.modules()):
        return
    rest = images % batch_size
    ends = "are one image each" if processes == 1 else "leave a process a single image"
    if rest and images > batch_size:
        ends = f"end with a batch of {rest}"
    shared = f", shared by {processes} processes," if processes > 1 else ""
    advice = f"Take {' or '.join(map(str, sizes_near(images, batch_size, processes)))}"
    if images < 2 * processes:
        advice = "No batch size can help: take more images, or a network with another norm"
    what = f"{images} images in batches of {batch_size}{shared} {ends}"
    if trains_on_one(model, shape):
        warnings.warn(
            f"batch norm of {network} takes statistics of a single image: {what}. {advice} to "
            "leave none alone",
            UserWarning,
            stacklevel=2,
        )
        return
    raise ValueError(
        f"batch_size must leave no image alone for the batch norm of {network}: {what}. {advice}"
    )


def leaves_one_alone(images: int, batch_size: int, processes: int = 1) -> bool:
    """Whether a process gets a batch of one image.

    Example:
        >>> [leaves_one_alone(6, size) for size in (1, 2, 3, 4, 5, 6, 7)]
        [True, False, False, False, True, False, False]
        >>> leaves_one_alone(7, 4, processes=2)  # the last three are two and one
        True
    """
    sizes = {min(batch_size, images), images % batch_size or batch_size}
    return any(max(min(size, images) // processes, 1) == 1 for size in sizes)


def sizes_near(images: int, batch_size: int, processes: int = 1) -> list[int]:
    """The next smaller and the next larger batch size that leave no image alone.

    Example:
        >>> sizes_near(6, 5), sizes_near(101, 50)
        ([4, 6], [49, 51])
    """
    smaller = range(batch_size - 1, 1, -1)
    larger = range(batch_size + 1, max(images, batch_size + 1) + 1)
    found = []
    for sizes in (smaller, larger):
        found += [n for n in sizes if not leaves_one_alone(images, n, processes)][:1]
    return found


def trains_on_one(model: nn.Module, shape: tuple[int, int, int]) -> bool:
    """Whether a network in training mode takes a batch of one image."""
    model.train()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):  # dropout draws
            model(torch.zeros(1, *shape))
    except ValueError as error:
        if "more than 1 value per channel" in str(error):
            return False
        raise
    return True
