"""The arguments of the loss: their types, their form in the operators, and checks.

Every check raises an error that states the argument, the value received and the value expected.
"""

from __future__ import annotations

import math
from functools import lru_cache
from numbers import Integral, Real
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from gift_fast.loss.dtypes import FLOAT_TYPES, TARGET_TYPES, dtype_names
from gift_fast.loss.reference import reference_loss
from gift_fast.loss.top_k_checks import check_top_k_labels
from gift_fast.loss.top_k_labels import TopKLabels
from gift_fast.loss.torch_internals import is_tracked

Smoothing = Literal["uniform", "others"]
Reduction = Literal["mean", "sum", "none"]
Backend = Literal["auto", "cpu", "cuda", "triton", "reference"]

SMOOTHINGS: tuple[Smoothing, ...] = ("uniform", "others")
REDUCTIONS: dict[Reduction, int] = {"none": 0, "mean": 1, "sum": 2}

MixedLabels = tuple[Tensor, ...]
"""Empty, or the second labels (...) and the weight of the first, 0-d or (...)."""


class Options(NamedTuple):
    """The checked options of a call, in the form of the operators."""

    gamma: float
    label_smoothing: float
    smooth_others: bool
    soft_label_temperature: float | None
    ignore_index: int
    reduction: int

    @property
    def smoothing_name(self) -> Smoothing:
        """The smoothing mode of the public functions."""
        return SMOOTHINGS[self.smooth_others]

    @property
    def reduction_name(self) -> Reduction:
        """The reduction of the public functions."""
        return tuple(REDUCTIONS)[self.reduction]

    def reference(
        self,
        logits: Tensor,
        soft_labels: Tensor | TopKLabels,
        target: Tensor,
        other_target: Tensor | None = None,
        target_weight: Tensor | float | None = None,
    ) -> Tensor:
        """The loss of the reference implementation, with these options."""
        return reference_loss(
            logits,
            soft_labels,
            target,
            other_target,
            target_weight,
            gamma=self.gamma,
            label_smoothing=self.label_smoothing,
            smoothing=self.smoothing_name,
            soft_label_temperature=self.soft_label_temperature,
            ignore_index=self.ignore_index,
            reduction=self.reduction_name,
        )


class OperatorArguments(NamedTuple):
    """The arguments of the operators after logits, soft labels and target, in schema order."""

    gamma: float
    label_smoothing: float
    smooth_others: bool
    soft_label_temperature: float | None
    ignore_index: int
    reduction: int
    logits_grad: bool
    soft_labels_grad: bool
    # Last and with defaults, so that graphs that were exported without them still load.
    other_target: Tensor | None = None
    target_weight: Tensor | None = None

    @property
    def options(self) -> Options:
        """The first six."""
        return Options(*self[:6])


class TopKOperatorArguments(NamedTuple):
    """The arguments of the top-k operators after their tensors, in schema order."""

    gamma: float
    label_smoothing: float
    smooth_others: bool
    soft_label_temperature: float | None
    ignore_index: int
    reduction: int
    logits_grad: bool
    other_target: Tensor | None = None
    target_weight: Tensor | None = None


# ---- options -------------------------------------------------------------------------------------


def _number(name: str, value: object) -> float:
    """Convert a Python or NumPy number to float; infinity for integers out of range."""
    if isinstance(value, bool) or not isinstance(value, (int, float, Real)):
        raise TypeError(f"{name} must be a float, got {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _fraction(name: str, value: object) -> float:
    number = _number(name, value)
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"{name} must be in [0, 1], got {number}")
    return number


