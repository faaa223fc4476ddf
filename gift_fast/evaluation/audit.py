"""Audits of the inputs of an evaluation."""

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
    """Audit the inputs of a job, without training."""
    device = context.accelerator(job.config).device
    return audit_of(load_inputs(job, context, device, verify=False), device, quick=quick)


def audit_of(inputs: Inputs, device: torch.device, *, quick: bool) -> AuditReport:
    """Audit loaded inputs on a device."""
    from gift_fast.auditing import audit

    return audit(
        inputs.dataset.to(device),
        inputs.distilled.to(device),
        [teacher.to(device) for teacher in inputs.teachers],
        quick=quick,
        whiten=inputs.whiten,
    )


def warn_of(report: AuditReport, name: str | None = None) -> None:
    """Print the warnings and errors of an audit to standard error.

    Even errors do not stop the evaluation: chance accuracy may be what the user wants to measure.

    Args:
        report: of the audit.
        name: of the set, if there are several.
    """
    where = "" if name is None else f"{name}: "
    for finding in report.findings:
        if finding.severity in ("warning", "error"):
            print(f"{finding.severity}: {where}{finding.text}", file=sys.stderr)
