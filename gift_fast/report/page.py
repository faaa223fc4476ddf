"""The report as one self-contained HTML file."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import gift_fast
from gift_fast.data.datasets import dataset_title
from gift_fast.evaluation.summary import marked
from gift_fast.report.cells import Cell, Trial
from gift_fast.report.contents import Contents
from gift_fast.report.reading import Run
from gift_fast.training.objectives import display_name


def as_page(contents: Contents) -> str:
    """The report as HTML."""
    from jinja2 import Environment, StrictUndefined

    files = resources.files("gift_fast.report")
    charts, style, script, template = (
        files.joinpath(name).read_text(encoding="utf-8")
        for name in ("charts.css", "page.css", "page.js", "page.html")
    )
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    behind = Behind()
    return environment.from_string(template).render(
        vars(contents),
        style=charts + style,
        script=script,
        script_hash=hash_of(script),
        number=behind.number,
        # Called at the end of the template, after all tables have called ``number``.
        data=lambda: as_json(behind.to_dict()),
        footer=f"Written by gift-fast {gift_fast.__version__}.",
    )


def hash_of(script: str) -> str:
    """The hash of the page's script for its content security policy, which blocks other scripts."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def as_json(values: Any) -> str:
    """Encode as JSON for a script element; ``<`` is escaped, so that it cannot end the element."""
    text = json.dumps(values, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c")


@dataclass
class Behind:
    """The runs behind the numbers of the page, each stored once."""

    cells: list[Cell | Trial] = field(default_factory=list)
    numbers: dict[int, int] = field(default_factory=dict)

    def number(self, cell: Cell | Trial) -> int:
        """The index of a cell in the data of the page; adds the cell if it is new."""
        if id(cell) not in self.numbers:
            self.numbers[id(cell)] = len(self.cells)
            self.cells.append(cell)
        return self.numbers[id(cell)]

    def to_dict(self) -> dict[str, Any]:
        """Convert to a dictionary of JSON-compatible values."""
        configs = [config_of(cell) for cell in self.cells]
        common = common_to(configs)
        environments: list[dict[str, str]] = []
        cells = []
        for cell, config in zip(self.cells, configs, strict=True):
            used = []
            for run in cell.runs:
                if run.result.environment not in environments:
                    environments.append(run.result.environment)
                used.append(environments.index(run.result.environment))
            cells.append(
                {
                    "title": title_of(cell),
                    "description": description_of(cell),
                    "config": {k: v for k, v in config.items() if k not in common},
                    "environments": sorted(set(used)),
                    "runs": [row_of(cell, run) for run in cell.runs],
                }
            )
        order = list(dict.fromkeys(name for config in configs for name in config))
        return {"order": order, "common": common, "environments": environments, "cells": cells}


def config_of(cell: Cell | Trial) -> dict[str, Any]:
    """The resolved settings of a cell's runs, without their seeds."""
    run = cell.runs[0]
    config = run.result.config.to_dict()
    del config["seed"]
    return {"distilled set": run.experiment.source.name, **config}


def common_to(configs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The settings that all configurations share."""
    if not configs:
        return {}
    return {k: v for k, v in configs[0].items() if all(config.get(k) == v for config in configs)}


def title_of(cell: Cell | Trial) -> str:
    """The title of a cell."""
    run = cell.runs[0]
    source, config = run.experiment.source, run.result.config
    dataset = dataset_title(source.dataset)
    return f"{display_name(cell.loss)} on {dataset}, IPC {source.ipc}, {config.student}"


def description_of(cell: Cell | Trial) -> str:
    """How the number of a cell is computed from its runs."""
    if isinstance(cell, Trial):
        return (
            f"Mean top-1 of {len(cell.runs)} trials after the last epoch, {cell.top1:.2f} %, on "
            "the images used for tuning."
        )
    spread = cell.top1
    replicates = (
        "distilled sets, after averaging the students of each set"
        if cell.over == "sets"
        else "students on one distilled set"
    )
    deviation = f", sample standard deviation {spread.sample_std:.2f}" if spread.n > 1 else ""
    images = "the second half of the test images" if cell.halved else "the test images"
    return (
        f"Top-1 on {images} after the last epoch: mean {spread.mean:.2f} %{deviation}, over "
        f"{spread.n} {replicates}. The mean of the best tests is {cell.best_mean:.2f} %."
    )


def row_of(cell: Cell | Trial, run: Run) -> list[str | int]:
    """The table row of a run: set, seed, score, best test and file."""
    source = run.experiment.source
    return [
        "-" if source.seed is None else source.seed,
        run.result.config.seed,
        marked(f"{cell.score_of(run):.2f}", [run.result]),
        f"{run.result.best.top1:.2f}",
        run.file,
    ]
