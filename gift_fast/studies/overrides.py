"""Overrides of a study's settings: the options of ``gift-fast study``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gift_fast.data.datasets import check_dataset
from gift_fast.data.datasets.sizes import default_validation_size
from gift_fast.data.datasets.validation import split_validation
from gift_fast.files import spec
from gift_fast.files.checks import check_integer
from gift_fast.studies.sets import SetSource
from gift_fast.studies.study import Study
from gift_fast.studies.study_files import check_counts
from gift_fast.training.models import MODELS


def with_overrides(
    study: Study,
    *,
    dataset: str | None = None,
    ipc: Sequence[int] | None = None,
    student: str | None = None,
    epochs: int | None = None,
    seeds: Sequence[int] | None = None,
    dataset_seeds: Sequence[int] | None = None,
    validation: int | None = None,
    tuning_seeds: Sequence[int] | None = None,
    tuned: bool = True,
    baselines: bool | None = None,
    data_root: Path | None = None,
) -> Study:
    """A copy of a study with other settings; arguments that are None change nothing.

    Args:
        study: the original study.
        dataset: only the sets of this dataset are kept; if there are none, those of the study's
            first dataset are used with this dataset.
        ipc: images per class.
        student: the network of all teachers and students.
        epochs: epochs of every student.
        seeds: seeds of the students.
        dataset_seeds: seeds of the generated sets.
        validation: size of the validation split. The default is the study's size; on a dataset
            that is not one of the study's, it is at most a tenth of the images, see
            :func:`~gift_fast.data.datasets.sizes.default_validation_size`.
        tuning_seeds: seeds of the trials, for a study with tuning.
        tuned: whether to keep the study's tuning.
        baselines: whether to run baselines.
        data_root: the folder of ``dataset``; its images are counted if its size is not published.

    Raises:
        OSError: the images of ``dataset`` cannot be counted, because they are missing.
        TypeError, ValueError: a value is not valid in a study file.
    """
    if dataset is not None:
        check_dataset(dataset)
        known = [source.dataset for source, _ in study.sets]
        has_split = split_validation(dataset)[1]
        if dataset not in known and validation is None and study.validation and not has_split:
            validation = default_validation_size(dataset, study.validation, data_root)
    changes: dict[str, Any] = {"sets": overridden_sets(study, dataset, ipc, student)}
    if epochs is not None:
        changes["settings"] = {**study.settings, "epochs": epochs}
    for name, values in (("seeds", seeds), ("dataset_seeds", dataset_seeds)):
        if values is not None:
            check_counts(name, values, 0)
            changes[name] = tuple(values)
    if validation is not None:
        check_integer("validation", validation, 0)
        changes["validation"] = validation
    if baselines is not None:
        changes["baselines"] = baselines
    tuning = study.tuning if tuned else None
    if tuning_seeds is not None:
        check_counts("tuning_seeds", tuning_seeds, 0)
        if tuning is None:
            raise ValueError(
                f"tuning_seeds must be used with a study that has tuning, got {tuning_seeds}"
            )
        tuning = replace(tuning, seeds=tuple(tuning_seeds))
    return replace(study, **changes, tuning=tuning)


def overridden_sets(
    study: Study, dataset: str | None, ipc: Sequence[int] | None, student: str | None
) -> tuple[tuple[SetSource, tuple[str, ...]], ...]:
    """The sets of a study with another dataset, IPC or student; see :func:`with_overrides`."""
    sets = list(study.sets)
    if dataset is not None:
        known = [source.dataset for source, _ in sets]
        kept = dataset if dataset in known else known[0]
        sets = [
            (replace(source, dataset=dataset), students)
            for source, students in sets
            if source.dataset == kept
        ]
    if ipc is not None:
        check_counts("ipc", ipc, 1)
        sets = [(replace(source, ipc=n), students) for source, students in sets for n in ipc]
    if student is not None:
        spec.resolve("student", student, MODELS)
        sets = [(replace(source, network=student), (student,)) for source, _ in sets]
    return tuple(dict.fromkeys(sets))
