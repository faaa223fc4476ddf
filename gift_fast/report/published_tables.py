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


def published_section(
    studies: Sequence[tuple[StudyRecord, Sequence[Panel]]], found: dict[Cell, PublishedComparison]
) -> PublishedSection:
    """All comparisons with published numbers."""
    if not found:
        return PublishedSection(
            "None of these runs has a published number to compare with: the GIFT paper has "
            "CIFAR-100, Tiny-ImageNet and ImageNet-1K, and the RDED paper has RDED's sets on "
            "CIFAR-10 under its own protocol.",
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
            "None has the published configuration, so none is a reproduction; the table lists the "
            "differences."
        )
    return PublishedSection(
        summary,
        scatter_figure(list(found.values())),
        pairs_table(found),
        signs_table(studies, found),
    )


def pairs_table(found: dict[Cell, PublishedComparison]) -> Table:
    """Every measured number beside the published one, with the verdict and the differences."""
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
    return Table("Published beside measured", columns, tuple(rows), divergence_of(found))


def signs_table(
    studies: Sequence[tuple[StudyRecord, Sequence[Panel]]], found: dict[Cell, PublishedComparison]
) -> Table | None:
    """Whether GIFT or the native loss is better, published and measured; None if not known."""
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
        Column("same configuration", numeric=False),
    )
    return Table("GIFT minus the native loss, points", columns, tuple(rows))


def sign_row(heading: str, sign: SignComparison) -> tuple[Item, ...]:
    """A verdict on a sign."""
    verdict = f"{sign.verdict}: {sign.reason}" if sign.reason else sign.verdict
    return (
        Item(heading),
        Item(display_name(sign.native.loss)),
        Item(signed(sign.published), sign.published),
        Item(signed(sign.measured), sign.measured),
        Item(verdict),
        Item("yes" if sign.same_configuration else "no"),
    )
