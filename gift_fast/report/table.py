"""A table as data, and its Markdown and LaTeX."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from gift_fast.evaluation.summary import Spread
from gift_fast.report.cells import Cell, Trial


@dataclass(frozen=True)
class Item:
    """A cell of a table as it is shown.

    Attributes:
        text: as shown.
        value: by which its column is sorted; None comes last.
        behind: the runs behind the number, or None.
        tone: ``better``, ``worse``, ``best`` or empty: how it is highlighted.
    """

    text: str
    value: float | str | None = None
    behind: Cell | Trial | None = None
    tone: str = ""


@dataclass(frozen=True)
class Column:
    """The head of a column.

    Attributes:
        title: what it holds.
        group: what it shares with its neighbors; empty for none.
        numeric: whether it is set to the right.
        long: whether it holds sentences, which are broken into lines.
    """

    title: str
    group: str = ""
    numeric: bool = True
    long: bool = False

    @property
    def heading(self) -> str:
        """Both in one line."""
        return f"{self.group}: {self.title}" if self.group else self.title


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: what it shows.
        columns: their heads, the first that of the rows' names.
        rows: one item per column.
        notes: what its numbers mean, in sentences.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Item, ...], ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def groups(self) -> list[tuple[str, int]]:
        """The columns' groups with their widths; empty where no column has one."""
        runs: list[tuple[str, int]] = []
        for column in self.columns:
            if runs and runs[-1][0] == column.group:
                runs[-1] = (column.group, runs[-1][1] + 1)
            else:
                runs.append((column.group, 1))
        return runs if any(group for group, _ in runs) else []


EMPTY = Item("-")


def score(top1: Spread) -> str:
    """Mean and sample standard deviation; one run alone has no deviation.

    Example:
        >>> from gift_fast.evaluation.summary import spread
        >>> score(spread([50.0, 52.0])), score(spread([50.0]))
        ('51.0 ± 1.4', '50.0')
    """
    return f"{top1.mean:.1f}" + (f" ± {top1.sample_std:.1f}" if top1.n > 1 else "")


def p_value(p: float) -> str:
    """A p-value as a table has it.

    Example:
        >>> p_value(0.0213), p_value(4e-7)
        ('p = 0.021', 'p < 0.001')
    """
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def as_markdown(table: Table) -> str:
    """A table in Markdown, its best numbers in bold."""
    lines = [
        f"| {' | '.join(escaped_markdown(column.heading) for column in table.columns)} |",
        f"|{'|'.join('---:' if column.numeric else '---' for column in table.columns)}|",
    ]
    for row in table.rows:
        texts = [escaped_markdown(item.text) for item in row]
        texts = [f"**{t}**" if i.tone == "best" else t for t, i in zip(texts, row, strict=True)]
        lines.append(f"| {' | '.join(texts)} |")
    return "\n".join(lines) + "\n"


def escaped_markdown(text: str) -> str:
    """A text that stays in its column and starts no markup."""
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
"""What LaTeX takes for a command, and what its fonts may lack."""


def escaped_latex(text: str) -> str:
    """A text as LaTeX prints it."""
    return "".join(LATEX.get(character, character) for character in " ".join(text.split()))


def as_latex(table: Table) -> str:
    """A table in LaTeX, for the package booktabs, its best numbers in bold, its notes comments."""
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
        texts = [escaped_latex(item.text) for item in row]
        texts = [
            rf"\textbf{{{t}}}" if i.tone == "best" else t for t, i in zip(texts, row, strict=True)
        ]
        lines.append(" & ".join(texts) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [f"% {note}" for note in table.notes]
    lines.append(r"\end{table}")
    return "\n".join(lines) + "\n"
