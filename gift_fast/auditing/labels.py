"""Checks the labels of a distilled set: their classes, numbering and values."""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch
from torch import Tensor

from gift_fast.auditing.audit_report import Finding, in_bytes
from gift_fast.data.datasets import ImageDataset
from gift_fast.data.distilled import DistilledSet
from gift_fast.data.labels import StoredLabels
from gift_fast.files.text_files import first_few

TOPIC, SOFT = "labels", "soft labels"

ROWS_A_CLASS = 5
"""Stored labels per class that are read from a folder, in whose batches all classes are equal."""

FEWEST_BATCHES, MOST_BATCHES = 2, 16
"""Number of files that are read from such a folder; 16 files of ImageNet-1K have 33 MB."""


def examine_labels(
    dataset: ImageDataset, distilled: DistilledSet
) -> tuple[list[Finding], dict[str, Any]]:
    """Count the images of every class.

    Returns:
        Findings, and their measurements.
    """
    labels, classes = distilled.labels, dataset.num_classes
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        text = (
            f"Labels are {low} to {high}, but the classes of {dataset.name} are 0 to {classes - 1}."
        )
        if low == 1 and high == classes:
            text += " They seem to start at 1."
        return [Finding("error", TOPIC, text)], {"lowest": low, "highest": high}
    ipc = distilled.ipc(classes).cpu()
    missing = (ipc == 0).nonzero().flatten().tolist()
    fewest, most = int(ipc.min()), int(ipc.max())
    measures = {
        "classes": classes,
        "fewest_per_class": fewest,
        "most_per_class": most,
        "missing": missing,
    }
    if missing:
        names = [f"{label} ({dataset.class_names[label]})" for label in missing]
        text = f"{len(missing)} of {classes} classes have no images: {first_few(names)}."
        return [Finding("warning", TOPIC, text)], measures
    images = "1 image" if most == 1 else f"{most} images"
    if fewest == most:
        text = f"{images} for each of {classes} classes."
        return [Finding("ok", TOPIC, text)], measures
    text = f"Classes differ in size: {fewest} to {images}."
    return [Finding("note", TOPIC, text)], measures


def examine_soft_labels(
    dataset: ImageDataset, distilled: DistilledSet, image_bytes: int
) -> tuple[list[Finding], dict[str, Any] | None]:
    """Examine the form and the size of stored soft labels; their classes are compared elsewhere.

    Args:
        dataset: the real dataset, with the classes that the labels should have.
        distilled: with soft labels in rows, in a folder of batches, or without any.
        image_bytes: size of the images, for comparison.

    Returns:
        Findings, and their measurements; None if no soft labels are stored.
    """
    if distilled.replay is not None:
        size = distilled.replay.nbytes
        text = (
            f"Stored with their crops, {in_bytes(size)} in total, {against(size, image_bytes)}: "
            f"{distilled.replay.form}."
        )
        return [Finding("ok", SOFT, text)], {"form": "batches", "bytes": size}
    soft_labels = distilled.soft_labels
    if soft_labels is None:
        return [Finding("ok", SOFT, "None are stored, so a teacher must compute them.")], None
    size = soft_labels.numel() * soft_labels.element_size()
    measures = {"form": "rows", "bytes": size, "shape": list(soft_labels.shape)}
    if soft_labels.shape[1:] != (dataset.num_classes,):
        text = (
            f"They have the shape {tuple(soft_labels.shape)}, but {dataset.name} with "
            f"{dataset.num_classes} classes needs {(len(distilled), dataset.num_classes)}."
        )
        return [Finding("error", SOFT, text)], measures
    wrong = int((~soft_labels.isfinite()).any(1).sum())
    if wrong:
        text = f"{wrong} of {len(soft_labels)} rows contain NaN or infinity."
        return [Finding("error", SOFT, text)], measures
    kind = kind_of(soft_labels)
    measures["kind"] = kind
    text = f"{kind.capitalize()} in {in_bytes(size)}, {against(size, image_bytes)}."
    if kind == "logits":
        return [Finding("ok", SOFT, text)], measures
    text += (
        " Losses such as KL treat them as logits and take a softmax of them, which makes "
        "probabilities nearly uniform over the classes; GIFT and cosine use them unchanged."
    )
    return [Finding("note", SOFT, text)], measures


def against(size: int, image_bytes: int) -> str:
    """A number of bytes as a multiple of the images' size."""
    return f"{size / image_bytes:.2g} times the images in memory"


def kind_of(soft_labels: Tensor) -> str:
    """Whether rows are logits, probabilities, or one-hot vectors."""
    rows = soft_labels.float()
    # The sum of 1,000 probabilities in float16 is off by about 1e-3.
    if bool((rows < 0).any()) or bool(((rows.sum(1) - 1).abs() > 1e-2).any()):
        return "logits"
    return "one-hot labels" if bool((rows.amax(1) > 0.9999).all()) else "probabilities"


def stored_predictions(
    distilled: DistilledSet, num_classes: int, *, quick: bool
) -> tuple[Tensor, Tensor] | None:
    """The hard labels of images, (M), and the classes that their soft labels predict, (M).

    Only the first batches of a folder are read. For mixed images, the hard label with the larger
    weight is used.
    """
    if distilled.replay is not None:
        return replayed_predictions(
            distilled.replay, distilled.labels.cpu(), num_classes, distilled.side, quick=quick
        )
    if distilled.soft_labels is None:
        return None
    return distilled.labels, distilled.soft_labels.argmax(1)


def replayed_predictions(
    replay: StoredLabels, labels: Tensor, num_classes: int, side: int, *, quick: bool
) -> tuple[Tensor, Tensor]:
    """The same for stored batches."""
    most = FEWEST_BATCHES if quick else MOST_BATCHES
    hard, named, rows = [], [], 0
    for batch in islice(replay.epoch(0), most):
        target = labels[batch.index]
        if batch.mix_index is not None and batch.mix_weight(side) < 0.5:
            target = target[batch.mix_index]
        hard.append(target)
        named.append(batch.named())
        rows += len(target)
        if rows >= ROWS_A_CLASS * num_classes and len(hard) >= FEWEST_BATCHES:
            break
    return torch.cat(hard), torch.cat(named)
