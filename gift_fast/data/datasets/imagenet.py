"""ImageNet-1K (ILSVRC 2012) and the subsets for which there are distilled sets.

All of them are read from ImageNet's folders, ``train/<wnid>/*.JPEG`` and ``val/<wnid>/*.JPEG``; the
validation images are the test split. Images are decoded batch by batch: the shorter side is resized
to 8/7 of ``side`` and the center is cropped, so 256 and 224, 146 and 128, or 73 and 64.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from gift_fast.data.datasets.folder import sorted_into_folders
from gift_fast.data.datasets.image_dataset import ImageDataset
from gift_fast.data.datasets.imagenet_classes import IMAGENET_10, IMAGENET_100, NETTE, WOOF
from gift_fast.data.datasets.locate import locate
from gift_fast.data.images.class_folders import (
    check_same_classes,
    class_folders,
    numbers_of,
    visible,
)
from gift_fast.files.text_files import first_few, read_text

CLASSES = 1000

ADVICE = """\
To get it: download ILSVRC2012_devkit_t12.tar.gz, ILSVRC2012_img_val.tar and, for training,
ILSVRC2012_img_train.tar into ROOT from https://image-net.org/download.php (an account is needed);
  python -c "from torchvision.datasets import ImageNet; ImageNet('ROOT', 'val')"
