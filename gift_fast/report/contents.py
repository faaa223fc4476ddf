"""What a report contains, in reading order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gift_fast.report.baselines_table import baselines_table
from gift_fast.report.cells import Cell
from gift_fast.report.charts import (
    Figure,
    bars_figure,
    curves_figure,
    gamma_figure,
    shares_figure,
    tuning_figure,
)
from gift_fast.report.image_grid import ImageGrid, image_grid_of
from gift_fast.report.panels import Panel, headings_of, panels_of, varying_descriptions
from gift_fast.report.published_comparison import PublishedComparison, compare_with_published
from gift_fast.report.published_tables import PublishedSection, published_section
from gift_fast.report.reading import Folder, StudyRecord
from gift_fast.report.sentences import condition_sentences, study_sentences
from gift_fast.report.study_csv import csv_rows
from gift_fast.report.study_tables import losses_table, overview_table, shares_table, trials_table
from gift_fast.report.table import Table
from gift_fast.report.wording import plural, span

READING = (
    (
        "A score",
        "is top-1 on the test images after the last epoch, never the best of several looks. Mean ± "
        "image_grid standard deviation (ddof 1). Click a number to see its runs and settings.",
    ),
    (
        "The unit of replication",
        "is the distilled set: the scores of the students of a set are averaged first. With one "
        "set, n is the number of students, and the deviation does not cover other sets.",
    ),
    (
        "An interval",
        "is a paired 95 % t interval for the difference of two losses over sets, on the same sets "
        "and seeds. It covers this comparison alone and is not adjusted.",
    ),
    (
        "Better",
        "is a loss if the difference is significant: p is below 0.05 after Holm's adjustment over "
        "all comparisons of the study. A difference below half a point is negligible, whatever p. "
        "With three sets or fewer there is an interval and no test.",
    ),
    (
        "Tuned",
        "is a loss with the learning rate and weight decay that trials chose for it: the same "
        "number of trials for every loss, with other seeds and on images that no score uses.",
    ),
    (
        "Reproduced",
        "is a published number if the 90 % Welch interval of measured minus published lies within "
        "one point; not reproduced, if the 95 % interval excludes 0 and the difference exceeds one "
        "point; otherwise inconclusive. It is a reproduction only with the same configuration; "
        "differences are listed.",
    ),
)


UNFOLDED = 4
"""Conditions of a study that are shown unfolded."""


@dataclass(frozen=True)
class ConditionSection:
    """One condition of a study.

    Attributes:
        anchor: by which it is linked to.
        heading: what distinguishes it from the study's other conditions.
        sentences: what it shows, in sentences.
        shares: continual learning at every share of the classes, or None.
        table: of the losses.
        figures: of the same runs.
        trials: the tuning in numbers, or None.
        image_grid: images of a distilled set, or None.
        rows: lines of the CSV file.
    """

    anchor: str
    heading: str
    sentences: tuple[str, ...]
    shares: Table | None
    table: Table
    figures: tuple[Figure, ...]
    trials: Table | None
    image_grid: ImageGrid | None
    rows: tuple[dict[str, object], ...]


@dataclass(frozen=True)
class StudySection:
    """One study.

    Attributes:
        anchor: by which it is linked to.
        title: of the study.
        settings: what all its runs share, in words.
        unfinished: how many runs are missing, in words; else empty.
        notes: the study's own.
        sentences: what all conditions together show, in sentences.
        overview: all conditions at once, or None where there is one.
        baselines: of the distilled sets with DD-Ranking's scores, or None.
        conditions: with their own tables and figures.
    """

    anchor: str
    title: str
    settings: str
    unfinished: str
    notes: str
    sentences: tuple[str, ...]
    overview: Table | None
    baselines: Table | None
    conditions: tuple[ConditionSection, ...]

    @property
    def folded(self) -> bool:
        """Whether the conditions are so many that each is shown when it is asked for."""
        return len(self.conditions) > UNFOLDED


@dataclass(frozen=True)
class Contents:
    """A whole report.

    Attributes:
        title: of the report.
        summary: what was read.
        damaged: files that could not be read, one message per file.
        sections: the studies.
        published: of all studies.
        reading: terms and what they mean.
    """

    title: str
    summary: str
    damaged: tuple[str, ...]
    sections: tuple[StudySection, ...]
    published: PublishedSection
    reading: tuple[tuple[str, str], ...] = READING


def contents_of(folder: Folder) -> Contents:
    """The report of a folder."""
    in_order = sorted(folder.studies, key=order_of)
    studies = [(study, panels_of(study)) for study in in_order]
    found = {
        cell: each
        for study, panels in studies
        for panel in panels
        for cell in panel.cells.values()
        if (each := compare_with_published(cell, study)) is not None
    }
    sections = tuple(study_section(study, panels, found, folder) for study, panels in studies)
    names = {run.file for study in folder.studies for run in study.runs}
    missing = sum(sum(study.unfinished.values()) for study in folder.studies)
    summary = f"{len(studies)} {plural('study', len(studies))}, {len(names)} finished runs"
    summary += f"; {missing} {plural('run', missing)} unfinished." if missing else "."
    title = studies[0][0].title if len(studies) == 1 else "Losses for soft labels, compared"
    published = published_section(studies, found)
    return Contents(title, summary, folder.damaged, each_set_once(sections), published)


def each_set_once(sections: Sequence[StudySection]) -> tuple[StudySection, ...]:
    """The sections with the images of every set where they first come, and there alone."""
    shown: set[str] = set()
    found = []
    for section in sections:
        conditions = []
        for each in section.conditions:
            again = each.image_grid is not None and each.image_grid.name in shown
            conditions.append(replace(each, image_grid=None) if again else each)
            if each.image_grid is not None:
                shown.add(each.image_grid.name)
        found.append(replace(section, conditions=tuple(conditions)))
    return tuple(found)


def order_of(study: StudyRecord) -> tuple[bool, bool, int, str]:
    """Studies come as the paper's tables do, then its figures, then what it does not ask."""
    first = study.answers[0] if study.answers else ""
    numbers = re.findall(r"\d+", first)
    return not numbers, "table" not in first, int(numbers[0]) if numbers else 0, study.name


