"""The CSV file of a report: one row per cell and per mean of trials."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping

from gift_fast.data.datasets.validation import VALIDATION
from gift_fast.report.cells import Cell, Trial
from gift_fast.report.panels import Panel
from gift_fast.report.published_comparison import PublishedComparison
from gift_fast.studies.statistics import Comparison

CSV_COLUMNS = (
    *("study", "dataset", "method", "ipc", "network", "student", "loss"),
    *("optimizer", "purpose", "learning_rate", "weight_decay", "momentum", "epochs"),
    *("classes", "share", "mean", "sample_std", "n", "over", "scored_on", "best_mean"),
    "diverged",
    *("reference", "difference", "low", "high", "p_holm", "outcome"),
    *("published_mean", "published_std", "published_in", "verdict"),
    *("same_configuration", "differences"),
)
"""The columns of the CSV file."""


def as_csv(rows: Iterable[Mapping[str, object]]) -> str:
    """Format the rows of :func:`csv_rows` as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def csv_rows(
    study: str, panel: Panel, found: Mapping[Cell, PublishedComparison]
) -> list[dict[str, object]]:
    """The rows of a condition: one per cell, and one per mean of trials."""
    source = panel.condition.source
    of_source = {name: getattr(source, name) for name in ("dataset", "method", "ipc", "network")}
    rows: list[dict[str, object]] = []
    for (setting, loss), cell in panel.cells.items():
        for each in panel.shares.get((setting, loss), (cell,)):
            comparison = panel.comparisons.get((setting, loss)) if each is cell else None
            row = cell_row(each, loss, setting.purpose)
            if comparison is not None:
                row |= {"reference": panel.reference, **comparison_columns(comparison)}
            if each in found:
                row |= published_columns(found[each])
            rows.append(row)
    rows += map(trial_row, panel.trials)
    return [{"study": study, **of_source, **row} for row in rows]


def config_columns(config: object) -> dict[str, object]:
    """The columns of the configuration that all rows have."""
    names = ("student", "optimizer", "momentum", "epochs", "classes")
    return {name: getattr(config, name) for name in names}


def cell_row(cell: Cell, loss: str, purpose: str) -> dict[str, object]:
    """The row of a cell, without comparisons."""
    return {
        **config_columns(cell.config),
        "loss": loss,
        "purpose": purpose,
        "learning_rate": cell.config.learning_rate,
        "weight_decay": cell.config.weight_decay,
        "share": round(cell.share, 4),
        "mean": round(cell.top1.mean, 4),
        "sample_std": round(cell.top1.sample_std, 4) if cell.top1.n > 1 else None,
        "n": cell.top1.n,
        "over": cell.over,
        "scored_on": "second half" if cell.halved else "test",
        "best_mean": round(cell.best_mean, 4),
        "diverged": sum(result.diverged is not None for result in cell.results),
    }


def comparison_columns(comparison: Comparison) -> dict[str, object]:
    """The columns of the comparison with the reference loss."""
    return {
        "difference": round(comparison.difference, 4),
        "low": round(comparison.low, 4),
        "high": round(comparison.high, 4),
        "p_holm": float(f"{comparison.p_holm:.4g}"),
        "outcome": comparison.outcome,
    }


def published_columns(found: PublishedComparison) -> dict[str, object]:
    """The columns of the comparison with a published number."""
    return {
        "published_mean": found.published.mean,
        "published_std": found.published.std,
        "published_in": found.published.source.name,
        "verdict": found.verdict_text,
        "same_configuration": "yes" if found.same_configuration else "no",
        "differences": "; ".join(found.differences),
    }


def trial_row(trial: Trial) -> dict[str, object]:
    """The row of the mean of trials."""
    config = trial.runs[0].result.config
    return {
        **config_columns(config),
        "loss": trial.loss,
        "purpose": "trial",
        "learning_rate": trial.learning_rate,
        "weight_decay": trial.weight_decay,
        "mean": round(trial.top1, 4),
        "n": len(trial.runs),
        "over": "trials",
        "share": 1.0,
        "scored_on": "validation" if config.tested_on == VALIDATION else "first half",
        "diverged": sum(result.diverged is not None for result in trial.results),
    }
