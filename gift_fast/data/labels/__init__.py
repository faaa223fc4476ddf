"""Soft labels stored with a distilled set, and their replay."""
