"""Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017): gray images of clothes, padded to 32 x 32."""

from __future__ import annotations

import gzip
import zlib
from math import prod
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from gift_fast.data.datasets.image_dataset import ImageDataset
from gift_fast.data.datasets.locate import locate
from gift_fast.data.datasets.normalization import NORMALIZATIONS
from gift_fast.data.images.splits import TensorSplit

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist installs the published files."""

PADDING = 2
"""Black pixels added on each side: 32 x 32, unlike 28 x 28, is divisible by three poolings."""

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

IDX_UINT8 = 0x08
"""The code of unsigned bytes in the header of an IDX file."""

LARGEST = 60_000 * 28 * 28
"""Bytes of the largest file, without its header."""


def fashion_mnist(root: Path | None = None, train: bool = True) -> ImageDataset:
    """Load Fashion-MNIST: 60,000 training and 10,000 test images, uint8 (N, 1, 32, 32).

    Args:
        root: a folder with the four published files (``train-images-idx3-ubyte.gz``, ...), a folder
            with them in ``fashion-mnist``, or torchvision's root, with ``FashionMNIST/raw``. None
            uses the folder of Debian's package.
        train: whether to load the training split too.

    Raises:
        FileNotFoundError: the data is missing; the message says how to get it.
        ValueError: a file differs from the published one.

    Source: https://github.com/zalandoresearch/fashion-mnist
    """
    advice = (
        "To get it: apt-get install dataset-fashion-mnist (Debian, Ubuntu), or run\n"
        '  python -c "from torchvision.datasets import FashionMNIST; '
        f"FashionMNIST('{root or 'ROOT'}', download=True)\""
    )
    raw = "FashionMNIST/raw"
    if root is not None and (root / raw).is_dir():
        read = read_torchvision
    else:
        needed = [file for split in (True, False) for file in files_of(split)]
        root = locate("fashion-mnist", root or DEBIAN, needed, advice, ["fashion-mnist"])
        read = read_published
    return ImageDataset(
        name="fashion-mnist",
        train=read(root, True) if train else None,
        test=read(root, False),
        mean=NORMALIZATIONS["fashion-mnist"].mean,
        std=NORMALIZATIONS["fashion-mnist"].std,
        class_names=CLASS_NAMES,
    )


def files_of(train: bool) -> tuple[str, str]:
    """The published files of a split: its images and its labels."""
    prefix = "train" if train else "t10k"
    return f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz"


def read_torchvision(root: Path, train: bool) -> TensorSplit:
    """Read a split with torchvision's class."""
    from torchvision.datasets import FashionMNIST

    try:
        dataset = FashionMNIST(str(root), train=train, download=False)
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # torchvision raises AssertionError for a bad header, and others
        raise ValueError(
            f"{root / 'FashionMNIST' / 'raw'} must contain the four IDX files that torchvision's "
            "FashionMNIST(root, download=True) downloads"
        ) from error
    return padded(dataset.data, dataset.targets, root)


def read_published(root: Path, train: bool) -> TensorSplit:
    """Read a split from the published compressed files."""
    images, labels = (read_idx(root / file) for file in files_of(train))
    return padded(images, labels, root)


def padded(images: Tensor, labels: Tensor, root: Path) -> TensorSplit:
    """Pad images (N, 28, 28) with labels (N) to a split of (N, 1, 32, 32).

    Raises:
        ValueError: the images have another shape, or the labels another number or range.
    """
    count = len(images)
    if count == 0 or images.shape[1:] != (28, 28) or labels.shape != (count,):
        raise ValueError(
            f"{root} must contain images (N, 28, 28) and labels (N), got {tuple(images.shape)} and "
            f"{tuple(labels.shape)}"
        )
    if int(labels.max()) >= len(CLASS_NAMES):
        raise ValueError(
            f"{root} must contain labels from 0 to {len(CLASS_NAMES) - 1}, got {int(labels.max())}"
        )
    return TensorSplit(F.pad(images, (PADDING,) * 4).unsqueeze(1), labels.long())


def read_idx(path: Path) -> Tensor:
    """Read the unsigned bytes of a compressed IDX file, in the shape in its header.

    Raises:
        ValueError: the file is not compressed, is damaged, or does not match its header.

    Source: https://yann.lecun.com/exdb/mnist, "The IDX file format".
    """
    try:
        with gzip.open(path) as file:
            magic = file.read(4)
            header = file.read(4 * magic[3] if len(magic) == 4 else 0)
            shape = [int.from_bytes(header[i : i + 4], "big") for i in range(0, len(header), 4)]
            # Bounded, because a small file may decompress to gigabytes of zeros.
            data = bytearray(file.read(min(prod(shape), LARGEST) + 1))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} must be a complete gzip file, got: {error}") from error
    if magic[:3] != bytes([0, 0, IDX_UINT8]) or not shape or not 0 < len(data) == prod(shape):
        raise ValueError(
            f"{path} must be an IDX file of unsigned bytes with the length in its header"
        )
    return torch.frombuffer(data, dtype=torch.uint8).view(shape)
