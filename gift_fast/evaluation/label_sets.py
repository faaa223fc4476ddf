"""Which label set belongs to a run, and whether it fits."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gift_fast.data.classes import ALL
from gift_fast.data.datasets import ImageDataset
from gift_fast.data.datasets.validation import split_validation
from gift_fast.data.labels.label_set import LabelSet, Manifest, is_label_set
from gift_fast.evaluation.config import ResolvedEvaluationConfig
from gift_fast.evaluation.teacher_weights import load_teacher
from gift_fast.files.disk import format_size
from gift_fast.files.fingerprint import fingerprint

SEED_FOLDER = re.compile(r"seed(\d+)")
"""A label set in a folder of several, one for each seed."""

ADVICE = {
    "set_digest": "the labels are for other images",
    "teacher_digest": "the labels are another teacher's",
    "seed": "every seed has an order and an augmentation of its own: label it too",
}
"""What it means that a field differs."""


@dataclass(frozen=True)
class LabelSets:
    """The label sets of a folder, one for each seed.

    Attributes:
        folder: that was named.
        sets: by seed.
    """

    folder: Path
    sets: Mapping[int, LabelSet]

    @property
    def teachers(self) -> tuple[str, ...]:
        """The networks that labeled the sets."""
        return next(iter(self.sets.values())).manifest.teachers

    @property
    def in_words(self) -> str:
        """What is replayed.

        It names the folder, how many logits are stored of every image and their type, and the size.
        """
        first = next(iter(self.sets.values())).manifest
        size = format_size(sum(each.nbytes for each in self.sets.values()))
        return f"{self.folder}, {stored_in_words(first)}, {size}"

    def of_seed(self, seed: int) -> LabelSet:
        """The label set of a seed; raises ValueError where there is none."""
        if seed not in self.sets:
            known = ", ".join(map(str, sorted(self.sets)))
            raise ValueError(
                f"labels must be for the seed {seed}, {self.folder} has {known}: "
                f"{ADVICE['seed']}, with `gift-fast label --seeds {seed}`, or choose --seeds"
            )
        return self.sets[seed]


def stored_in_words(manifest: Manifest) -> str:
    """What a label set stores of every label."""
    if manifest.top_k is None:
        return f"all {manifest.num_classes} logits in {manifest.dtype}"
    rest = manifest.rest
    if manifest.temperature is not None:
        rest = f"{rest} at temperature {manifest.temperature:g}"
    return (
        f"the {manifest.top_k} largest of {manifest.num_classes} logits in {manifest.dtype}, "
        f"{rest} for the others"
    )


def read_label_sets(folder: Path | str | None) -> LabelSets | None:
    """The label sets in a folder: itself, or those in ``seed0``, ``seed1``, ...

    Returns:
        None where there are none, as in a folder of FKD labels.

    Raises:
        OSError: a shard is missing.
        ValueError: a manifest is damaged.
    """
    if folder is None:
        return None
    folder = Path(folder)
    if is_label_set(folder):
        found = LabelSet(folder)
        return LabelSets(folder, {found.manifest.seed: found})
    if not folder.is_dir():
        return None
    folders = [path for path in sorted(folder.iterdir()) if SEED_FOLDER.fullmatch(path.name)]
    sets = [LabelSet(path) for path in folders if is_label_set(path)]
    return LabelSets(folder, {each.manifest.seed: each for each in sets}) if sets else None


def of_run(
    config: ResolvedEvaluationConfig,
    classes: int,
    images: int,
    set_digest: str,
    teacher_digest: str,
) -> dict[str, object]:
    """The fields of a manifest that a run shares with its label set; epochs may be fewer."""
    return {
        "dataset": split_validation(config.dataset)[0],
        "classes": config.classes,
        "num_classes": classes,
        "set_digest": set_digest,
        "teachers": config.teachers,
        "teacher_digest": teacher_digest,
        "images": images,
        "batch_size": config.batch_size,
        "epochs": config.epochs,
        "seed": config.seed,
        "augmentation": config.augmentation,
        "mixing": config.mixing,
        "mixed_precision": config.mixed_precision,
        "channels_last": config.channels_last,
        "compiled": config.compile,
    }


def check_labels(
    labels: LabelSet,
    config: ResolvedEvaluationConfig,
    classes: int,
    images: int,
    digests: Mapping[str, str],
) -> None:
    """Raises ValueError where a label set is not one of a run; the message names both values.

    Args:
        labels: the set.
        config: of the run.
        classes: columns of a label.
        images: of the distilled set.
        digests: of what the run reads; that of the teachers may be missing.
    """
    manifest = labels.manifest
    teacher_digest = digests.get("teachers", manifest.teacher_digest)
    wanted = of_run(config, classes, images, digests["distilled"], teacher_digest)
    for name, value in wanted.items():
        stored = getattr(manifest, name)
        if name == "epochs":
            if config.epochs > stored:
                raise ValueError(
                    f"epochs must be at most {stored}, of which {labels.folder} has labels, got "
                    f"{config.epochs}"
                )
        elif stored != value:
            hint = f": {ADVICE[name]}" if name in ADVICE else ""
            raise ValueError(
                f"labels must be made with {name} {value!r} as the run, {labels.folder} was made "
                f"with {stored!r}{hint}"
            )


def digests_with(labels: LabelSet, digests: Mapping[str, str]) -> dict[str, str]:
    """The digests of what a run reads, where a label set stands in for its teachers.

    An exact set gives the bits of the online teachers, and so it is the same run. Any other is a
    run of its own.
    """
    digests = {**digests, "teachers": labels.manifest.teacher_digest}
    return digests if labels.manifest.exact else {**digests, "labels": labels.fingerprint()}


def check_weights_of(
    label_sets: LabelSets,
    weights: Sequence[tuple[str, Path]],
    dataset: ImageDataset,
    classes: str,
) -> None:
    """Raises ValueError where the teachers' files are there and are not those that labeled.

    A student of some classes has teachers with fewer columns, which are not compared here.
    """
    if classes != ALL or not all(path.exists() for _, path in weights):
        return
    teachers = [load_teacher(name, path, dataset)[0] for name, path in weights]
    digest = fingerprint(v for teacher in teachers for v in teacher.state_dict().values())
    for labels in label_sets.sets.values():
        if labels.manifest.teacher_digest != digest:
            raise ValueError(
                f"labels must be those of {', '.join(str(path) for _, path in weights)}, digest "
                f"{digest}; {labels.folder} was labeled by another teacher, digest "
                f"{labels.manifest.teacher_digest}. Label again, or name the teacher's file with "
                "--teacher-weights or its folder with --teacher-dir"
            )
