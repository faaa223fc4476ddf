"""The summary of a study in sentences, with the same rules for all losses."""

from __future__ import annotations

from collections.abc import Sequence

from gift_fast.report.cells import TUNED, Cell, Setting
from gift_fast.report.charts import gamma_of
from gift_fast.report.panels import Panel
from gift_fast.report.ranking import is_near_chance
from gift_fast.report.study_tables import setting_name
from gift_fast.report.wording import join_names
from gift_fast.studies.statistics import MIN_SETS, NEGLIGIBLE, Comparison
from gift_fast.training.objectives import display_name

GAIN = 5.0
"""Minimum gain by tuning that is mentioned, in percentage points."""

OPTIMISM = 3.0
"""Minimum excess of the best test over the last that is mentioned, in percentage points."""


def condition_sentences(panel: Panel) -> list[str]:
    """The sentences of a condition."""
    sentences: list[str] = []
    for setting in panel.settings:
        sentences += standing(panel, setting)
    sentences += gammas(panel)
    sentences += collapses(panel)
    sentences += gains(panel)
    sentences += edges(panel)
    sentences += optimism(panel)
    return sentences


def study_sentences(panels: Sequence[Panel]) -> list[str]:
    """The results of the reference over all conditions; empty for a single condition."""
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
    tested = [c for c in comparisons if c.n >= MIN_SETS]
    if tested:
        better = sum(c.better == c.first for c in tested)
        worse = sum(c.better == c.second for c in tested)
        negligible = sum(c.outcome == "negligible" for c in tested)
        sentences.append(
            f"Of {len(tested)} comparisons with other losses, it is significantly better in "
            f"{better} and significantly worse in {worse}; {negligible} differences are negligible "
            f"and {len(tested) - better - worse - negligible} are not significant."
        )
    return sentences


def mean_of(cell: Cell) -> float:
    """Mean top-1 in percent."""
    return cell.top1.mean


def opening(panel: Panel, setting: Setting) -> str:
    """The beginning of a sentence on a setting."""
    name = setting_name(setting, panel)
    return name[:1].upper() + name[1:]


def standing(panel: Panel, setting: Setting) -> list[str]:
    """The best and the worst loss, and how the reference compares with the others."""
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
        return [f"{text} With one distilled set, differences are not tested."]
    comparisons = [c for (s, _), c in panel.comparisons.items() if s == setting]
    return [f"{text} {against(display_name(panel.reference), comparisons)}".strip()]


def against(reference: str, comparisons: Sequence[Comparison]) -> str:
    """The outcomes of the tests of a loss against the others."""
    if not comparisons:
        return ""
    few = [c.n for c in comparisons if c.n < MIN_SETS]
    if len(few) == len(comparisons):
        sets = f"{min(few)} set{'s' * (min(few) > 1)}"
        return f"With {sets}, differences are not tested; the intervals are in the table."
    groups = {
        "is significantly better than": [c.second for c in comparisons if c.better == reference],
        "is significantly worse than": [c.second for c in comparisons if c.better == c.second],
        f"differs by less than {NEGLIGIBLE:g} points from": [
            c.second for c in comparisons if c.outcome == "negligible"
        ],
        "does not differ significantly from": [
            c.second for c in comparisons if c.outcome == "not significant"
        ],
    }
    parts = [f"{verb} {join_names(names)}" for verb, names in groups.items() if names]
    return f"{reference} {'; it '.join(parts)}." if parts else ""


def gammas(panel: Panel) -> list[str]:
    """The best gamma, and the accuracy of the default one."""
    sentences = []
    for setting in panel.settings:
        cells = [cell for cell in panel.column(setting) if gamma_of(cell.loss) is not None]
        if len(cells) < 3:
            continue
        best = max(cells, key=lambda cell: cell.top1.mean)
        text = f"The best gamma is {gamma_of(best.loss):g}, with {best.top1.mean:.1f} %"
        default = panel.cells.get((setting, "gift"))
        if default is not None and default is not best:
            text += f"; the paper's gamma, {gamma_of('gift'):g}, has {default.top1.mean:.1f} %"
        near = [c for c in cells if best.top1.mean - c.top1.mean < NEGLIGIBLE and c is not best]
        if near:
            text += f". Within half a point: {join_names(f'{gamma_of(c.loss):g}' for c in near)}"
        sentences.append(text + ".")
    return sentences


