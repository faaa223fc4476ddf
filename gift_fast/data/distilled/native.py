"""This project's format: a pair of files, ``NAME.safetensors`` and ``NAME.json``.

The safetensors file has ``images``, ``labels`` and, optionally, ``soft_labels``. The JSON file
describes them and can be edited by hand:

    format         "gift-fast"
    version        1
    dataset        the name of the dataset whose classes the labels are
    class_names    in the order of the labels
    whitened       whether the images are in ZCA space
    clipped        false if floating-point images can exceed [0, 1]; true by default
    learning_rate  the student's, or null
    source         a description of where the set is from
    fingerprint    of the tensors, which detects files that do not belong together
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gift_fast.data.datasets import ImageDataset
from gift_fast.data.distilled.distilled_set import DistilledSet
from gift_fast.data.distilled.labels_of_set import with_stored_labels
from gift_fast.files.atomic import replacing
from gift_fast.files.text_files import read_json

FORMAT = "gift-fast"
VERSION = 1
SUFFIXES = (".safetensors", ".json")
TENSORS = ("images", "labels", "soft_labels")

FIELDS: dict[str, tuple[type, ...]] = {
    "dataset": (str,),
    "class_names": (list,),
    "whitened": (bool,),
    "learning_rate": (float, int, type(None)),
    "source": (str,),
    "fingerprint": (str,),
}


def pair_of(path: Path) -> tuple[Path, Path]:
    """The safetensors file and the JSON file of a set.

    Args:
        path: either of the two, their common name without a suffix, or a folder with one pair.

    Raises:
        ValueError: a folder with no pair, or with several.

    Example:
        >>> [file.name for file in pair_of(Path("sets/digits-ipc10"))]
        ['digits-ipc10.safetensors', 'digits-ipc10.json']
    """
    if path.is_dir():
        names = sorted(file.stem for file in path.glob("*.safetensors"))
        if len(names) != 1:
            raise ValueError(
                f"{path} must contain one file NAME.safetensors, got {names or 'none'}"
            )
        path = path / names[0]
    name = path.stem if path.suffix in SUFFIXES else path.name
    return path.with_name(name + SUFFIXES[0]), path.with_name(name + SUFFIXES[1])


def is_pair(path: Path) -> bool:
    """Whether both files of a set exist."""
    if path.is_dir():
        return any(file.with_suffix(SUFFIXES[1]).is_file() for file in path.glob("*.safetensors"))
    return all(file.is_file() for file in pair_of(path))


def write_distilled(path: Path | str, distilled: DistilledSet, dataset: ImageDataset) -> None:
    """Write a distilled set in this project's format; each file is written atomically.

    Reading it returns the same bits. Labels that are stored in batches (``replay``) are not
    written; give their folder again when the set is read.

    Args:
        path: the common name of the two files; a suffix of either is dropped.
        distilled: the set.
        dataset: the real dataset; its name and class names are written too.

    Raises:
        OSError: a file cannot be written; the message names it.
        ValueError: ``path`` is a folder, or the set is not for ``dataset``.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = Path(path)
    distilled.check_against(dataset)
    if path.is_dir():
        raise ValueError(f"path must be the common name of two files, got the folder {path}")
    tensors = {name: getattr(distilled, name) for name in TENSORS}
    stored = {name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}
    description = {
        "format": FORMAT,
        "version": VERSION,
        "dataset": dataset.name,
        "class_names": dataset.class_names,
        "whitened": distilled.whitened,
        "clipped": distilled.clipped,
        "learning_rate": distilled.learning_rate,
        "source": distilled.source,
        "fingerprint": replace(distilled, replay=None).fingerprint(),
    }
    tensor_file, json_file = pair_of(path)
    with replacing(tensor_file) as temporary:
        try:
            save_file(stored, temporary)
        except SafetensorError as error:  # for instance on a full disk
            raise OSError(str(error)) from error
    with replacing(json_file) as temporary:
        text = json.dumps(description, indent=2, allow_nan=False) + "\n"
        temporary.write_text(text, encoding="utf-8")


def native(path: Path, dataset: ImageDataset, labels: Path | None = None) -> DistilledSet:
    """Read what :func:`write_distilled` wrote.

    Args:
        path: either file, their name without a suffix, or a folder with one such pair.
        dataset: the real dataset, with the classes of the labels; class names are compared after a
            class map is applied.
        labels: an FKD folder for these images, if the set has no soft labels; or None.

    Raises:
        OSError: a file cannot be opened.
        ValueError: a file has other contents, or the two do not belong together.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tensor_file, json_file = pair_of(path)
    description = read_json(json_file)
    check_description(json_file, description)
    try:
        tensors = load_file(tensor_file)
    except FileNotFoundError:
        raise
    except (OSError, SafetensorError) as error:  # OSError for a folder
        raise ValueError(f"{tensor_file} must be a safetensors file, got: {error}") from error
    if not {"images", "labels"} <= tensors.keys() <= set(TENSORS):
        raise ValueError(
            f"{tensor_file} must contain images, labels and optionally soft_labels, "
            f"got {sorted(tensors)}"
        )
    rate = description["learning_rate"]
    distilled = DistilledSet(
        images=tensors["images"],
        labels=tensors["labels"],
        soft_labels=tensors.get("soft_labels"),
        whitened=description["whitened"],
        clipped=description.get("clipped", True),
        learning_rate=None if rate is None else float(rate),
        class_names=tuple(description["class_names"]),
        source=description["source"],
        dataset=description["dataset"],
    )
    if distilled.fingerprint() != description["fingerprint"]:
        raise ValueError(
            f"{tensor_file} must be the file that {json_file.name} was written with, fingerprint "
            f"{description['fingerprint']}, got {distilled.fingerprint()}"
        )
    return with_stored_labels(distilled, labels, dataset)


def check_description(file: Path, description: Any) -> None:
    """Check the format, the version and the fields of a JSON file."""
    if not isinstance(description, Mapping) or description.get("format") != FORMAT:
        raise ValueError(f"{file} must contain an object with format {FORMAT!r}")
    if description.get("version") != VERSION:
        got = description.get("version")
        raise ValueError(f"{file} must have version {VERSION}, got {got!r}")
    for name, kinds in FIELDS.items():
        if type(description.get(name, FIELDS)) not in kinds:  # True is an int to isinstance
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise ValueError(f"{file}: {name} must be a {expected}, got {description.get(name)!r}")
    if type(description.get("clipped", True)) is not bool:
        raise ValueError(f"{file}: clipped must be a bool, got {description['clipped']!r}")
    rate = description["learning_rate"]
    if rate is not None and not 0.0 < rate <= sys.float_info.max:
        raise ValueError(f"{file}: learning_rate must be positive and finite, got {rate}")
    names = description["class_names"]
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"{file}: class_names must be strings, got {names}")
