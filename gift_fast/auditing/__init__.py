"""Audits, which check a distilled set, its labels and its teacher for mistakes without symptoms."""

from gift_fast.auditing.audit import audit
from gift_fast.auditing.audit_report import SEVERITIES, AuditReport, Finding, print_audit
from gift_fast.auditing.class_order import ClassOrder

__all__ = ["SEVERITIES", "AuditReport", "ClassOrder", "Finding", "audit", "print_audit"]