def has_collapsed(cell: Cell) -> bool:
    """Whether the accuracy is near chance."""
    chance = cell.condition.chance
    return chance is not None and is_near_chance(cell.top1.mean, chance)


def collapses(panel: Panel) -> list[str]:
    """The losses that collapse at each setting."""
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
    """Gains by tuning, and whether a collapse is due to the learning rate."""
    before = panel.of_purpose("protocol")
    if TUNED not in panel.settings or len(before) != 1:
        return []
    starts = {cell.loss: cell for cell in panel.column(before[0])}
    pairs = [(starts[cell.loss], cell) for cell in panel.column(TUNED) if cell.loss in starts]
    if not pairs:
        return []
    pairs.sort(key=lambda pair: gain(*pair), reverse=True)
    improved = [pair for pair in pairs if gain(*pair) >= GAIN]
    recovered = [pair for pair in improved if has_collapsed(pair[0]) and not has_collapsed(pair[1])]
    others = [pair for pair in improved if pair not in recovered]
    sentences = []
    if len(recovered) == 1:
        sentences.append(
            f"With tuning, {gain_text(*recovered[0])}: its collapse with the protocol's settings "
            "is due to the learning rate and not to the loss."
        )
    elif recovered:
        sentences.append(
            f"With tuning, {join_names(gain_text(*pair) for pair in recovered)}: their collapse "
            "with the protocol's settings is due to the learning rate and not to the losses."
        )
    if others:
        sentences.append(f"With tuning, {join_names(gain_text(*pair) for pair in others)}.")
    worsened = [pair for pair in pairs if gain(*pair) <= -GAIN]
    if worsened:
        sentences.append(
            f"With tuning, {join_names(gain_text(*pair) for pair in worsened)}: the trials chose "
            "worse hyperparameters than the protocol's, by chance or because they use other images."
        )
    ranges = [range_of([pair[k] for pair in pairs]) for k in (0, 1)]
    sentences.append(
        f"The best and the worst loss differ by {ranges[0]:.1f} points with the protocol's "
        f"settings, and by {ranges[1]:.1f} points if every loss is tuned with equal trials."
    )
    return sentences


def gain(start: Cell, cell: Cell) -> float:
    """The gain of a loss by tuning, in percentage points."""
    return cell.top1.mean - start.top1.mean


def gain_text(start: Cell, cell: Cell) -> str:
    """The gain of a loss by tuning, with the learning rates."""
    rates = f"learning rate {start.config.learning_rate:g} to {cell.config.learning_rate:g}"
    points = gain(start, cell)
    verb = "gains" if points >= 0 else "loses"
    return f"{cell.loss_name} {verb} {abs(points):.1f} points ({rates})"


def range_of(cells: Sequence[Cell]) -> float:
    """The difference between the best and the worst mean, in percentage points."""
    means = [cell.top1.mean for cell in cells]
    return max(means) - min(means)


def edges(panel: Panel) -> list[str]:
    """The losses whose chosen learning rate is at an end of the grid."""
    names = []
    for cell in panel.column(TUNED):
        rates = [trial.learning_rate for trial in panel.trials if trial.loss == cell.loss]
        if rates and cell.config.learning_rate in (min(rates), max(rates)):
            names.append(cell.loss_name)
    if not names:
        return []
    return [
        f"The learning rate of {join_names(names)} is at an end of the grid, so a better one may "
        "be outside of the grid."
    ]


def optimism(panel: Panel) -> list[str]:
    """The largest excess of the best test over the last, which is the score."""
    cells = [c for c in panel.cells.values() if not c.halved]
    if not cells:
        return []
    most = max(cells, key=lambda cell: cell.best_mean - last_mean(cell))
    gap = most.best_mean - last_mean(most)
    if gap < OPTIMISM:
        return []
    return [
        f"The best test of a run, which is selected on the test images, exceeds the last test by "
        f"up to {gap:.1f} points ({most.loss_name}); scores are those of the last test."
    ]


def last_mean(cell: Cell) -> float:
    """Mean top-1 of all runs of a cell with equal weights, in percent."""
    tops = [run.result.last.top1 for run in cell.runs]
    return sum(tops) / len(tops)
