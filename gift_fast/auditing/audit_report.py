"""What an audit has found, for people and for programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gift_fast.files.atomic import replacing

if TYPE_CHECKING:
    from rich.console import Console

SEVERITIES = ("ok", "note", "warning", "error")
"""In rising order: as it should be; worth knowing; probably wrong; certainly wrong."""

COLOURS = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "bold red"}

LISTED = 5
"""Entries of a list that a sentence names before it counts the rest."""


@dataclass(frozen=True)
class Finding:
    """One thing that an audit has looked at.

    Attributes:
        severity: one of ``SEVERITIES``.
        topic: what it is about: images, labels, soft labels, teacher, class order.
        text: plain sentences with the numbers.
    """

    severity: str
    topic: str
    text: str


@dataclass(frozen=True)
class AuditReport:
    """All that an audit has found.

    Attributes:
        findings: in the order in which they were made.
        measures: the numbers behind them, plain values that JSON can hold.
        class_map: at place i, the class of the test set that label i of the distilled set stands
            for; None where no class map is called for or would help.
    """

    findings: tuple[Finding, ...]
    measures: dict[str, Any]
    class_map: tuple[int, ...] | None = None

    @property
    def severity(self) -> str:
        """That of the worst finding."""
        return max((finding.severity for finding in self.findings), key=SEVERITIES.index)

    def to_dict(self) -> dict[str, Any]:
        """A dictionary of plain values that JSON can hold."""
        return {
            "severity": self.severity,
            "findings": [asdict(finding) for finding in self.findings],
            "class_map": None if self.class_map is None else list(self.class_map),
            **self.measures,
        }

    def write_class_map(self, path: Path) -> None:
        """Writes the class map as ``--class-map`` reads it: a JSON list, the new label at the old.

        Raises:
            ValueError: the audit has none to offer.
        """
        if self.class_map is None:
            raise ValueError("class_map must be there to be written, but the audit has found none")
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(list(self.class_map)) + "\n", encoding="utf-8")


def print_audit(report: AuditReport, console: Console) -> None:
    """Prints a line for every finding, and how many there are of each kind.

    A terminal gets columns and colors; anything else one line a finding, whatever its length.
    """
    from rich.table import Table
    from rich.text import Text

    if console.is_terminal:
        table = Table.grid(padding=(0, 2))
        for finding in report.findings:
            severity = Text(finding.severity, style=COLOURS[finding.severity])
            table.add_row(severity, Text(finding.topic, no_wrap=True), Text(finding.text))
        console.print(table)
    else:
        for finding in report.findings:
            line = f"{finding.severity}: {finding.topic}: {finding.text}"
            console.print(line, soft_wrap=True, markup=False, highlight=False)
    console.print(summary(report), markup=False, highlight=False)


def summary(report: AuditReport) -> str:
    """How many findings there are of each kind that calls for attention.

    Example:
        >>> summary(AuditReport((Finding("error", "images", "..."),), {}))
        '1 error'
    """
    counts = Counter(finding.severity for finding in report.findings)
    parts = [
        f"{counts[severity]} {severity}{'s' * (counts[severity] > 1)}"
        for severity in reversed(SEVERITIES[1:])
        if counts[severity]
    ]
    return ", ".join(parts) or "nothing to remark"


def listed(entries: Sequence[object]) -> str:
    """The first few entries, and how many more there are.

    Example:
        >>> listed([1, 2, 3, 4, 5, 6, 7])
        '1, 2, 3, 4, 5 and 2 more'
    """
    text = ", ".join(map(str, entries[:LISTED]))
    return text if len(entries) <= LISTED else f"{text} and {len(entries) - LISTED} more"


def in_bytes(count: int) -> str:
    """A number of bytes in decimal units, as file managers and papers give it.

    Example:
        >>> in_bytes(950), in_bytes(5_700_000_000)
        ('950 B', '5.7 GB')
    """
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} B" if unit == "B" else f"{size:.3g} {unit}"
