"""What a report holds, in the order in which it is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gift_fast.report.against import Beside, Sign, beside, sign_of
from gift_fast.report.cells import (
    Cell,
    Panel,
    headings_of,
    panels_of,
    signed,
    varying_parts,
)
from gift_fast.report.charts import (
    Figure,
    bars_figure,
    curves_figure,
    gamma_figure,
    scatter_figure,
    shares_figure,
    tuning_figure,
)
from gift_fast.report.findings import findings, findings_over
from gift_fast.report.images import Sample, sample_of
from gift_fast.report.reading import Folder, StudyRecord
from gift_fast.report.tables import (
    Column,
    Item,
    Table,
    csv_rows,
    divergence_of,
    losses_table,
    overview_table,
    published_items,
    score_of,
    shares_table,
    trials_table,
)
from gift_fast.training.objectives import display_name

READING = (
    (
        "A score",
        "is top-1 on the test images after the last epoch, never the best of several looks. Mean ± "
        "sample standard deviation (ddof 1). Click a number to see its runs and settings.",
    ),
    (
        "What is counted",
        "is the distilled set: the students of a set are averaged first. Where there is one set, "
        "students are counted, and their deviation says nothing of other sets.",
    ),
    (
        "An interval",
        "is a paired t interval of 95 % for the difference of two losses over sets, on the same "
        "sets and seeds. It is of this comparison alone and is not adjusted.",
    ),
    (
        "Ahead",
        "is a loss where p is below 0.05 after Holm's adjustment over all comparisons of the "
        "study. A difference below half a point is none in practice, whatever p. With three sets "
        "or fewer there is an interval and no winner.",
    ),
    (
        "Tuned",
        "is a loss at the learning rate and weight decay that trials chose for it: as many trials "
        "for every loss, on other seeds and on images that no score here is of.",
    ),
    (
        "Reproduced",
        "is a published number where the configuration is identical and the 90 % Welch interval of "
        "measured minus published lies within one point; not reproduced, where the 95 % interval "
        "leaves out 0 and the difference exceeds one point; else inconclusive. Where anything "
        "differs there is no verdict, and it is said what differs.",
    ),
)


UNFOLDED = 4
"""Conditions of a study that are shown at once."""


@dataclass(frozen=True)
class Part:
    """One condition of a study.

    Attributes:
        anchor: by which it is linked to.
        heading: what it does not share with the study's other conditions.
        findings: what it shows, in sentences.
        shares: continual learning at every share of the classes, or None.
        table: of the losses.
        figures: of the same runs.
        trials: the tuning in numbers, or None.
        sample: images of a distilled set, or None.
        rows: lines of the CSV file.
    """

    anchor: str
    heading: str
    findings: tuple[str, ...]
    shares: Table | None
    table: Table
    figures: tuple[Figure, ...]
    trials: Table | None
    sample: Sample | None
    rows: tuple[dict[str, object], ...]


@dataclass(frozen=True)
class Section:
    """One study.

    Attributes:
        anchor: by which it is linked to.
        title: of the study.
        settings: what all its runs share, in words.
        unfinished: how many runs are missing, in words; else empty.
        notes: the study's own.
        findings: what all conditions together show, in sentences.
        overview: all conditions at once, or None where there is one.
        parts: the conditions.
    """

    anchor: str
    title: str
    settings: str
    unfinished: str
    notes: str
    findings: tuple[str, ...]
    overview: Table | None
    parts: tuple[Part, ...]

    @property
    def folded(self) -> bool:
        """Whether the conditions are so many that each is shown when it is asked for."""
        return len(self.parts) > UNFOLDED


@dataclass(frozen=True)
class Against:
    """Published numbers beside the measured ones.

    Attributes:
        summary: in words, above all where there is nothing to show.
        figure: the scatter, or None.
        table: every pair, or None.
        signs: the verdicts on GIFT minus native, or None.
    """

    summary: str
    figure: Figure | None
    table: Table | None
    signs: Table | None


@dataclass(frozen=True)
class Contents:
    """A whole report.

    Attributes:
        title: of the report.
        summary: what was read.
        damaged: what could not be, a message a file.
        sections: the studies.
        published: of all studies.
        reading: terms and what they mean.
    """

    title: str
    summary: str
    damaged: tuple[str, ...]
    sections: tuple[Section, ...]
    published: Against
    reading: tuple[tuple[str, str], ...] = READING


def contents_of(folder: Folder) -> Contents:
    """The report of a folder."""
    in_order = sorted(folder.studies, key=order_of)
    studies = [(study, panels_of(study)) for study in in_order]
    found = {
        cell: each
        for _, panels in studies
        for panel in panels
        for cell in panel.cells.values()
        if (each := beside(cell)) is not None
    }
    sections = tuple(section_of(study, panels, found, folder) for study, panels in studies)
    names = {run.file for study in folder.studies for run in study.runs}
    missing = sum(sum(study.unfinished.values()) for study in folder.studies)
    summary = f"{len(studies)} {plural('study', len(studies))}, {len(names)} finished runs"
    summary += f"; {missing} {plural('run', missing)} unfinished." if missing else "."
    title = studies[0][0].title if len(studies) == 1 else "Losses for soft labels, compared"
    published = against_of(studies, found)
    return Contents(title, summary, folder.damaged, once_sampled(sections), published)


def once_sampled(sections: Sequence[Section]) -> tuple[Section, ...]:
    """The sections with the images of every set where they first come, and there alone."""
    shown: set[str] = set()
    found = []
    for section in sections:
        parts = []
        for part in section.parts:
            again = part.sample is not None and part.sample.name in shown
            parts.append(replace(part, sample=None) if again else part)
            if part.sample is not None:
                shown.add(part.sample.name)
        found.append(replace(section, parts=tuple(parts)))
    return tuple(found)


def order_of(study: StudyRecord) -> tuple[bool, bool, int, str]:
    """Studies come as the paper's tables do, then its figures, then what it does not ask."""
    first = study.answers[0] if study.answers else ""
    numbers = re.findall(r"\d+", first)
    return not numbers, "table" not in first, int(numbers[0]) if numbers else 0, study.name


