"""The table of ``gift-fast table``: one row for each configuration that was evaluated."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from gift_fast.data.classes import ALL
from gift_fast.evaluation.results import RunResult, read_run, run_path
from gift_fast.evaluation.summary import Spread, divergence, marked, spread
from gift_fast.files.record_names import current_name
from gift_fast.report.table import Column, Item, Table, score
from gift_fast.report.terminal import print_table
from gift_fast.studies.manifest import read_manifest

RUN_FILE = re.compile(r"-[0-9a-f]{12}\.json")
"""The end of the file name of a run; see :func:`gift_fast.evaluation.results.run_path`."""

NOTED = ("dataset", "ipc", "student", "teachers", "loss", "optimizer", "learning_rate", "epochs")
"""Settings that a note lists if all rows have the same value."""

DERIVED = ("eval_every", "batch_size")
"""Settings that depend on other settings by default."""

NOTED_UNLESS_DEFAULT = {
    "classes": ALL,
    "tested_on": "test",
    "batch_rule": "paper",
    "forward_twice": False,
    "eval_after": 0.0,
}
"""Settings that a note lists only if they differ from these values."""

FLOATS = ("learning_rate", "weight_decay", "momentum")
"""The settings that are real numbers."""

DIGEST_LENGTH = 7
"""Number of characters of a digest that are shown."""


@dataclass(frozen=True)
class Evaluation:
    """Runs that differ only in their seeds.

    Attributes:
        runs: the runs in the order of their seeds; at least one.
    """

    runs: tuple[RunResult, ...]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All fields of the configuration except the seed."""
        values = self.runs[0].config.all_fields()
        del values["seed"]
        # A preset file may have 0 where the command line has 0.0.
        return {k: float(v) if k in FLOATS and v is not None else v for k, v in values.items()}

    @property
    def inputs(self) -> dict[str, str]:
        """Digests of the inputs of the runs."""
        return self.runs[0].inputs

    @property
    def source(self) -> str:
        """The description of the distilled set, without its file format."""
        # "recognised", in runs of earlier versions
        return re.split(r"; recogni[sz]ed as ", self.runs[0].source)[0]

    @cached_property
    def top1(self) -> Spread:
        """Top-1 after the last epoch, in percent."""
        return spread([run.last.top1 for run in self.runs])

    @property
    def top5(self) -> float:
        """Mean top-5 after the last epoch, in percent."""
        return spread([run.last.top5 for run in self.runs]).mean

    @property
    def best(self) -> float:
        """Mean top-1 of the best test of each run, in percent."""
        return spread([run.best.top1 for run in self.runs]).mean


class Evaluations(NamedTuple):
    """The evaluations of a folder, see :func:`read_evaluations`.

    Attributes:
        found: the evaluations, grouped by all settings except the loss; the best of a group first.
        damaged: messages about files that could not be read.
        of_studies: number of runs that belong to studies.
    """

    found: tuple[Evaluation, ...]
    damaged: tuple[str, ...]
    of_studies: int


def read_evaluations(folder: Path) -> Evaluations:
    """Read the finished runs of a folder that belong to no study, grouped by configuration.

    Args:
        folder: output folder of ``gift-fast evaluate``.

    Raises:
        ValueError: the folder does not exist, or all of its runs belong to studies.
    """
    of_studies, damaged = files_of_studies(folder)
    files = [path for path in sorted(folder.glob("*.json")) if RUN_FILE.search(path.name)]
    groups: dict[str, list[RunResult]] = {}
    own = set()
    for path in files:
        try:
            run = read_run(path)
        except (OSError, ValueError) as error:
            damaged.append(str(error))
            continue
        name = run_path(folder, run.config, run.inputs).name
        if path.name != name:
            damaged.append(f"{path} must be named {name} according to its contents; is it a copy?")
            continue
        key = json.dumps([Evaluation((run,)).settings, run.inputs], sort_keys=True)
        groups.setdefault(key, []).append(run)
        if path.name not in of_studies:
            own.add(key)
    found = [
        Evaluation(tuple(sorted(groups[key], key=lambda run: run.config.seed)))
        for key in groups
        if key in own
    ]
    left_out = sum(len(runs) for key, runs in groups.items() if key not in own)
    if not found and not damaged:
        hint = f", which has {left_out} runs of studies: use gift-fast report" if left_out else ""
        raise ValueError(f"folder must contain runs of `gift-fast evaluate`, got {folder}{hint}")
    others = [name for name in varying(found) if name != "loss"]
    found.sort(key=lambda one: ([rank_of(one.settings[n]) for n in others], -one.top1.mean))
    return Evaluations(tuple(found), tuple(damaged), left_out)


def files_of_studies(folder: Path) -> tuple[set[str], list[str]]:
    """The files of all runs of the studies in a folder, and messages about damaged manifests."""
    files: set[str] = set()
    damaged = []
    for manifest in sorted(folder.glob("study-*.json")):
        try:
            files |= {run["file"] for run in read_manifest(manifest) if run["file"] is not None}
        except (OSError, ValueError) as error:
            damaged.append(f"{error}; its runs are shown as evaluations")
    return files, damaged


