"""Formatting of nouns, ranges and lists in the sentences of a report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def plural(noun: str, count: int) -> str:
    """The singular or plural of a noun for a count.

    Example:
        >>> plural("study", 1), plural("study", 2), plural("run", 0)
        ('study', 'studies', 'runs')
    """
    if count == 1:
        return noun
    return f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"


def span(counts: Sequence[int]) -> str:
    """Format a sorted sequence of counts as a range.

    Example:
        >>> span([5]), span([2, 3, 5])
        ('5', '2 to 5')
    """
    return str(counts[0]) if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"


def join_names(names: Iterable[str]) -> str:
    """Join names with commas and "and".

    Example:
        >>> join_names(["KL", "CE", "MSE"]), join_names(["KL"])
        ('KL, CE and MSE', 'KL')
    """
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
