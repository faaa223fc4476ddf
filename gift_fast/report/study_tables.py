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
    """The outcome of a comparison, in a few words; see ``Comparison``."""
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
    """The losses of a condition: scores and comparisons at every setting, and the paper's number.

    Args:
        panel: the condition.
        caption: what it is.
        found: the published experiment that a cell is compared with.
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


def published_items(comparison: PublishedComparison | None) -> list[Item]:
    """A published number, the verdict on it, and whether the configuration is the same."""
    if comparison is None:
        return [EMPTY, Item("not published"), EMPTY]
    published = comparison.published
    tables = f"table{'s' * (len(published.tables) > 1)} {', '.join(map(str, published.tables))}"
    digits = 1 if round(published.mean, 1) == published.mean else 2
    paper = "RDED, " if published.source == RDED_PAPER else ""
    text = f"{published.mean:.{digits}f} ± {published.std:.1f} ({paper}{tables})"
    return [
        Item(text, published.mean),
        Item(comparison.verdict_in_words, comparison.difference),
        Item(comparison.configuration_in_words, len(comparison.differences)),
    ]


def overview_table(panels: Sequence[Panel], caption: str) -> Table:
    """All conditions of a study at once, like the paper's: the losses' means side by side.

    A loss that is native in some condition and not run in all of them is called native.
    """
    keys = [(p, s) for p in panels for s in p.settings]
    varying = varying_descriptions(panels)
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
    columns = [Column(HEADINGS.get(part, part), numeric=False) for part in varying]
    columns += [Column(name) for name in names]
    if two:
        columns += [Column(f"{display_name(panels[0].reference)} - loss")]
        columns += [Column("outcome", numeric=False)]
    notes = divergence_of(cell for panel in panels for cell in panel.cells.values())
    return Table(caption, tuple(columns), tuple(rows), notes)


HEADINGS = {"ipc": "IPC", "network": "distilled on"}
"""Heads of the columns that conditions differ in, where they are not called as the part is."""


def condition_texts(panel: Panel, setting: Setting, varying: Sequence[str]) -> list[str]:
    """The first columns of an overview's row; what a column's head says is not repeated."""
    parts = {**panel.condition.descriptions, "settings": setting_heading(setting, panel)}
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
