"""What the studies in a folder have recorded: their manifests, and the runs that have finished."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from gift_fast.evaluation.config import EvaluationConfig
from gift_fast.evaluation.results import RunResult, read_run, run_path
from gift_fast.files.checks import check_choice
from gift_fast.files.record_names import record_name
from gift_fast.studies.manifest import (
    Finished,
    manifest_path,
    read_manifest,
    recorded_teachers,
    title_of,
)
from gift_fast.studies.sets import SetSource
from gift_fast.studies.study import Experiment, Study, Tuning

TUNING = {record_name(field.name) for field in fields(Tuning)}

PURPOSES = ("protocol", "trial", "tuned", "baseline")


@dataclass(frozen=True)
class Run:
    """A run of a study that has finished.

    Attributes:
        experiment: what was to be run.
        result: what came of it.
        file: the name of its file in the folder.
    """

    experiment: Experiment
    result: RunResult
    file: str


@dataclass(frozen=True)
class StudyRecord:
    """What one manifest says, with the results of its runs.

    Attributes:
        name: of the study.
        title: what is compared, in a line.
        answers: tables and figures of the paper with the same question.
        notes: what a reader should know.
        preset: settings of every run.
        tuning: how learning rate and weight decay were chosen, or None.
        teachers: top-1 of its teachers, percent, by the names of their files, where it is known.
        runs: those that have finished.
        unfinished: how many have not, by purpose.
    """

    name: str
    title: str
    answers: tuple[str, ...]
    notes: str
    preset: str
    tuning: dict[str, Any] | None
    teachers: Mapping[str, float]
    runs: tuple[Run, ...]
    unfinished: dict[str, int]


@dataclass(frozen=True)
class Folder:
    """All studies of a folder.

    Attributes:
        path: of the folder.
        studies: in the order of their names.
        damaged: what could not be read, a message a file, which names it.
    """

    path: Path
    studies: tuple[StudyRecord, ...]
    damaged: tuple[str, ...]


def read_folder(path: Path) -> Folder:
    """Read every ``study-*.json`` of a folder and the runs that they name.

    Damaged and missing files are listed in ``damaged``, and the rest is read.

    Raises:
        ValueError: there is no such folder, or no study in it.
    """
    manifests = sorted(path.glob("study-*.json"))
    if not manifests:
        raise ValueError(
            f"folder must hold studies, study-NAME.json, as `gift-fast study --out` leaves them; "
            f"got {path}"
        )
    results: dict[str, RunResult | None] = {}
    damaged: dict[str, None] = {}
    studies = []
    for manifest in manifests:
        try:
            studies.append(read_study(manifest, results, damaged))
        except (OSError, ValueError) as error:
            damaged[str(error)] = None
    return Folder(path, tuple(studies), tuple(damaged))


def read_study(
    manifest: Path, results: dict[str, RunResult | None], damaged: dict[str, None]
) -> StudyRecord:
    """Read a manifest and those of its runs that are not in ``results`` yet.

    Args:
        manifest: the file.
        results: by the name of the run's file, None where it cannot be read; grows.
        damaged: messages, in order; grows.
    """
    entries = read_manifest(manifest)
    contents = json.loads(manifest.read_text(encoding="utf-8"))
    runs = []
    unfinished = dict.fromkeys(PURPOSES, 0)
    try:
        texts = {name: str(contents[name]) for name in ("name", "title", "notes", "preset")}
        answers = tuple(map(str, contents["answers"]))
        tuning = contents["tuning"]
        teachers = {str(k): float(v) for k, v in contents.get("teachers", {}).items()}
        for entry in entries:
            experiment = experiment_of(entry)
            file = entry["file"]
            if file is not None and file not in results:
                results[file] = read_result(manifest.parent / file, damaged)
            result = results[file] if file is not None else None
            if result is not None and not is_of(result, experiment):
                damaged[
                    f"{manifest.parent / file} must hold {title_of(experiment)}; it does not"
                ] = None
                result = None
            if result is None:
                unfinished[experiment.purpose] += 1
            else:
                runs.append(Run(experiment, result, file))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{manifest} must hold the record of a study, got: {error!r}") from error
    if not isinstance(tuning, dict | None) or (tuning is not None and tuning.keys() != TUNING):
        raise ValueError(f"{manifest} must hold the record of a study, got: tuning {tuning!r}")
    kept = of_one_set(runs)
    if len(kept) < len(runs):
        damaged[
            f"{manifest}: {len(runs) - len(kept)} runs are left out, since they are of other "
            "distilled sets or teachers than those of the last call"
        ] = None
    return StudyRecord(
        **texts,
        answers=answers,
        tuning=tuning,
        teachers=teachers,
        runs=tuple(kept),
        unfinished=unfinished,
    )


def is_of(result: RunResult, experiment: Experiment) -> bool:
    """Whether a result has the settings of an experiment, where these are not left to the set."""
    config = experiment.config.to_dict()
    settled = result.config.to_dict()
    return config.keys() == settled.keys() and all(
        settled[name] == value for name, value in config.items() if value is not None
    )


def of_one_set(runs: Sequence[Run]) -> list[Run]:
    """The runs that read what the first of the same set read: its images, its teachers.

    A manifest names a set by its seed and a teacher by its network, and both may have been made
    anew; it begins with the runs of the last call.
    """
    read: dict[tuple[object, ...], tuple[str | None, ...]] = {}
    kept = []
    for run in runs:
        config, inputs = run.experiment.config, run.result.inputs
        key = (run.experiment.source, config.dataset, config.classes, config.teachers)
        digests = (inputs.get("distilled"), inputs.get("teachers"))
        if read.setdefault(key, digests) == digests:
            kept.append(run)
    return kept


def record_of(study: Study, finished: Sequence[Finished], folder: Path) -> StudyRecord:
    """The record of a study whose results are at hand, all of them."""
    return StudyRecord(
        name=study.name,
        title=study.title,
        answers=study.answers,
        notes=study.notes,
        preset=study.preset,
        tuning=None if study.tuning is None else asdict(study.tuning),
        teachers=recorded_teachers(manifest_path(folder, study.name)),
        runs=tuple(
            Run(each.experiment, each.result, file_of(each.result, folder)) for each in finished
        ),
        unfinished=dict.fromkeys(PURPOSES, 0),
    )


def file_of(result: RunResult, folder: Path) -> str:
    """The name of a run's file."""
    return run_path(folder, result.config, result.inputs).name


def experiment_of(entry: dict[str, Any]) -> Experiment:
    """The experiment of a manifest's entry."""
    check_choice("purpose", entry["purpose"], PURPOSES)
    source = SetSource(**entry["set"])
    return Experiment(source, EvaluationConfig.from_dict(entry["config"]), entry["purpose"])


def read_result(file: Path, damaged: dict[str, None]) -> RunResult | None:
    """A run's result; None if it has not finished or cannot be read, which ``damaged`` records."""
    try:
        return read_run(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        damaged[str(error)] = None
        return None
