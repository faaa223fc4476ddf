"""Results as a reader meets them: a table, sentences that say what was found, and two pictures.

matplotlib and rich are imported where they are used, so that training needs neither.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from torch.nn import functional as F

from gift_fast.data.distilled import DistilledSet
from gift_fast.evaluation.results import (
    DIVERGED,
    Cell,
    RunResult,
    Spread,
    divergence,
    marked,
    spread,
)
from gift_fast.files import spec
from gift_fast.files.atomic import replacing
from gift_fast.training.objectives import OBJECTIVES, display_name
from gift_fast.training.optimizers import optimizer_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console
    from rich.table import Table


COLLAPSED = 2.0
"""A loss has collapsed where its students are right at most this many times as often as chance."""

FAR_BEHIND = 5.0
"""Points of top-1 behind the best loss that call for an explanation."""

SLOW_KL = (
    "KL is taken at its temperature T without the factor T^2, as the literature's code does, so "
    "its gradient is T^2 times smaller than with it. SGD's step is proportional to the gradient "
    "(AdamW's is not), so where KL fails under SGD that can be a matter of the learning rate and "
    "not of the loss. To see: gift-fast demo --losses kl kl:scale_t2=true"
)

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73")
"""Blue, orange and green that all common forms of colour blindness tell apart (Okabe and Ito)."""
HATCHES = ("", "//", "..")
PICTURE_DPI = 150

FOLDED = 8
"""Characters that a column of words has at least."""


def accuracy_table(cells: Sequence[Cell]) -> Table:
    """A table of top-1 with one row for every loss and optimizer."""
    from rich import box
    from rich.table import Table

    table = Table(
        title="Top-1 accuracy on the test images, percent",
        title_justify="left",
        box=box.ASCII2,
    )
    table.add_column("loss")
    table.add_column("optimizer")
    for heading in ("last epoch", "std", "n", "best check", "s/run"):
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
    """Prints a table; where the terminal is too narrow for it, without lines, its words folded.

    Numbers, which are the columns to the right, stay whole, if need be beyond the terminal's edge.
    A file has no edge.
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
    least = sum(1 + (column.min_width or FOLDED) for column in table.columns)
    console.width = max(width, least if console.is_terminal else needed.maximum)
    console.print(table)
    console.width = width


def print_results(runs: Sequence[RunResult], *, as_json: bool = False) -> None:
    """Prints every run and their mean on the standard output, as a table or as one JSON object.

    Both standard deviations are named: the population's (ddof 0), which the paper's code reports,
    and the sample's (ddof 1).
    """
    last, best = (spread([getattr(run, which).top1 for run in runs]) for which in ("last", "best"))
    if as_json:
        means = {"last": plain(last), "best": plain(best)}
        contents = {"runs": [run.to_dict() for run in runs], **means}
        print(json.dumps(contents, indent=2, allow_nan=False))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    images = "test" if runs[0].config.tested_on == "test" else "held-out"
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
    for name, values in (("last epoch", last), ("best check", best)):
        spreads = "one seed"
        if values.n > 1:
            spreads = (
                f"population std {values.population_std:.2f} (ddof 0), sample std "
                f"{values.sample_std:.2f} (ddof 1), {values.n} seeds"
            )
        console.print(f"top-1 of the {name}: {values.mean:.2f}, {spreads}", soft_wrap=True)
    console.print(
        f"The score is the last epoch's. The best check is chosen on the {images} images, so it is "
        "optimistic.",
        soft_wrap=True,
    )
    for line in divergence(runs):
        console.print(line, soft_wrap=True)


def plain(values: Spread) -> dict[str, float | None]:
    """A spread as JSON can hold it, which has no NaN: a single run has no sample deviation."""
    return {name: None if math.isnan(x) else x for name, x in asdict(values).items()}


def findings(cells: Sequence[Cell], num_classes: int) -> list[str]:
    """What the table shows, one statement each, whichever loss is ahead."""
    chance = 100.0 / num_classes
    optimizers = list(dict.fromkeys(cell.optimizer for cell in cells))
    columns = [[cell for cell in cells if cell.optimizer == name] for name in optimizers]
    sentences = [ranking(column) for column in columns]
    collapsed = [cell for cell in cells if is_near_chance(cell.last.mean, chance)]
    if collapsed and len(collapsed) == len(cells):
        best = max(cell.last.mean for cell in cells)
        return [
            *sentences,
            f"No loss is far above chance ({best:.1f} at best, chance {chance:.1f}): the students "
            "are trained too little, or in vain, to compare losses by them.",
        ]
    sentences += [collapse(cell, chance) for cell in collapsed]
    sentences += [change(a, b) for a, b in pairwise(columns)]
    if any(is_slow_kl(cell, column) for column in columns for cell in column):
        sentences.append(SLOW_KL)
    return sentences


