"""The manifest of a study, its progress, and the estimated time of the remaining runs.

The manifest, ``study-NAME.json`` in the output folder, lists the experiments of a study with the
files of their runs. The name of a run's file is determined by its configuration and inputs; see
:func:`gift_fast.evaluation.results.run_path`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gift_fast.data.classes import ALL, classes_title
from gift_fast.data.datasets import dataset_title
from gift_fast.evaluation.results import RunResult, read_run
from gift_fast.evaluation.summary import outcome, spread
from gift_fast.files.atomic import replacing
from gift_fast.files.record_names import record_name
from gift_fast.files.text_files import is_file_name, read_json
from gift_fast.studies.study import Experiment, Study, Tuning
from gift_fast.training.objectives import display_name
from gift_fast.training.optimizers import optimizer_name

FORMAT = 2
"""Version of the manifest's format, increased if the meaning of a field changes."""


@dataclass(frozen=True)
class Finished:
    """An experiment and its result."""

    experiment: Experiment
    result: RunResult


def title_of(experiment: Experiment) -> str:
    """A one-line description of an experiment."""
    source, config = experiment.source, experiment.config
    set_seed = "" if source.seed is None else f" set {source.seed}"
    settings = ""
    if experiment.purpose != "protocol":
        settings = f", {experiment.purpose}"
        if is_undecided(experiment):
            settings += " with hyperparameters not chosen yet"
        if config.learning_rate is not None:
            rate, decay = config.learning_rate, config.weight_decay
            settings += f": learning rate {rate:g}, weight decay {decay:g}"
    classes = "" if config.classes == ALL else f" {classes_title(config.classes)},"
    return (
        f"{dataset_title(source.dataset)} {source.method} IPC {source.ipc}{set_seed},{classes} "
        f"{config.student}, {display_name(config.loss)}, {optimizer_name(config.optimizer)}, "
        f"seed {config.seed}{settings}"
    )


def is_undecided(experiment: Experiment) -> bool:
    """Whether the hyperparameters of a tuned experiment have not been chosen yet."""
    return experiment.purpose == "tuned" and experiment.config.learning_rate is None


def manifest_path(out: Path, name: str) -> Path:
    """The path of a study's manifest."""
    return out / f"study-{name}.json"


def key_of(experiment: dict[str, Any]) -> str:
    """The key of an experiment in a manifest."""
    return json.dumps([experiment["purpose"], run_key_of(experiment)])


def run_key_of(experiment: dict[str, Any]) -> str:
    """The key of an experiment's run, which does not depend on the experiment's purpose."""
    return json.dumps([experiment["set"], experiment["config"]], sort_keys=True)


def read_manifest(path: Path) -> list[dict[str, Any]]:
    """Read the runs of a manifest: ``purpose``, ``set``, ``config`` and ``file``.

    The file is None if the run has not been started.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a manifest; the message names it.
    """
    try:
        contents = read_json(path)
        if contents["format"] != FORMAT:
            raise ValueError(f"format must be {FORMAT}, got {contents['format']!r}")
        runs: list[dict[str, Any]] = contents["runs"]
        for run in runs:
            key_of(run)
            if not isinstance(run["file"], str | None):
                raise ValueError(f"file must be a name or null, got {run['file']!r}")
            if run["file"] is not None and not is_file_name(run["file"]):
                raise ValueError(
                    f"file must be in the same folder as the record, got {run['file']!r}"
                )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} must be the record of a study, got: {error!r}; if it is damaged, delete it "
            "and run the study again, which finds the finished runs"
        ) from error
    return runs


def recorded_teachers(path: Path) -> dict[str, float]:
    """Read the top-1 of a study's teachers, in percent, by the names of their files.

    Empty without a manifest, and for manifests of versions before 0.2.
    """
    if not path.exists():
        return {}
    return {str(k): float(v) for k, v in read_json(path).get("teachers", {}).items()}


