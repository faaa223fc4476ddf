"""Reports: the studies of a folder as one HTML page, Markdown, LaTeX and CSV."""

from gift_fast.report.writing import write_report, write_tables

__all__ = ["write_report", "write_tables"]
