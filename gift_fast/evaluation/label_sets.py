"""Finds the label set of a run and checks that it fits."""

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
"""Subfolder of the label set of one seed."""

ADVICE = {
    "set_digest": "the labels are for other images",
    "teacher_digest": "the labels are those of another teacher",
    "seed": "every seed has a different order and augmentation, so label this one too",
}
"""Explanations of differences, by field."""


@dataclass(frozen=True)
class LabelSets:
    """The label sets of a folder, one per seed.

    Attributes:
        folder: the folder.
        sets: by seed.
    """

    folder: Path
    sets: Mapping[int, LabelSet]

    @property
    def teachers(self) -> tuple[str, ...]:
        """The networks that labeled the sets."""
        return next(iter(self.sets.values())).manifest.teachers

    @property
    def description(self) -> str:
        """The folder, the number of stored logits per image, their type, and the size."""
        first = next(iter(self.sets.values())).manifest
        size = format_size(sum(each.nbytes for each in self.sets.values()))
        return f"{self.folder}, {describe_storage(first)}, {size}"

    def of_seed(self, seed: int) -> LabelSet:
        """The label set of a seed; raises ValueError if there is none."""
        if seed not in self.sets:
            known = ", ".join(map(str, sorted(self.sets)))
            raise ValueError(
                f"labels must include the seed {seed}, {self.folder} has {known}: "
                f"{ADVICE['seed']} (`gift-fast label --seeds {seed}`), or change --seeds"
            )
        return self.sets[seed]


def describe_storage(manifest: Manifest) -> str:
    """Describe what a label set stores of every label."""
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
    """Find the label sets in a folder: the folder itself, or ``seed0``, ``seed1``, ... in it.

    Returns:
        The label sets; None if there are none, for instance in a folder of FKD labels.

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
    """The fields that a run shares with the manifest of its label set; it may have fewer epochs."""
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
    """Raise ValueError if a label set is not that of a run; the message states both values.

    Args:
        labels: the label set.
        config: of the run.
        classes: columns of a label.
        images: of the distilled set.
        digests: of the inputs of the run; that of the teachers may be missing.
    """
    manifest = labels.manifest
    teacher_digest = digests.get("teachers", manifest.teacher_digest)
    wanted = of_run(config, classes, images, digests["distilled"], teacher_digest)
    for name, value in wanted.items():
        stored = getattr(manifest, name)
        if name == "epochs":
            if config.epochs > stored:
                raise ValueError(
                    f"epochs must be at most {stored}, the number of epochs in {labels.folder}, "
                    f"got {config.epochs}"
                )
        elif stored != value:
            hint = f": {ADVICE[name]}" if name in ADVICE else ""
            raise ValueError(
                f"labels must have the {name} of the run, {value!r}, {labels.folder} has "
                f"{stored!r}{hint}"
            )


def digests_with(labels: LabelSet, digests: Mapping[str, str]) -> dict[str, str]:
    """The digests of the inputs of a run whose teachers are replaced by a label set.

    With an exact label set, the run has the same bits as with its teachers, so it is the same run.
    With any other label set, it is another run.
    """
    digests = {**digests, "teachers": labels.manifest.teacher_digest}
    return digests if labels.manifest.exact else {**digests, "labels": labels.fingerprint()}


def check_weights_of(
    label_sets: LabelSets,
    weights: Sequence[tuple[str, Path]],
    dataset: ImageDataset,
    classes: str,
) -> None:
    """Raise ValueError if the teachers' files exist, but are not those that computed the labels.

    The teachers of a student that is trained on some of the classes are not compared.
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
                f"{labels.manifest.teacher_digest}. Run `gift-fast label` again, or give the "
                "teacher's file with --teacher-weights or its folder with --teacher-dir"
            )
