"""A study's results as a table like the paper's: rows of losses, columns of sets and optimizers."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gift_fast.student.atomic import replacing
from gift_fast.student.config import EvaluationConfig
from gift_fast.student.objectives import display_name
from gift_fast.student.report import optimizer_name
from gift_fast.student.results import RunResult, Spread, spread
from gift_fast.study.manifest import Finished
from gift_fast.study.plan import SetSource, Study

COLUMNS = (
    *("dataset", "method", "ipc", "network", "student", "loss"),
    *("optimizer", "learning_rate", "weight_decay", "momentum", "epochs"),
    *("mean", "sample_std", "n", "over", "best_mean"),
)
"""Of the CSV file."""

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
        over: what the replicates are: ``sets`` where there are several, else ``seeds``.
        best_mean: mean top-1 of each run's best check, which the paper's code reports, percent.
    """

    source: SetSource
    config: EvaluationConfig
    top1: Spread
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
        cells.append(Cell(source, group[0].result.config, spread(values), over, best))
    return cells


def markdown_table(study: Study, cells: Sequence[Cell]) -> str:
    """The table in Markdown; what all columns share stands above it."""
    columns = list(dict.fromkeys(tuple(cell.column.items()) for cell in cells))
    varying = [
        part for part in cells[0].column if len({dict(column)[part] for column in columns}) > 1
    ]
    shared = [text for part, text in columns[0] if part not in varying]
    counts = {cell.top1.n for cell in cells}
    replicates = "; ".join(REPLICATES[over] for over in dict.fromkeys(c.over for c in cells))
    by_place = {(cell.config.loss, tuple(cell.column.items())): cell for cell in cells}
    answers = f" (the question of {', '.join(study.answers)})" if study.answers else ""
    epochs = ", ".join(dict.fromkeys(f"{cell.config.epochs} epochs" for cell in cells))
    n = f"n = {counts.pop()}" if len(counts) == 1 else "n in brackets"
    headings = [", ".join(dict(column)[part] for part in varying) or "top-1" for column in columns]
    lines = [
        f"## {study.title}{answers}",
        "",
        f"{', '.join([*shared, epochs])}, preset {study.preset}. Top-1 on the test images after "
        f"the last epoch, percent: mean ± sample std (ddof 1), {n}; {replicates}.",
        "",
        f"| loss | {' | '.join(headings)} |",
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
        of_config = ("student", "loss", *COLUMNS[6:11])
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


def write_tables(out: Path, study: Study, cells: Sequence[Cell]) -> tuple[Path, Path]:
    """Writes ``study-NAME.md`` and ``study-NAME.csv``, each whole or not at all."""
    paths = out / f"study-{study.name}.md", out / f"study-{study.name}.csv"
    for path, text in zip(paths, (markdown_table(study, cells), csv_table(cells)), strict=True):
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return paths
