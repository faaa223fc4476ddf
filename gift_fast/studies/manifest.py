"""What a study has done: which file holds which run, and how long the others take.

``study-NAME.json`` in the folder of the runs, the manifest, lists the study's experiments with
their files. It gives a run no identity of its own: the file's name follows from configuration and
inputs, see :func:`gift_fast.evaluation.results.run_path`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gift_fast.data.classes import ALL, classes_in_words
from gift_fast.data.datasets import dataset_title
from gift_fast.evaluation.results import RunResult, read_run
from gift_fast.evaluation.summary import outcome, spread
from gift_fast.files.atomic import replacing
from gift_fast.files.record_names import recorded
from gift_fast.files.text_files import is_file_name, read_json
from gift_fast.studies.study import Experiment, Study, Tuning
from gift_fast.training.objectives import display_name
from gift_fast.training.optimizers import optimizer_name

FORMAT = 2
"""Of the manifest; raised whenever the meaning of a field changes."""


@dataclass(frozen=True)
class Finished:
    """An experiment and what came of it."""

    experiment: Experiment
    result: RunResult


def title_of(experiment: Experiment) -> str:
    """An experiment in words."""
    source, config = experiment.source, experiment.config
    made = "" if source.seed is None else f" set {source.seed}"
    settings = ""
    if experiment.purpose != "protocol":
        settings = f", {experiment.purpose}"
        if is_undecided(experiment):
            settings += " as trials will choose"
        if config.learning_rate is not None:
            rate, decay = config.learning_rate, config.weight_decay
            settings += f": learning rate {rate:g}, weight decay {decay:g}"
    classes = "" if config.classes == ALL else f" {classes_in_words(config.classes)},"
    return (
        f"{dataset_title(source.dataset)} {source.method} IPC {source.ipc}{made},{classes} "
        f"{config.student}, {display_name(config.loss)}, {optimizer_name(config.optimizer)}, "
        f"seed {config.seed}{settings}"
    )


def is_undecided(experiment: Experiment) -> bool:
    """Whether it is a tuned experiment whose trials have not chosen yet: it can be no run."""
    return experiment.purpose == "tuned" and experiment.config.learning_rate is None


def manifest_path(out: Path, name: str) -> Path:
    """Where the manifest of a study is kept."""
    return out / f"study-{name}.json"


def key_of(experiment: dict[str, Any]) -> str:
    """What tells one experiment of a manifest from another."""
    return json.dumps([experiment["purpose"], run_key_of(experiment)])


def run_key_of(experiment: dict[str, Any]) -> str:
    """What tells the run of one experiment from another's; its purpose changes nothing."""
    return json.dumps([experiment["set"], experiment["config"]], sort_keys=True)


