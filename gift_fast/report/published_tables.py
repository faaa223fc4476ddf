"""The tables that compare measured accuracies with published ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gift_fast.report.cells import Cell, signed
from gift_fast.report.charts import VERDICTS, Figure, scatter_figure
from gift_fast.report.panels import Panel, headings_of
from gift_fast.report.published_comparison import PublishedComparison, SignComparison, sign_of
from gift_fast.report.reading import StudyRecord
from gift_fast.report.study_tables import divergence_of, published_items, score_of
from gift_fast.report.table import Column, Item, Table
from gift_fast.report.wording import plural
from gift_fast.training.objectives import display_name


@dataclass(frozen=True)
class PublishedSection:
    """The comparison of measured with published numbers.

    Attributes:
        summary: a summary in sentences.
        figure: the scatter chart, or None.
        table: table of all comparisons, or None.
        signs: table of the verdicts on GIFT minus native, or None.
    """

    summary: str
    figure: Figure | None
    table: Table | None
    signs: Table | None


def published_section(
    studies: Sequence[tuple[StudyRecord, Sequence[Panel]]], found: dict[Cell, PublishedComparison]
) -> PublishedSection:
    """The section with all comparisons with published numbers."""
    if not found:
        return PublishedSection(
            "There are no published numbers for these runs. The GIFT paper covers CIFAR-100, "
            "Tiny-ImageNet and ImageNet-1K; the RDED paper covers RDED's sets on CIFAR-10 under "
            "its own protocol.",
            None,
            None,
            None,
        )
    counts = {v: sum(each.verdict == v for each in found.values()) for v in VERDICTS}
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    same = [each for each in found.values() if each.same_configuration]
    reproductions = sum(each.is_reproduction for each in same)
    summary = (
        f"{len(found)} measured {plural('number', len(found))} compared with published ones: "
        f"{verdicts}. "
    )
    if same:
        summary += (
            f"{len(same)} {'has' if len(same) == 1 else 'have'} the published configuration, with "
            f"{reproductions} {plural('reproduction', reproductions)}."
        )
    else:
        summary += (
            "None of them has the published configuration, so none is a reproduction; the table "
            "lists the differences."
        )
    return PublishedSection(
        summary,
        scatter_figure(list(found.values())),
        pairs_table(found),
        signs_table(studies, found),
    )


def pairs_table(found: dict[Cell, PublishedComparison]) -> Table:
    """The table of measured and published numbers, with verdicts and differences."""
    columns = (
        *(Column(name, numeric=False) for name in ("loss", "dataset", "method")),
        *(Column(name) for name in ("IPC", "measured, %", "published, %", "difference")),
        Column("verdict", numeric=False, long=True),
        Column("same configuration", numeric=False, long=True),
    )
    rows = []
    for cell, each in found.items():
        published = each.published
        number, verdict, configuration = published_items(each)
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
                configuration,
            )
        )
    return Table("Measured and published top-1", columns, tuple(rows), divergence_of(found))


def signs_table(
    studies: Sequence[tuple[StudyRecord, Sequence[Panel]]], found: dict[Cell, PublishedComparison]
) -> Table | None:
    """The table of published and measured signs of GIFT minus native, or None if it is empty."""
    rows = []
    for study, panels in studies:
        for panel, heading in zip(panels, headings_of(panels), strict=True):
            comparisons = [found[cell] for cell in panel.cells.values() if cell in found]
            for setting in panel.of_purpose("protocol"):
                sign = sign_of(panel, setting, comparisons)
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
        Column("same configuration", numeric=False),
    )
    return Table("GIFT minus the native loss, points", columns, tuple(rows))


def sign_row(heading: str, sign: SignComparison) -> tuple[Item, ...]:
    """The table row of a verdict on a sign."""
    verdict = f"{sign.verdict}: {sign.reason}" if sign.reason else sign.verdict
    return (
        Item(heading),
        Item(display_name(sign.native.loss)),
        Item(signed(sign.published), sign.published),
        Item(signed(sign.measured), sign.measured),
        Item(verdict),
        Item("yes" if sign.same_configuration else "no"),
    )