def check_one_of(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless the value is one of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def _temperature(value: object) -> float | None:
    if value is None:
        return None
    number = _number("soft_label_temperature", value)
    if not 0.0 < number < math.inf:
        raise ValueError(f"soft_label_temperature must be positive and finite, got {number}")
    return number


def checked_options(
    gamma: float,
    label_smoothing: float,
    smoothing: Smoothing,
    soft_label_temperature: float | None,
    ignore_index: int,
    reduction: Reduction,
) -> Options:
    """Check the options and convert them to the form of the operators."""
    check_one_of("smoothing", smoothing, SMOOTHINGS)
    check_one_of("reduction", reduction, tuple(REDUCTIONS))
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, (int, Integral)):
        raise TypeError(f"ignore_index must be an int, got {type(ignore_index).__name__}")
    if not -(2**63) <= ignore_index < 2**63:
        raise ValueError(f"ignore_index must fit in 64 bits, got {ignore_index}")
    return Options(
        gamma=_fraction("gamma", gamma),
        label_smoothing=_fraction("label_smoothing", label_smoothing),
        smooth_others=smoothing == "others",
        soft_label_temperature=_temperature(soft_label_temperature),
        ignore_index=int(ignore_index),
        reduction=REDUCTIONS[reduction],
    )


_cached_options = lru_cache(maxsize=256, typed=True)(checked_options)


def known_options(
    gamma: float,
    label_smoothing: float,
    smoothing: Smoothing,
    soft_label_temperature: float | None,
    ignore_index: int,
    reduction: Reduction,
) -> Options:
    """:func:`checked_options` with a cache, because a training loop passes the same options."""
    arguments = gamma, label_smoothing, smoothing, soft_label_temperature, ignore_index, reduction
    try:
        return _cached_options(*arguments)
    except TypeError:  # unhashable arguments, for which the checks have a better message
        pass
    return checked_options(*arguments)


# ---- tensors -------------------------------------------------------------------------------------


def check_tensors(**tensors: Tensor) -> None:
    """Check types, dtypes, shapes and devices of (logits,) soft_labels and targets, by name."""
    (first_name, first), *others = tensors.items()
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
        is_target = name in ("target", "other_target")
        expected = TARGET_TYPES if is_target else FLOAT_TYPES
        if tensor.dtype not in expected:
            names = dtype_names(expected)
            error = f"{name} must have one of the dtypes {names}, got {tensor.dtype}"
            if is_target and tensor.is_floating_point() and tensor.shape == first.shape:
                error += (
                    "; class probabilities are not supported: pass the two labels of a mixed image "
                    "as target and other_target, and the weight of the first as target_weight"
                )
            raise TypeError(error)
        if tensor.is_nested:
            raise TypeError(
                f"{name} must be a dense tensor, got a nested tensor; convert it with "
                "to_padded_tensor and use ignore_index as the target of the padding"
            )
        if tensor.layout != torch.strided:
            raise TypeError(
                f"{name} must be a dense tensor, got one with the layout {tensor.layout}; "
                "convert it with to_dense()"
            )
    shape = tuple(first.shape)
    if len(shape) == 0 or shape[-1] == 0:
        raise ValueError(f"{first_name} must have the shape (..., C) with C >= 1, got {shape}")
    for name, tensor in others:
        if name in ("target", "other_target") and tensor.shape != first.shape[:-1]:
            raise ValueError(
                f"{name} must have the shape of {first_name} without its last dimension "
                f"{shape[:-1]}, got {tuple(tensor.shape)}"
            )
        if name == "soft_labels" and tensor.shape != first.shape:
            raise ValueError(
                f"soft_labels must have the shape of {first_name} {shape}, "
                f"got {tuple(tensor.shape)}"
            )
        _check_device(name, tensor, first_name, first)


def check_top_k(logits: Tensor, labels: TopKLabels, soft_label_temperature: float | None) -> None:
    """Check the fields of top-k labels and that they fit the logits, without reading values."""
    check_top_k_labels(labels, logits.shape[-1])
    rows = tuple(labels.values.shape[:-1])
    if rows != tuple(logits.shape[:-1]):
        raise ValueError(
            f"values must have the shape (..., k) with the leading dimensions of logits "
            f"{tuple(logits.shape[:-1])}, got {tuple(labels.values.shape)}"
        )
    _check_device("values", labels.values, "logits", logits)
    if labels.rest is None and soft_label_temperature is not None:
        raise ValueError(
            "soft_label_temperature must be None if rest is None, because the values are then "
            f"probabilities, got soft_label_temperature={soft_label_temperature}"
        )


