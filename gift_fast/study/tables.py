"""A study's results as a table like the paper's: rows of losses, columns of sets and optimizers."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle, product
from pathlib import Path

from gift_fast.student.atomic import replacing
from gift_fast.student.classes import ALL, build_classes, classes_in_words
from gift_fast.student.config import EvaluationConfig
from gift_fast.student.objectives import display_name
from gift_fast.student.report import OKABE_ITO, optimizer_name, save_figure
from gift_fast.student.results import RunResult, Spread, spread
from gift_fast.study.manifest import Finished
from gift_fast.study.plan import SetSource, Study

COLUMNS = (
    *("dataset", "method", "ipc", "network", "student", "classes", "loss"),
    *("optimizer", "learning_rate", "weight_decay", "momentum", "epochs"),
    *("mean", "sample_std", "n", "over", "best_mean"),
)
"""Of the CSV file."""

DIAMOND, DOT = OKABE_ITO[0], "#56B4E9"
"""Blue and sky blue of Okabe and Ito: the mean, and the replicates."""

REPLICATES = {
    "sets": "n counts distilled sets made here, the students of each averaged first",
    "seeds": "n counts students on one distilled set, and their std says nothing of other sets",
}
"""What n counts, by ``Cell.over``."""


@dataclass(frozen=True)
class Cell:
    """All runs that differ only in the seed of the set and of the student.

    Attributes:
        source: the set, without its seed.
        config: of the first run, resolved.
        top1: over the replicates, after the last epoch, percent.
        values: of every replicate.
        over: what the replicates are: ``sets`` where there are several, else ``seeds``.
        best_mean: mean top-1 of each run's best check, which the paper's code reports, percent.
    """

    source: SetSource
    config: EvaluationConfig
    top1: Spread
    values: tuple[float, ...]
    over: str
    best_mean: float

    @property
    def column(self) -> dict[str, str]:
        """What a column of the table holds fixed, in words."""
        config = self.config
        momentum = f", momentum {config.momentum:g}" if config.optimizer.startswith("sgd") else ""
        return {
            "dataset": self.source.dataset,
            "method": self.source.method,
            "IPC": f"IPC {self.source.ipc}",
            "network": f"distilled on {self.source.network}",
            "student": f"student {config.student}",
            "classes": classes_in_words(config.classes),
            "optimizer": (
                f"{optimizer_name(config.optimizer)}, lr {config.learning_rate:g}, "
                f"weight decay {config.weight_decay:g}{momentum}"
            ),
        }


def cells_of(finished: Sequence[Finished]) -> list[Cell]:
    """The cells of a table, in the order in which they first come.

    The unit of replication is the distilled set: where there are several, students are averaged
    within a set, and the spread is over sets.
    """
    groups: dict[tuple[SetSource, EvaluationConfig], list[Finished]] = {}
    for each in finished:
        source = replace(each.experiment.source, seed=None)
        groups.setdefault((source, replace(each.experiment.config, seed=0)), []).append(each)
    cells = []
    for (source, _), group in groups.items():
        by_set: dict[int | None, list[RunResult]] = {}
        for each in group:
            by_set.setdefault(each.experiment.source.seed, []).append(each.result)
        values = [spread([run.last.top1 for run in runs]).mean for runs in by_set.values()]
        over = "sets"
        if len(by_set) == 1:
            values, over = [each.result.last.top1 for each in group], "seeds"
        best = spread([each.result.best.top1 for each in group]).mean
        config = group[0].result.config
        cells.append(Cell(source, config, spread(values), tuple(values), over, best))
    return cells


def varying_parts(cells: Sequence[Cell]) -> list[str]:
    """What columns differ in, by the keys of ``Cell.column``."""
    return [part for part in cells[0].column if len({cell.column[part] for cell in cells}) > 1]


def headings_of(cells: Sequence[Cell]) -> list[str]:
    """The heading of every cell's column: what it does not share with the others."""
    varying = varying_parts(cells)
    return [", ".join(cell.column[part] for part in varying) or "top-1" for cell in cells]


def markdown_table(study: Study, cells: Sequence[Cell]) -> str:
    """The table in Markdown; what all columns share stands above it."""
    headings = headings_of(cells)
    columns = list(dict.fromkeys(headings))
    varying = varying_parts(cells)
    shared = [text for part, text in cells[0].column.items() if part not in varying]
    counts = {cell.top1.n for cell in cells}
    replicates = "; ".join(REPLICATES[over] for over in dict.fromkeys(c.over for c in cells))
    by_place = {
        (cell.config.loss, heading): cell for cell, heading in zip(cells, headings, strict=True)
    }
    answers = f" (the question of {', '.join(study.answers)})" if study.answers else ""
    epochs = ", ".join(dict.fromkeys(f"{cell.config.epochs} epochs" for cell in cells))
    part = "" if all(cell.config.classes == ALL for cell in cells) else " of the classes seen"
    n = f"n = {counts.pop()}" if len(counts) == 1 else "n in brackets"
    lines = [
        f"## {study.title}{answers}",
        "",
        f"{', '.join([*shared, epochs])}, preset {study.preset}. Top-1 on the test images{part} "
        f"after the last epoch, percent: mean ± sample std (ddof 1), {n}; {replicates}.",
        "",
        f"| loss | {' | '.join(columns)} |",
        f"|---|{'---:|' * len(columns)}",
    ]
    for loss in dict.fromkeys(cell.config.loss for cell in cells):
        row = [by_place.get((loss, column)) for column in columns]
        texts = ["-" if cell is None else score(cell.top1, n == "n in brackets") for cell in row]
        lines.append(f"| {display_name(loss)} | {' | '.join(texts)} |")
    return "\n".join(lines) + "\n"


