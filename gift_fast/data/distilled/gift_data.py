"""The format of GIFT's code: a single file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from gift_fast.data.datasets import ImageDataset
from gift_fast.data.distilled.distilled_set import DistilledSet
from gift_fast.data.distilled.labels_of_set import with_stored_labels
from gift_fast.files.pickles import described, load_tensors

FILE = "data.pt"
KEYS = ["data", "dataset", "label"]


def gift_data(path: Path, dataset: ImageDataset, labels: Path | None = None) -> DistilledSet:
    """Read GIFT's ``data.pt``: a dictionary with ``dataset``, ``data`` and ``label``.

    ``dataset`` is a name, which ``source`` mentions; ``data`` has float images (N, C, S, S) in
    [0, 1]; ``label`` has the classes, (N) or (N, 1), or soft labels (N, classes), whose largest
    value determines the hard label.

    Args:
        path: the file, or the folder with a ``data.pt``.
        dataset: the real dataset, with the classes of the labels.
        labels: an FKD folder for these images, if the file has no soft labels; or None.

    Raises:
        OSError: a file is missing or cannot be opened.
        ValueError: the file has other contents.

    Example:
        >>> import tempfile
        >>> from gift_fast.data.datasets import load_dataset
        >>> path = Path(tempfile.mkdtemp()) / "data.pt"
        >>> images, label = torch.rand(20, 1, 8, 8), torch.arange(10).repeat(2)
        >>> torch.save({"dataset": "digits", "data": images, "label": label}, path)
        >>> gift_data(path, load_dataset("digits")).ipc(10)
        tensor([2, 2, 2, 2, 2, 2, 2, 2, 2, 2])
    """
    file = path / FILE if path.is_dir() else path
    contents = load_tensors(file)
    if not isinstance(contents, dict) or contents.keys() != set(KEYS):
        got = sorted(map(str, contents)) if isinstance(contents, dict) else type(contents).__name__
        raise ValueError(f"{file.name} must contain a dictionary with the keys {KEYS}, got {got}")
    images, label, name = contents["data"], contents["label"], str(contents["dataset"])
    for key, value in contents.items():
        if isinstance(value, Tensor) and value.layout is not torch.strided:
            raise ValueError(
                f"{key} must be dense, got {described(value)}; save {key}.to_dense() instead"
            )
    if not isinstance(images, Tensor) or not images.is_floating_point() or images.dim() != 4:
        raise ValueError(
            f"data must be float images (N, C, S, S) in [0, 1], got {described(images)}; divide "
            "uint8 images by 255"
        )
    count, classes = len(images), dataset.num_classes
    shapes = ((count,), (count, 1), (count, classes))
    if not isinstance(label, Tensor) or label.shape not in shapes:
        raise ValueError(
            f"label must be {shapes[0]}, {shapes[1]} or {shapes[2]}, for {count} images and the "
            f"classes of {dataset.name}, got {described(label)}"
        )

    source = f"{file}, {count} images made for {name}"
    if label.numel() != count:
        distilled = DistilledSet(
            images=images.float(),
            labels=label.float().argmax(1),
            soft_labels=label,
            source=f"{source}, hard labels from the largest soft label",
            dataset=name,
        )
    else:
        label = label.reshape(count)
        if label.is_floating_point() and not torch.equal(label, label.round()):
            raise ValueError("label must be whole numbers if it has one per image")
        distilled = DistilledSet(
            images=images.float(), labels=label.long(), source=source, dataset=name
        )
    return with_stored_labels(distilled, labels, dataset)
