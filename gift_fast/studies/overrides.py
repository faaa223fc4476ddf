"""A study on another dataset or with fewer runs: the options of ``gift-fast study``."""

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
    """A study on other data, or smaller; what is None stays.

    Args:
        study: to start from.
        dataset: keeps its sets alone; where the study has none, those of its first dataset are
            taken to be of this one.
        ipc: images per class, in place of the study's.
        student: the network of every teacher and student.
        epochs: of every student.
        seeds: of the students.
        dataset_seeds: of the generated sets.
        validation: size of the validation split. None is the
            study's number; on a dataset that is not among the study's, at most a tenth of the
            images, see :func:`~gift_fast.data.datasets.sizes.default_validation_size`.
        tuning_seeds: of the students of the trials, where the study has any.
        tuned: whether to keep the study's tuning, if it has any.
        baselines: whether to run baselines.
        data_root: the folder that holds ``dataset``, whose images are counted where its size is
            not a published one.

    Raises:
        OSError: the images of ``dataset`` cannot be counted, since they are missing.
        TypeError, ValueError: a value is not one that the study's file could hold.
    """
    sets = list(study.sets)
    if dataset is not None:
        check_dataset(dataset)
        known = [source.dataset for source, _ in sets]
        kept = dataset if dataset in known else known[0]
        own = split_validation(dataset)[1]
        if dataset not in known and validation is None and study.validation and not own:
            validation = default_validation_size(dataset, study.validation, data_root)
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
    changes: dict[str, Any] = {"sets": tuple(dict.fromkeys(sets))}
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
            raise ValueError(f"tuning_seeds must be for a study that tunes, got {tuning_seeds}")
        tuning = replace(tuning, seeds=tuple(tuning_seeds))
    return replace(study, **changes, tuning=tuning)
