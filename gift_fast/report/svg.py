"""SVG charts. Labels are text, and colors are CSS classes, so that they follow light and dark mode.

A series is identified by its color and marker and, from the ninth series on, by a dashed line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources

COLORS = 8
"""The number of colors, CSS classes ``c0`` to ``c7``: those of Okabe and Ito."""

WIDTH, HEIGHT = 420.0, 280.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 12.0, 12.0, 42.0
"""Margins of a chart with two axes, in SVG units."""

BAR, GAP = 13.0, 9.0
"""Thickness of a bar and distance between groups of bars, in SVG units."""

CHARACTER = 6.7
"""Average width of a character."""


@dataclass(frozen=True)
class Series:
    """A line or a set of points.

    Attributes:
        index: index of its color and marker.
        points: (x, y) pairs; for a line in ascending order of x.
        titles: tooltips of the points; may be empty.
        rings: indices of points that are highlighted by a ring.
    """

    index: int
    points: tuple[tuple[float, float], ...]
    titles: tuple[str, ...] = ()
    rings: tuple[int, ...] = ()


@dataclass(frozen=True)
class Bar:
    """A bar of a group.

    Attributes:
        value: the value of the bar.
        std: half the length of the error bar; NaN for none.
        dots: individual values.
    """

    value: float
    std: float
    dots: tuple[float, ...]


@dataclass(frozen=True)
class Scale:
    """A map from data to coordinates.

    Attributes:
        low: the value at ``start``.
        high: the value at ``end``.
        start: first coordinate.
        end: last coordinate.
        logarithmic: whether the scale is logarithmic.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """The coordinate of a value."""
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = (math.log10(x) for x in (low, high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values within the scale."""
        if self.logarithmic:
            decades = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
            return [10.0**decade for decade in decades]
        step = nice_step(self.high - self.low)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [step * k for k in range(first, last + 1)]


def nice_step(span: float, most: int = 6) -> float:
    """The smallest of 1, 2 or 5 times a power of ten that divides a span into few enough steps.

    Example:
        >>> nice_step(100.0), nice_step(0.7)
        (20.0, 0.2)
    """
    power = 10.0 ** math.floor(math.log10(span / most))
    return next(m * power for m in (1.0, 2.0, 5.0, 10.0) if span / (m * power) <= most)


def scale_over(
    values: Sequence[float], start: float, end: float, *, logarithmic: bool = False
) -> Scale:
    """A scale that covers the values with a small margin."""
    low, high = min(values), max(values)
    if logarithmic:
        return Scale(low / 1.3, high * 1.3, start, end, logarithmic=True)
    room = 0.05 * (high - low) or 1.0
    return Scale(low - room, high + room, start, end)


def percent_scale(values: Sequence[float], start: float, end: float) -> Scale:
    """A scale for accuracies in percent, with round ends between 0 and 100."""
    low, high = min(values), max(values)
    step = nice_step(max(high - low, 2.0))
    low = max(0.0, step * math.floor(low / step))
    high = min(100.0, step * math.ceil(high / step + 1e-9))
    return Scale(low if low < high else low - step, high, start, end)


def figure(width: float, height: float, label: str, parts: Sequence[str]) -> str:
    """An SVG element with a label for screen readers."""
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def text(x: float, y: float, content: str, anchor: str = "start", kind: str = "") -> str:
    """A text element, anchored at its ``start``, ``middle`` or ``end``."""
    style = f' class="{kind}"' if kind else ""
    position = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f"<text {position}{style}>{escape(content)}</text>"


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def mark(index: int, x: float, y: float, title: str = "", size: float = 3.6) -> str:
    """The marker of a series at a point."""
    r, tooltip = size, f"<title>{escape(title)}</title>" if title else ""
    shapes = (
        f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z",
        f"M{x - r:.1f} {y - r:.1f}h{2 * r}v{2 * r}h{-2 * r}z",
        f"M{x:.1f} {y - 1.2 * r:.1f}l{1.2 * r:.2f} {2.1 * r:.2f}h{-2.4 * r:.2f}z",
        f"M{x:.1f} {y - 1.3 * r:.1f}l{1.3 * r:.2f} {1.3 * r:.2f}l{-1.3 * r:.2f} {1.3 * r:.2f}"
        f"l{-1.3 * r:.2f} {-1.3 * r:.2f}z",
        f"M{x:.1f} {y + 1.2 * r:.1f}l{1.2 * r:.2f} {-2.1 * r:.2f}h{-2.4 * r:.2f}z",
    )
    return f'<path d="{shapes[index % len(shapes)]}">{tooltip}</path>'


def series_class(index: int) -> str:
    """The CSS classes of a series: its color and, after the last color, a dashed line."""
    dashed = " dashed" if index >= COLORS else ""
    return f"series c{index % COLORS}{dashed}"


def axes(x: Scale, y: Scale, x_label: str, y_label: str) -> list[str]:
    """The grid, tick labels and titles of two axes."""
    parts = []
    for value in y.ticks():
        parts.append(line(x.start, y(value), x.end, y(value), "grid"))
        parts.append(text(x.start - 6, y(value) + 4, f"{value:g}", "end"))
    for value in x.ticks():
        parts.append(line(x(value), y.start, x(value), y.start + 4, "axis"))
        parts.append(text(x(value), y.start + 17, f"{value:g}", "middle"))
    parts.append(line(x.start, y.start, x.end, y.start, "axis"))
    parts.append(text((x.start + x.end) / 2, y.start + 35, x_label, "middle", "label"))
    parts.append(
        f'<text transform="translate(11 {(y.start + y.end) / 2:.1f}) rotate(-90)" '
        f'text-anchor="middle" class="label">{escape(y_label)}</text>'
    )
    return parts


def line_chart(
    series: Sequence[Series],
    *,
    label: str,
    x_label: str,
    y_label: str,
    logarithmic: bool = False,
    marker: float | None = None,
    y_values: Sequence[float] = (),
) -> str:
    """A line chart with markers.

    Args:
        series: the series, at least one, with points.
        label: description of the chart for screen readers.
        x_label: title of the horizontal axis.
        y_label: title of the vertical axis, which is in percent.
        logarithmic: whether the horizontal axis is logarithmic.
        marker: position of a vertical line, or None.
        y_values: further values that the vertical axis covers, for charts with equal axes.
    """
    xs = [x for each in series for x, _ in each.points]
    ys = [y for each in series for _, y in each.points]
    markers = [] if marker is None else [marker]
    x = scale_over([*xs, *markers], LEFT, WIDTH - RIGHT, logarithmic=logarithmic)
    y = percent_scale([*ys, *y_values], HEIGHT - BOTTOM, TOP)
    parts = axes(x, y, x_label, y_label)
    if marker is not None:
        parts.append(line(x(marker), y.start, x(marker), y.end, "marker"))
    for each in series:
        index = each.index
        points = [(x(a), y(b)) for a, b in each.points]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts.append(f'<g class="{series_class(index)}" data-series="{index}">')
        parts.append(f'<polyline points="{path}"/>')
        titles = each.titles or ("",) * len(points)
        parts += [mark(index, a, b, t) for (a, b), t in zip(points, titles, strict=True)]
        for k in each.rings:
            a, b = points[k]
            parts.append(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="7.5" class="ring"/>')
        parts.append("</g>")
    return figure(WIDTH, HEIGHT, label, parts)


def bar_chart(
    groups: Sequence[tuple[str, Sequence[Bar | None]]], *, label: str, marker: float | None = None
) -> str:
    """A horizontal bar chart from 0 percent, with values, error bars and dots.

    Args:
        groups: name and bars of every group; None is a missing bar.
        label: description of the chart for screen readers.
        marker: position of a vertical line, or None.
    """
    widest = max(len(name) for name, _ in groups)
    left = min(170.0, 14.0 + CHARACTER * widest)
    width = 500.0
    bars = [bar for _, each in groups for bar in each if bar is not None]
    ends = [max(bar.value, *bar.dots, bar.value + (bar.std or 0.0)) for bar in bars]
    highest = max(end for end in ends if not math.isnan(end)) if bars else 1.0
    step = nice_step(max(highest, 1.0))
    x = Scale(0.0, step * math.ceil(highest / step), left, width - 48.0)
    parts, top = [], 6.0
    rows = []
    for name, each in groups:
        height = BAR * len(each)
        rows.append(text(left - 8, top + height / 2 + 4.5, name, "end", "name"))
        for k, bar in enumerate(each):
            if bar is not None:
                rows.append(one_bar(bar, k, x, top + BAR * k))
        top += height + GAP
    for value in x.ticks():
        parts.append(line(x(value), 2.0, x(value), top, "grid"))
        parts.append(text(x(value), top + 15, f"{value:g}", "middle"))
    if marker is not None:
        parts.append(line(x(marker), 2.0, x(marker), top, "marker"))
    parts.append(text((x.start + x.end) / 2, top + 33, "top-1, %", "middle", "label"))
    return figure(width, top + 40.0, label, [*parts, *rows])


def one_bar(bar: Bar, index: int, x: Scale, top: float) -> str:
    """A bar with its error bar, dots and value."""
    middle = top + BAR / 2
    parts = [
        f'<g class="bar b{index}"><rect x="{x.start:.1f}" y="{top + 0.5:.1f}" '
        f'width="{x(bar.value) - x.start:.1f}" height="{BAR - 1:g}"/>'
    ]
    end = bar.value
    if not math.isnan(bar.std):
        low, high = max(0.0, bar.value - bar.std), bar.value + bar.std
        parts.append(line(x(low), middle, x(high), middle, "error"))
        end = max(end, high)
    parts += [
        f'<circle cx="{x(dot):.1f}" cy="{middle:.1f}" r="2" class="dot"/>' for dot in bar.dots
    ]
    end = max([end, *bar.dots])
    parts.append(text(x(end) + 7, middle + 4, f"{bar.value:.1f}", "start", "value"))
    return "".join([*parts, "</g>"])


def scatter_chart(series: Sequence[Series], *, label: str, x_label: str, y_label: str) -> str:
    """A scatter chart with a diagonal, on which both coordinates are equal."""
    values = [value for each in series for point in each.points for value in point]
    side = 420.0
    scale = percent_scale(values, 0.0, 1.0)
    x = Scale(scale.low, scale.high, LEFT, side - RIGHT)
    y = Scale(scale.low, scale.high, side - BOTTOM, TOP)
    parts = axes(x, y, x_label, y_label)
    parts.append(line(x.start, y.start, x.end, y.end, "marker"))
    for each in series:
        index = each.index
        parts.append(f'<g class="{series_class(index)} points" data-series="{index}">')
        titles = each.titles or ("",) * len(each.points)
        parts += [
            mark(index, x(a), y(b), t, 4.5) for (a, b), t in zip(each.points, titles, strict=True)
        ]
        parts.append("</g>")
    return figure(side, side, label, parts)


def legend_mark(index: int) -> str:
    """The legend entry of a series: its line and marker."""
    parts = [
        f'<g class="{series_class(index)}"><polyline points="1,7 25,7"/>{mark(index, 13, 7)}</g>'
    ]
    return f'<svg viewBox="0 0 26 14" class="key" aria-hidden="true">{"".join(parts)}</svg>'


def bar_key(index: int) -> str:
    """The legend entry of a bar."""
    rect = '<rect x="1" y="1" width="24" height="12"/>'
    return (
        '<svg viewBox="0 0 26 14" class="key" aria-hidden="true">'
        f'<g class="bar b{index}">{rect}</g></svg>'
    )


def document(chart: str, *, caption: str, bars: Sequence[str], marker: str = "") -> str:
    """A standalone SVG file of a bar chart, with a caption and a legend above it.

    Args:
        chart: the result of :func:`bar_chart`.
        caption: explanation of the bars, lines and dots.
        bars: names of the bars of a group.
        marker: name of the vertical line; empty if there is none.
    """
    opening, _, rest = chart.partition(">")
    width, height = (float(n) for n in opening.split('"')[1].split()[2:])
    head = 48.0
    parts, left = [text(8.0, 17.0, caption, kind="label")], 8.0
    for index, name in enumerate(bars):
        parts.append(
            f'<g class="bar b{index}"><rect x="{left:g}" y="27" width="24" height="12"/></g>'
        )
        parts.append(text(left + 30, 37.0, name))
        left += 30 + CHARACTER * len(name) + 16
    if marker:
        parts.append(line(left, 33.0, left + 24, 33.0, "marker"))
        parts.append(text(left + 30, 37.0, marker))
    style = resources.files("gift_fast.report").joinpath("charts.css").read_text(encoding="utf-8")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height + head:g}" '
        f'width="{1.5 * width:g}" height="{1.5 * (height + head):g}">'
        f"<style>{style}\nsvg {{ background: var(--paper); }}</style>"
        f'{"".join(parts)}<g transform="translate(0 {head:g})">'
        f'{opening} width="{width:g}" height="{height:g}">{rest}</g></svg>\n'
    )
