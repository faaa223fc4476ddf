"""Studies: many evaluations that answer one question, their tuning and their statistics."""
