"""The tables of a study: losses, conditions, steps of continual learning, trials."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from gift_fast.evaluation.summary import divergence, marked
from gift_fast.report.cells import TUNED, Cell, Setting, Trial, signed
from gift_fast.report.panels import Panel, varying_descriptions
from gift_fast.report.published_comparison import PublishedComparison
from gift_fast.report.table import EMPTY, Column, Item, Table, p_value, score
from gift_fast.studies.published import RDED_PAPER
from gift_fast.studies.statistics import Comparison
from gift_fast.training.objectives import display_name


def score_of(cell: Cell) -> str:
    """The score of a cell for a table, with a mark if one of its runs has diverged."""
    return marked(score(cell.top1), cell.results)


def setting_name(setting: Setting, panel: Panel) -> str:
    """The name of a setting in sentences; the learning rate is named only if there are several."""
    if setting == TUNED:
        return "with tuning"
    if len(panel.of_purpose("protocol")) == 1:
        return "with the protocol's settings"
    return f"with {hyperparameters_of(setting, panel)}"


def setting_heading(setting: Setting, panel: Panel) -> str:
    """The name of a setting in column headings."""
    return "tuned" if setting == TUNED else f"protocol: {hyperparameters_of(setting, panel)}"


def hyperparameters_of(setting: Setting, panel: Panel) -> str:
    """The learning rate and weight decay of all losses at a setting of the protocol."""
    rates = {cell.config.learning_rate for cell in panel.column(setting)}
    rate = f"lr {rates.pop():g}" if len(rates) == 1 else "the protocol's lr"
    return f"{rate}, wd {setting.weight_decay:g}"


def outcome(comparison: Comparison) -> Item:
    """The outcome of a comparison; see ``Comparison``."""
    text, tone = str(comparison.outcome), ""
    if comparison.better is not None:
        text = f"{comparison.better} better"
        tone = "better" if comparison.better == comparison.first else "worse"
    if comparison.outcome in ("significant", "not significant"):
        text += f", {p_value(comparison.p_holm)}"
    return Item(text, comparison.p_holm, tone=tone)


def interval(comparison: Comparison) -> Item:
    """A difference with its interval."""
    text = f"{signed(comparison.difference)} [{signed(comparison.low)}, {signed(comparison.high)}]"
    return Item(text, comparison.difference)


def losses_table(panel: Panel, caption: str, found: Mapping[Cell, PublishedComparison]) -> Table:
    """The table of the losses of a condition: scores, comparisons and published numbers.

    Args:
        panel: the condition.
        caption: the caption of the table.
        found: the comparisons with published experiments, by cell.
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
            columns.append(Column(f"{reference} - loss", group))
            columns.append(Column("outcome", group, numeric=False))
    published = {
        cell.loss: each for cell, each in found.items() if cell.condition == panel.condition
    }
    if published:
        columns += [
            Column("top-1, %", "published"),
            Column("verdict", "published", numeric=False, long=True),
            Column("same configuration", "published", numeric=False, long=True),
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
    """The notes of a table of losses."""
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
            "Scores are on the second half of the test images; lr and wd were chosen on the first."
        )
    if panel.comparisons:
        notes.append("In brackets: 95 % paired t interval over sets; p after Holm's adjustment.")
    if len(panel.settings) > 1:
        notes.append("lr: learning rate; wd: weight decay.")
    return (*notes, *divergence_of(cells))


def divergence_of(cells: Iterable[Cell | Trial]) -> tuple[str, ...]:
    """The note on diverged runs, if there are any."""
    return tuple(divergence([result for cell in cells for result in cell.results]))


def has_comparisons(panel: Panel, setting: Setting) -> bool:
    """Whether a setting has comparisons."""
    return any(key[0] == setting for key in panel.comparisons)


