"""Reads image files as 8-bit pixels, for real datasets and distilled sets.

Pillow silently converts between modes even if contrast or content is lost: 16-bit values above 255
become white, and only the first of several frames is read. :func:`read_image` converts files that
can be converted faithfully and raises an error for the others.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from PIL import Image

logger = logging.getLogger(__name__)

MODES = {1: "L", 3: "RGB"}
"""Pillow's names of images with one and with three channels."""

IMAGE_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
"""Pillow's names of the formats that are read. Pillow supports sixty and selects one by a file's
first bytes. One of them is PostScript, which an installed Ghostscript would execute."""

ORIENTATION = 0x0112
"""The EXIF tag with the orientation of the camera."""

UPRIGHT = 1
"""The value of ``ORIENTATION`` for pixels that are stored as they are shown."""

SCALED_TO_16_BITS = ("PNG", "PPM")
"""Formats whose 16-bit images Pillow reads as 32-bit images of mode I."""

LARGEST_16_BIT, LARGEST_12_BIT = 65535, 4095

OPAQUE = 255
"""The largest value of an alpha channel."""

_transparency_told = threading.Event()


def read_image(
    path: Path, channels: int = 3, *, side: int | None = None, draft: bool = False
) -> Image.Image:
    """An image file as 8-bit gray or color pixels, upright.

    - Palette and CMYK images are converted to color, color to gray and gray to color, as needed.
    - 16-bit gray images are scaled to 8 bits. Images that only use the lowest 12 of their 16 bits
      raise an error, because they would be nearly black.
    - Transparency is dropped and the color below it kept, as in torchvision's ``ImageFolder``; the
      first such file is named in a warning.
    - Images are rotated according to their EXIF orientation, which ``ImageFolder`` does not do.
    - Images of 32-bit integers or floats, whose range is unknown, and files with several frames
      raise an error. Of an MPO file, the JPEG of many cameras, the first frame is read.

    Args:
        path: the file; its format is detected from its contents, not from its suffix.
        channels: 1 for gray, 3 for color.
        side: width and height that the image must have, checked before decoding; None allows any
            size.
        draft: decodes JPEG at an eighth of its size, which finds damage at a fraction of the cost.

    Returns:
        An image of mode L or RGB.

    Raises:
        OSError: the file is missing or cannot be opened.
        ValueError: the file is no image, is damaged, has another size, or cannot be converted; the
            message names it.
    """
    from PIL import Image

    if not path.is_file() and path.exists() and not path.is_dir():  # usually only the first check
        raise ValueError(f"{path} must be a regular file, got a pipe, socket or device")
    try:
        with path.open("rb") as file, Image.open(file, formats=IMAGE_FORMATS) as opened:
            check_size(opened, side, path)
            check_frames(opened, path)
            if draft:
                opened.draft(None, (opened.width // 8, opened.height // 8))
            opened.load()
            return converted(upright(opened), MODES[channels], path)
    except (FileNotFoundError, PermissionError, IsADirectoryError, UnfaithfulError):
        raise
    except Exception as error:  # for damaged files, Pillow raises many types
        raise ValueError(f"{path} must be an image, but it cannot be decoded: {error}") from error


class UnfaithfulError(ValueError):
    """Raised for images of another size, and if 8-bit pixels would lose contrast or content."""


def check_size(image: Image.Image, side: int | None, path: Path) -> None:
    """Raise UnfaithfulError unless an image has ``side`` x ``side`` pixels, or side is None."""
    if side is not None and image.size != (side, side):
        raise UnfaithfulError(
            f"{path} must have {side} x {side} pixels, got {image.width} x {image.height}"
        )


def check_frames(image: Image.Image, path: Path) -> None:
    """Raise UnfaithfulError if a file has several frames, like an animation."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise UnfaithfulError(
            f"{path} must contain one image, got {frames} frames ({image.format}); save one of "
            "them to a separate file"
        )


def upright(image: Image.Image) -> Image.Image:
    """The image rotated according to its EXIF orientation; unreadable EXIF data is ignored."""
    from PIL import ImageOps

    try:
        orientation = image.getexif().get(ORIENTATION, UPRIGHT)
    except Exception:  # some of ImageNet's JPEG files have damaged EXIF data
        return image
    return image if orientation == UPRIGHT else ImageOps.exif_transpose(image)


def converted(image: Image.Image, mode: str, path: Path) -> Image.Image:
    """The image in mode L or RGB; raises UnfaithfulError if that would lose contrast or content."""
    if image.mode == "F" or (image.mode == "I" and image.format not in SCALED_TO_16_BITS):
        low, high = image.getextrema()
        kind = "floats" if image.mode == "F" else "32-bit integers"
        raise UnfaithfulError(
            f"{path} must have 8 or 16 bits per channel, got {kind} from {low:.6g} to {high:.6g} "
            f"(mode {image.mode}); scale them to 0 to 255 and save the image with 8 bits"
        )
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = from_16_bits(image, path)
    if image.has_transparency_data:
        image = image.convert("RGBA")  # not directly to RGB, which loses a palette's transparency
        low, _ = cast("tuple[int, int]", image.getchannel("A").getextrema())
        if low < OPAQUE and not _transparency_told.is_set():
            _transparency_told.set()
            logger.warning(
                "%s has transparent pixels; transparency is dropped and the color below it is "
                "used, here and in other files, as torchvision's ImageFolder does",
                path,
            )
    if mode == "L" and image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def from_16_bits(image: Image.Image, path: Path) -> Image.Image:
    """A 16-bit gray image scaled to 8 bits, so that white stays white."""
    import numpy as np
    from PIL import Image

    values = np.asarray(image).astype(np.int64)
    largest = int(values.max())
    if 0 < largest <= LARGEST_12_BIT:
        raise UnfaithfulError(
            f"{path} must use the range of its 16 bits, 0 to {LARGEST_16_BIT}, got at most "
            f"{largest}, which would be nearly black; scale its values, or save it with 8 bits"
        )
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))