def plural(noun: str, count: int) -> str:
    """A noun for so many.

    Example:
        >>> plural("study", 1), plural("study", 2), plural("run", 0)
        ('study', 'studies', 'runs')
    """
    if count == 1:
        return noun
    return f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"


def anchor_of(*names: str) -> str:
    """Names as an anchor."""
    return "-".join(re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") for name in names)


def section_of(
    study: StudyRecord, panels: Sequence[Panel], found: dict[Cell, Beside], folder: Folder
) -> Section:
    """A study in the report."""
    headings = headings_of(panels)
    parts = tuple(
        part_of(study, panel, heading, index, found, folder)
        for index, (panel, heading) in enumerate(zip(panels, headings, strict=True))
    )
    overview = None
    if len(panels) > 1:
        overview = overview_table(panels, "Top-1 in every condition, %")
    return Section(
        anchor=anchor_of(study.name),
        title=study.title,
        settings=settings_of(study, panels),
        unfinished=unfinished_of(study),
        notes=study.notes,
        findings=tuple(findings_over(panels)),
        overview=overview,
        parts=parts,
    )


def settings_of(study: StudyRecord, panels: Sequence[Panel]) -> str:
    """What all runs of a study share, in a line."""
    parts = []
    if study.answers:
        parts.append(f"The question of {', '.join(study.answers)}")
    if panels:
        varying = varying_parts(panels)
        shown = ("dataset", "method", "ipc", "network", "student", "optimizer", "epochs", "classes")
        words = panels[0].condition.parts
        shared = [words[name] for name in shown if name in words and name not in varying]
        if shared:
            parts.append(f"{'With' if 'dataset' in varying else 'On'} {', '.join(shared)}")
        parts.append(f"preset {study.preset}")
        cells = [cell for panel in panels for cell in panel.cells.values()]
        sets = sorted({len(cell.scores) for cell in cells})
        seeds = sorted({len(s) for cell in cells for s in cell.scores.values()})
        parts.append(
            f"{span(sets)} {plural('set', sets[-1])} with {span(seeds)} "
            f"{plural('student', seeds[-1])} each"
        )
    if study.tuning is not None:
        trials = sum(len(trial.runs) for panel in panels for trial in panel.trials)
        decays = ", ".join(f"{decay:g}" for decay in study.tuning["weight_decays"])
        parts.append(f"tuned by {trials} trials, weight decays {decays}")
    return ". ".join(part[:1].upper() + part[1:] for part in parts) + "."


def span(counts: Sequence[int]) -> str:
    """A number, or the least and the greatest of several.

    Example:
        >>> span([5]), span([2, 3, 5])
        ('5', '2 to 5')
    """
    return str(counts[0]) if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"


def unfinished_of(study: StudyRecord) -> str:
    """How many runs of a study are missing, in words; empty where none is."""
    kinds = {"protocol": "at the protocol's settings", "trial": "trials", "tuned": "tuned"}
    missing = [f"{n} {kinds[kind]}" for kind, n in study.unfinished.items() if n]
    if not missing:
        return ""
    total = sum(study.unfinished.values())
    return (
        f"{total} of {total + len(study.runs)} runs have not finished ({', '.join(missing)}): "
        "the numbers below may still change."
    )


def part_of(
    study: StudyRecord,
    panel: Panel,
    heading: str,
    index: int,
    found: dict[Cell, Beside],
    folder: Folder,
) -> Part:
    """A condition in the report."""
    means = shares_figure(panel) or gamma_figure(panel) or bars_figure(panel)
    figures = (means, tuning_figure(panel), curves_figure(panel))
    caption = "Top-1 of every loss" + (" on all classes seen" if panel.shares else "")
    caption += f": {heading}" if heading else ""
    return Part(
        anchor=anchor_of(study.name, str(index)),
        heading=heading,
        findings=tuple(findings(panel)),
        shares=shares_table(panel, "Top-1 on the classes seen so far, %") if panel.shares else None,
        table=losses_table(panel, caption, found),
        figures=tuple(figure for figure in figures if figure is not None),
        trials=trials_table(panel, "Mean top-1 of the trials, %") if panel.trials else None,
        sample=sample_of(panel, folder.path),
        rows=tuple(csv_rows(study.name, panel, found)),
    )


def against_of(
    studies: Sequence[tuple[StudyRecord, Sequence[Panel]]], found: dict[Cell, Beside]
) -> Against:
    """Everything that stands beside a published number."""
    if not found:
        return Against(
            "Nothing that the GIFT paper publishes was run here: its tables hold CIFAR-100, "
            "Tiny-ImageNet and ImageNet-1K, so there is no number to put beside these.",
            None,
            None,
            None,
        )
    identical = [each for each in found.values() if each.identical]
    summary = (
        f"{len(found)} {plural('number', len(found))} here "
        f"{'stands' if len(found) == 1 else 'stand'} beside one of the GIFT paper's. "
    )
    if identical:
        summary += f"The configuration of {len(identical)} is identical: these have a verdict."
    else:
        summary += (
            "None of the configurations is identical, so there is no verdict on any of them; the "
            "table says what differs."
        )
    return Against(
        summary,
        scatter_figure(list(found.values())),
        pairs_table(found),
        signs_table(studies, found),
    )


def pairs_table(found: dict[Cell, Beside]) -> Table:
    """Every measured number beside the published one."""
    columns = (
        *(Column(name, numeric=False) for name in ("loss", "dataset", "method")),
        *(Column(name) for name in ("IPC", "measured, %", "published, %", "difference")),
        Column("verdict", numeric=False, long=True),
    )
    rows = []
    for cell, each in found.items():
        published = each.published
        number, verdict = published_items(each)
        rows.append(
            (
                Item(f"{cell.loss_name}, {cell.config.optimizer}"),
                Item(published.dataset),
                Item(published.method),
                Item(str(published.ipc), published.ipc),
                Item(score_of(cell), cell.top1.mean, cell),
                number,
                Item(signed(each.difference), each.difference),
                verdict,
            )
        )
    return Table("Published beside measured", columns, tuple(rows), divergence_of(found))


def signs_table(
    studies: Sequence[tuple[StudyRecord, Sequence[Panel]]], found: dict[Cell, Beside]
) -> Table | None:
    """Whether GIFT or the native loss is ahead, published and measured; None where not known."""
    rows = []
    for study, panels in studies:
        for panel, heading in zip(panels, headings_of(panels), strict=True):
            besides = [found[cell] for cell in panel.cells.values() if cell in found]
            for setting in panel.of_purpose("protocol"):
                sign = sign_of(panel, setting, besides)
                if sign is not None:
                    rows.append(sign_row(heading or study.title, sign))
    if not rows:
        return None
    columns = (
        Column("condition", numeric=False),
        Column("native loss", numeric=False),
        Column("published"),
        Column("measured"),
        Column("sign", numeric=False),
    )
    return Table("GIFT minus the native loss, points", columns, tuple(rows))


def sign_row(heading: str, sign: Sign) -> tuple[Item, ...]:
    """A verdict on a sign."""
    verdict = f"{sign.verdict}: {sign.reason}" if sign.reason else sign.verdict
    return (
        Item(heading),
        Item(display_name(sign.native.loss)),
        Item(signed(sign.published), sign.published),
        Item(signed(sign.measured), sign.measured),
        Item(verdict),
    )