unpacks the images into one folder per class; likewise with 'train'"""

ORDERS = ("list", "sorted")

WNID = re.compile(r"n\d{8}")
"""WordNet's identifiers of ImageNet's classes."""


def imagenet_1k(
    root: Path | None = None, train: bool = True, *, side: int = 224, in_memory: bool = False
) -> ImageDataset:
    """ImageNet-1K: 1,281,167 training and 50,000 validation images of 1,000 classes.

    Labels are the indices of the sorted class folders, as in torchvision's networks; class names
    are torchvision's. The folders are named by wnids or, as RDED's, by the labels from 0 to 999,
    with or without leading zeros.

    Args:
        root: the folder with ``train`` and ``val``; ``val`` is sufficient if ``train`` is False.
        train: whether to scan the training split too.
        side: of the square images, in pixels; 64 for ConvNets.
        in_memory: decode once and keep the pixels in memory; 16 GB for the training split at 64.

    Raises:
        FileNotFoundError: the data is missing; the message says how to get it.
        ValueError: there are not 1,000 folders, they have other names, the splits differ, or
            ``side`` is out of range.

    Source: Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", IJCV 2015.
    """
    from torchvision.models import ResNet18_Weights

    parts = ["train", "val"] if train else ["val"]
    found = locate("imagenet-1k", root, parts, ADVICE, ["imagenet-1k"])
    folders = {
        part: [path.name for path in visible(found / part) if path.is_dir()] for part in parts
    }
    for part, names in folders.items():
        if len(names) != CLASSES:
            raise ValueError(
                f"{found / part} must contain {CLASSES} class folders, got {len(names)}\n{ADVICE}"
            )
    check_same_classes(folders[parts[0]], folders["val"], found)
    check_labels_or_wnids(folders["val"], found / "val")
    return sorted_into_folders(
        "imagenet-1k",
        found,
        class_folders(found / "val", "number"),
        ResNet18_Weights.IMAGENET1K_V1.meta["categories"],
        test="val",
        train=train,
        side=side,
        in_memory=in_memory,
    )


def imagenet_nette(
    root: Path | None = None, train: bool = True, *, side: int = 224, in_memory: bool = False
) -> ImageDataset:
    """ImageNette: ten classes that are easy to distinguish, in the order of their wnids.

    Args:
        root: ImageNet's folder; or the published imagenette2, imagenette2-320 or imagenette2-160,
            or its parent. The published folders have another split into training and test images
            than ImageNet.
        train: whether to scan the training split too.
        side: of the square images, in pixels; 128 for ConvNets.
        in_memory: decode once and keep the pixels in memory.

    Raises:
        FileNotFoundError: the data is missing; the message says how to get it.
        ValueError: ``side`` is out of range.

    Source: https://github.com/fastai/imagenette
    """
    published = ["imagenette2", "imagenette2-320", "imagenette2-160"]
    return subset(
        "imagenet-nette", root, NETTE, published, train=train, side=side, in_memory=in_memory
    )


def imagenet_woof(
    root: Path | None = None, train: bool = True, *, side: int = 224, in_memory: bool = False
) -> ImageDataset:
    """ImageWoof: ten breeds of dogs, in the order of their wnids.

    For arguments and errors, see :func:`imagenet_nette`; the published folders are imagewoof2,
    imagewoof2-320 and imagewoof2-160. The code of MTT (Cazenavette et al., 2022) has another class
    order, which :func:`imagenet_subset` can read from a file.

    Source: https://github.com/fastai/imagenette
    """
    published = ["imagewoof2", "imagewoof2-320", "imagewoof2-160"]
    return subset(
        "imagenet-woof", root, WOOF, published, train=train, side=side, in_memory=in_memory
    )


def imagenet_10(
    root: Path | None = None,
    train: bool = True,
    *,
    side: int = 224,
    order: str = "list",
    in_memory: bool = False,
) -> ImageDataset:
    """ImageNet-10 of dataset distillation: the first ten classes of :func:`imagenet_100`.

    For arguments and errors, see :func:`imagenet_100`.

    Source: Kim et al. (IDC), ICML 2022, section 5.
    """
    classes = ordered(IMAGENET_10, order)
    return subset("imagenet-10", root, classes, train=train, side=side, in_memory=in_memory)


def imagenet_100(
    root: Path | None = None,
    train: bool = True,
    *,
    side: int = 224,
    order: str = "list",
    in_memory: bool = False,
) -> ImageDataset:
    """ImageNet-100: a hundred random classes of Tian et al., also used by IDC and later work.

    Args:
        root: ImageNet's folder, or one with these classes only.
        train: whether to scan the training split too.
        side: of the square images, in pixels; 128 for ConvNets.
        order: of the classes: ``list``, that of the published list, as in IDC's code; or
            ``sorted``, by wnid, as ``ImageFolder`` reads a folder with these classes only.
        in_memory: decode once and keep the pixels in memory.

    Raises:
        FileNotFoundError: the data is missing; the message says how to get it.
        ValueError: an option is out of range.

    Source: Tian et al., "Contrastive Multiview Coding", ECCV 2020; Kim et al. (IDC), ICML 2022.
    """
    classes = ordered(IMAGENET_100, order)
    return subset("imagenet-100", root, classes, train=train, side=side, in_memory=in_memory)


def imagenet_subset(
    root: Path | None = None,
    train: bool = True,
    *,
    classes: str = "",
    side: int = 224,
    in_memory: bool = False,
) -> ImageDataset:
    """The classes of ImageNet that are listed in a file, in the order of its lines.

    Args:
        root: ImageNet's folder, or one with these classes only.
        train: whether to scan the training split too.
        classes: path of a text file with one wnid per line, optionally followed by the class name.
            Empty lines and comments after a ``#`` are skipped.
        side: of the square images, in pixels.
        in_memory: decode once and keep the pixels in memory.

    Raises:
        FileNotFoundError: the images or the file are missing.
        ValueError: the file has no classes or a class twice, or ``side`` is out of range.
    """
    if not classes:
        raise ValueError("classes must be a file with one wnid per line, got none")
    wnids = read_class_list(Path(classes))
    return subset("imagenet-subset", root, wnids, train=train, side=side, in_memory=in_memory)


def subset(
    name: str,
    root: Path | None,
    classes: Mapping[str, str],
    folders: Sequence[str] = (),
    *,
    train: bool,
    side: int,
    in_memory: bool,
) -> ImageDataset:
    """Load the given classes, a mapping from wnids to names in the order of the labels."""
    advice = ADVICE
    if folders:
        archive = f"https://s3.amazonaws.com/fast-ai-imageclas/{folders[0]}.tgz"
        advice += f";\nor unpack {archive} there (tar xzf {folders[0]}.tgz)"
    parts = ["train", "val"] if train else ["val"]
    found = locate(name, root, parts, advice, [*folders, name])
    return sorted_into_folders(
        name,
        found,
        tuple(classes),
        tuple(classes.values()),
        test="val",
        train=train,
        side=side,
        in_memory=in_memory,
    )


def check_labels_or_wnids(names: Sequence[str], root: Path) -> None:
    """Raise ValueError unless 1,000 folders are named by wnids or by the labels 0 to 999.

    In any other order, such as that of the class names or of ILSVRC's numbers from 1 to 1000, the
    labels would differ from those of published networks and distilled sets.
    """
    if all(WNID.fullmatch(name) for name in names):
        return
    numbers = numbers_of(names)
    if numbers is None or sorted(numbers) != list(range(CLASSES)):
        others = [name for name in names if not WNID.fullmatch(name)]
        raise ValueError(
            f"{root} must contain folders named by wnids (n01440764) or by the labels 0 to "
            f"{CLASSES - 1}, got {first_few(sorted(others))}"
        )


def ordered(classes: Mapping[str, str], order: str) -> Mapping[str, str]:
    """The classes in the order of their list or of their wnids."""
    if order not in ORDERS:
        raise ValueError(f"order must be {' or '.join(ORDERS)}, got {order!r}")
    return classes if order == "list" else dict(sorted(classes.items()))


def read_class_list(path: Path) -> dict[str, str]:
    """Read wnids and their names from a file; see :func:`imagenet_subset` for its format."""
    classes: dict[str, str] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        wnid, *name = line.partition("#")[0].split(maxsplit=1) or [""]
        if wnid in classes:
            raise ValueError(f"{path} must list every class once, line {number} repeats {wnid}")
        if wnid:
            classes[wnid] = name[0].strip() if name else wnid
    if not classes:
        raise ValueError(f"{path} must have one wnid per line, got no lines")
    return classes
