"""The CSV file of a report: one line per cell and per mean of trials."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping

from gift_fast.data.datasets.validation import VALIDATION
from gift_fast.report.cells import Cell
from gift_fast.report.panels import Panel
from gift_fast.report.published_comparison import PublishedComparison

CSV_COLUMNS = (
    *("study", "dataset", "method", "ipc", "network", "student", "loss"),
    *("optimizer", "purpose", "learning_rate", "weight_decay", "momentum", "epochs"),
    *("classes", "share", "mean", "sample_std", "n", "over", "scored_on", "best_mean"),
    "diverged",
    *("reference", "difference", "low", "high", "p_holm", "outcome"),
    *("published_mean", "published_std", "published_in", "verdict"),
    *("same_configuration", "differences"),
)
"""Of the CSV file."""


def as_csv(rows: Iterable[Mapping[str, object]]) -> str:
    """A line a cell; see :func:`csv_rows`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def csv_rows(
    study: str, panel: Panel, found: Mapping[Cell, PublishedComparison]
) -> list[dict[str, object]]:
    """A line for every cell of a condition, and for the mean of every trial."""
    source = panel.condition.source
    rows: list[dict[str, object]] = []

    def line(cell_config: object, **values: object) -> None:
        of_config = ("student", "optimizer", "momentum", "epochs", "classes")
        of_source = ("dataset", "method", "ipc", "network")
        row: dict[str, object] = {"study": study}
        row |= {name: getattr(source, name) for name in of_source}
        row |= {name: getattr(cell_config, name) for name in of_config}
        rows.append({**row, **values})

    for (setting, loss), cell in panel.cells.items():
        for each in panel.shares.get((setting, loss), (cell,)):
            values: dict[str, object] = {
                "loss": loss,
                "purpose": setting.purpose,
                "learning_rate": each.config.learning_rate,
                "weight_decay": each.config.weight_decay,
                "share": round(each.share, 4),
                "mean": round(each.top1.mean, 4),
                "sample_std": round(each.top1.sample_std, 4) if each.top1.n > 1 else None,
                "n": each.top1.n,
                "over": each.over,
                "scored_on": "second half" if each.halved else "test",
                "best_mean": round(each.best_mean, 4),
                "diverged": sum(result.diverged is not None for result in each.results),
            }
            comparison = panel.comparisons.get((setting, loss)) if each is cell else None
            if comparison is not None:
                values |= {
                    "reference": panel.reference,
                    "difference": round(comparison.difference, 4),
                    "low": round(comparison.low, 4),
                    "high": round(comparison.high, 4),
                    "p_holm": float(f"{comparison.p_holm:.4g}"),
                    "outcome": comparison.outcome,
                }
            if each in found:
                published = found[each].published
                values |= {
                    "published_mean": published.mean,
                    "published_std": published.std,
                    "published_in": published.source.name,
                    "verdict": found[each].verdict_in_words,
                    "same_configuration": "yes" if found[each].same_configuration else "no",
                    "differences": "; ".join(found[each].differences),
                }
            line(each.config, **values)
    for trial in panel.trials:
        config = trial.runs[0].result.config
        line(
            config,
            loss=trial.loss,
            purpose="trial",
            learning_rate=trial.learning_rate,
            weight_decay=trial.weight_decay,
            mean=round(trial.top1, 4),
            n=len(trial.runs),
            over="trials",
            share=1.0,
            scored_on="validation" if config.tested_on == VALIDATION else "first half",
            diverged=sum(result.diverged is not None for result in trial.results),
        )
    return rows
