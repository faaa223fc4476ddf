"""The format of DATM (Guo et al., ICLR 2024): images, their logits and a learning rate.

For CIFAR and Tiny-ImageNet, DATM's configurations whiten the images (``zca: True``), including the
test images. For ImageNet-1K and its subsets, they normalize the images with the dataset's mean and
standard deviation instead.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from gift_fast.data.datasets import ImageDataset
from gift_fast.data.distilled.distilled_set import DistilledSet
from gift_fast.data.distilled.labels_of_set import with_stored_labels
from gift_fast.files.pickles import described, load_tensors

ROUNDING_OF_STD = 0.01
"""Tolerance for denormalized images outside of [0, 1]; dividing by the std amplifies rounding."""

IMAGES, LABELS, LEARNING_RATE = "images_best.pt", "labels_best.pt", "lr_best.pt"


def datm(
    path: Path, dataset: ImageDataset, labels: Path | None = None, *, zca: str = "auto"
) -> DistilledSet:
    """Read a folder of DATM.

    ``images_best.pt`` has float images (N, C, S, S), whitened or normalized with the dataset's
    constants. The latter are converted back to the scale of [0, 1]; they can exceed it, because
    they were optimized without clipping. ``labels_best.pt`` has the learned logits (N, classes),
    which are the soft labels, and ``lr_best.pt`` the learned learning rate, if there is one. Images
    are sorted by class, with equal numbers, so the hard label of image i is i // ipc.

    Args:
        path: the folder.
        dataset: the real dataset, with the classes of the set.
        labels: must be None, because the soft labels are in the folder.
        zca: whether the images are whitened: ``true``, ``false``, or ``auto``, for which ImageNet
            and its subsets are normalized and other datasets are whitened.

    Raises:
        OSError: a file cannot be opened.
        ValueError: a file has other contents, the classes are not those of ``dataset``, or ``zca``
            is none of the three.
    """
    if zca.lower() not in ("auto", "true", "false"):
        raise ValueError(f"zca must be auto, true or false, got {zca!r}")
    images = load_floats(path / IMAGES)
    logits = load_floats(path / LABELS)
    count, classes = len(images), dataset.num_classes
    if logits.shape != (count, classes) or count % classes:
        raise ValueError(
            f"{LABELS} must contain logits ({count}, {classes}), one row per image and one column "
            f"per class of {dataset.name}, with equally many rows per class, "
            f"got {tuple(logits.shape)}"
        )
    whitened = not dataset.name.startswith("imagenet") if zca == "auto" else zca.lower() == "true"
    if zca == "auto" and whitened and look_normalized(images, dataset):
        raise ValueError(
            f"{IMAGES} must contain whitened images for {dataset.name}, but they look normalized: "
            "converted with the dataset's mean and std, all values are in [0, 1]. Choose with the "
            "format datm:zca=false or datm:zca=true"
        )
    if not whitened:
        if images.dim() != 4 or images.shape[1] != dataset.channels:
            raise ValueError(
                f"{IMAGES} must contain images (N, {dataset.channels}, S, S), "
                f"got {tuple(images.shape)}"
            )
        images = dataset.denormalize(images)
    kind = "whitened" if whitened else "normalized"
    distilled = DistilledSet(
        images=images,
        labels=torch.arange(classes).repeat_interleave(count // classes),
        soft_labels=logits,
        whitened=whitened,
        clipped=whitened,
        learning_rate=load_rate(path / LEARNING_RATE),
        source=f"{path}, {count} images of DATM, read as {kind}",
    )
    return with_stored_labels(distilled, labels, dataset)


def look_normalized(images: Tensor, dataset: ImageDataset) -> bool:
    """Whether images are in [0, 1] after undoing the dataset's normalization.

    Whitened images are not: they have long tails on both sides of 0.
    """
    if images.dim() != 4 or images.shape[1] != dataset.channels or not images.numel():
        return False
    low, high = dataset.denormalize(images).aminmax()
    return bool(low >= -ROUNDING_OF_STD and high <= 1.0 + ROUNDING_OF_STD and images.min() < 0)


def load_floats(file: Path) -> Tensor:
    """Load the tensor in a file as float32."""
    tensor = load_tensors(file)
    if (
        not isinstance(tensor, Tensor)
        or not tensor.is_floating_point()
        or tensor.dim() == 0
        or tensor.layout is not torch.strided
    ):
        raise ValueError(
            f"{file.name} must contain a dense floating-point tensor, got {described(tensor)}"
        )
    return tensor.float()


def load_rate(file: Path) -> float | None:
    """Load the positive number in a file, which can be a tensor; None if the file is missing."""
    if not file.exists():
        return None
    rate = load_tensors(file)
    if isinstance(rate, Tensor) and rate.numel() == 1 and not rate.is_complex():
        rate = rate.item()
    if not isinstance(rate, float) or not 0.0 < rate < float("inf"):
        raise ValueError(f"{file.name} must contain one positive number, got {rate!r}")
    return rate
