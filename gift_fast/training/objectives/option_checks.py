"""Range checks of the options of losses."""

from __future__ import annotations

import math


def require(holds: bool, name: str, value: object, expected: str) -> None:
    """Raises ValueError unless ``holds``."""
    if not holds:
        raise ValueError(f"{name} must be {expected}, got {value}")


def require_temperature(loss: str, temperature: float) -> None:
    """Raises ValueError unless the temperature of a loss is one."""
    holds = 0.0 < temperature < math.inf
    require(holds, f"loss {loss!r}: temperature", temperature, "positive and finite")


def require_weights(loss: str, **weights: float) -> None:
    """Raises ValueError unless the weights of a loss are 0 or more."""
    for name, weight in weights.items():
        holds = 0.0 <= weight < math.inf
        require(holds, f"loss {loss!r}: {name}", weight, "0 or more and finite")