def score(top1: Spread, with_n: bool) -> str:
    """A cell of the table; one run alone has no deviation.

    Example:
        >>> score(spread([50.0, 52.0]), False), score(spread([50.0]), True)
        ('51.0 ± 1.4', '50.0 (1)')
    """
    deviation = f" ± {top1.sample_std:.1f}" if top1.n > 1 else ""
    return f"{top1.mean:.1f}{deviation}{f' ({top1.n})' if with_n else ''}"


def csv_table(cells: Sequence[Cell]) -> str:
    """The table as CSV, a line a cell; sample_std is empty for one run alone."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for cell in cells:
        of_config = ("student", "classes", "loss", *COLUMNS[7:12])
        writer.writerow(
            {
                **{name: getattr(cell.source, name) for name in COLUMNS[:4]},
                **{name: getattr(cell.config, name) for name in of_config},
                "mean": round(cell.top1.mean, 4),
                "sample_std": round(cell.top1.sample_std, 4) if cell.top1.n > 1 else "",
                "n": cell.top1.n,
                "over": cell.over,
                "best_mean": round(cell.best_mean, 4),
            }
        )
    return text.getvalue()


def save_picture(path: Path, study: Study, cells: Sequence[Cell]) -> None:
    """Saves a PNG: a panel for each column of the table, losses by their mean, every replicate."""
    from matplotlib.figure import Figure

    panels: dict[str, list[Cell]] = {}
    for cell, heading in zip(cells, headings_of(cells), strict=True):
        panels.setdefault(heading, []).append(cell)
    losses = max(map(len, panels.values()))
    figure = Figure(figsize=(4.0 * len(panels), 1.5 + 0.22 * losses), layout="constrained")
    figure.suptitle(study.title, fontsize=11)
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (heading, column) in zip(row, panels.items(), strict=True):
        column.sort(key=lambda cell: cell.top1.mean)
        for place, cell in enumerate(column):
            axes.plot(cell.values, [place] * len(cell.values), "o", color=DOT, markersize=4)
            axes.plot(cell.top1.mean, place, "D", color=DIAMOND, markersize=6)
        axes.set_yticks(range(len(column)), [display_name(cell.config.loss) for cell in column])
        axes.grid(axis="x", linewidth=0.3)
        axes.set_xlabel("top-1 after the last epoch, %")
        axes.set_title(heading, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(path, figure)


def save_curves(path: Path, study: Study, cells: Sequence[Cell]) -> None:
    """Saves a PNG of continual learning: top-1 over the classes seen, a line a loss.

    A panel for each column of the table, whichever part of the classes it is of. A band is one
    sample std on either side of the mean.
    """
    from matplotlib.figure import Figure

    seen = {cell.config.classes: build_classes(cell.config.classes) for cell in cells}
    ways = dict.fromkeys((s.order, s.head) for c, s in seen.items() if c != ALL)
    varying = [part for part in varying_parts(cells) if part != "classes"]
    panels: dict[str, dict[str, list[Cell]]] = {}
    for (order, head), cell in product(ways, cells):
        of_cell = seen[cell.config.classes]
        if cell.config.classes != ALL and (of_cell.order, of_cell.head) != (order, head):
            continue
        way = [f"order {order}", f"head {head}"] if len(ways) > 1 else []
        heading = ", ".join([*(cell.column[part] for part in varying), *way])
        panels.setdefault(heading, {}).setdefault(cell.config.loss, []).append(cell)
    figure = Figure(figsize=(max(6.0, 4.0 * len(panels)), 3.5), layout="constrained")
    figure.suptitle(study.title, fontsize=11)
    row = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    colours = dict(zip(dict.fromkeys(c.config.loss for c in cells), cycle(OKABE_ITO)))
    for axes, (heading, lines) in zip(row, panels.items(), strict=True):
        for loss, line in lines.items():
            line.sort(key=lambda cell: seen[cell.config.classes].share)
            shares = [100.0 * seen[cell.config.classes].share for cell in line]
            means = [cell.top1.mean for cell in line]
            stds = [cell.top1.sample_std if cell.top1.n > 1 else 0.0 for cell in line]
            band = [(m - s, m + s) for m, s in zip(means, stds, strict=True)]
            axes.plot(shares, means, "o-", color=colours[loss], label=display_name(loss))
            axes.fill_between(
                shares, *zip(*band, strict=True), color=colours[loss], alpha=0.2, linewidth=0
            )
        axes.grid(linewidth=0.3)
        axes.set_xlabel("classes seen, %")
        axes.set_title(heading, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    row[0].set_ylabel("top-1 on the classes seen, %")
    save_figure(path, figure)


def write_tables(out: Path, study: Study, cells: Sequence[Cell]) -> tuple[Path, ...]:
    """Writes ``study-NAME`` as Markdown, CSV and PNG, each whole or not at all."""
    markdown, table, picture = (out / f"study-{study.name}.{end}" for end in ("md", "csv", "png"))
    for path, text in ((markdown, markdown_table(study, cells)), (table, csv_table(cells))):
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    draw = save_picture if all(cell.config.classes == ALL for cell in cells) else save_curves
    draw(picture, study, cells)
    return markdown, table, picture
