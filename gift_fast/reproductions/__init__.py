"""Reproductions of published results: several studies in one plan, from teachers to reports."""
