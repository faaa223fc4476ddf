"""The contents of a report, in reading order."""

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
        "Score",
        "Top-1 on the test images after the last epoch, never the best of several tests. Scores "
        "are shown as mean ± sample standard deviation (ddof 1). Click a number to see its runs "
        "and settings.",
    ),
    (
        "Unit of replication",
        "The distilled set: the scores of the students of a set are averaged first. With one set, "
        "n is the number of students, and the standard deviation does not cover variation between "
        "sets.",
    ),
    (
        "Interval",
        "Paired 95 % t interval over sets for the difference between two losses on the same sets "
        "and seeds. It is not adjusted for the number of comparisons.",
    ),
    (
        "Better",
        "The difference is significant: p is below 0.05 after Holm's adjustment over all "
        "comparisons of the study. A difference below half a point is negligible, regardless of p. "
        "With three sets or fewer, differences are not tested.",
    ),
    (
        "Tuned",
        "Trained with the learning rate and weight decay that trials chose for the loss. All "
        "losses have the same number of trials, with other seeds and on images that no score uses.",
    ),
    (
        "Reproduced",
        "The 90 % Welch interval of measured minus published is within one point of 0. Not "
        "reproduced: the 95 % interval excludes 0, and the difference exceeds one point. "
        "Inconclusive: neither. A reproduced number is a reproduction only with the same "
        "configuration; the differences are listed.",
    ),
)


MAX_EXPANDED = 4
"""Maximum number of conditions of a study that are shown expanded."""


@dataclass(frozen=True)
class ConditionSection:
    """One condition of a study.

    Attributes:
        anchor: anchor of the section, for links.
        heading: the settings that distinguish it from the study's other conditions.
        sentences: the summary in sentences.
        shares: table of continual learning at every share of the classes, or None.
        table: table of the losses.
        figures: figures of the same runs.
        trials: table of the trials, or None.
        image_grid: images of a distilled set, or None.
        rows: rows of the CSV file.
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
        anchor: anchor of the section, for links.
        title: title of the study.
        settings: the settings that all runs share.
        unfinished: a sentence on unfinished runs; may be empty.
        notes: the notes of the study.
        sentences: the summary of all conditions, in sentences.
        overview: table of all conditions; None if there is only one.
        baselines: table of baselines with DD-Ranking's scores, or None.
        conditions: the conditions, with their own tables and figures.
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
        """Whether the conditions are collapsed, because there are too many."""
        return len(self.conditions) > MAX_EXPANDED


@dataclass(frozen=True)
class Contents:
    """A whole report.

    Attributes:
        title: title of the report.
        summary: number of studies and runs.
        damaged: messages about files that could not be read.
        sections: the studies.
        published: comparison with published numbers, of all studies.
        reading: the terms of the report and their meanings.
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
    title = studies[0][0].title if len(studies) == 1 else "Comparison of losses for soft labels"
    published = published_section(studies, found)
    return Contents(title, summary, folder.damaged, without_repeated_grids(sections), published)


def without_repeated_grids(sections: Sequence[StudySection]) -> tuple[StudySection, ...]:
    """The sections with the images of every set at their first occurrence only."""
    shown: set[str] = set()
    found = []
    for section in sections:
        conditions = []
        for each in section.conditions:
            is_repeated = each.image_grid is not None and each.image_grid.name in shown
            conditions.append(replace(each, image_grid=None) if is_repeated else each)
            if each.image_grid is not None:
                shown.add(each.image_grid.name)
        found.append(replace(section, conditions=tuple(conditions)))
    return tuple(found)


def order_of(study: StudyRecord) -> tuple[bool, bool, int, str]:
    """The sort key of a study: tables of the paper, then its figures, then all other studies."""
    first = study.answers[0] if study.answers else ""
    numbers = re.findall(r"\d+", first)
    return not numbers, "table" not in first, int(numbers[0]) if numbers else 0, study.name


def anchor_of(*names: str) -> str:
    """The anchor for a section, from its names."""
    return "-".join(re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") for name in names)


def study_section(
    study: StudyRecord,
    panels: Sequence[Panel],
    found: dict[Cell, PublishedComparison],
    folder: Folder,
) -> StudySection:
    """The section of a study."""
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
    """The settings that all runs of a study share, as sentences."""
    parts = []
    if study.answers:
        parts.append(f"Corresponds to {', '.join(study.answers)}")
    if panels:
        varying = varying_descriptions(panels)
        shown = ("dataset", "method", "ipc", "network", "student", "optimizer", "epochs", "classes")
        descriptions = panels[0].condition.descriptions
        shared = [
            descriptions[name] for name in shown if name in descriptions and name not in varying
        ]
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
    """A sentence on the unfinished runs of a study; empty if all have finished."""
    kinds = {"protocol": "with the protocol's settings", "trial": "trials", "tuned": "tuned"}
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
    """The section of a condition."""
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
