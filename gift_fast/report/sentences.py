"""What a study shows, in plain sentences that follow from its numbers by fixed rules.

Whichever loss is ahead: the rules name none.
"""

from __future__ import annotations

from collections.abc import Sequence

from gift_fast.report.cells import TUNED, Cell, Setting
from gift_fast.report.charts import gamma_of
from gift_fast.report.panels import Panel
from gift_fast.report.ranking import is_near_chance
from gift_fast.report.study_tables import setting_name
from gift_fast.report.wording import join_names
from gift_fast.studies.statistics import FEWEST_SETS, PRACTICAL, Comparison
from gift_fast.training.objectives import display_name

GAIN = 5.0
"""Points that tuning must bring before a sentence is due."""

FLATTERY = 3.0
"""Points by which the best check must exceed the last before a sentence is due."""


def condition_sentences(panel: Panel) -> list[str]:
    """What a condition shows."""
    sentences: list[str] = []
    for setting in panel.settings:
        sentences += standing(panel, setting)
    sentences += gammas(panel)
    sentences += collapses(panel)
    sentences += gains(panel)
    sentences += edges(panel)
    sentences += flattery(panel)
    return sentences


def study_sentences(panels: Sequence[Panel]) -> list[str]:
    """How often a loss is ahead over all conditions of a study; nothing where there is one."""
    if len(panels) < 2:
        return []
    sentences = []
    tops = [(p, s, p.cells.get((s, p.reference))) for p in panels for s in p.settings]
    counted = [(p, s, cell) for p, s, cell in tops if cell is not None and len(p.column(s)) > 1]
    first = [cell for p, s, cell in counted if cell is max(p.column(s), key=mean_of)]
    if counted:
        name = join_names(dict.fromkeys(cell.loss_name for _, _, cell in counted))
        sentences.append(
            f"{name} has the highest mean in {len(first)} of {len(counted)} conditions and "
            "settings."
        )
    comparisons = [c for panel in panels for c in panel.comparisons.values()]
    told = [c for c in comparisons if c.n >= FEWEST_SETS]
    if told:
        ahead = sum(c.winner == c.first for c in told)
        behind = sum(c.winner == c.second for c in told)
        none = sum(c.outcome == "none in practice" for c in told)
        sentences.append(
            f"Of {len(told)} comparisons with another loss it is ahead in {ahead} and behind in "
            f"{behind}; {none} are none in practice and {len(told) - ahead - behind - none} "
            "undecided."
        )
    return sentences


def mean_of(cell: Cell) -> float:
    """Mean top-1, percent."""
    return cell.top1.mean


def opening(panel: Panel, setting: Setting) -> str:
    """How a sentence on a setting begins."""
    name = setting_name(setting, panel)
    return name[:1].upper() + name[1:]


def standing(panel: Panel, setting: Setting) -> list[str]:
    """The best and the worst loss, and how the reference stands against the others."""
    cells = sorted(panel.column(setting), key=lambda cell: -cell.top1.mean)
    if len(cells) < 2:
        return []
    first, last = cells[0], cells[-1]
    if f"{first.top1.mean:.1f}" == f"{last.top1.mean:.1f}":
        return [f"{opening(panel, setting)}, all losses have {first.top1.mean:.1f} %."]
    best, worst = (
        [cell.loss_name for cell in cells if f"{cell.top1.mean:.1f}" == f"{end.top1.mean:.1f}"]
        for end in (first, last)
    )
    text = (
        f"{opening(panel, setting)}, {join_names(best)} {'have' if len(best) > 1 else 'has'} the "
        f"highest mean, {first.top1.mean:.1f} %, and {join_names(worst)} the lowest, "
        f"{last.top1.mean:.1f} %."
    )
    if first.over == "seeds" and any(cell.loss == panel.reference for cell in cells):
        return [f"{text} It is one set: no winner is named."]
    comparisons = [c for (s, _), c in panel.comparisons.items() if s == setting]
    return [f"{text} {against(display_name(panel.reference), comparisons)}".strip()]


def against(reference: str, comparisons: Sequence[Comparison]) -> str:
    """How a loss stands against the others, by the outcomes of the comparisons."""
    if not comparisons:
        return ""
    few = [c.n for c in comparisons if c.n < FEWEST_SETS]
    if len(few) == len(comparisons):
        sets = f"{min(few)} set{'s' * (min(few) > 1)}"
        return f"With {sets} no winner is named; the intervals are in the table."
    groups = {
        "is ahead of": [c.second for c in comparisons if c.winner == reference],
        "is behind": [c.second for c in comparisons if c.winner == c.second],
        "does not differ in practice from": [
            c.second for c in comparisons if c.outcome == "none in practice"
        ],
        "is not told apart from": [c.second for c in comparisons if c.outcome == "undecided"],
    }
    parts = [f"{verb} {join_names(names)}" for verb, names in groups.items() if names]
    return f"{reference} {'; it '.join(parts)}." if parts else ""


