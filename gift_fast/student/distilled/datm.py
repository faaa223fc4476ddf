"""What DATM (Guo et al., ICLR 2024) stores: images in ZCA space, their logits, a learning rate."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from gift_fast.student.datasets import ImageDataset
from gift_fast.student.distilled.images import DistilledSet
from gift_fast.student.distilled.labelled import with_fkd_labels
from gift_fast.student.distilled.pickles import load_tensors

IMAGES, LABELS, LEARNING_RATE = "images_best.pt", "labels_best.pt", "lr_best.pt"


def datm(path: Path, dataset: ImageDataset, labels: Path | None = None) -> DistilledSet:
    """Reads a folder of DATM; ``labels`` must be None, since its soft labels are in the folder.

    ``images_best.pt`` holds float images (N, C, S, S) that are ZCA-whitened already;
    ``labels_best.pt`` the learned logits (N, classes), which become the soft labels;
    ``lr_best.pt`` the learned learning rate, which may be absent. The images lie class by class
    with equally many of each, so the hard label of image i is i // ipc.

    Raises:
        OSError: a file cannot be opened.
        ValueError: a file holds something else, or the classes are not those of ``dataset``.
    """
    images = load_floats(path / IMAGES)
    logits = load_floats(path / LABELS)
    count, classes = len(images), dataset.num_classes
    if logits.shape != (count, classes) or count % classes:
        raise ValueError(
            f"{LABELS} must hold logits ({count}, {classes}), a row for every image and a column "
            f"for every class of {dataset.name}, with equally many rows a class, "
            f"got {tuple(logits.shape)}"
        )
    distilled = DistilledSet(
        images=images,
        labels=torch.arange(classes).repeat_interleave(count // classes),
        soft_labels=logits,
        whitened=True,
        learning_rate=load_rate(path / LEARNING_RATE),
        source=f"{path}, {count} whitened images of DATM",
    )
    return with_fkd_labels(distilled, labels, dataset)


def load_floats(file: Path) -> Tensor:
    """The tensor in a file, as float32; the gradient that DATM's labels require is dropped."""
    tensor = load_tensors(file)
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.dim() == 0:
        got = f"{tensor.dtype}" if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ValueError(f"{file.name} must hold a tensor of floating numbers, got {got}")
    return tensor.detach().float()


def load_rate(file: Path) -> float | None:
    """The positive number in a file, a tensor or not; None where there is no such file."""
    if not file.exists():
        return None
    rate = load_tensors(file)
    if isinstance(rate, Tensor) and rate.numel() == 1:
        rate = rate.item()
    if not isinstance(rate, float) or not 0.0 < rate < float("inf"):
        raise ValueError(f"{file.name} must hold one positive number, got {rate!r}")
    return rate
