"""The arguments of the loss: their types, defaults in the operators, and checks.

Every check raises an error that names the argument, what it was and what was expected.
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
    """The checked options of a call, as the operators take them."""

    gamma: float
    label_smoothing: float
    smooth_others: bool
    soft_label_temperature: float | None
    ignore_index: int
    reduction: int

    @property
    def smoothing_name(self) -> Smoothing:
        """The smoothing as the public functions name it."""
        return SMOOTHINGS[self.smooth_others]

    @property
    def reduction_name(self) -> Reduction:
        """The reduction as the public functions name it."""
        return tuple(REDUCTIONS)[self.reduction]

    def reference(
        self,
        logits: Tensor,
        soft_labels: Tensor | TopKLabels,
        target: Tensor,
        other_target: Tensor | None = None,
        target_weight: Tensor | float | None = None,
    ) -> Tensor:
        """The loss by its definition, under these options."""
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
    """What the operators take after logits, soft labels and target, in the schema's order."""

    gamma: float
    label_smoothing: float
    smooth_others: bool
    soft_label_temperature: float | None
    ignore_index: int
    reduction: int
    logits_grad: bool
    soft_labels_grad: bool
    # At the end and with defaults: graphs that were exported without them still load.
    other_target: Tensor | None = None
    target_weight: Tensor | None = None

    @property
    def options(self) -> Options:
        """The first six."""
        return Options(*self[:6])


class TopKOperatorArguments(NamedTuple):
    """What the operators of top-k labels take after their tensors, in the schema's order."""

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
    """A number of Python's or NumPy's; infinity for an integer that no float holds."""
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
    """Raises unless the value is one of the choices."""
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
    """The options as the operators take them."""
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
    """:func:`checked_options` once for each set: a training loop passes the same every time."""
    arguments = gamma, label_smoothing, smoothing, soft_label_temperature, ignore_index, reduction
    try:
        return _cached_options(*arguments)
    except TypeError:  # the cache's own, for a list: the checks have better words
        pass
    return checked_options(*arguments)


# ---- tensors -------------------------------------------------------------------------------------


def check_tensors(**tensors: Tensor) -> None:
    """The types, dtypes, shapes and devices of (logits,) soft_labels and targets, by name."""
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
                    "; class probabilities are not taken: pass the two labels of a mixed image as "
                    "target and other_target, and the weight of the first as target_weight"
                )
            raise TypeError(error)
        if tensor.is_nested:
            raise TypeError(
                f"{name} must be a dense tensor, got a nested one; "
                "to_padded_tensor makes it dense, with a target of ignore_index for the padding"
            )
        if tensor.layout != torch.strided:
            raise TypeError(
                f"{name} must be a dense tensor, got one with the layout {tensor.layout}; "
                "to_dense makes it one"
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
    """The fields of top-k labels, and whether they fit the logits; values are not read."""
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
            "soft_label_temperature needs rest, the score of the classes that are not kept: with "
            "rest=None the values are probabilities, got soft_label_temperature="
            f"{soft_label_temperature}"
        )


def _check_device(name: str, tensor: Tensor, first_name: str, first: Tensor) -> None:
    if tensor.device != first.device:
        raise ValueError(
            f"{name} must be on the device of {first_name} {first.device}, got {tensor.device}"
        )


def check_classes(num_classes: int, smooth_others: bool) -> None:
    """Raises for a smoothing that the number of classes does not allow."""
    if smooth_others and num_classes == 1:
        raise ValueError("smoothing='others' needs at least 2 classes, got C = 1")


def check_target_range(
    name: str, target: Tensor, num_classes: int, ignore_index: int | None
) -> None:
    """What the CPU kernel checks as it goes, for plain PyTorch on the CPU."""
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
    """Raises unless both are given, and the weight is one; :func:`check_tensors` sees the rest."""
    if target_weight is None:
        raise TypeError("other_target needs target_weight, the weight of target in the loss")
    if other_target is None:
        raise TypeError("target_weight needs other_target, the second label of each row")
    if not isinstance(target_weight, Tensor):
        return other_target, _fraction("target_weight", target_weight)
    if target_weight.dtype not in FLOAT_TYPES:
        raise TypeError(
            "target_weight must be a number or a tensor of a floating type, got one of "
            f"{target_weight.dtype}"
        )
    if not isinstance(target, Tensor):
        return other_target, target_weight  # check_tensors raises the error
    if target_weight.dim() > 0 and target_weight.shape != target.shape:
        raise ValueError(
            f"target_weight must be a scalar or have the shape of target {tuple(target.shape)}, "
            f"got {tuple(target_weight.shape)}"
        )
    # Dynamo cannot trace the question about torch.func's levels.
    compiling = torch.compiler.is_compiling()
    if target_weight.requires_grad or (not compiling and is_tracked(target_weight)):
        raise ValueError(
            "target_weight must not require a gradient; pass target_weight.detach(), or weigh the "
            "losses of two calls"
        )
    _check_device("target_weight", target_weight, "target", target)
    return other_target, target_weight


def weight_operand(target_weight: Tensor | float, target: Tensor) -> Tensor:
    """The weight as the operators take it: a tensor of float32 or float64."""
    if not isinstance(target_weight, Tensor):
        return torch.full((), target_weight, dtype=torch.float64, device=target.device)
    if target_weight.dtype in (torch.float32, torch.float64):
        return target_weight
    return target_weight.float()


def absent_target(logits: Tensor, gamma: float) -> Tensor:
    """A target that nothing depends on, where ``gamma`` is 0 and none was given."""
    if gamma != 0:
        raise TypeError(f"target must be given unless gamma is 0, got None and gamma={gamma}")
    if not isinstance(logits, Tensor) or logits.dim() == 0 or logits.shape[-1] == 0:
        return torch.zeros((), dtype=torch.int64)  # check_tensors raises the error
    return torch.zeros_like(logits.detach().select(-1, 0), dtype=torch.int64)