def gammas(panel: Panel) -> list[str]:
    """The best gamma and where the default one is."""
    sentences = []
    for setting in panel.settings:
        cells = [cell for cell in panel.column(setting) if gamma_of(cell.loss) is not None]
        if len(cells) < 3:
            continue
        best = max(cells, key=lambda cell: cell.top1.mean)
        text = f"The best gamma is {gamma_of(best.loss):g}, with {best.top1.mean:.1f} %"
        default = panel.cells.get((setting, "gift"))
        if default is not None and default is not best:
            text += f"; the paper's, {gamma_of('gift'):g}, has {default.top1.mean:.1f} %"
        near = [c for c in cells if best.top1.mean - c.top1.mean < PRACTICAL and c is not best]
        if near:
            text += f". Within half a point: {join_names(f'{gamma_of(c.loss):g}' for c in near)}"
        sentences.append(text + ".")
    return sentences


def has_collapsed(cell: Cell) -> bool:
    """Whether students learned next to nothing."""
    chance = cell.condition.chance
    return chance is not None and is_near_chance(cell.top1.mean, chance)


def collapses(panel: Panel) -> list[str]:
    """The losses that learned next to nothing, at every setting."""
    sentences = []
    for setting in panel.settings:
        cells = [cell for cell in panel.column(setting) if has_collapsed(cell)]
        if cells:
            names = [f"{cell.loss_name} ({cell.top1.mean:.1f} %)" for cell in cells]
            verb = "collapses" if len(names) == 1 else "collapse"
            if len(cells) == len(panel.losses):
                names, verb = ["every loss"], "collapses"
            sentences.append(
                f"{opening(panel, setting)}, {join_names(names)} {verb}: chance is "
                f"{panel.condition.chance:.3g} %."
            )
    return sentences


def gains(panel: Panel) -> list[str]:
    """What tuning brings, and whether it explains that a loss had collapsed or was behind."""
    before = panel.of_purpose("protocol")
    if TUNED not in panel.settings or len(before) != 1:
        return []
    starts = {cell.loss: cell for cell in panel.column(before[0])}
    pairs = [(starts[cell.loss], cell) for cell in panel.column(TUNED) if cell.loss in starts]
    if not pairs:
        return []
    pairs.sort(key=lambda pair: gain(*pair), reverse=True)
    helped = [pair for pair in pairs if gain(*pair) >= GAIN]
    revived = [pair for pair in helped if has_collapsed(pair[0]) and not has_collapsed(pair[1])]
    rest = [pair for pair in helped if pair not in revived]
    sentences = []
    if len(revived) == 1:
        sentences.append(
            f"Tuned, {gained(*revived[0])}: its collapse at the protocol's settings is a matter of "
            "the learning rate and not of the loss."
        )
    elif revived:
        sentences.append(
            f"Tuned, {join_names(gained(*pair) for pair in revived)}: their collapse at the "
            "protocol's settings is a matter of the learning rate and not of the losses."
        )
    if rest:
        sentences.append(f"Tuned, {join_names(gained(*pair) for pair in rest)}.")
    hurt = [pair for pair in pairs if gain(*pair) <= -GAIN]
    if hurt:
        sentences.append(
            f"Tuned, {join_names(gained(*pair) for pair in hurt)}: the trials chose worse than the "
            "protocol, by the chance of few trials or because other images chose."
        )
    least = [spread_of([pair[k] for pair in pairs]) for k in (0, 1)]
    sentences.append(
        f"From the best loss to the worst it is {least[0]:.1f} points at the protocol's settings, "
        f"and {least[1]:.1f} when every loss is tuned with equal trials."
    )
    return sentences


def gain(start: Cell, cell: Cell) -> float:
    """What tuning brings a loss, points."""
    return cell.top1.mean - start.top1.mean


def gained(start: Cell, cell: Cell) -> str:
    """What tuning brings a loss, in words."""
    rates = f"learning rate {start.config.learning_rate:g} to {cell.config.learning_rate:g}"
    points = gain(start, cell)
    verb = "gains" if points >= 0 else "loses"
    return f"{cell.loss_name} {verb} {abs(points):.1f} points ({rates})"


def spread_of(cells: Sequence[Cell]) -> float:
    """Points from the best mean to the worst."""
    means = [cell.top1.mean for cell in cells]
    return max(means) - min(means)


def edges(panel: Panel) -> list[str]:
    """The losses whose chosen learning rate lies at an end of the grid."""
    names = []
    for cell in panel.column(TUNED):
        rates = [trial.learning_rate for trial in panel.trials if trial.loss == cell.loss]
        if rates and cell.config.learning_rate in (min(rates), max(rates)):
            names.append(cell.loss_name)
    if not names:
        return []
    return [
        f"The learning rate of {join_names(names)} lies at an end of the grid: a better one may "
        "lie beyond."
    ]


def flattery(panel: Panel) -> list[str]:
    """By how much the best check exceeds the last epoch, which is the score."""
    cells = [c for c in panel.cells.values() if not c.halved]
    if not cells:
        return []
    most = max(cells, key=lambda cell: cell.best_mean - last_mean(cell))
    gap = most.best_mean - last_mean(most)
    if gap < FLATTERY:
        return []
    return [
        f"The best check, which picks its moment by the test images, flatters by up to {gap:.1f} "
        f"points ({most.loss_name}); scores here are the last epoch's."
    ]


def last_mean(cell: Cell) -> float:
    """Mean top-1 over all runs of a cell, each counted once, percent."""
    tops = [run.result.last.top1 for run in cell.runs]
    return sum(tops) / len(tops)