def read_manifest(path: Path) -> list[dict[str, Any]]:
    """The runs of a manifest: ``purpose``, ``set``, ``config`` and ``file``.

    The file is None where the run has not been begun.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no manifest; the message names it.
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
                raise ValueError(f"file must lie in the folder of the record, got {run['file']!r}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} must hold the record of a study, got: {error!r}; if it is damaged, delete it, "
            "and the same study finds its runs again"
        ) from error
    return runs


def recorded_teachers(path: Path) -> dict[str, float]:
    """Top-1 of a study's teachers, percent, by the names of their files; empty without a manifest.

    Manifests of versions before 0.2 do not have it.
    """
    if not path.exists():
        return {}
    return {str(k): float(v) for k, v in read_json(path).get("teachers", {}).items()}


def settings_of(run: dict[str, Any]) -> tuple[object, object]:
    """What tuning chooses of a run."""
    return run["config"]["learning_rate"], run["config"]["weight_decay"]


def arm_key_of(run: dict[str, Any]) -> str:
    """What is tuned on its own, of which a run is: all but seeds and what tuning chooses."""
    source = {k: v for k, v in run["set"].items() if k != "seed"}
    left = ("seed", "learning_rate", "weight_decay")
    return json.dumps([source, {k: v for k, v in run["config"].items() if k not in left}])


def is_trial_of(run: dict[str, Any], tuning: Tuning | None) -> bool:
    """Whether a run, if it is a trial, is one that this tuning makes."""
    if run["purpose"] != "trial" or tuning is None:
        return True
    source, config = run["set"], run["config"]
    return (
        config["weight_decay"] in tuning.weight_decays
        and config["seed"] in tuning.seeds
        and (source["seed"] is None or source["seed"] in tuning.dataset_seeds)
    )


def is_outdated(run: dict[str, Any], chosen: Mapping[str, tuple[object, object]]) -> bool:
    """Whether a run is a tuned one at settings that are no longer chosen."""
    settings = chosen.get(arm_key_of(run), settings_of(run))
    return run["purpose"] == "tuned" and settings != settings_of(run)


def known_files(out: Path) -> dict[str, str]:
    """The file of every run that a study in this folder has begun, by :func:`run_key_of`.

    A manifest that cannot be read causes a warning. Its runs are found again when they are planned,
    by configuration and inputs, and the runs of other studies are not affected.
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
    """The manifest of a study while it is run.

    Runs that earlier calls of the study with other options have begun stay in it, but for
    trials that are no longer made, and tuned runs of what has since been tuned to other settings.

    Args:
        out: folder of the runs.
        study: that is run.
        experiments: of this call.
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
            and is_trial_of(run, study.tuning)
        ]
        self.runs = {key_of(run): {**run, "file": known.get(run_key_of(run))} for run in runs}

    def add(
        self, files: Mapping[Experiment, Path], teachers: Mapping[str, float] | None = None
    ) -> None:
        """Write which file holds which run, whole or not at all.

        Args:
            files: of the runs.
            teachers: top-1 of their teachers, percent, by the names of the teachers' files.
        """
        self.teachers |= teachers or {}
        for experiment, file in files.items():
            self.runs[key_of(experiment.to_dict())]["file"] = file.name
        study = self.study
        tuning = None
        if study.tuning is not None:
            tuning = {recorded(name): value for name, value in asdict(study.tuning).items()}
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


# ---- what is done --------------------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """How far a study is, by what earlier calls have recorded.

    Attributes:
        done: the experiments that have finished, with their results.
        left: the others.
        seconds: what those left take in all, at the mean of those done with the same dataset,
            student and images per class; where there is none, they are not counted.
        unknown: how many of those left are not counted.
    """

    done: tuple[Finished, ...]
    left: tuple[Experiment, ...]
    seconds: float
    unknown: int


def state_of(experiments: Sequence[Experiment], out: Path) -> State:
    """How far the experiments are; nothing but the record is read, so no data is needed."""
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
    """The results of those experiments that have finished in a folder."""
    known = known_files(out)
    files = {e: known.get(run_key_of(e.to_dict())) for e in experiments if not is_undecided(e)}
    return {
        experiment: read_run(out / file)
        for experiment, file in files.items()
        if file is not None and (out / file).exists()
    }


def cost_of(experiment: Experiment) -> tuple[object, ...]:
    """What the time of a run depends on most."""
    config = experiment.config
    images = (config.dataset, config.ipc, config.classes, config.tested_on)
    work = (config.epochs, config.eval_every, config.eval_after, config.forward_twice)
    return *images, config.student, *work


def describe(study: Study, state: State, at_a_time: int = 1) -> str:
    """Every run of a study, whether it is done, and how long the others take.

    Args:
        study: that is described.
        state: of its runs.
        at_a_time: how many runs there can be.
    """
    done = {finished.experiment: finished.result for finished in state.done}
    lines = [f"{study.name}: {study.title}"]
    lines += [f"  done   {title_of(e)}: {outcome(r)}" for e, r in done.items()]
    lines += [f"  to do  {title_of(experiment)}" for experiment in state.left]
    return "\n".join([*lines, f"{format_progress(state)}; {time_left(state, at_a_time)}"])


def format_progress(state: State) -> str:
    """How many runs are done.

    Example:
        >>> format_progress(State((), (), 0.0, 0))
        '0 of 0 runs done'
    """
    total = str(len(state.done) + len(state.left))
    if any(map(is_undecided, state.left)):  # the grid of the trials may grow
        total = f"at least {total}"
    return f"{len(state.done)} of {total} runs done"


def time_left(state: State, at_a_time: int = 1) -> str:
    """The estimated time of what is left, and for how many runs there is none.

    Args:
        state: of a study.
        at_a_time: how many runs there can be; so many share the time, and no machine waits.

    Example:
        >>> time_left(State((), (), 0.0, 0))
        'nothing is left'
    """
    counted = len(state.left) - state.unknown
    parts = []
    if counted:
        together = min(at_a_time, counted)
        beside = f", {together} at a time" if together > 1 else ""
        seconds = format_duration(state.seconds / together)
        parts.append(f"{counted} more take about {seconds}{beside}, as those done did")
    if state.unknown:
        parts.append(
            f"the time of {state.unknown} more is not known: none with their student and images "
            "per class is done"
        )
    return "; ".join(parts) or "nothing is left"


def format_duration(seconds: float) -> str:
    """A time in words, to two places.

    Example:
        >>> format_duration(5), format_duration(125), format_duration(7260)
        ('5 s', '2 min 5 s', '2 h 1 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_left} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