def rank_of(value: object) -> tuple[bool, float, str]:
    """The sort key of a setting: numbers by size, then strings."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return True, 0.0, format_setting(value)
    return False, float(value), ""


def varying(evaluations: Sequence[Evaluation]) -> list[str]:
    """The settings in which evaluations differ, starting with the loss."""
    names = evaluations[0].settings if evaluations else {}
    found = [n for n in names if len({format_setting(one.settings[n]) for one in evaluations}) > 1]
    return sorted(found, key=lambda name: name != "loss")


def column_names(evaluations: Sequence[Evaluation], inputs: Collection[Sequence[str]]) -> list[str]:
    """The settings that have a column: those that differ, except redundant derived ones."""
    names = varying(evaluations)
    for derived in DERIVED:
        others = [name for name in names if name != derived]
        columns = [[format_setting(one.settings[n]) for one in evaluations] for n in others]
        if others != names and len(set(zip(*columns, *inputs, strict=True))) == len(evaluations):
            names = others
    return names


def format_setting(value: object) -> str:
    """Format the value of a setting for a table.

    Example:
        >>> format_setting(["convnet3", "resnet18"]), format_setting([]), format_setting(0.001)
        ('convnet3 resnet18', 'none', '0.001')
        >>> format_setting(None)  # images per class, if all are used
        'all'
    """
    if value is None:
        return "all"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) or "none"
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    return current_name(str(value))


def input_columns(evaluations: Sequence[Evaluation]) -> dict[str, list[str]]:
    """Columns for inputs in which evaluations with equal settings differ: headings and values.

    A distilled set is shown by its source if that is unique, other inputs by their digests.
    """
    columns = {}
    differing = varying(evaluations)
    for name in dict.fromkeys(name for one in evaluations for name in one.inputs):
        digests = [one.inputs.get(name, "none") for one in evaluations]
        # Of all inputs, only the code of user-defined functions depends on the loss.
        known = [setting for setting in differing if setting != "loss" or name == "code"]
        settings = [tuple(format_setting(one.settings[n]) for n in known) for one in evaluations]
        if len(set(zip(settings, digests, strict=True))) == len(set(settings)):
            continue
        sources = [one.source for one in evaluations]
        pairs = set(zip(digests, sources, strict=True))
        if name == "distilled" and len(pairs) == len(set(digests)) == len(set(sources)):
            columns["distilled set"] = sources
        else:
            columns[f"{name}, digest"] = [digest[:DIGEST_LENGTH] for digest in digests]
    return columns


def evaluations_table(evaluations: Sequence[Evaluation]) -> Table:
    """The table of evaluations: the settings in which they differ, and their accuracies."""
    inputs = input_columns(evaluations)
    names = column_names(evaluations, inputs.values()) or ["loss"]
    columns = [Column(name.replace("_", " "), numeric=False) for name in names]
    columns += [Column(name, numeric=False, long=True) for name in inputs]
    columns += map(Column, ("top-1", "seeds", "top-5", "best top-1"))
    rows = []
    for index, one in enumerate(evaluations):
        values = [format_setting(one.settings[name]) for name in names]
        values += [column[index] for column in inputs.values()]
        top1 = marked(score(one.top1), one.runs)
        values += [top1, str(one.top1.n), f"{one.top5:.1f}", f"{one.best:.1f}"]
        rows.append(tuple(map(Item, values)))
    shared = evaluations[0].settings
    differing = varying(evaluations)
    noted = [
        f"{name.replace('_', ' ')} {format_setting(shared[name])}"
        for name in (*NOTED, *NOTED_UNLESS_DEFAULT)
        if name not in differing
        and shared[name] is not None
        and shared[name] != NOTED_UNLESS_DEFAULT.get(name)
    ]
    images = "the test images" if shared["tested_on"] == "test" else "the validation split"
    if "tested_on" in names:
        images = "the split in the column tested on"
    return Table(
        caption=f"Accuracy on {images} after the last epoch, percent",
        columns=tuple(columns),
        rows=tuple(rows),
        notes=(
            *([f"All rows: {', '.join(noted)}."] if noted else []),
            *divergence([run for one in evaluations for run in one.runs]),
            "± is the sample standard deviation (ddof 1) over seeds; it does not cover variation "
            "between distilled sets. The best test is selected on the images that it is measured "
            "on, so it is optimistic.",
        ),
    )


def print_evaluations(table: Table) -> None:
    """Print the table to standard output, at the width of the terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable

    printed = RichTable(title=table.caption, title_justify="left", box=box.ASCII2)
    for column in table.columns:
        printed.add_column(column.title, justify="right" if column.numeric else "left")
    for row in table.rows:
        printed.add_row(*(item.text for item in row))
    console = Console(highlight=False, markup=False, emoji=False)
    print_table(console, printed)
    for note in table.notes:
        console.print(note, soft_wrap=True)


def evaluations_csv(evaluations: Sequence[Evaluation]) -> str:
    """The evaluations as CSV: one row each, with all settings and the digests of all inputs."""
    inputs = dict.fromkeys(f"{name}_digest" for one in evaluations for name in one.inputs)
    results = (
        *("source", "n", "seeds", "top1", "population_std", "sample_std", "top5", "best_top1"),
        "diverged",
    )
    text = io.StringIO()
    writer = csv.DictWriter(
        text, [*evaluations[0].settings, *inputs, *results], lineterminator="\n"
    )
    writer.writeheader()
    for one in evaluations:
        settings = {
            name: " ".join(value) if isinstance(value, list) else value
            for name, value in one.settings.items()
        }
        top1 = one.top1
        seeds = " ".join(str(run.config.seed) for run in one.runs)
        population_std = top1.population_std if top1.n > 1 else math.nan
        numbers = (top1.mean, population_std, top1.sample_std, one.top5, one.best)
        values = ["" if math.isnan(x) else round(x, 4) for x in numbers]
        values.append(sum(run.diverged is not None for run in one.runs))
        found = dict(zip(results, (one.source, top1.n, seeds, *values), strict=True))
        digests = {f"{name}_digest": digest for name, digest in one.inputs.items()}
        writer.writerow({**settings, **digests, **found})
    return text.getvalue()
