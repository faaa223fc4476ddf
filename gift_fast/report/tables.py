"""The tables of a report, once as data, and from it as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gift_fast.evaluation.results import Spread, divergence, marked
from gift_fast.report.against import Beside
from gift_fast.report.cells import TUNED, Cell, Panel, Setting, Trial, signed, varying_parts
from gift_fast.studies.statistics import Comparison
from gift_fast.training.objectives import display_name


@dataclass(frozen=True)
class Item:
    """What stands at one place of a table.

    Attributes:
        text: as it is read.
        value: by which its column is sorted; None is last.
        behind: the runs behind the number, or None.
        tone: ``ahead``, ``behind``, ``best`` or empty: how it is set off, beside its words.
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
        group: what it shares with its neighbours; empty for none.
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
        rows: an item a column.
        notes: what its numbers are, a sentence each.
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
        >>> from gift_fast.evaluation.results import spread
        >>> score(spread([50.0, 52.0])), score(spread([50.0]))
        ('51.0 ± 1.4', '50.0')
    """
    return f"{top1.mean:.1f}" + (f" ± {top1.sample_std:.1f}" if top1.n > 1 else "")


def score_of(cell: Cell) -> str:
    """The score of a cell as a table has it, marked where a run of it has diverged."""
    return marked(score(cell.top1), cell.results)


def setting_name(setting: Setting, panel: Panel) -> str:
    """How a sentence calls a setting: at length only where a panel has two of the protocol's."""
    if setting == TUNED:
        return "tuned"
    if len(panel.of_purpose("protocol")) == 1:
        return "at the protocol's settings"
    return f"at {rates_of(setting, panel)}"


def setting_heading(setting: Setting, panel: Panel) -> str:
    """How a table calls a setting."""
    return "tuned" if setting == TUNED else f"protocol: {rates_of(setting, panel)}"


def rates_of(setting: Setting, panel: Panel) -> str:
    """Learning rate and weight decay that all losses have at a setting of the protocol."""
    rates = {cell.config.learning_rate for cell in panel.column(setting)}
    rate = f"lr {rates.pop():g}" if len(rates) == 1 else "the protocol's lr"
    return f"{rate}, wd {setting.weight_decay:g}"


def outcome(comparison: Comparison) -> Item:
    """What may be said of a comparison, in a few words; see ``Comparison``."""
    text, tone = str(comparison.outcome), ""
    if comparison.winner is not None:
        text = f"{comparison.winner} ahead"
        tone = "ahead" if comparison.winner == comparison.first else "behind"
    if comparison.outcome in ("winner", "undecided"):
        text += f", {p_value(comparison.p_holm)}"
    return Item(text, comparison.p_holm, tone=tone)


def p_value(p: float) -> str:
    """A p-value as a table has it.

    Example:
        >>> p_value(0.0213), p_value(4e-7)
        ('p = 0.021', 'p < 0.001')
    """
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def interval(comparison: Comparison) -> Item:
    """A difference with its interval."""
    text = f"{signed(comparison.difference)} [{signed(comparison.low)}, {signed(comparison.high)}]"
    return Item(text, comparison.difference)


def losses_table(panel: Panel, caption: str, found: Mapping[Cell, Beside]) -> Table:
    """The losses of a condition: scores and comparisons at every setting, and the paper's number.

    Args:
        panel: the condition.
        caption: what it is.
        found: the published experiment beside a cell.
    """
    reference = display_name(panel.reference)
    alone = len(panel.settings) == 1
    columns = [Column("loss", numeric=False)]
    for setting in panel.settings:
        group = "" if alone else setting_heading(setting, panel)
        if setting == TUNED:
            columns += [Column("lr", group), Column("wd", group)]
        columns.append(Column("top-1, %", group))
        if setting == TUNED and panel.of_purpose("protocol"):
            columns.append(Column("gain", group))
        if has_comparisons(panel, setting):
            columns.append(Column(f"{reference} minus it", group))
            columns.append(Column("outcome", group, numeric=False))
    published = {
        cell.loss: each for cell, each in found.items() if cell.condition == panel.condition
    }
    if published:
        columns += [
            Column("top-1, %", "the paper"),
            Column("verdict", "the paper", numeric=False, long=True),
        ]
    rows = []
    for loss in panel.losses:
        name = display_name(loss)
        items = [Item(f"{name} (native)" if loss == panel.condition.native else name, name)]
        for setting in panel.settings:
            items += items_of(panel, setting, loss)
        if published:
            items += published_items(published.get(loss))
        rows.append(tuple(items))
    return Table(caption, tuple(columns), tuple(rows), notes_of(panel))


