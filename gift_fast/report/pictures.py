"""Pictures of ``gift-fast demo``: a distilled set, and accuracies as bars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch.nn import functional as F

from gift_fast.data.distilled import DistilledSet
from gift_fast.evaluation.summary import LossSummary
from gift_fast.files.atomic import replacing
from gift_fast.training.objectives import display_name
from gift_fast.training.optimizers import optimizer_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73")
"""Blue, orange and green, distinguishable with common color vision deficiencies (Okabe and Ito)."""
HATCHES = ("", "//", "..")
PICTURE_DPI = 150


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


def save_accuracies(path: Path, cells: Sequence[LossSummary], num_classes: int) -> None:
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