def ranking(column: Sequence[Cell]) -> str:
    """The losses under one optimizer from best to worst, and whether the seeds tell them apart."""
    ranked = sorted(column, key=lambda cell: cell.last.mean, reverse=True)
    scores = [f"{display_name(cell.loss)} {cell.last.mean:.1f}" for cell in ranked]
    text = f"Under {optimizer_name(ranked[0].optimizer)}: {', '.join(scores)}."
    if len(ranked) == 1:
        return text
    first, second = ranked[:2]
    gap = first.last.mean - second.last.mean
    noise = max(first.last.population_std, second.last.population_std)
    n = min(first.last.n, second.last.n)
    if n == 1:
        return f"{text} With a single seed, the order is not to be trusted."
    if gap <= noise:
        return (
            f"{text} The first two lie {gap:.1f} apart, within one std ({noise:.1f}): "
            f"{n} seeds do not tell them apart."
        )
    return (
        f"{text} {display_name(first.loss)} leads by {gap:.1f} points, more than the larger std of "
        f"the two ({noise:.1f})."
    )


def is_near_chance(top1: float, chance: float) -> bool:
    """Whether students with this mean, in percent like ``chance``, learned next to nothing.

    Of two classes twice chance is all there is: there it is half of the way to 100.
    """
    return top1 <= min(COLLAPSED * chance, (chance + 100.0) / 2)


def collapse(cell: Cell, chance: float) -> str:
    """Says that a loss collapsed."""
    return (
        f"{display_name(cell.loss)} collapsed under {optimizer_name(cell.optimizer)}: "
        f"{cell.last.mean:.1f} where chance is {chance:.1f}."
    )


def change(before: Sequence[Cell], after: Sequence[Cell]) -> str:
    """What another optimizer, with settings of its own, does to every loss."""
    old = {cell.loss: cell.last.mean for cell in before}
    moves = [
        f"{display_name(cell.loss)} {cell.last.mean - old[cell.loss]:+.1f}"
        for cell in after
        if cell.loss in old
    ]
    names = optimizer_name(before[0].optimizer), optimizer_name(after[0].optimizer)
    return f"From {names[0]} to {names[1]}, in points: {', '.join(moves)}."


def is_slow_kl(cell: Cell, column: Sequence[Cell]) -> bool:
    """Whether KL without T^2 lies far behind the best loss under SGD."""
    if cell.optimizer != "sgd" or spec.split_spec(cell.loss)[0] != "kl":
        return False
    _, options = spec.resolve("loss", cell.loss, OBJECTIVES)
    best = max(other.last.mean for other in column)
    return not options["scale_t2"] and best - cell.last.mean >= FAR_BEHIND


def save_images(path: Path, distilled: DistilledSet) -> None:
    """Saves a distilled set as a PNG grid: one row a class, its images side by side.

    Every class must have the same number of images.
    """
    from matplotlib.figure import Figure

    images = distilled.images[distilled.labels.argsort(stable=True)].cpu()
    classes = int(distilled.labels.max()) + 1
    ipc = len(images) // classes
    tiles = F.pad(images, (0, 1, 0, 1), value=1.0)  # a white line between images
    channels, side = tiles.shape[1:3]
    rows = tiles.reshape(classes, ipc, channels, side, side).permute(0, 3, 1, 4, 2)
    canvas = rows.reshape(classes * side, ipc * side, channels)[:-1, :-1]

    figure = Figure(figsize=(0.5 * ipc + 0.5, 0.5 * classes), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(canvas.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_yticks([side * (k + 0.5) - 1 for k in range(classes)], map(str, range(classes)))
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    save_figure(path, figure)


def save_accuracies(path: Path, cells: Sequence[Cell], num_classes: int) -> None:
    """Saves a PNG bar chart: a group of bars a loss, a bar an optimizer, every seed as a dot."""
    from matplotlib.figure import Figure

    losses = list(dict.fromkeys(cell.loss for cell in cells))
    optimizers = list(dict.fromkeys(cell.optimizer for cell in cells))
    width = 0.8 / len(optimizers)

    figure = Figure(figsize=(max(5.0, 1.6 * len(losses) + 1.2), 3.8), layout="constrained")
    axes = figure.add_subplot()
    for k, optimizer in enumerate(optimizers):
        column = [cell for cell in cells if cell.optimizer == optimizer]
        places = [
            losses.index(cell.loss) + (k - (len(optimizers) - 1) / 2) * width for cell in column
        ]
        axes.bar(
            places,
            [cell.last.mean for cell in column],
            0.92 * width,
            yerr=[cell.last.population_std for cell in column],
            capsize=4,
            color=OKABE_ITO[k % len(OKABE_ITO)],
            hatch=HATCHES[k % len(HATCHES)],
            edgecolor="white",
            ecolor="black",
            label=optimizer_name(optimizer),
        )
        for place, cell in zip(places, column, strict=True):
            axes.plot([place] * len(cell.values), cell.values, "k.", markersize=4)
            top = max(cell.last.mean + cell.last.population_std, *cell.values)
            axes.text(place, top + 2, f"{cell.last.mean:.1f}", ha="center", fontsize=9)
    chance = 100.0 / num_classes
    axes.axhline(chance, color="black", linewidth=1, linestyle="--", label="chance")
    axes.set_xticks(range(len(losses)))
    axes.set_xticklabels([display_name(loss).replace(" (", "\n(") for loss in losses])
    axes.set_ylim(0, 108)  # room for a number above a bar of 100
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("top-1, %")
    axes.set_title("mean, population std and every seed, after the last epoch", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    save_figure(path, figure)


def save_figure(path: Path, figure: Figure) -> None:
    """Writes a figure as a PNG, whole or not at all; needs no display."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=PICTURE_DPI)