def notes_of(panel: Panel) -> tuple[str, ...]:
    """What the numbers of a table of losses are."""
    cells = list(panel.cells.values())
    counts = sorted({cell.top1.n for cell in cells})
    n = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
    over = "distilled sets" if any(cell.over == "sets" for cell in cells) else "students on one set"
    what = f", mean ± sample std (ddof 1), {n} {over}"
    if counts == [1]:
        what = " of one student on one set"
    notes = [f"Top-1 after the last epoch{what}."]
    if any(cell.halved for cell in cells):
        notes.append(
            "Scored on the second half of the test images: the first has chosen lr and wd."
        )
    if panel.comparisons:
        notes.append("In brackets, 95 % paired t interval over sets; p after Holm's adjustment.")
    if len(panel.settings) > 1:
        notes.append("lr: learning rate; wd: weight decay.")
    return (*notes, *divergence_of(cells))


def divergence_of(cells: Iterable[Cell | Trial]) -> tuple[str, ...]:
    """What the mark of diverged runs means, where a table has one."""
    return tuple(divergence([result for cell in cells for result in cell.results]))


def has_comparisons(panel: Panel, setting: Setting) -> bool:
    """Whether any loss is compared at a setting."""
    return any(key[0] == setting for key in panel.comparisons)


def items_of(panel: Panel, setting: Setting, loss: str) -> list[Item]:
    """What a row holds of one setting."""
    cell = panel.cells.get((setting, loss))
    items = []
    if setting == TUNED:
        rate, decay = (None, None)
        if cell is not None:
            rate, decay = cell.config.learning_rate, cell.config.weight_decay
        items += [EMPTY if v is None else Item(f"{v:g}", v) for v in (rate, decay)]
    best = max((c.top1.mean for c in panel.column(setting)), default=math.nan)
    if cell is None:
        items.append(EMPTY)
    else:
        tone = "best" if cell.top1.mean == best else ""
        items.append(Item(score_of(cell), cell.top1.mean, cell, tone))
    before = panel.of_purpose("protocol")
    if setting == TUNED and before:
        start = panel.cells.get((before[0], loss))
        gained = None if cell is None or start is None else cell.top1.mean - start.top1.mean
        items.append(EMPTY if gained is None else Item(signed(gained), gained))
    if has_comparisons(panel, setting):
        comparison = panel.comparisons.get((setting, loss))
        items += (
            [EMPTY, EMPTY] if comparison is None else [interval(comparison), outcome(comparison)]
        )
    return items


def published_items(beside: Beside | None) -> list[Item]:
    """The paper's number and the verdict on it."""
    if beside is None:
        return [EMPTY, Item("not published")]
    published = beside.published
    tables = f"table{'s' * (len(published.tables) > 1)} {', '.join(map(str, published.tables))}"
    digits = 1 if round(published.mean, 1) == published.mean else 2
    text = f"{published.mean:.{digits}f} ± {published.std:.1f} ({tables})"
    return [Item(text, published.mean), Item(beside.in_words, beside.difference)]