def anchor_of(*names: str) -> str:
    """Names as an anchor."""
    return "-".join(re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") for name in names)


def study_section(
    study: StudyRecord,
    panels: Sequence[Panel],
    found: dict[Cell, PublishedComparison],
    folder: Folder,
) -> StudySection:
    """A study in the report."""
    headings = headings_of(panels)
    conditions = tuple(
        condition_section(study, panel, heading, index, found, folder)
        for index, (panel, heading) in enumerate(zip(panels, headings, strict=True))
    )
    overview = None
    if len(panels) > 1:
        overview = overview_table(panels, "Top-1 in every condition, %")
    return StudySection(
        anchor=anchor_of(study.name),
        title=study.title,
        settings=settings_of(study, panels),
        unfinished=unfinished_of(study),
        notes=study.notes,
        sentences=tuple(study_sentences(panels)),
        overview=overview,
        baselines=baselines_table(study),
        conditions=conditions,
    )


def settings_of(study: StudyRecord, panels: Sequence[Panel]) -> str:
    """What all runs of a study share, in a line."""
    parts = []
    if study.answers:
        parts.append(f"Corresponds to {', '.join(study.answers)}")
    if panels:
        varying = varying_descriptions(panels)
        shown = ("dataset", "method", "ipc", "network", "student", "optimizer", "epochs", "classes")
        words = panels[0].condition.descriptions
        shared = [words[name] for name in shown if name in words and name not in varying]
        if shared:
            parts.append(f"{'With' if 'dataset' in varying else 'On'} {', '.join(shared)}")
        parts.append(f"preset {study.preset}")
        cells = [cell for panel in panels for cell in panel.cells.values()]
        sets = sorted({len(cell.scores) for cell in cells})
        seeds = sorted({len(s) for cell in cells for s in cell.scores.values()})
        parts.append(
            f"{span(sets)} {plural('set', sets[-1])}, {span(seeds)} {plural('student', seeds[-1])} "
            "per set"
        )
    if study.tuning is not None:
        trials = sum(len(trial.runs) for panel in panels for trial in panel.trials)
        decays = ", ".join(f"{decay:g}" for decay in study.tuning["weight_decays"])
        parts.append(f"tuned by {trials} trials, weight decays {decays}")
    return ". ".join(part[:1].upper() + part[1:] for part in parts) + "."


def unfinished_of(study: StudyRecord) -> str:
    """How many runs of a study are missing, in words; empty where none is."""
    kinds = {"protocol": "at the protocol's settings", "trial": "trials", "tuned": "tuned"}
    kinds["baseline"] = "baselines"
    missing = [f"{n} {kinds[kind]}" for kind, n in study.unfinished.items() if n]
    if not missing:
        return ""
    total = sum(study.unfinished.values())
    return (
        f"{total} of {total + len(study.runs)} runs have not finished ({', '.join(missing)}): "
        "the numbers below may still change."
    )


def condition_section(
    study: StudyRecord,
    panel: Panel,
    heading: str,
    index: int,
    found: dict[Cell, PublishedComparison],
    folder: Folder,
) -> ConditionSection:
    """A condition in the report."""
    means = shares_figure(panel) or gamma_figure(panel) or bars_figure(panel)
    figures = (means, tuning_figure(panel), curves_figure(panel))
    caption = "Top-1 of every loss" + (" on all classes seen" if panel.shares else "")
    caption += f": {heading}" if heading else ""
    return ConditionSection(
        anchor=anchor_of(study.name, str(index)),
        heading=heading,
        sentences=tuple(condition_sentences(panel)),
        shares=shares_table(panel, "Top-1 on the classes seen so far, %") if panel.shares else None,
        table=losses_table(panel, caption, found),
        figures=tuple(figure for figure in figures if figure is not None),
        trials=trials_table(panel, "Mean top-1 of the trials, %") if panel.trials else None,
        image_grid=image_grid_of(panel, folder.path),
        rows=tuple(csv_rows(study.name, panel, found)),
    )
