"""CIFAR-10 as JPEG files: the same images after lossy compression, so another dataset.

Reports call it "CIFAR-10 (JPEG copies)", never CIFAR-10.
"""

from __future__ import annotations

from pathlib import Path

from gift_fast.data.datasets.folder import scan
from gift_fast.data.datasets.image_dataset import ImageDataset
from gift_fast.data.datasets.locate import locate
from gift_fast.data.datasets.normalization import NORMALIZATIONS
from gift_fast.data.images.class_folders import class_folders
from gift_fast.data.images.decoded_cache import decoded_once
from gift_fast.data.images.file_split import FileSplit
from gift_fast.data.images.splits import TensorSplit

NAME = "cifar10-jpeg"
SIDE = 32

CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
"""CIFAR-10's classes, in the order of its labels."""

IMAGES = {"train": 50_000, "test": 10_000}

ADVICE = (
    "It must contain train/<class>/<image>.jpg and test/<class>/<image>.jpg, the images of "
    "CIFAR-10, https://www.cs.toronto.edu/~kriz/cifar.html, saved as JPEG files"
)


def cifar10_jpeg(root: Path | None = None, train: bool = True) -> ImageDataset:
    """Load JPEG copies of CIFAR-10: 50,000 training and 10,000 test images, uint8 (N, 3, 32, 32).

    Labels, class names and normalization are CIFAR-10's. The files are decoded once; see
    ``decoded_once``.

    Args:
        root: the folder with ``train`` and ``test``, or a folder with it as ``cifar10-jpeg``.
        train: whether to load the training split too.

    Raises:
        FileNotFoundError: the data is missing, or a class has no images.
        ValueError: there are too few or too many classes or images.
    """
    found = locate(NAME, root, ["train", "test"], ADVICE, [NAME])
    return ImageDataset(
        name=NAME,
        train=read_split(found, "train") if train else None,
        test=read_split(found, "test"),
        mean=NORMALIZATIONS["cifar"].mean,
        std=NORMALIZATIONS["cifar"].std,
        class_names=CLASSES,
    )


def read_split(root: Path, part: str) -> TensorSplit:
    """Read the training or the test images."""
    others = sorted(set(class_folders(root / part)) - set(CLASSES))
    if others:
        raise ValueError(
            f"{root / part} must contain one folder for each of {', '.join(CLASSES)}, "
            f"got {others[0]}"
        )
    files: FileSplit = scan(root / part, CLASSES, side=SIDE, resize=None)
    if len(files) != IMAGES[part]:
        raise ValueError(
            f"{root / part} must contain {IMAGES[part]} images, got {len(files)}\n{ADVICE}"
        )
    return decoded_once(files, f"{NAME}-{part}")