def settings_of(run: dict[str, Any]) -> tuple[object, object]:
    """The tuned hyperparameters of a run: learning rate and weight decay."""
    return run["config"]["learning_rate"], run["config"]["weight_decay"]


def arm_key_of(run: dict[str, Any]) -> str:
    """The key of the tuning arm of a run: all settings except seeds and tuned hyperparameters."""
    source = {k: v for k, v in run["set"].items() if k != "seed"}
    ignored = ("seed", "learning_rate", "weight_decay")
    return json.dumps([source, {k: v for k, v in run["config"].items() if k not in ignored}])


def is_current_trial(run: dict[str, Any], tuning: Tuning | None) -> bool:
    """Whether a trial belongs to this tuning; True for all other runs."""
    if run["purpose"] != "trial" or tuning is None:
        return True
    source, config = run["set"], run["config"]
    return (
        config["weight_decay"] in tuning.weight_decays
        and config["seed"] in tuning.seeds
        and (source["seed"] is None or source["seed"] in tuning.dataset_seeds)
    )


def is_outdated(run: dict[str, Any], chosen: Mapping[str, tuple[object, object]]) -> bool:
    """Whether a run is tuned with hyperparameters that are no longer chosen."""
    settings = chosen.get(arm_key_of(run), settings_of(run))
    return run["purpose"] == "tuned" and settings != settings_of(run)


def known_files(out: Path) -> dict[str, str]:
    """The files of all runs that the studies of a folder have started, by :func:`run_key_of`.

    A manifest that cannot be read causes a warning. Its runs are found by their configuration and
    inputs when they are planned again, and the runs of other studies are not affected.
    """
    known = {}
    for path in sorted(out.glob("study-*.json")):
        try:
            runs = read_manifest(path)
        except (OSError, ValueError) as error:
            warnings.warn(f"skipped: {error}", stacklevel=2)
            continue
        known.update({run_key_of(run): run["file"] for run in runs if run["file"] is not None})
    return known


class Record:
    """The manifest of a running study.

    It keeps the runs of earlier calls of the study with other options, except trials that are no
    longer part of the tuning and tuned runs whose hyperparameters are no longer chosen.

    Args:
        out: the output folder.
        study: the study.
        experiments: the experiments of this call.
    """

    def __init__(self, out: Path, study: Study, experiments: Sequence[Experiment]) -> None:
        self.out = out
        self.study = study
        path = manifest_path(out, study.name)
        earlier = read_manifest(path) if path.exists() else []
        known = known_files(out)
        self.teachers = recorded_teachers(path)
        runs = [experiment.to_dict() for experiment in experiments]
        chosen = {arm_key_of(run): settings_of(run) for run in runs if run["purpose"] == "tuned"}
        runs += [
            run
            for run in earlier
            if run["file"] is not None
            and not is_outdated(run, chosen)
            and is_current_trial(run, study.tuning)
        ]
        self.runs = {key_of(run): {**run, "file": known.get(run_key_of(run))} for run in runs}

    def add(
        self, files: Mapping[Experiment, Path], teachers: Mapping[str, float] | None = None
    ) -> None:
        """Add the files of runs, and write the manifest atomically.

        Args:
            files: the file of every run.
            teachers: top-1 of the teachers in percent, by the names of the teachers' files.
        """
        self.teachers |= teachers or {}
        for experiment, file in files.items():
            self.runs[key_of(experiment.to_dict())]["file"] = file.name
        study = self.study
        tuning = None
        if study.tuning is not None:
            tuning = {record_name(name): value for name, value in asdict(study.tuning).items()}
        contents = {
            "format": FORMAT,
            "name": study.name,
            "title": study.title,
            "answers": study.answers,
            "notes": study.notes,
            "preset": study.preset,
            "tuning": tuning,
            "teachers": self.teachers,
            "runs": list(self.runs.values()),
        }
        with replacing(manifest_path(self.out, study.name)) as temporary:
            temporary.write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")


