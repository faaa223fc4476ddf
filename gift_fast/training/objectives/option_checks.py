"""Range checks of the options of losses."""

from __future__ import annotations

import math


def require(holds: bool, name: str, value: object, expected: str) -> None:
    """Raise ValueError unless ``holds``; the message states the value and what was expected."""
    if not holds:
        raise ValueError(f"{name} must be {expected}, got {value}")


def require_temperature(loss: str, temperature: float) -> None:
    """Raise ValueError unless the temperature of a loss is positive and finite."""
    holds = 0.0 < temperature < math.inf
    require(holds, f"loss {loss!r}: temperature", temperature, "positive and finite")


def require_weights(loss: str, **weights: float) -> None:
    """Raise ValueError unless the weights of a loss are 0 or more and finite."""
    for name, weight in weights.items():
        holds = 0.0 <= weight < math.inf
        require(holds, f"loss {loss!r}: {name}", weight, "0 or more and finite")
