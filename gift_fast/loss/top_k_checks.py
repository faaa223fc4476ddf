"""The checks of top-k labels.

Those of types and shapes read nothing. Those of values wait for the device, so a caller makes them
where :func:`may_read` says so: never on a GPU, and not while something traces.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from gift_fast.loss.dtypes import FLOAT_TYPES, INDEX_TYPES, dtype_names
from gift_fast.loss.thresholds import MASS_ROUNDING
from gift_fast.loss.torch_internals import transforms_active

Fields = tuple[Tensor, Tensor, Tensor | None]
"""Values, indices and rest."""

Rest = Literal["uniform", "zero", "min", "logmeanexp"]
RESTS: tuple[Rest, ...] = ("uniform", "zero", "min", "logmeanexp")


def may_read(x: Tensor) -> bool:
    """Whether the values of x are there to be read, and reading them waits for no device."""
    return (
        not torch.compiler.is_compiling()
        and not transforms_active()
        and type(x) in (Tensor, torch.nn.Parameter)
        and x.is_cpu
    )


# ---- types and shapes ----------------------------------------------------------------------------


def _check_tensor(name: str, x: object, dtypes: tuple[torch.dtype, ...]) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
    if x.dtype not in dtypes:
        raise TypeError(f"{name} must have one of the dtypes {dtype_names(dtypes)}, got {x.dtype}")
    if x.is_nested or x.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got a nested or sparse one")


def check_top_k_labels(labels: Fields, num_classes: int) -> None:
    """The types, dtypes, shapes and devices of the fields; their values are not read."""
    values, indices, rest = labels
    _check_tensor("values", values, FLOAT_TYPES)
    _check_tensor("indices", indices, INDEX_TYPES)
    shape = tuple(values.shape)
    if len(shape) == 0 or not 1 <= shape[-1] <= num_classes:
        raise ValueError(
            f"values must have the shape (..., k) with 1 <= k <= C = {num_classes}, got {shape}"
        )
    if indices.shape != values.shape:
        raise ValueError(
            f"indices must have the shape of values {shape}, got {tuple(indices.shape)}"
        )
    fields = {"indices": indices}
    if rest is not None:
        _check_tensor("rest", rest, FLOAT_TYPES)
        if rest.shape != values.shape[:-1]:
            raise ValueError(
                f"rest must have the shape of values without its last dimension {shape[:-1]}, "
                f"got {tuple(rest.shape)}"
            )
        fields["rest"] = rest
    for name, x in fields.items():
        if x.device != values.device:
            raise ValueError(
                f"{name} must be on the device of values {values.device}, got {x.device}"
            )


def _first_row(wrong: Tensor) -> int:
    """The first row (over all leading dimensions) with a true element, or -1."""
    rows = wrong.reshape(-1, wrong.shape[-1]).any(-1).nonzero()
    return int(rows[0]) if len(rows) else -1


def check_top_k_indices(indices: Tensor, num_classes: int, valid: Tensor | None = None) -> None:
    """Raises IndexError if an index of a valid row is out of range; reads the values."""
    wrong = (indices < 0) | (indices >= num_classes)
    if valid is not None:
        wrong &= valid.unsqueeze(-1)
    row = _first_row(wrong)
    if row >= 0:
        values = indices.reshape(-1, indices.shape[-1])[row]
        value = int(values[(values < 0) | (values >= num_classes)][0])
        raise IndexError(f"indices must be classes in [0, {num_classes}), got {value} in row {row}")


def check_no_duplicates(indices: Tensor, valid: Tensor | None = None) -> None:
    """Raises for a valid row with the same index twice; reads the values."""
    ordered = indices.sort(-1).values
    same = ordered[..., 1:] == ordered[..., :-1]
    if valid is not None:
        same &= valid.unsqueeze(-1)
    row = _first_row(same) if same.shape[-1] > 0 else -1
    if row >= 0:
        values, twice = (x.reshape(-1, x.shape[-1])[row] for x in (ordered, same))
        value = int(values[1:][twice][0])
        raise ValueError(f"indices must be different within a row, got {value} twice in row {row}")


def mass_limit(dtype: torch.dtype) -> float:
    """What probabilities of this dtype may sum to."""
    return 1.0 + MASS_ROUNDING + torch.finfo(dtype).eps


def check_probabilities(
    name: str, values: Tensor, what: str, remedy: str, valid: Tensor | None = None
) -> None:
    """Raises for a valid row that cannot be probabilities; reads the values. NaN passes."""
    values = values.detach()
    mass = values.double().sum(-1, keepdim=True)
    wrong = (values < 0).any(-1, keepdim=True) | (mass > mass_limit(values.dtype))
    if valid is not None:
        wrong &= valid.unsqueeze(-1)
    row = _first_row(wrong)
    if row < 0:
        return
    smallest = float(values.reshape(-1, values.shape[-1])[row].amin())
    total = float(mass.reshape(-1)[row])
    raise ValueError(
        f"{name} must be probabilities for {what}, got a smallest value of {smallest:.6g} and a "
        f"sum of {total:.6g} in row {row}; {remedy}"
    )


def check_top_k_values(
    labels: Fields, num_classes: int, temperature: float | None, valid: Tensor
) -> None:
    """Raises for a valid row whose fields do not go together; reads the values."""
    values, indices, rest = labels
    check_top_k_indices(indices, num_classes, valid)
    if rest is None:
        check_probabilities("values", values, "rest=None", "give rest for other values", valid)
    elif temperature is None and values.shape[-1] < num_classes:
        row = _first_row(((rest == -math.inf) & valid).unsqueeze(-1))
        if row >= 0:
            raise ValueError(
                f"rest must be finite without soft_label_temperature, got -inf in row {row}"
            )


def check_dense_labels(labels: Tensor, k: int, rest: object, temperature: float | None) -> None:
    """The arguments of ``TopKLabels.from_dense``; the values of the labels are not read."""
    _check_tensor("labels", labels, FLOAT_TYPES)
    if labels.dim() == 0 or labels.shape[-1] == 0:
        raise ValueError(
            f"labels must have the shape (..., C) with C >= 1, got {tuple(labels.shape)}"
        )
    if isinstance(k, bool) or not isinstance(k, int):
        raise TypeError(f"k must be an int, got {type(k).__name__}")
    if not 1 <= k <= labels.shape[-1]:
        raise ValueError(f"k must be in [1, C = {labels.shape[-1]}], got {k}")
    if rest not in RESTS:
        raise ValueError(f"rest must be one of {', '.join(map(repr, RESTS))}, got {rest!r}")
    if rest != "logmeanexp":
        if temperature is not None:
            raise ValueError(f"temperature is read by rest='logmeanexp' alone, got rest={rest!r}")
        return
    if temperature is None:
        raise ValueError("rest='logmeanexp' needs temperature, at which it keeps the mass")
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float)):
        raise TypeError(f"temperature must be a float, got {type(temperature).__name__}")
    if not 0.0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
