"""The figures of a report: which numbers of a study are drawn, and their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gift_fast.evaluation.summary import spread
from gift_fast.files import spec
from gift_fast.report import svg
from gift_fast.report.cells import TUNED, Cell
from gift_fast.report.panels import Panel
from gift_fast.report.published_comparison import PublishedComparison, on_all_images
from gift_fast.report.study_tables import setting_name
from gift_fast.training.objectives import OBJECTIVES, display_name

TOP1 = "top-1, %"


@dataclass(frozen=True)
class Chart:
    """One chart of a figure.

    Attributes:
        title: title above the chart; may be empty.
        picture: the chart as SVG.
    """

    title: str
    picture: str


@dataclass(frozen=True)
class Figure:
    """Charts with a common caption and legend.

    Attributes:
        caption: the caption.
        charts: the charts, shown side by side.
        legend: index, name and marker (SVG) of every series; may be empty.
        wide: whether a chart takes the full width.
    """

    caption: str
    charts: tuple[Chart, ...]
    legend: tuple[tuple[int, str, str], ...] = ()
    wide: bool = False


def legend_of(panel: Panel) -> tuple[tuple[int, str, str], ...]:
    """The legend of the losses of a condition."""
    return tuple(
        (index, display_name(loss), svg.legend_mark(index)) for loss, index in panel.series.items()
    )


def capitalized(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def bars_figure(panel: Panel) -> Figure:
    """A bar chart with one bar per loss and setting."""
    groups = []
    for loss in panel.losses:
        cells = [panel.cells.get((setting, loss)) for setting in panel.settings]
        bars = [
            None if c is None else svg.Bar(c.top1.mean, c.top1.sample_std, c.replicates)
            for c in cells
        ]
        groups.append((display_name(loss), bars))
    names = [capitalized(setting_name(setting, panel)) for setting in panel.settings]
    counts = sorted({cell.top1.n for cell in panel.cells.values()})
    label = "; ".join(
        f"{name}: " + ", ".join(f"{c.loss_name} {c.top1.mean:.1f}" for c in panel.column(setting))
        for name, setting in zip(names, panel.settings, strict=True)
    )
    over = {"sets": "sets", "seeds": "students on one set"}[next(iter(panel.cells.values())).over]
    keys = [svg.bar_key(k) for k in range(len(names))]
    return Figure(
        f"Top-1 of every loss: mean, sample standard deviation, and "
        f"{' or '.join(map(str, counts))} {over} as dots.",
        (Chart("", svg.bar_chart(groups, label=f"Bar chart of top-1. {label}")),),
        tuple(zip(range(len(names)), names, keys, strict=True)) if len(names) > 1 else (),
        wide=True,
    )


def curves_figure(panel: Panel) -> Figure | None:
    """Training curves: mean accuracy of every loss at each test; None if runs were tested once."""
    charts = []
    curves = [cell for cell in panel.cells.values() if len(cell.runs[0].result.checks) > 1]
    values = [y for cell in curves for _, y in curve_of(cell)]
    for setting in panel.settings:
        cells = [cell for cell in panel.column(setting) if cell in curves]
        if not cells:
            continue
        series = []
        for cell in cells:
            points = curve_of(cell)
            titles = tuple(f"{cell.loss_name}, epoch {x:g}: {y:.1f} %" for x, y in points)
            series.append(svg.Series(panel.series[cell.loss], points, titles))
        name = capitalized(setting_name(setting, panel))
        picture = svg.line_chart(
            series, label=f"Training curves, {name}", x_label="epoch", y_label=TOP1, y_values=values
        )
        charts.append(Chart(name, picture))
    if not charts:
        return None
    caption = "Training curves: mean top-1 of all runs at every test."
    return Figure(caption, tuple(charts), legend_of(panel))


def curve_of(cell: Cell) -> tuple[tuple[float, float], ...]:
    """Epochs and mean top-1 of the tests that all runs of a cell have."""
    by_epoch: dict[int, list[float]] = {}
    for run in cell.runs:
        for check in run.result.checks:
            by_epoch.setdefault(check.epoch, []).append(
                check.halves[1] if cell.halved else check.top1
            )
    return tuple(
        (float(epoch), spread(values).mean)
        for epoch, values in sorted(by_epoch.items())
        if len(values) == len(cell.runs)
    )


def tuning_figure(panel: Panel) -> Figure | None:
    """Top-1 of the trials over the learning rate, with one chart per weight decay."""
    if not panel.trials:
        return None
    losses = list(dict.fromkeys(trial.loss for trial in panel.trials))
    values = [trial.top1 for trial in panel.trials]
    protocol = {
        cell.config.learning_rate
        for setting in panel.of_purpose("protocol")
        for cell in panel.column(setting)
    }
    marker = protocol.pop() if len(protocol) == 1 else None
    charts = []
    for decay in sorted({trial.weight_decay for trial in panel.trials}):
        series = []
        for loss in losses:
            trials = [t for t in panel.trials if (t.loss, t.weight_decay) == (loss, decay)]
            chosen = panel.cells.get((TUNED, loss))
            rings = tuple(
                k
                for k, trial in enumerate(trials)
                if chosen is not None
                and chosen.config.learning_rate == trial.learning_rate
                and chosen.config.weight_decay == decay
            )
            name = display_name(loss)
            points = tuple((t.learning_rate, t.top1) for t in trials)
            titles = tuple(f"{name}, learning rate {x:g}: {y:.1f} %" for x, y in points)
            if points:
                series.append(svg.Series(panel.series[loss], points, titles, rings))
        picture = svg.line_chart(
            series,
            label=f"Top-1 of the trials over the learning rate at weight decay {decay:g}",
            x_label="learning rate",
            y_label=TOP1,
            logarithmic=True,
            marker=marker,
            y_values=values,
        )
        charts.append(Chart(f"Weight decay {decay:g}", picture))
    caption = (
        "Tuning: mean top-1 of the trials, on the images used for tuning. Rings mark the chosen "
        "hyperparameters"
    )
    caption += "." if marker is None else "; the dashed line is the protocol's learning rate."
    return Figure(caption, tuple(charts), legend_of(panel))


def gamma_figure(panel: Panel) -> Figure | None:
    """Top-1 over GIFT's gamma; None if there are fewer than three values of gamma."""
    series, legend = [], []
    for index, setting in enumerate(panel.settings):
        cells = [cell for cell in panel.column(setting) if gamma_of(cell.loss) is not None]
        points = tuple(sorted((gamma_of(cell.loss) or 0.0, cell.top1.mean) for cell in cells))
        if len(points) < 3:
            continue
        titles = tuple(f"gamma {x:g}: {y:.1f} %" for x, y in points)
        series.append(svg.Series(index, points, titles))
        name = capitalized(setting_name(setting, panel))
        legend.append((index, name, svg.legend_mark(index)))
    if not series:
        return None
    picture = svg.line_chart(series, label="Top-1 over gamma", x_label="gamma", y_label=TOP1)
    caption = "Top-1 over gamma, the weight of the hard label in the refined soft label."
    return Figure(caption, (Chart("", picture),), tuple(legend) if len(legend) > 1 else ())


