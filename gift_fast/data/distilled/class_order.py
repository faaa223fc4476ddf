"""The classes of the folders of a distilled set, determined from the folders' names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gift_fast.data.datasets import ImageDataset
from gift_fast.data.images.class_folders import in_class_order, simplified
from gift_fast.files.text_files import first_few


def labels_of_folders(
    folders: Sequence[str], dataset: ImageDataset, root: Path, order: str
) -> tuple[dict[str, int], str]:
    """Determine the label of every folder of a distilled set, and describe the rule it used.

    Raises:
        ValueError: the folders are not those of the classes; the message states the difference.
    """
    classes = dataset.num_classes
    if order == "auto":
        for names, how in (
            (dataset.class_names, "folders named by class"),
            (dataset.class_folders, f"folders named as in {dataset.name}"),
        ):
            if found := labels_by_name(folders, names, root):
                return found, how
    numbers = [int(folder) for folder in folders if folder.isdecimal()]
    numbered = order == "auto" and len(numbers) == len(folders) > 0
    first = 1 if numbered and min(numbers) == 1 else 0
    expected = range(first, first + classes)
    missing = [str(number) for number in expected if number not in set(numbers)]
    if len(folders) != classes or (numbered and missing):
        message = (
            f"{root} must contain a folder for each of the {classes} classes of {dataset.name}, "
            f"got {len(folders)}"
        )
        if numbered:
            extra = [str(number) for number in sorted(numbers) if number not in expected]
            message += f" with numbers, which must be {expected[0]} to {expected[-1]}"
            message += f"; missing: {first_few(missing)}" if missing else ""
            message += f"; unexpected: {first_few(extra)}" if extra else ""
        raise ValueError(message)
    ordered = in_class_order(folders, root, order)
    if numbered:
        how = f"classes in the order of the folders' numbers, from {first}"
    else:
        how = f"classes in the order of the folders' {'numbers' if order == 'number' else 'names'}"
    return {name: label for label, name in enumerate(ordered)}, how


def labels_by_name(folders: Sequence[str], names: Sequence[str], root: Path) -> dict[str, int]:
    """Determine the labels of folders that have the names of classes; empty if none has.

    Raises:
        ValueError: only some folders have the name of a class.
    """
    for key in (str, simplified):  # exactly, or up to case and punctuation
        label_of = {key(name): label for label, name in enumerate(names)}
        keys = {key(folder): folder for folder in folders}
        if len(label_of) < len(names) or len(keys) < len(folders):
            continue  # two names have the same key
        if keys.keys() == label_of.keys():
            return {folder: label_of[k] for k, folder in keys.items()}
    known = keys.keys() & label_of.keys()
    if not known:
        return {}
    strange = [folder for k, folder in sorted(keys.items()) if k not in label_of]
    missing = [name for name in names if key(name) not in keys]
    faults = [
        f"{words} {first_few(items)}"
        for words, items in (("there is no folder for", missing), ("there is no class", strange))
        if items
    ]
    raise ValueError(
        f"{root} must contain a folder for each of {len(names)} classes; {len(known)} have the "
        f"name of a class, but {' and '.join(faults) or 'two of them have the same name'}"
    )
