"""``gift-fast table``: the evaluations of a folder side by side, a row a configuration."""

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
"""How the names of runs end; see :func:`gift_fast.evaluation.results.run_path`."""

TOLD = ("dataset", "ipc", "student", "teachers", "loss", "optimizer", "learning_rate", "epochs")
"""Settings that a note names if all rows share them."""

FOLLOWING = ("eval_every", "batch_size")
"""The settings that follow from others, unless they are given."""

TOLD_OTHERWISE = {
    "classes": ALL,
    "tested_on": "test",
    "batch_rule": "paper",
    "forward_twice": False,
    "eval_after": 0.0,
}
"""Settings that a note names only if they differ from these."""

REAL = ("learning_rate", "weight_decay", "momentum")
"""The settings that are real numbers."""

DIGEST = 7
"""Characters of a digest that are shown."""


@dataclass(frozen=True)
class Evaluation:
    """The runs that differ in nothing but their seeds.

    Attributes:
        runs: at least one, in the order of their seeds.
    """

    runs: tuple[RunResult, ...]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Every field of the configuration but the seed."""
        values = self.runs[0].config.all_fields()
        del values["seed"]
        # A preset's file may hold 0 where the command line gives 0.0.
        return {k: float(v) if k in REAL and v is not None else v for k, v in values.items()}

    @property
    def inputs(self) -> dict[str, str]:
        """Digests of what the runs have read."""
        return self.runs[0].inputs

    @property
    def source(self) -> str:
        """Where the distilled set is from, in words; by which format it was read is left out."""
        # "recognised", in runs of earlier versions
        return re.split(r"; recogni[sz]ed as ", self.runs[0].source)[0]

    @cached_property
    def top1(self) -> Spread:
        """After the last epoch, percent."""
        return spread([run.last.top1 for run in self.runs])

    @property
    def top5(self) -> float:
        """Mean after the last epoch, percent."""
        return spread([run.last.top5 for run in self.runs]).mean

    @property
    def best(self) -> float:
        """Mean top-1 of each run's best check, percent."""
        return spread([run.best.top1 for run in self.runs]).mean


class Evaluations(NamedTuple):
    """The evaluations of a folder, see :func:`read_evaluations`.

    Attributes:
        found: those with the same settings but the loss together, the best of these first.
        damaged: what could not be read, a message a file.
        of_studies: how many runs of studies are there beside them.
    """

    found: tuple[Evaluation, ...]
    damaged: tuple[str, ...]
    of_studies: int


def read_evaluations(folder: Path) -> Evaluations:
    """The finished runs of a folder that belong to no study, put together by configuration.

    Args:
        folder: that ``gift-fast evaluate --out`` has written to.

    Raises:
        ValueError: there is no such folder, or no run in it that is not a study's.
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
            damaged.append(f"{path} must be named {name}, by what it holds: it may be a copy")
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
        beside = f", whose {left_out} are studies': see gift-fast report" if left_out else ""
        raise ValueError(
            "folder must hold runs, as `gift-fast evaluate --out` leaves them; "
            f"got {folder}{beside}"
        )
    others = [name for name in varying(found) if name != "loss"]
    found.sort(key=lambda one: ([rank_of(one.settings[n]) for n in others], -one.top1.mean))
    return Evaluations(tuple(found), tuple(damaged), left_out)


def files_of_studies(folder: Path) -> tuple[set[str], list[str]]:
    """The files of runs that the studies of a folder name; and what could not be read."""
    files: set[str] = set()
    damaged = []
    for manifest in sorted(folder.glob("study-*.json")):
        try:
            files |= {run["file"] for run in read_manifest(manifest) if run["file"] is not None}
        except (OSError, ValueError) as error:
            damaged.append(f"{error}; its runs are taken for evaluations")
    return files, damaged


def rank_of(value: object) -> tuple[bool, float, str]:
    """By which a setting is sorted: numbers by their size, before words."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return True, 0.0, text_of(value)
    return False, float(value), ""