def gamma_of(loss: str) -> float | None:
    """The gamma of a GIFT specification without other options, or None.

    Example:
        >>> gamma_of("gift:gamma=0.3"), gamma_of("gift"), gamma_of("kl")
        (0.3, 0.1, None)
    """
    name, given = spec.split_spec(loss)
    if name != "gift" or set(given) - {"gamma"}:
        return None
    _, options = spec.resolve("loss", loss, OBJECTIVES)
    return float(options["gamma"])


def shares_figure(panel: Panel) -> Figure | None:
    """Top-1 over the share of classes seen; None except in continual learning."""
    charts = []
    values = [cell.top1.mean for cells in panel.shares.values() for cell in cells]
    for setting in panel.settings:
        series = []
        for loss in panel.losses:
            cells = panel.shares.get((setting, loss), ())
            points = tuple((100.0 * cell.share, cell.top1.mean) for cell in cells)
            name = display_name(loss)
            titles = tuple(f"{name}, {x:.3g} % of the classes: {y:.1f} %" for x, y in points)
            if points:
                series.append(svg.Series(panel.series[loss], points, titles))
        if series:
            name = capitalized(setting_name(setting, panel))
            picture = svg.line_chart(
                series,
                label=f"Top-1 over the classes seen, {name}",
                x_label="classes seen, %",
                y_label=TOP1,
                y_values=values,
            )
            charts.append(Chart(name if len(panel.settings) > 1 else "", picture))
    if not charts:
        return None
    caption = "Top-1 on the test images of the classes seen so far."
    return Figure(caption, tuple(charts), legend_of(panel))


def scatter_figure(found: Sequence[PublishedComparison]) -> Figure | None:
    """Measured against published means; None if there are no published numbers."""
    groups: dict[str, list[PublishedComparison]] = {}
    for each in found:
        groups.setdefault(kind_of(each), []).append(each)
    if not groups:
        return None
    kinds = {kind: index for index, kind in enumerate(KINDS) if kind in groups}
    series = []
    for kind, index in kinds.items():
        members = groups[kind]
        points = tuple((b.published.mean, on_all_images(b.cell).top1.mean) for b in members)
        titles = tuple(
            f"{b.published.dataset}, {b.published.method}, IPC {b.published.ipc}, "
            f"{b.cell.loss_name}: published {x:g}, measured {y:.1f}"
            for b, (x, y) in zip(members, points, strict=True)
        )
        series.append(svg.Series(index, points, titles))
    picture = svg.scatter_chart(
        series,
        label="Measured against published top-1",
        x_label="published top-1, %",
        y_label="measured top-1, %",
    )
    legend = tuple((index, kind, svg.legend_mark(index)) for kind, index in kinds.items())
    caption = "Measured against published top-1. On the dashed line, they are equal."
    return Figure(caption, (Chart("", picture),), legend)


VERDICTS = ("reproduced", "not reproduced", "inconclusive")

KINDS = (*VERDICTS, *(f"{verdict}, other configuration" for verdict in VERDICTS))
"""Series of the scatter chart."""


def kind_of(each: PublishedComparison) -> str:
    """The series of ``KINDS`` for a comparison."""
    return each.verdict if each.same_configuration else f"{each.verdict}, other configuration"
