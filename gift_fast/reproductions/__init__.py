"""Several studies by one plan, from teachers to reports."""
