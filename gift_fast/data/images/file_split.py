"""Labeled image files that are decoded when a batch is read."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from gift_fast.data.images.image_file import read_image
from gift_fast.data.images.splits import to_unit_range
from gift_fast.files.fingerprint import fingerprint

CPU = torch.device("cpu")

BATCHES_AHEAD = 2
"""Batches that are decoded while the caller processes another."""

MOST_THREADS = 32
"""The default limit of the standard library's thread pools."""


def decoding_threads() -> int:
    """The number of decoding threads: this process's share of the usable processors.

    torchrun and accelerate set ``LOCAL_WORLD_SIZE`` to the number of processes on the machine.
    """
    if hasattr(os, "sched_getaffinity"):
        usable = len(os.sched_getaffinity(0))
    else:
        usable = os.cpu_count() or 1
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(usable // sharing, MOST_THREADS))


def resize_for(side: int) -> int:
    """The length to which the shorter side is resized before a crop of ``side``: 8/7 of it.

    This rule gives all sizes of the papers' evaluation code.

    Example:
        >>> [resize_for(side) for side in (224, 128, 64)]
        [256, 146, 73]
    """
    return side * 8 // 7


def decode(path: Path, side: int, resize: int | None) -> Tensor:
    """Decode an image file to uint8 (3, side, side), converted as in :func:`read_image`.

    The shorter side is resized to ``resize`` (bilinear, antialiased) and the center is cropped, as
    in torchvision's ``Resize`` and ``CenterCrop``. With None, the image must have its final size.

    Raises:
        OSError: the file is missing or cannot be opened.
        ValueError: the file is no image, is damaged, cannot be converted, or has another size.
    """
    from torchvision.transforms import functional

    image = read_image(path, side=side if resize is None else None)
    if resize is not None:
        image = functional.center_crop(functional.resize(image, resize), side)
    pixels: Tensor = functional.pil_to_tensor(image)
    return pixels


@dataclass(frozen=True)
class FileSplit:
    """Labeled images in files, decoded by threads a few batches ahead of their use.

    Threads are used instead of processes: Pillow releases the GIL while it decodes and resizes,
    nothing is copied between processes, and no process is forked while CUDA or gloo is running.

    Attributes:
        root: the folder that the names start from.
        names: (N) paths of the files relative to ``root``, with forward slashes.
        labels: (N) int64, always on the CPU.
        side: of the square images, in pixels.
        resize: length to which the shorter side is resized before the center is cropped; None if
            the files have ``side`` x ``side`` pixels.
        device: device of the batches.

    Raises:
        ValueError: the numbers of names and labels differ, there are none, or a size is invalid.
    """

    root: Path
    names: tuple[str, ...]
    labels: Tensor
    side: int
    resize: int | None = None
    device: torch.device = CPU

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError(f"names must contain at least one file of {self.root}, got none")
        if self.labels.shape != (len(self.names),):
            expected = f"({len(self.names)},)"
            raise ValueError(f"labels must have shape {expected}, got {tuple(self.labels.shape)}")
        if self.side < 1:
            raise ValueError(f"side must be at least 1, got {self.side}")
        if self.resize is not None and self.resize < self.side:
            raise ValueError(f"resize must be at least side, {self.side}, got {self.resize}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return 3, self.side, self.side

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> Tensor:
        """Read one image, uint8 (3, side, side); see :func:`decode` for the errors."""
        return decode(self.root / self.names[index], self.side, self.resize)

    def decoded(self, indices: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every index tensor (B) with its images, uint8 (B, 3, side, side), on the CPU."""
        waiting: deque[tuple[Tensor, list[Future[Tensor]]]] = deque()
        pool = ThreadPoolExecutor(decoding_threads(), thread_name_prefix="decode")
        try:
            for index in indices:
                here = index.cpu()
                waiting.append((here, [pool.submit(self.read, i) for i in here.tolist()]))
                if len(waiting) > BATCHES_AHEAD:
                    yield collected(*waiting.popleft())
            while waiting:
                yield collected(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def batches(self, indices: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """See :class:`~gift_fast.data.images.splits.Split`."""
        for index, images in self.decoded(indices):
            if self.device.type == "cuda":
                images = images.pin_memory()  # otherwise the copy waits for the device
            images = images.to(self.device, non_blocking=True)
            yield to_unit_range(images), self.labels[index].to(self.device, non_blocking=True)

    def to(self, device: torch.device | str) -> FileSplit:
        """See :class:`~gift_fast.data.images.splits.Split`."""
        return replace(self, device=torch.device(device))

    def subset(self, index: Tensor) -> FileSplit:
        """See :class:`~gift_fast.data.images.splits.Split`."""
        here = index.cpu()
        names = tuple(self.names[i] for i in here.tolist())
        return replace(self, names=names, labels=self.labels[here])

    def with_labels(self, labels: Tensor) -> FileSplit:
        """See :class:`~gift_fast.data.images.splits.Split`."""
        return replace(self, labels=labels.cpu())

    def fingerprint(self) -> str:
        """A digest of names, sizes in bytes, labels and resize rule; the files are not read."""
        sizes = torch.tensor([(self.root / name).stat().st_size for name in self.names])
        rule = f"resize {self.resize} crop {self.side}"
        return fingerprint([rule, "\n".join(self.names), sizes, self.labels])


def collected(index: Tensor, images: list[Future[Tensor]]) -> tuple[Tensor, Tensor]:
    """Wait for the images of an index tensor and return both."""
    return index, torch.stack([image.result() for image in images])