# ---- progress ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """The progress of a study, according to the records of earlier calls.

    Attributes:
        done: the finished experiments, with their results.
        left: the other experiments.
        seconds: estimated total time of the experiments left, from the mean time of finished ones
            with the same dataset, student, images per class and epochs.
        unknown: number of experiments left without an estimate, which ``seconds`` does not include.
    """

    done: tuple[Finished, ...]
    left: tuple[Experiment, ...]
    seconds: float
    unknown: int


def state_of(experiments: Sequence[Experiment], out: Path) -> State:
    """The progress of experiments; reads records only, no data."""
    results = results_in(experiments, out)
    done = [Finished(experiment, result) for experiment, result in results.items()]
    left = [experiment for experiment in experiments if experiment not in results]
    times: dict[tuple[object, ...], list[float]] = {}
    for finished in done:
        times.setdefault(cost_of(finished.experiment), []).append(finished.result.seconds)
    estimates = [
        spread(times[cost_of(experiment)]).mean
        for experiment in left
        if cost_of(experiment) in times
    ]
    return State(tuple(done), tuple(left), sum(estimates), len(left) - len(estimates))


def results_in(experiments: Sequence[Experiment], out: Path) -> dict[Experiment, RunResult]:
    """The results of the finished experiments in a folder."""
    known = known_files(out)
    files = {e: known.get(run_key_of(e.to_dict())) for e in experiments if not is_undecided(e)}
    return {
        experiment: read_run(out / file)
        for experiment, file in files.items()
        if file is not None and (out / file).exists()
    }


def cost_of(experiment: Experiment) -> tuple[object, ...]:
    """The settings that determine the time of a run, as a key."""
    config = experiment.config
    images = (config.dataset, config.ipc, config.classes, config.tested_on)
    work = (config.epochs, config.eval_every, config.eval_after, config.forward_twice)
    return *images, config.student, *work


def describe(study: Study, state: State, parallel_runs: int = 1) -> str:
    """List all runs of a study with their outcomes, and the estimated time of the others.

    Args:
        study: the study.
        state: its progress.
        parallel_runs: maximum number of parallel runs.
    """
    done = {finished.experiment: finished.result for finished in state.done}
    lines = [f"{study.name}: {study.title}"]
    lines += [f"  done   {title_of(e)}: {outcome(r)}" for e, r in done.items()]
    lines += [f"  to do  {title_of(experiment)}" for experiment in state.left]
    return "\n".join([*lines, f"{format_progress(state)}; {time_left(state, parallel_runs)}"])


def format_progress(state: State) -> str:
    """Format the number of finished runs.

    Example:
        >>> format_progress(State((), (), 0.0, 0))
        '0 of 0 runs done'
    """
    total = str(len(state.done) + len(state.left))
    if any(map(is_undecided, state.left)):  # the grid of trials may be extended
        total = f"at least {total}"
    return f"{len(state.done)} of {total} runs done"


def time_left(state: State, parallel_runs: int = 1) -> str:
    """Format the estimated time of the runs that are left.

    Args:
        state: the progress of a study.
        parallel_runs: maximum number of parallel runs, among which the time is divided.

    Example:
        >>> time_left(State((), (), 0.0, 0))
        'no runs left'
    """
    estimated = len(state.left) - state.unknown
    parts = []
    if estimated:
        parallel = min(parallel_runs, estimated)
        how = f" with {parallel} in parallel" if parallel > 1 else ""
        seconds = format_duration(state.seconds / parallel)
        parts.append(f"{estimated} left, which take about {seconds}{how} (mean of finished runs)")
    if state.unknown:
        parts.append(
            f"{state.unknown} left without an estimate: no run with the same student and images "
            "per class has finished"
        )
    return "; ".join(parts) or "no runs left"


def format_duration(seconds: float) -> str:
    """Format a duration with its two largest units.

    Example:
        >>> format_duration(5), format_duration(125), format_duration(7260)
        ('5 s', '2 min 5 s', '2 h 1 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_left} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
