"""Words that several parts of a report share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def plural(noun: str, count: int) -> str:
    """A noun for so many.

    Example:
        >>> plural("study", 1), plural("study", 2), plural("run", 0)
        ('study', 'studies', 'runs')
    """
    if count == 1:
        return noun
    return f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"


def span(counts: Sequence[int]) -> str:
    """A number, or the least and the greatest of several.

    Example:
        >>> span([5]), span([2, 3, 5])
        ('5', '2 to 5')
    """
    return str(counts[0]) if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"


def join_names(names: Iterable[str]) -> str:
    """Names as a sentence lists them.

    Example:
        >>> join_names(["KL", "CE", "MSE"]), join_names(["KL"])
        ('KL, CE and MSE', 'KL')
    """
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