def varying(evaluations: Sequence[Evaluation]) -> list[str]:
    """The settings in which evaluations differ, the loss first."""
    names = evaluations[0].settings if evaluations else {}
    found = [n for n in names if len({text_of(one.settings[n]) for one in evaluations}) > 1]
    return sorted(found, key=lambda name: name != "loss")


def shown(evaluations: Sequence[Evaluation], inputs: Collection[Sequence[str]]) -> list[str]:
    """The settings that have a column: those that differ, but for what the others tell already."""
    names = varying(evaluations)
    for left_out in FOLLOWING:
        others = [name for name in names if name != left_out]
        columns = [[text_of(one.settings[n]) for one in evaluations] for n in others]
        if others != names and len(set(zip(*columns, *inputs, strict=True))) == len(evaluations):
            names = others
    return names


def text_of(value: object) -> str:
    """A setting as a table has it.

    Example:
        >>> text_of(["convnet3", "resnet18"]), text_of([]), text_of(0.001), text_of(True)
        ('convnet3 resnet18', 'none', '0.001', 'yes')
        >>> text_of(None)  # images per class, where none are chosen
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
    """Inputs in which evaluations with equal settings differ: a column's heading and its texts.

    A distilled set is named by its source if that differs, anything else by its digest.
    """
    columns = {}
    differing = varying(evaluations)
    for name in dict.fromkeys(name for one in evaluations for name in one.inputs):
        digests = [one.inputs.get(name, "none") for one in evaluations]
        # Which loss reads them changes no files but those of the user's own functions.
        known = [setting for setting in differing if setting != "loss" or name == "code"]
        settings = [tuple(text_of(one.settings[n]) for n in known) for one in evaluations]
        if len(set(zip(settings, digests, strict=True))) == len(set(settings)):
            continue
        sources = [one.source for one in evaluations]
        pairs = set(zip(digests, sources, strict=True))
        if name == "distilled" and len(pairs) == len(set(digests)) == len(set(sources)):
            columns["distilled set"] = sources
        else:
            columns[f"{name}, digest"] = [digest[:DIGEST] for digest in digests]
    return columns


def evaluations_table(evaluations: Sequence[Evaluation]) -> Table:
    """The table: in what evaluations differ, and what came of them."""
    inputs = input_columns(evaluations)
    names = shown(evaluations, inputs.values()) or ["loss"]
    columns = [Column(name.replace("_", " "), numeric=False) for name in names]
    columns += [Column(name, numeric=False, long=True) for name in inputs]
    columns += map(Column, ("top-1", "seeds", "top-5", "best top-1"))
    rows = []
    for index, one in enumerate(evaluations):
        texts = [text_of(one.settings[name]) for name in names]
        texts += [texts[index] for texts in inputs.values()]
        top1 = marked(score(one.top1), one.runs)
        texts += [top1, str(one.top1.n), f"{one.top5:.1f}", f"{one.best:.1f}"]
        rows.append(tuple(map(Item, texts)))
    shared = evaluations[0].settings
    differing = varying(evaluations)
    told = [
        f"{name.replace('_', ' ')} {text_of(shared[name])}"
        for name in (*TOLD, *TOLD_OTHERWISE)
        if name not in differing
        and shared[name] is not None
        and shared[name] != TOLD_OTHERWISE.get(name)
    ]
    images = "the test images" if shared["tested_on"] == "test" else "the validation split"
    if "tested_on" in names:
        images = "what was tested on"
    return Table(
        caption=f"Accuracy on {images} after the last epoch, percent",
        columns=tuple(columns),
        rows=tuple(rows),
        notes=(
            *([f"All rows: {', '.join(told)}."] if told else []),
            *divergence([run for one in evaluations for run in one.runs]),
            "± is the sample standard deviation (ddof 1) over seeds: it does not cover other "
            "distilled sets. The best test is selected on the images that it is measured on, so it "
            "is optimistic.",
        ),
    )


def print_evaluations(table: Table) -> None:
    """Print the table on the standard output, as wide as the terminal."""
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
    """A line for every evaluation, with every setting and the digest of everything it has read."""
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
