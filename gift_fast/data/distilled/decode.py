"""Decodes the images of a distilled set into one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from gift_fast.data.images.decoding_progress import followed
from gift_fast.data.images.file_split import decoding_threads
from gift_fast.data.images.image_file import read_image
from gift_fast.data.images.unreadable_files import unreadable_message


def decode_images(files: Sequence[Path], channels: int, side: int) -> tuple[Tensor, int]:
    """Decode square images of one size, on a pool of threads.

    Pillow decodes and resizes (bilinear, antialiased), as in torchvision's ``ImageFolder``, because
    stored labels were computed from exactly these pixels. :func:`read_image` describes how images
    of other modes are converted.

    Args:
        files: JPEG or PNG images, in the order of the result.
        channels: 1 for gray, 3 for color; other images are converted.
        side: side of the result, in pixels; images of another size are resized.

    Returns:
        The images (N, channels, side, side) uint8, and their side in the files.

    Raises:
        OSError: a file cannot be opened.
        ValueError: images cannot be decoded or converted, are not square, or have another size than
            the first; the message names the first ten, with the reason.
    """
    import numpy as np
    from PIL import Image

    images = torch.empty(len(files), channels, side, side, dtype=torch.uint8)
    pixels = images.numpy()

    def decode(index: int) -> tuple[int, int] | str:
        """The size in the file, or an error message."""
        try:
            image = read_image(files[index], channels)
        except ValueError as error:
            return str(error)
        size = image.size
        if size[0] == size[1]:
            if size != (side, side):
                image = image.resize((side, side), Image.Resampling.BILINEAR)
            pixels[index] = np.asarray(image).reshape(side, side, channels).transpose(2, 0, 1)
        return size

    with ThreadPoolExecutor(decoding_threads()) as threads:
        decoded = threads.map(decode, range(len(files)))
        results = list(followed(decoded, f"decoding {files[0].parent.parent}", len(files)))
    sizes = [result for result in results if not isinstance(result, str)]
    common = sizes[0] if sizes else (side, side)
    if common[0] != common[1]:
        first = next(file for file, size in zip(files, results, strict=True) if size == common)
        raise ValueError(f"{first} must be square, got {common[0]} x {common[1]}")
    faults = []
    for file, result in zip(files, results, strict=True):
        if isinstance(result, str):
            faults.append(result)
        elif result != common:
            faults.append(
                f"{file} must have the size of {files[results.index(common)]}, "
                f"{common[0]} x {common[1]}, got {result[0]} x {result[1]}"
            )
    if faults:
        raise ValueError(unreadable_message(faults, f"{len(files)} images"))
    return images, common[0]
