"""Tables of accuracies in the terminal, for ``gift-fast evaluate`` and ``gift-fast demo``."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from gift_fast.evaluation.results import RunResult
from gift_fast.evaluation.summary import DIVERGED, LossSummary, Spread, divergence, marked, spread
from gift_fast.training.objectives import display_name
from gift_fast.training.optimizers import optimizer_name

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MIN_TEXT_WIDTH = 8
"""Minimum width of a text column, in characters."""


def accuracy_table(cells: Sequence[LossSummary]) -> Table:
    """A table of top-1 accuracies with one row per loss and optimizer."""
    from rich import box
    from rich.table import Table

    table = Table(
        title="Top-1 accuracy on the test images, percent",
        title_justify="left",
        box=box.ASCII2,
    )
    table.add_column("loss")
    table.add_column("optimizer")
    for heading in ("last epoch", "std", "n", "best test", "s/run"):
        table.add_column(heading, justify="right")
    for cell in cells:
        table.add_row(
            display_name(cell.loss),
            optimizer_name(cell.optimizer),
            f"{cell.last.mean:.1f}{DIVERGED if cell.diverged else ''}",
            f"{cell.last.population_std:.1f}" if cell.last.n > 1 else "-",
            str(cell.last.n),
            f"{cell.best.mean:.1f}",
            f"{cell.seconds:.1f}",
        )
    return table


def print_table(console: Console, table: Table) -> None:
    """Print a table; in a narrow terminal, omit the borders and wrap text columns.

    Right-aligned columns, which contain numbers, are not wrapped, even if the table is then wider
    than the terminal. In a file, the width is not limited.
    """
    for column in table.columns:
        column.overflow = "fold"
        if column.justify == "right":
            column.min_width = max(len(str(cell)) for cell in column.cells)
    unlimited = console.options.update(width=10_000)
    needed = console.measure(table, options=unlimited)
    if needed.minimum > console.width and console.is_terminal:
        table.box = None
        table.padding = (0, 1, 0, 0)
    width = console.width
    minimum = sum(1 + (column.min_width or MIN_TEXT_WIDTH) for column in table.columns)
    console.width = max(width, minimum if console.is_terminal else needed.maximum)
    console.print(table)
    console.width = width


def print_results(runs: Sequence[RunResult], *, as_json: bool = False) -> None:
    """Print all runs and their means to standard output, as a table or as one JSON object.

    Both standard deviations are printed: the population's (ddof 0), which the paper's code reports,
    and the sample's (ddof 1).
    """
    last, best = (spread([getattr(run, which).top1 for run in runs]) for which in ("last", "best"))
    if as_json:
        means = {"last": without_nan(last), "best": without_nan(best)}
        contents = {"runs": [run.to_dict() for run in runs], **means}
        print(json.dumps(contents, indent=2, allow_nan=False))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    images = "test" if runs[0].config.tested_on == "test" else "validation"
    title = f"Accuracy on the {images} images, percent"
    table = Table(title=title, title_justify="left", box=box.ASCII2)
    for heading in ("seed", "top-1", "top-5", "best top-1", "images/s", "seconds"):
        table.add_column(heading, justify="right")
    for run in runs:
        table.add_row(
            str(run.config.seed),
            marked(f"{run.last.top1:.2f}", [run]),
            f"{run.last.top5:.2f}",
            f"{run.best.top1:.2f}",
            f"{run.images_per_second:.0f}",
            f"{run.seconds:.1f}",
        )
    console = Console(highlight=False)
    print_table(console, table)
    for name, values in (("after the last epoch", last), ("of the best test", best)):
        details = "one seed"
        if values.n > 1:
            details = (
                f"population std {values.population_std:.2f} (ddof 0), sample std "
                f"{values.sample_std:.2f} (ddof 1), {values.n} seeds"
            )
        console.print(f"top-1 {name}: {values.mean:.2f}, {details}", soft_wrap=True)
    console.print(
        "The score is the accuracy after the last epoch. The best test is selected on the "
        f"{images} images, so it is optimistic.",
        soft_wrap=True,
    )
    for line in divergence(runs):
        console.print(line, soft_wrap=True)


def without_nan(values: Spread) -> dict[str, float | None]:
    """A spread for JSON, which has no NaN: the sample std of a single run becomes None."""
    return {name: None if math.isnan(x) else x for name, x in asdict(values).items()}
