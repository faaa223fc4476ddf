"""Figures as text, tables for a terminal and for Markdown, and the files they go to."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

Table = tuple[str, list[list[str]]]
"""A title, and the rows, header first."""


def time_text(seconds: float, *more: float) -> str:
    """Three digits in microseconds or milliseconds; further times in brackets, in the same unit."""
    scale, unit = (1e6, "us") if seconds < 1e-3 else (1e3, "ms")
    digits = max(0, 2 - math.floor(math.log10(seconds * scale)))
    values = [f"{value * scale:.{digits}f}" for value in (seconds, *more)]
    brackets = f" ({' to '.join(values[1:])})" if more else ""
    return f"{values[0]} {unit}{brackets}"


def ratio_text(ratio: float) -> str:
    """Two decimals below ten, one above."""
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}"


def bytes_text(number: float) -> str:
    """Three digits, in megabytes or kilobytes."""
    return f"{number / 1e6:.3g} MB" if number >= 1e6 else f"{number / 1e3:.3g} kB"


def shape_text(shape: Iterable[int]) -> str:
    """N x C."""
    return " x ".join(map(str, shape))


def shape_argument(text: str) -> tuple[int, int]:
    """100x1000 to (100, 1000)."""
    num_rows, num_classes = map(int, text.split("x"))
    return num_rows, num_classes


def text_tables(tables: Iterable[Table]) -> Iterator[str]:
    """Lines for a terminal."""
    for title, rows in tables:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        yield from ("", title)
        for cells in rows:
            yield "  ".join(c.rjust(w) for c, w in zip(cells, widths, strict=True))


def markdown_tables(tables: Iterable[Table]) -> Iterator[str]:
    """Lines of Markdown."""
    for title, (header, *rows) in tables:
        yield from ("", f"**{title}**", "")
        for cells in (header, ["---:"] * len(header), *rows):
            yield f"| {' | '.join(cells)} |"


def write_text(path: Path, text: str) -> None:
    """Atomically: a reader finds the old file or the new one."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def insert_report(path: Path, report: str, markers: tuple[str, str]) -> None:
    """Puts the report between the two markers of a Markdown file."""
    text = path.read_text(encoding="utf-8")
    begin, end = markers
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"{path} must hold the lines {begin} and {end} once each")
    before, _, rest = text.partition(begin)
    after = rest.partition(end)[2]
    write_text(path, f"{before}{begin}\n\n{report}\n\n{end}{after}")