def overview_table(panels: Sequence[Panel], caption: str) -> Table:
    """All conditions of a study at once, like the paper's: the losses' means side by side.

    A loss that is native in some condition and not run in all of them is called native.
    """
    keys = [(p, s) for p in panels for s in p.settings]
    varying = varying_parts(panels)
    if any(len(panel.settings) > 1 for panel in panels):
        varying.append("settings")
    names = dict.fromkeys(role_of(p, loss, panels) for p in panels for loss in p.losses)
    two = len(names) > 1 and all(len(panel.losses) == 2 for panel in panels)
    rows = []
    for panel, setting in keys:
        column = panel.column(setting)
        by_role = {role_of(panel, cell.loss, panels): cell for cell in column}
        best = max((cell.top1.mean for cell in column), default=math.nan)
        items = [Item(text) for text in condition_texts(panel, setting, varying)]
        for name in names:
            cell = by_role.get(name)
            if cell is None:
                items.append(EMPTY)
                continue
            tone = "best" if cell.top1.mean == best else ""
            items.append(Item(score_of(cell), cell.top1.mean, cell, tone))
        if two:
            items += difference_items(panel, setting)
        rows.append(tuple(items))
    columns = [Column(PART_NAMES.get(part, part), numeric=False) for part in varying]
    columns += [Column(name) for name in names]
    if two:
        columns += [Column(f"{display_name(panels[0].reference)} minus it")]
        columns += [Column("outcome", numeric=False)]
    notes = divergence_of(cell for panel in panels for cell in panel.cells.values())
    return Table(caption, tuple(columns), tuple(rows), notes)


PART_NAMES = {"ipc": "IPC", "network": "distilled on"}
"""Heads of the columns that conditions differ in, where they are not called as the part is."""


def condition_texts(panel: Panel, setting: Setting, varying: Sequence[str]) -> list[str]:
    """The first columns of an overview's row; what a column's head says is not repeated."""
    parts = {**panel.condition.parts, "settings": setting_heading(setting, panel)}
    heads = {"ipc": "IPC ", "network": "distilled on ", "student": "student "}
    texts = [parts.get(part, "").removeprefix(heads.get(part, "")) for part in varying]
    return [text.removesuffix(" sets") for text in texts]


def difference_items(panel: Panel, setting: Setting) -> list[Item]:
    """The reference minus the only other loss; without an interval where there is one set."""
    reference = panel.cells.get((setting, panel.reference))
    others = [cell for cell in panel.column(setting) if cell is not reference]
    if reference is None or not others:
        return [EMPTY, EMPTY]
    comparison = panel.comparisons.get((setting, others[0].loss))
    if comparison is not None:
        return [interval(comparison), outcome(comparison)]
    difference = reference.top1.mean - others[0].top1.mean
    return [Item(signed(difference), difference), Item("one set")]


def role_of(panel: Panel, loss: str, panels: Sequence[Panel]) -> str:
    """What a column of the overview calls a loss."""
    natives = {each.condition.native for each in panels}
    if loss == panel.condition.native and len(natives) > 1:
        return "native"
    return display_name(loss)


def shares_table(panel: Panel, caption: str) -> Table:
    """Continual learning: the losses' means at every share of the classes that was run."""
    shares = sorted({cell.share for cells in panel.shares.values() for cell in cells})
    columns = [Column("loss", numeric=False)]
    for setting in panel.settings:
        group = setting_heading(setting, panel) if len(panel.settings) > 1 else "classes seen"
        columns += [Column(f"{100.0 * share:.3g} %", group) for share in shares]
    rows = []
    for loss in panel.losses:
        items = [Item(display_name(loss))]
        for setting in panel.settings:
            cells = {cell.share: cell for cell in panel.shares.get((setting, loss), ())}
            found = [cells.get(share) for share in shares]
            items += [
                EMPTY if cell is None else Item(score_of(cell), cell.top1.mean, cell)
                for cell in found
            ]
        rows.append(tuple(items))
    notes = divergence_of(cell for cells in panel.shares.values() for cell in cells)
    return Table(caption, tuple(columns), tuple(rows), notes)


