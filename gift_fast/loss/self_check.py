"""The self-check: compares kernels with the reference implementation before their first use.

The GPU kernels have only been tested in emulators, so a user's GPU may be the first real one. The
first call on each device compares the kernels with :mod:`gift_fast.loss.reference` on small
batches:

- If they differ or a launch fails, ``backend="auto"`` warns once and uses the reference
  implementation from then on, and a named backend raises ``RuntimeError``.
- The check waits for the device, so it is postponed while a CUDA graph is captured and while a
  compiler traces. A compiled or exported graph is checked when it first runs
  (:mod:`gift_fast.loss.operators`).
- It runs in a separate thread, so that the caller's autograd and inference mode, autocast,
  transforms, dispatch modes and stream do not affect it. It draws no random numbers.
- After the check, a call costs one lookup in a set; calls on the CPU are not checked.
- ``GIFT_FAST_SELF_CHECK=0`` disables it.

:func:`self_check` runs more cases, for every backend.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
import warnings
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from gift_fast.loss import operators as ops
from gift_fast.loss.reference import reference_loss
from gift_fast.loss.top_k_labels import TopKLabels

CHECKED = ("cuda", "triton")
"""The backends that are checked before their first use. The CPU kernels are tested on CPUs."""

Place = tuple[str, torch.device]
"""The name of a backend, and a device."""

TRUSTED: set[Place] = set()
"""Backends and devices that have passed, or for which the check is disabled."""


class _Failure(NamedTuple):
    reason: str
    device_lost: bool  # the device cannot run anything else in this process


_FAILED: dict[Place, _Failure] = {}
_WARNED: set[Place] = set()
_LOCK = threading.Lock()


# ---- before the first use ------------------------------------------------------------------------


def trusts(kernels: str, x: Tensor) -> bool:
    """Whether the kernels can be used on the device of x; the first call checks them."""
    place = (kernels, x.device)
    if place in TRUSTED:
        return True
    if place in _FAILED:
        return False
    if os.environ.get("GIFT_FAST_SELF_CHECK") == "0":
        TRUSTED.add(place)
        return True
    if not _may_wait_for(x):
        return True  # a later call checks them
    with _LOCK:
        if place not in TRUSTED and place not in _FAILED:
            _check(place)
    return place not in _FAILED


def reject(kernels: str, device: torch.device, *, named: bool) -> None:
    """Raise an error if kernels that failed were named; otherwise warn, once.

    Raises:
        RuntimeError: The backend was named, or the device is not usable after the failure.
    """
    place = (kernels, device)
    failure = _FAILED[place]
    failed = f"the kernels of backend={kernels!r} failed their self-check on {device}: "
    failed += failure.reason
    if failure.device_lost:
        raise RuntimeError(
            f"{failed}. The device is not usable in this process anymore; restart it with "
            "backend='reference'. Please report this"
        )
    if named:
        raise RuntimeError(
            f"{failed}. Use backend='auto', which falls back to the reference implementation, or "
            "disable the check with GIFT_FAST_SELF_CHECK=0"
        )
    if place not in _WARNED:
        _WARNED.add(place)
        warnings.warn(
            f"{failed}. The reference implementation in plain PyTorch is used instead, which is "
            "slower. Please report this with the output of `gift-fast doctor`.",
            RuntimeWarning,
            stacklevel=5,
        )


def _may_wait_for(x: Tensor) -> bool:
    """Whether the device of x exists and can be waited for now."""
    if type(x) not in (Tensor, torch.nn.Parameter):  # fake tensors have no data
        return False
    if x.device.type != "cuda":
        return True
    return torch.cuda.is_available() and not torch.cuda.is_current_stream_capturing()


def _check(place: Place) -> None:
    """Check the kernels and record the result, unless the check could not run."""
    failures = _in_a_thread(place, QUICK)
    if failures is None:
        return
    if failures:
        _FAILED[place] = failures[0]
    else:
        TRUSTED.add(place)


def _in_a_thread(place: Place, cases: Iterable[Case]) -> list[_Failure] | None:
    """Run the check in a thread; returns the first failure, if any, or None if it could not run."""
    found: list[_Failure] = []
    undecided = []

    def run() -> None:
        try:
            for case in cases:
                difference = _difference(place, case)
                if difference is not None:
                    found.append(_Failure(f"{difference}, {case}", False))
                    return
        except torch.OutOfMemoryError as error:
            undecided.append(error)
        except Exception as error:
            lines = str(error).strip().splitlines()
            reason = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
            found.append(_Failure(reason, _is_lost(place[1])))

    thread = threading.Thread(target=run, name="gift-fast self-check")
    try:
        thread.start()
    except RuntimeError:  # the interpreter is shutting down
        return None
    thread.join()
    return None if undecided else found


def _is_lost(device: torch.device) -> bool:
    """Whether the device is unusable, for instance after an illegal access or an assertion."""
    try:
        return bool(torch.ones(2, device=device).sum().item() != 2.0)
    except Exception:
        return True


# ---- a comparison --------------------------------------------------------------------------------


class Case(NamedTuple):
    """A batch and its options."""

    rows: int
    classes: int
    logits: torch.dtype
    soft_labels: torch.dtype
    reduction: str = "mean"
    soft_label_temperature: float | None = None
    mixed: bool = False
    """Two labels per row."""
    sliced: bool = False
    """The rows are a slice of (B, T, C)."""
    kept: int = 0
    """k of top-k labels; 0 for dense labels."""

    def __str__(self) -> str:
        """Describe the case, for messages."""
        types = " and ".join(str(x).removeprefix("torch.") for x in (self.logits, self.soft_labels))
        return (
            f"in {self.rows} rows of {self.classes} classes, {types}, reduction "
            f"{self.reduction}, soft_label_temperature {self.soft_label_temperature}"
            + ", mixed labels" * self.mixed
            + ", a slice of (B, T, C)" * self.sliced
            + (f", top-{self.kept} labels" if self.kept else "")
        )

    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, soft labels and targets, on the CPU; with at least three rows, one is ignored."""
        numbers = torch.arange(self.rows * self.classes, dtype=torch.float64, device="cpu")
        shape = (self.rows, self.classes)
        target = torch.arange(self.rows, device="cpu") * 7 % self.classes
        if self.rows > 2:
            target[1] = -100
        return (
            (3 * torch.sin(1.3 * numbers + 1)).view(shape).to(self.logits),
            (2 * torch.cos(0.7 * numbers)).view(shape).to(self.soft_labels),
            target,
        )

    def top_k(self, soft_labels: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Top-k labels with some of the soft labels, and the equivalent dense labels."""
        rows, classes = (torch.arange(n, device="cpu") for n in (self.rows, self.kept))
        indices = rows.unsqueeze(-1) % 3 + classes * 3
        values, rest = soft_labels.gather(-1, indices), soft_labels[:, -1]
        dense = TopKLabels(values, indices, rest).dense(self.classes)
        return (values, indices, rest), dense

    def mixed_labels(self) -> tuple[Tensor, ...]:
        """Other targets and weights, on the CPU; empty if the labels are not mixed."""
        if not self.mixed:
            return ()
        rows = torch.arange(self.rows, device="cpu")
        other_target = (rows * 3 + 1) % self.classes
        other_target[:: max(self.rows - 1, 1)] = -100  # the first and the last row have one label
        other_target[1:2] = -100
        return other_target, 0.3 + 0.4 * (rows % 2).double()

    def placed(self, x: Tensor) -> Tensor:
        """The rows of x, for sliced cases as a slice (B, T, ...) of a longer tensor."""
        if not self.sliced:
            return x
        groups = x.unflatten(0, (2, -1))
        return torch.cat((groups, groups[:, :1]), 1)[:, :-1]


_F64, _F32, _BF16, _F16 = torch.float64, torch.float32, torch.bfloat16, torch.float16

QUICK = (
    Case(70, 10, _F32, _F32),
    Case(3, 1000, _F16, _F32, "none"),
    Case(70, 10, _F32, _F32, mixed=True),
    Case(6, 300, _F32, _BF16, mixed=True, sliced=True),
    Case(6, 300, _F16, _F32, kept=5),
)
"""Cases with several rows per warp and one row per warp or block, with the code of both reductions,
float16 factors, two labels per row, groups of rows, and top-k labels."""

FULL = (
    *QUICK,
    *(
        Case(5, classes, types[0], types[1], ("mean", "sum", "none")[i % 3], (None, 2.0)[i % 2])
        for i, (classes, types) in enumerate(
            itertools.product(
                (1, 33, 257, 1001, 4096, 21841, 50257),
                ((_F32, _F32), (_BF16, _BF16), (_F16, _F16), (_BF16, _F32), (_F64, _F64)),
            )
        )
    ),
)


# Relative to the largest element: roundings of the sums, and one or two of the stored values.
_TOLERANCE = {_F64: 1e-9, _F32: 1e-4, _BF16: 1.6e-2, _F16: 2e-3}
_UPSTREAM = 3.0


def _difference(place: Place, case: Case) -> str | None:
    """Compare the kernels with the reference; returns a description of an error, or None."""
    kernels, device = place
    operators = ops.TRITON_OPERATORS if kernels == "triton" else ops.BEST_OPERATORS
    logits, soft_labels, target = case.inputs()
    mixed = case.mixed_labels()
    reduction = ("none", "mean", "sum").index(case.reduction)
    temperature = case.soft_label_temperature

    # Only dense labels have a gradient.
    fields: tuple[Tensor, ...] = (soft_labels,)
    if case.kept:
        fields, soft_labels = case.top_k(soft_labels)
    requested = (True, not case.kept)
    z, s = logits.double().requires_grad_(), soft_labels.double().requires_grad_()
    loss = reference_loss(
        z, s, target, *mixed, reduction=case.reduction, soft_label_temperature=temperature
    )
    wanted = torch.autograd.grad(loss, (z, s), torch.full_like(loss, _UPSTREAM))

    kernel = operators.top_k_loss_and_gradients if case.kept else operators.loss_and_gradients
    outputs = kernel(
        *(case.placed(x.to(device)) for x in (logits, *fields, target)),
        *(0.1, 0.1, False, temperature, -100, reduction, True, *((True,) if requested[1] else ())),
        *(case.placed(x.to(device)) for x in mixed),
    )
    upstream = torch.full_like(outputs[0], _UPSTREAM)
    answers = [("loss", outputs[0], loss.detach(), 1e-5)]
    for name, pair, expected in zip(
        ("gradient of the logits", "gradient of the soft labels"),
        ops.unpack_gradients(outputs, *requested),
        wanted,
        strict=True,
    ):
        if pair is None:
            continue
        operators.scale_gradient_(pair[0], upstream, pair[1])
        # With one class, the gradient is zero up to rounding; the terms that cancel have size 1.
        size = max(expected.abs().max().item(), 1.0 if case.classes == 1 else 0.0)
        answers.append((name, pair[0], expected, _TOLERANCE[pair[0].dtype] * size))
    for name, got, expected, tolerance in answers:
        error = (got.to("cpu").double().reshape(expected.shape) - expected).abs().max().item()
        if not error <= tolerance:
            return f"the {name} is off by {error:.2g}, and rounding explains {tolerance:.2g}"
    return None


# ---- in full, for every backend ------------------------------------------------------------------


def self_check() -> dict[str, str]:
    """Compare every backend with the reference implementation, on all devices that it supports.

    This takes a second on a CPU. On a GPU, the Triton kernels have to be compiled, which takes
    minutes the first time.

    Returns:
        For each of :func:`gift_fast.backends`: ``"ok"``; ``"no device: ..."`` if no device can run
        its kernels; why it is not available; or a description of the failure.

    Example:
        >>> self_check()["reference"]
        'ok'
    """
    results = {}
    for name, reason in ops.backends().items():
        devices = _devices(name)
        if ops.UNAVAILABLE[name] is not None:
            results[name] = reason
        elif name == "reference":
            results[name] = _check_reference()
        elif not devices:
            results[name] = "no device: the kernels are installed, but there is no GPU"
        else:
            results[name] = "; ".join(_results(name, devices)) or "ok"
    return results


def _devices(kernels: str) -> list[torch.device]:
    if kernels not in CHECKED:
        return [torch.device("cpu")]
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    serves = ("cuda",) if kernels == "cuda" else ops.GPU_DEVICES
    if accelerator is None or accelerator.type not in serves:
        return []
    return [
        torch.device(accelerator.type, index) for index in range(torch.accelerator.device_count())
    ]


def _results(kernels: str, devices: list[torch.device]) -> Iterable[str]:
    """Yield a message for each device on which the kernels fail."""
    for device in devices:
        failures = _in_a_thread((kernels, device), FULL)
        if failures is None:
            yield f"not checked on {device}: out of memory"
        elif failures:
            yield f"failed on {device}: {failures[0].reason}"


def _check_reference() -> str:
    """Check one row by hand: z = (3, 4) and t = (1/2, 1/2) have the cosine 7 / (5 sqrt 2)."""
    z = torch.tensor([[3.0, 4.0]], dtype=torch.float64, device="cpu")
    s = torch.tensor([[1.0, 0.0]], dtype=torch.float64, device="cpu")
    loss = reference_loss(z, s, torch.tensor([1], device="cpu"), gamma=0.5, label_smoothing=0.0)
    error = abs(loss.item() - (1 - 7 / (5 * math.sqrt(2))))
    return "ok" if error < 1e-12 else f"failed: a loss is off by {error:.2g}"
