"""A grid of images of a generated set, as PNG in a data URI."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gift_fast.data.distilled.native import pair_of
from gift_fast.report.panels import Panel

CLASSES, PER_CLASS = 10, 10
"""Maximum number of rows and columns of a grid."""


@dataclass(frozen=True)
class ImageGrid:
    """A grid of distilled images, one row per class.

    Attributes:
        name: name of the set.
        uri: data URI of the PNG.
        width: width in pixels.
        height: height in pixels.
        classes: names of the classes, from top to bottom.
        shown: number of images in the grid.
        of: number of images in the set.
    """

    name: str
    uri: str
    width: int
    height: int
    classes: tuple[str, ...]
    shown: int
    of: int

    @property
    def shown_width(self) -> int:
        """Width on the page in CSS pixels: an integer multiple of ``width``."""
        side = self.height / max(len(self.classes), 1)
        return self.width * max(1, round(36 / side))


def image_grid_of(panel: Panel, folder: Path) -> ImageGrid | None:
    """The grid of the first set of a condition found in the folder's ``sets``, or None.

    Sets are identified by their fingerprint, which is part of every run record.
    """
    wanted = [run.result.inputs.get("distilled") for c in panel.cells.values() for run in c.runs]
    for path in sorted((folder / "sets").glob(f"{panel.condition.source.name}_seed*.json")):
        try:
            description = json.loads(path.read_text(encoding="utf-8"))
            if description["fingerprint"] in wanted and not description["whitened"]:
                return grid_of(path, tuple(description["class_names"]))
        except (OSError, ValueError, KeyError, TypeError):  # skip damaged files
            continue
    return None


def grid_of(path: Path, class_names: tuple[str, ...]) -> ImageGrid:
    """The grid of a set in gift-fast's own format."""
    from safetensors.torch import load_file

    tensors = load_file(pair_of(path)[0])
    images, labels = tensors["images"], tensors["labels"]
    classes = labels.unique()[:CLASSES].tolist()
    rows = [images[labels == label][:PER_CLASS] for label in classes]
    canvas = canvas_of(rows)
    return ImageGrid(
        name=path.stem,
        uri="data:image/png;base64," + base64.b64encode(as_png(canvas)).decode(),
        width=canvas.shape[2],
        height=canvas.shape[1],
        classes=tuple(class_names[k] if k < len(class_names) else str(k) for k in classes),
        shown=sum(map(len, rows)),
        of=len(images),
    )


def canvas_of(rows: Sequence[Tensor], line: int = 0) -> Tensor:
    """Arrange rows of images, each (N, C, S, S), in one picture, uint8 (C, height, width).

    Images are one pixel apart; ``line`` is the value of these pixels and of missing images.
    """
    columns = max(map(len, rows))
    channels, side = rows[0].shape[1:3]
    step = side + 1
    shape = (channels, step * len(rows) - 1, step * columns - 1)
    canvas = torch.full(shape, line, dtype=torch.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(as_bytes(row)):
            canvas[:, i * step : i * step + side, j * step : j * step + side] = image
    return canvas


def as_png(canvas: Tensor, scale: int = 1) -> bytes:
    """Encode a picture, uint8 (C, height, width), as PNG, enlarged by an integer factor."""
    from PIL import Image

    canvas = canvas.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    picture = canvas.squeeze(0) if len(canvas) == 1 else canvas.permute(1, 2, 0)
    png = io.BytesIO()
    Image.fromarray(picture.numpy()).save(png, "PNG", optimize=True)
    return png.getvalue()


def as_bytes(images: Tensor) -> Tensor:
    """Convert images (N, C, S, S) from uint8 or float32 in [0, 1] to uint8."""
    if images.dtype == torch.uint8:
        return images
    return (255.0 * images.clamp(0.0, 1.0)).round().to(torch.uint8)