def items_of(panel: Panel, setting: Setting, loss: str) -> list[Item]:
    """The items of a row for one setting."""
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
        gain = None if cell is None or start is None else cell.top1.mean - start.top1.mean
        items.append(EMPTY if gain is None else Item(signed(gain), gain))
    if has_comparisons(panel, setting):
        comparison = panel.comparisons.get((setting, loss))
        items += (
            [EMPTY, EMPTY] if comparison is None else [interval(comparison), outcome(comparison)]
        )
    return items


def published_items(comparison: PublishedComparison | None) -> list[Item]:
    """The items of a row for a published number: the number, its verdict and the configuration."""
    if comparison is None:
        return [EMPTY, Item("not published"), EMPTY]
    published = comparison.published
    tables = f"table{'s' * (len(published.tables) > 1)} {', '.join(map(str, published.tables))}"
    digits = 1 if round(published.mean, 1) == published.mean else 2
    paper = "RDED, " if published.source == RDED_PAPER else ""
    text = f"{published.mean:.{digits}f} ± {published.std:.1f} ({paper}{tables})"
    return [
        Item(text, published.mean),
        Item(comparison.verdict_text, comparison.difference),
        Item(comparison.configuration_text, len(comparison.differences)),
    ]


def overview_table(panels: Sequence[Panel], caption: str) -> Table:
    """The table of all conditions of a study, as in the paper, with one column per loss.

    If the native loss differs between conditions, its column is called native.
    """
    keys = [(p, s) for p in panels for s in p.settings]
    varying = varying_descriptions(panels)
    if any(len(panel.settings) > 1 for panel in panels):
        varying.append("settings")
    names = dict.fromkeys(role_of(p, loss, panels) for p in panels for loss in p.losses)
    has_two = len(names) > 1 and all(len(panel.losses) == 2 for panel in panels)
    rows = []
    for panel, setting in keys:
        column = panel.column(setting)
        by_role = {role_of(panel, cell.loss, panels): cell for cell in column}
        best = max((cell.top1.mean for cell in column), default=math.nan)
        items = [Item(text) for text in condition_columns(panel, setting, varying)]
        for name in names:
            cell = by_role.get(name)
            if cell is None:
                items.append(EMPTY)
                continue
            tone = "best" if cell.top1.mean == best else ""
            items.append(Item(score_of(cell), cell.top1.mean, cell, tone))
        if has_two:
            items += difference_items(panel, setting)
        rows.append(tuple(items))
    columns = [Column(HEADINGS.get(name, name), numeric=False) for name in varying]
    columns += [Column(name) for name in names]
    if has_two:
        columns += [Column(f"{display_name(panels[0].reference)} - loss")]
        columns += [Column("outcome", numeric=False)]
    notes = divergence_of(cell for panel in panels for cell in panel.cells.values())
    return Table(caption, tuple(columns), tuple(rows), notes)


HEADINGS = {"ipc": "IPC", "network": "distilled on"}
"""Column headings that differ from the key of the description."""


def condition_columns(panel: Panel, setting: Setting, varying: Sequence[str]) -> list[str]:
    """The first columns of a row of the overview, without the words in the column headings."""
    descriptions = {**panel.condition.descriptions, "settings": setting_heading(setting, panel)}
    prefixes = {"ipc": "IPC ", "network": "distilled on ", "student": "student "}
    columns = [descriptions.get(n, "").removeprefix(prefixes.get(n, "")) for n in varying]
    return [column.removesuffix(" sets") for column in columns]


def difference_items(panel: Panel, setting: Setting) -> list[Item]:
    """The difference between the reference and the other loss; with one set, without interval."""
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
    """The name of a loss in the column headings of the overview."""
    natives = {each.condition.native for each in panels}
    if loss == panel.condition.native and len(natives) > 1:
        return "native"
    return display_name(loss)


def shares_table(panel: Panel, caption: str) -> Table:
    """The table of continual learning: scores of the losses at every share of the classes."""
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
    """The table of trials: mean accuracy for every loss, learning rate and weight decay."""
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
