"""A cache of decoded image files: they are decoded once and read from one file afterwards."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import torch
from torch import Tensor

from gift_fast.data.images.decoding_progress import followed
from gift_fast.data.images.file_split import FileSplit
from gift_fast.data.images.splits import TensorSplit
from gift_fast.data.images.unreadable_files import unreadable, unreadable_message
from gift_fast.files.atomic import replacing
from gift_fast.files.bounds import check_values
from gift_fast.files.cache import cache_folder
from gift_fast.files.disk import check_space
from gift_fast.files.fingerprint import fingerprint

logger = logging.getLogger(__name__)

IMAGES_AT_ONCE = 500

DECODER = "upright, 16 bits scaled"
"""The version of the conversion of files to pixels; cache files of other versions are not read."""


def decoded_once(split: FileSplit, name: str, cache: Path | None = None) -> TensorSplit:
    """The images of a split as one uint8 tensor, mapped from a cache file.

    The file is created if it is missing. Its name contains the split's fingerprint, so changed
    images get a new file. It is memory-mapped: pages are loaded when they are used, and shared
    between processes. Processes that start at the same time without it decode separately, and the
    file of the last one remains.

    Args:
        split: N files.
        name: prefix of the cache file's name.
        cache: folder of the cache files; None uses :func:`cache_folder`.

    Raises:
        OSError: the folder cannot be written to, or there is not enough disk space.
        ValueError: files cannot be decoded; the message names the first ten, and no cache file is
            written.
    """
    folder = cache_folder() if cache is None else cache
    path = folder / f"{name}-{fingerprint([split.fingerprint(), DECODER])}.pt"
    shape = (len(split), *split.shape)
    images = read_cache(path, shape)
    if images is None:
        logger.info("decoding %d images of %s once, into %s", len(split), split.root, path)
        check_space(folder, len(split) * math.prod(split.shape), "decoded images")
        images = torch.empty(shape, dtype=torch.uint8)
        parts = split.decoded(torch.arange(len(split)).split(IMAGES_AT_ONCE))
        title = f"decoding {split.root}, once"
        try:
            for index, pixels in followed(parts, title, len(split), lambda part: len(part[0])):
                images[index] = pixels
        except ValueError as error:  # names one file; a second pass finds the others
            faults = list(unreadable(split, range(len(split)))) or [str(error)]
            raise ValueError(
                unreadable_message(faults, f"{len(split)} images of {split.root}")
            ) from error
        with replacing(path) as temporary:
            torch.save({"images": images}, temporary)
        images = read_cache(path, shape)
    assert images is not None
    return TensorSplit(images, split.labels)


def read_cache(path: Path, shape: tuple[int, ...]) -> Tensor | None:
    """The images of a cache file, memory-mapped; None if it is missing or damaged."""
    if not path.exists():
        return None
    try:
        images = torch.load(path, weights_only=True, mmap=True)["images"]
        if not isinstance(images, Tensor) or (images.dtype, images.shape) != (torch.uint8, shape):
            raise ValueError(f"it must contain uint8 values of shape {shape}")
        check_values(path, images)
    except Exception as error:  # for damaged files, torch raises many types
        logger.warning("%s is damaged and is created again: %s", path, error)
        return None
    return images