def _check_device(name: str, tensor: Tensor, first_name: str, first: Tensor) -> None:
    if tensor.device != first.device:
        raise ValueError(
            f"{name} must be on the device of {first_name} {first.device}, got {tensor.device}"
        )


def check_classes(num_classes: int, smooth_others: bool) -> None:
    """Raise ValueError if the number of classes does not allow the smoothing mode."""
    if smooth_others and num_classes == 1:
        raise ValueError("smoothing='others' needs at least 2 classes, got C = 1")


def check_target_range(
    name: str, target: Tensor, num_classes: int, ignore_index: int | None
) -> None:
    """Raise IndexError for a target out of range, as the CPU kernel does."""
    wrong = (target < 0) | (target >= num_classes)
    allowed = f"a class in [0, {num_classes})"
    if ignore_index is not None:
        wrong &= target != ignore_index
        allowed += f" or ignore_index ({ignore_index})"
    if wrong.any():
        row = int(wrong.reshape(-1).nonzero()[0])
        value = int(target.reshape(-1)[row])
        raise IndexError(f"{name} must be {allowed}, got {value} in row {row}")


# ---- mixed labels, and none ----------------------------------------------------------------------


def check_mixed_labels(
    target: Tensor, other_target: Tensor | None, target_weight: Tensor | float | None
) -> tuple[Tensor, Tensor | float]:
    """Check that both are given and the weight is valid; :func:`check_tensors` does the rest."""
    if target_weight is None:
        raise TypeError("target_weight must be given with other_target, got None")
    if other_target is None:
        raise TypeError("other_target must be given with target_weight, got None")
    if not isinstance(target_weight, Tensor):
        return other_target, _fraction("target_weight", target_weight)
    if target_weight.dtype not in FLOAT_TYPES:
        raise TypeError(
            "target_weight must be a number or a floating-point tensor, got a tensor of "
            f"{target_weight.dtype}"
        )
    if not isinstance(target, Tensor):
        return other_target, target_weight  # check_tensors raises the error
    if target_weight.dim() > 0 and target_weight.shape != target.shape:
        raise ValueError(
            f"target_weight must be a scalar or have the shape of target {tuple(target.shape)}, "
            f"got {tuple(target_weight.shape)}"
        )
    # Dynamo cannot trace is_tracked.
    compiling = torch.compiler.is_compiling()
    if target_weight.requires_grad or (not compiling and is_tracked(target_weight)):
        raise ValueError(
            "target_weight must not require a gradient; pass target_weight.detach(), or use the "
            "weighted sum of two calls"
        )
    _check_device("target_weight", target_weight, "target", target)
    return other_target, target_weight


def weight_operand(target_weight: Tensor | float, target: Tensor) -> Tensor:
    """Convert the weight to a tensor of float32 or float64, for the operators."""
    if not isinstance(target_weight, Tensor):
        return torch.full((), target_weight, dtype=torch.float64, device=target.device)
    if target_weight.dtype in (torch.float32, torch.float64):
        return target_weight
    return target_weight.float()


def absent_target(logits: Tensor, gamma: float) -> Tensor:
    """A placeholder for a target that is not given, which requires ``gamma`` to be 0."""
    if gamma != 0:
        raise TypeError(f"target must be given unless gamma is 0, got None and gamma={gamma}")
    if not isinstance(logits, Tensor) or logits.dim() == 0 or logits.shape[-1] == 0:
        return torch.zeros((), dtype=torch.int64)  # check_tensors raises the error
    return torch.zeros_like(logits.detach().select(-1, 0), dtype=torch.int64)
