"""Tables as data, and their conversion to Markdown and LaTeX."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from gift_fast.evaluation.summary import Spread
from gift_fast.report.cells import Cell, Trial


@dataclass(frozen=True)
class Item:
    """A cell of a table.

    Attributes:
        text: the displayed text.
        value: the sort key of the column; None is sorted last.
        behind: the runs behind the number, or None.
        tone: the highlighting: ``better``, ``worse``, ``best`` or empty.
    """

    text: str
    value: float | str | None = None
    behind: Cell | Trial | None = None
    tone: str = ""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: the heading of the column.
        group: common heading of adjacent columns; empty for none.
        numeric: whether the column is right-aligned.
        long: whether the column contains sentences, which are wrapped.
    """

    title: str
    group: str = ""
    numeric: bool = True
    long: bool = False

    @property
    def heading(self) -> str:
        """The group and the title on one line."""
        return f"{self.group}: {self.title}" if self.group else self.title


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: the caption.
        columns: the columns; the first has the names of the rows.
        rows: the rows, with one item per column.
        notes: notes below the table, in sentences.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Item, ...], ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def groups(self) -> list[tuple[str, int]]:
        """The groups of columns with their widths; empty if there are none."""
        runs: list[tuple[str, int]] = []
        for column in self.columns:
            if runs and runs[-1][0] == column.group:
                runs[-1] = (column.group, runs[-1][1] + 1)
            else:
                runs.append((column.group, 1))
        return runs if any(group for group, _ in runs) else []


EMPTY = Item("-")


def score(top1: Spread) -> str:
    """Format mean and sample standard deviation; a single run has none.

    Example:
        >>> from gift_fast.evaluation.summary import spread
        >>> score(spread([50.0, 52.0])), score(spread([50.0]))
        ('51.0 ± 1.4', '50.0')
    """
    return f"{top1.mean:.1f}" + (f" ± {top1.sample_std:.1f}" if top1.n > 1 else "")


def p_value(p: float) -> str:
    """Format a p-value.

    Example:
        >>> p_value(0.0213), p_value(4e-7)
        ('p = 0.021', 'p < 0.001')
    """
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def as_markdown(table: Table) -> str:
    """Convert a table to Markdown, with the best numbers in bold."""
    lines = [
        f"| {' | '.join(escaped_markdown(column.heading) for column in table.columns)} |",
        f"|{'|'.join('---:' if column.numeric else '---' for column in table.columns)}|",
    ]
    for row in table.rows:
        cells = [escaped_markdown(item.text) for item in row]
        cells = [f"**{c}**" if i.tone == "best" else c for c, i in zip(cells, row, strict=True)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def escaped_markdown(text: str) -> str:
    """Escape a text for a cell of a Markdown table."""
    return re.sub(r"[\\|*_`]|<(?=\S)", r"\\\g<0>", " ".join(text.split()))


LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "†": r"$\dagger$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}
"""Replacements for special characters of LaTeX and for characters that fonts may lack."""


def escaped_latex(text: str) -> str:
    """Escape a text for LaTeX."""
    return "".join(LATEX.get(character, character) for character in " ".join(text.split()))


def as_latex(table: Table) -> str:
    """Convert a table to LaTeX (booktabs), with the best numbers in bold and notes as comments."""
    shape = "".join("r" if column.numeric else "l" for column in table.columns)
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{escaped_latex(table.caption)}}}"]
    lines += [rf"\begin{{tabular}}{{{shape}}}", r"\toprule"]
    if table.groups:
        spans, rules, place = [], [], 1
        for group, width in table.groups:
            spans.append(rf"\multicolumn{{{width}}}{{c}}{{{escaped_latex(group)}}}")
            if group:
                rules.append(rf"\cmidrule(lr){{{place}-{place + width - 1}}}")
            place += width
        lines += [" & ".join(spans) + r" \\", " ".join(rules)]
    lines.append(" & ".join(escaped_latex(c.title) for c in table.columns) + r" \\")
    lines.append(r"\midrule")
    for row in table.rows:
        cells = [escaped_latex(item.text) for item in row]
        cells = [
            rf"\textbf{{{c}}}" if i.tone == "best" else c for c, i in zip(cells, row, strict=True)
        ]
        lines.append(" & ".join(cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [f"% {note}" for note in table.notes]
    lines.append(r"\end{table}")
    return "\n".join(lines) + "\n"
