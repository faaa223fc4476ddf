"""Pictures of ``gift-fast demo``: the distilled set, and a bar chart of accuracies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gift_fast.data.distilled import DistilledSet
from gift_fast.evaluation.summary import LossSummary
from gift_fast.files.atomic import replacing
from gift_fast.report import svg
from gift_fast.report.image_grid import as_png, canvas_of
from gift_fast.training.objectives import display_name
from gift_fast.training.optimizers import optimizer_name

PIXEL = 6
"""Size of an image pixel in the saved picture, in pixels."""


def save_images(path: Path, distilled: DistilledSet) -> None:
    """Save a distilled set as PNG, with one row of images per class."""
    images, labels = distilled.images.cpu(), distilled.labels.cpu()
    rows = [images[labels == label] for label in labels.unique()]
    with replacing(path) as temporary:
        temporary.write_bytes(as_png(canvas_of(rows, line=255), PIXEL))


def save_accuracies(path: Path, cells: Sequence[LossSummary], num_classes: int) -> None:
    """Save a bar chart as SVG: one group per loss, one bar per optimizer, one dot per seed."""
    losses = list(dict.fromkeys(cell.loss for cell in cells))
    optimizers = list(dict.fromkeys(cell.optimizer for cell in cells))
    found = {(cell.loss, cell.optimizer): cell for cell in cells}
    groups = []
    for loss in losses:
        column = [found.get((loss, optimizer)) for optimizer in optimizers]
        bars = [
            None if c is None else svg.Bar(c.last.mean, c.last.population_std, c.values)
            for c in column
        ]
        groups.append((display_name(loss), bars))
    label = "; ".join(
        f"{display_name(c.loss)}, {optimizer_name(c.optimizer)}: {c.last.mean:.1f}" for c in cells
    )
    chart = svg.bar_chart(groups, label=f"Bar chart of top-1. {label}", marker=100.0 / num_classes)
    document = svg.document(
        chart,
        caption="Top-1 after the last epoch: mean, population standard deviation and all seeds",
        bars=[optimizer_name(optimizer) for optimizer in optimizers],
        marker="chance",
    )
    with replacing(path) as temporary:
        temporary.write_text(document, encoding="utf-8")
