"""Reading of the records of studies: their manifests and finished runs."""

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
    """A finished run of a study.

    Attributes:
        experiment: the experiment.
        result: its result.
        file: the name of its file.
    """

    experiment: Experiment
    result: RunResult
    file: str


@dataclass(frozen=True)
class StudyRecord:
    """The contents of a manifest, with the results of its runs.

    Attributes:
        name: the name of the study.
        title: what is compared, in one line.
        answers: the corresponding tables and figures of the paper.
        notes: background for the reader.
        preset: settings of all runs.
        tuning: the settings of tuning, or None.
        teachers: top-1 of the teachers in percent by file name, if known.
        runs: the finished runs.
        unfinished: the number of unfinished runs by purpose.
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
        path: path of the folder.
        studies: the studies, sorted by name.
        damaged: messages about files that could not be read, which name the files.
    """

    path: Path
    studies: tuple[StudyRecord, ...]
    damaged: tuple[str, ...]


def read_folder(path: Path) -> Folder:
    """Read all manifests of a folder, ``study-*.json``, and their runs.

    Damaged files are listed in ``damaged``; all others are read.

    Raises:
        ValueError: the folder does not exist or has no studies.
    """
    manifests = sorted(path.glob("study-*.json"))
    if not manifests:
        raise ValueError(
            f"folder must contain the output of `gift-fast study` (study-NAME.json), got {path}"
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
    """Read a manifest and its runs.

    Args:
        manifest: path of the manifest.
        results: cache of results by file name, None if a file cannot be read; is extended.
        damaged: messages about damaged files, as an ordered set; is extended.
    """
    entries = read_manifest(manifest)
    contents = json.loads(manifest.read_text(encoding="utf-8"))
    runs = []
    unfinished = dict.fromkeys(PURPOSES, 0)
    try:
        strings = {name: str(contents[name]) for name in ("name", "title", "notes", "preset")}
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
                    f"{manifest.parent / file} must be the result of {title_of(experiment)}, but "
                    "its configuration differs"
                ] = None
                result = None
            if result is None:
                unfinished[experiment.purpose] += 1
            else:
                runs.append(Run(experiment, result, file))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{manifest} must be the record of a study, got: {error!r}") from error
    if not isinstance(tuning, dict | None) or (tuning is not None and tuning.keys() != TUNING):
        raise ValueError(f"{manifest} must be the record of a study, got: tuning {tuning!r}")
    kept = with_current_inputs(runs)
    if len(kept) < len(runs):
        damaged[
            f"{manifest}: {len(runs) - len(kept)} runs are not included, because their distilled "
            "sets or teachers differ from those of the last call"
        ] = None
    return StudyRecord(
        **strings,
        answers=answers,
        tuning=tuning,
        teachers=teachers,
        runs=tuple(kept),
        unfinished=unfinished,
    )


def is_of(result: RunResult, experiment: Experiment) -> bool:
    """Whether a result has the settings of an experiment, except those that were not specified."""
    config = experiment.config.to_dict()
    resolved = result.config.to_dict()
    return config.keys() == resolved.keys() and all(
        resolved[name] == value for name, value in config.items() if value is not None
    )


def with_current_inputs(runs: Sequence[Run]) -> list[Run]:
    """The runs with the same set and teachers, by digest, as the last call of the study.

    A manifest identifies a set by its seed and a teacher by its network, so both may have been
    created again between calls. The runs of the last call come first.
    """
    current: dict[tuple[object, ...], tuple[str | None, ...]] = {}
    kept = []
    for run in runs:
        config, inputs = run.experiment.config, run.result.inputs
        key = (run.experiment.source, config.dataset, config.classes, config.teachers)
        digests = (inputs.get("distilled"), inputs.get("teachers"))
        if current.setdefault(key, digests) == digests:
            kept.append(run)
    return kept


def record_of(study: Study, finished: Sequence[Finished], folder: Path) -> StudyRecord:
    """Create the record of a finished study from its results."""
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
    """The experiment of an entry of a manifest."""
    check_choice("purpose", entry["purpose"], PURPOSES)
    source = SetSource(**entry["set"])
    return Experiment(source, EvaluationConfig.from_dict(entry["config"]), entry["purpose"])


def read_result(file: Path, damaged: dict[str, None]) -> RunResult | None:
    """Read the result of a run; None if it is missing, or damaged, which adds to ``damaged``."""
    try:
        return read_run(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        damaged[str(error)] = None
        return None
