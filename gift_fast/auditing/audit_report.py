"""The findings of an audit, printed as text or written as JSON."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gift_fast.files.atomic import replacing

if TYPE_CHECKING:
    from rich.console import Console

SEVERITIES = ("ok", "note", "warning", "error")
"""In ascending order: correct, worth knowing, probably wrong, certainly wrong."""

COLORS = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "bold red"}


@dataclass(frozen=True)
class Finding:
    """The outcome of one check of an audit.

    Attributes:
        severity: one of ``SEVERITIES``.
        topic: images, labels, soft labels, teacher or class order.
        text: sentences with the measured values.
    """

    severity: str
    topic: str
    text: str


@dataclass(frozen=True)
class AuditReport:
    """The outcome of an audit.

    Attributes:
        findings: in the order of the checks.
        measures: the measurements, as JSON-compatible values.
        class_map: entry i is the class of the test set for label i of the distilled set; None if no
            class map is needed or would help.
    """

    findings: tuple[Finding, ...]
    measures: dict[str, Any]
    class_map: tuple[int, ...] | None = None

    @property
    def severity(self) -> str:
        """The severity of the worst finding."""
        return max((finding.severity for finding in self.findings), key=SEVERITIES.index)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-compatible values."""
        return {
            "severity": self.severity,
            "findings": [asdict(finding) for finding in self.findings],
            "class_map": None if self.class_map is None else list(self.class_map),
            **self.measures,
        }

    def write_class_map(self, path: Path) -> None:
        """Write the class map for ``--class-map``, a JSON list whose entry i is label i's class.

        Raises:
            ValueError: the audit found no class map.
        """
        if self.class_map is None:
            raise ValueError("class_map must not be None; the audit found no class map to write")
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(list(self.class_map)) + "\n", encoding="utf-8")


def print_audit(report: AuditReport, console: Console) -> None:
    """Print every finding and the number of findings of each severity.

    A terminal gets columns and colors; a file or pipe gets one line per finding, unwrapped.
    """
    from rich.table import Table
    from rich.text import Text

    if console.is_terminal:
        table = Table.grid(padding=(0, 2))
        for finding in report.findings:
            severity = Text(finding.severity, style=COLORS[finding.severity])
            table.add_row(severity, Text(finding.topic, no_wrap=True), Text(finding.text))
        console.print(table)
    else:
        for finding in report.findings:
            line = f"{finding.severity}: {finding.topic}: {finding.text}"
            console.print(line, soft_wrap=True, markup=False, highlight=False)
    console.print(summary(report), markup=False, highlight=False)


def summary(report: AuditReport) -> str:
    """The number of findings of each severity above "ok".

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
    return ", ".join(parts) or "no problems found"


def in_bytes(count: int) -> str:
    """Format a number of bytes in decimal units.

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
