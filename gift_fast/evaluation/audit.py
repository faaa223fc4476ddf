"""Audits of what an evaluation reads."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from gift_fast.auditing import AuditReport

from gift_fast.evaluation.context import RunContext
from gift_fast.evaluation.inputs import Inputs, load_inputs
from gift_fast.evaluation.job import EvaluationJob


def run_audit(job: EvaluationJob, context: RunContext, *, quick: bool = False) -> AuditReport:
    """Examines what a job reads, and trains nothing."""
    device = context.accelerator(job.config).device
    return audit_of(load_inputs(job, context, device, verify=False), device, quick=quick)


def audit_of(inputs: Inputs, device: torch.device, *, quick: bool) -> AuditReport:
    """The audit of what has been read, on a device."""
    from gift_fast.auditing import audit

    return audit(
        inputs.dataset.to(device),
        inputs.distilled.to(device),
        [teacher.to(device) for teacher in inputs.teachers],
        quick=quick,
        whiten=inputs.whiten,
    )


def warn_of(report: AuditReport, name: str | None = None) -> None:
    """Says on the standard error what an audit has found wrong, with a set of several by its name.

    What is called an error here stops nothing: an accuracy at chance may be what is looked for.
    """
    where = "" if name is None else f"{name}: "
    for finding in report.findings:
        if finding.severity in ("warning", "error"):
            print(f"{finding.severity}: {where}{finding.text}", file=sys.stderr)