def trials_table(panel: Panel, caption: str) -> Table:
    """The mean of the trials of every loss, learning rate and weight decay."""
    decays = sorted({trial.weight_decay for trial in panel.trials})
    rates = sorted({trial.learning_rate for trial in panel.trials})
    losses = list(dict.fromkeys(trial.loss for trial in panel.trials))
    trials = {(t.loss, t.learning_rate, t.weight_decay): t for t in panel.trials}
    columns = [Column("loss", numeric=False), Column("weight decay")]
    columns += [Column(f"{rate:g}", "learning rate") for rate in rates]
    rows = []
    for loss in losses:
        best = max(trial.top1 for trial in panel.trials if trial.loss == loss)
        for decay in decays:
            items = [Item(display_name(loss)), Item(f"{decay:g}", decay)]
            for rate in rates:
                trial = trials.get((loss, rate, decay))
                if trial is None:
                    items.append(EMPTY)
                    continue
                tone = "best" if trial.top1 == best else ""
                text = marked(f"{trial.top1:.1f}", trial.results)
                items.append(Item(text, trial.top1, trial, tone))
            rows.append(tuple(items))
    return Table(caption, tuple(columns), tuple(rows), divergence_of(panel.trials))


# ---- as text -------------------------------------------------------------------------------------


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


CSV_COLUMNS = (
    *("study", "dataset", "method", "ipc", "network", "student", "loss"),
    *("optimizer", "purpose", "learning_rate", "weight_decay", "momentum", "epochs"),
    *("classes", "share", "mean", "sample_std", "n", "over", "scored_on", "best_mean"),
    "diverged",
    *("reference", "difference", "low", "high", "p_holm", "outcome"),
    *("published_mean", "published_std", "verdict"),
)
"""Of the CSV file."""


def as_csv(rows: Iterable[Mapping[str, object]]) -> str:
    """A line a cell; see :func:`csv_rows`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def csv_rows(study: str, panel: Panel, found: Mapping[Cell, Beside]) -> list[dict[str, object]]:
    """A line for every cell of a condition, and for the mean of every trial."""
    source = panel.condition.source
    rows: list[dict[str, object]] = []

    def line(cell_config: object, **values: object) -> None:
        of_config = ("student", "optimizer", "momentum", "epochs", "classes")
        of_source = ("dataset", "method", "ipc", "network")
        row: dict[str, object] = {"study": study}
        row |= {name: getattr(source, name) for name in of_source}
        row |= {name: getattr(cell_config, name) for name in of_config}
        rows.append({**row, **values})

    for (setting, loss), cell in panel.cells.items():
        for each in panel.shares.get((setting, loss), (cell,)):
            values: dict[str, object] = {
                "loss": loss,
                "purpose": setting.purpose,
                "learning_rate": each.config.learning_rate,
                "weight_decay": each.config.weight_decay,
                "share": round(each.share, 4),
                "mean": round(each.top1.mean, 4),
                "sample_std": round(each.top1.sample_std, 4) if each.top1.n > 1 else None,
                "n": each.top1.n,
                "over": each.over,
                "scored_on": "second half" if each.halved else "test",
                "best_mean": round(each.best_mean, 4),
                "diverged": sum(result.diverged is not None for result in each.results),
            }
            comparison = panel.comparisons.get((setting, loss)) if each is cell else None
            if comparison is not None:
                values |= {
                    "reference": panel.reference,
                    "difference": round(comparison.difference, 4),
                    "low": round(comparison.low, 4),
                    "high": round(comparison.high, 4),
                    "p_holm": float(f"{comparison.p_holm:.4g}"),
                    "outcome": comparison.outcome,
                }
            if each in found:
                published = found[each].published
                values |= {
                    "published_mean": published.mean,
                    "published_std": published.std,
                    "verdict": found[each].in_words,
                }
            line(each.config, **values)
    for trial in panel.trials:
        config = trial.runs[0].result.config
        line(
            config,
            loss=trial.loss,
            purpose="trial",
            learning_rate=trial.learning_rate,
            weight_decay=trial.weight_decay,
            mean=round(trial.top1, 4),
            n=len(trial.runs),
            over="trials",
            share=1.0,
            scored_on="held-out" if config.tested_on == "heldout" else "first half",
            diverged=sum(result.diverged is not None for result in trial.results),
        )
    return rows
