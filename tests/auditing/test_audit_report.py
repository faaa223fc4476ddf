from __future__ import annotations

import io

from rich.console import Console

from gift_fast.auditing import AuditReport, Finding, print_audit
from gift_fast.auditing.audit_report import summary

LONG = "The images are [somehow] wrong, " + "and that takes many words " * 10
REPORT = AuditReport(
    (
        Finding("ok", "labels", "10 images for each of 10 classes."),
        Finding("error", "images", LONG),
        Finding("error", "class order", "The classes are permuted."),
        Finding("note", "soft labels", "Probabilities."),
    ),
    {},
)


def printed(terminal: bool) -> str:
    stream = io.StringIO()
    print_audit(REPORT, Console(file=stream, width=60, force_terminal=terminal))
    return stream.getvalue()


def test_a_pipe_gets_one_line_a_finding_and_no_color():
    assert printed(terminal=False).splitlines() == [
        "ok: labels: 10 images for each of 10 classes.",
        f"error: images: {LONG}",
        "error: class order: The classes are permuted.",
        "note: soft labels: Probabilities.",
        "2 errors, 1 note",
    ]


def test_a_terminal_gets_columns_and_color():
    text = printed(terminal=True)
    assert "\x1b[1;31merror" in text
    assert "\x1b[32mok" in text
    assert "[somehow]" in text
    assert len(text.splitlines()) > 8  # the long sentence is wrapped


def test_a_report_is_as_severe_as_its_worst_finding():
    assert REPORT.severity == "error"
    assert AuditReport(REPORT.findings[3:], {}).severity == "note"


def test_a_report_without_remarks_says_so():
    assert summary(AuditReport(REPORT.findings[:1], {})) == "no problems found"
