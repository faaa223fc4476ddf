"""The public loss: :func:`gift_loss`, :class:`GIFTLoss` and :func:`refine_labels`."""

from __future__ import annotations

import math
import sys
from functools import lru_cache
from numbers import Integral, Real

import torch
from torch import Tensor

from gift_fast.loss import self_check
from gift_fast.loss.autograd import REDUCTIONS, GiftLossFunction, GiftRowsFunction, Options
from gift_fast.loss.operators import (
    BEST_OPERATORS,
    CPU_LIBRARY,
    GPU_DEVICES,
    TRITON_OPERATORS,
    UNAVAILABLE,
    Operators,
    backends,
)
from gift_fast.loss.reference import (
    COSINE_EPS,
    ZERO_ROW_GRADIENT,
    autocast_off,
    compute_dtype,
    reduce_rows,
    refine,
    soft_labels_factor,
    valid_rows,
    widened,
)
from gift_fast.loss.torch_internals import (
    dispatch_modes,
    forward_mode,
    is_tracked,
    is_zerotensor,
    only_vmap_and_grad,
    tracing,
    transforms_active,
)

FLOAT_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
TARGET_TYPES = (torch.int64, torch.int32)
SMOOTHINGS = ("uniform", "others")

_CPU_OPERATORS: Operators | None = None  # without CPU kernels
if CPU_LIBRARY is not None:
    # The binding past the dispatcher, where this torch has what it needs.
    _CPU_OPERATORS = BEST_OPERATORS._replace(
        loss_and_gradients=getattr(
            CPU_LIBRARY, "loss_and_gradients", BEST_OPERATORS.loss_and_gradients
        )
    )
_PLAIN = (Tensor, torch.nn.Parameter)


# ---- arguments ----------------------------------------------------------------------------------


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


def _one_of(name: str, value: object, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def _temperature(value: object) -> float | None:
    if value is None:
        return None
    number = _number("soft_label_temperature", value)
    if not 0.0 < number < math.inf:
        raise ValueError(f"soft_label_temperature must be positive and finite, got {number}")
    return number


@lru_cache(maxsize=256, typed=True)
def _options(
    gamma: float,
    label_smoothing: float,
    smoothing: str,
    soft_label_temperature: float | None,
    ignore_index: int,
    reduction: str,
) -> Options:
    """The options, checked; cached, since a training loop passes the same ones every time."""
    _one_of("smoothing", smoothing, SMOOTHINGS)
    _one_of("reduction", reduction, tuple(REDUCTIONS))
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


def _check_tensors(**tensors: Tensor) -> None:
    """The types, dtypes, shapes and devices of (logits,) soft_labels and target, by name."""
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
        expected = TARGET_TYPES if name == "target" else FLOAT_TYPES
        if tensor.dtype not in expected:
            names = ", ".join(str(dtype).removeprefix("torch.") for dtype in expected)
            raise TypeError(f"{name} must have one of the dtypes {names}, got {tensor.dtype}")
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
    (first_name, first), *others = tensors.items()
    shape = tuple(first.shape)
    if len(shape) == 0 or shape[-1] == 0:
        raise ValueError(f"{first_name} must have the shape (..., C) with C >= 1, got {shape}")
    for name, tensor in others:
        if name == "target" and tensor.shape != first.shape[:-1]:
            raise ValueError(
                f"target must have the shape of {first_name} without its last dimension "
                f"{shape[:-1]}, got {tuple(tensor.shape)}"
            )
        if name == "soft_labels" and tensor.shape != first.shape:
            raise ValueError(
                f"soft_labels must have the shape of {first_name} {shape}, "
                f"got {tuple(tensor.shape)}"
            )
        if tensor.device != first.device:
            raise ValueError(
                f"{name} must be on the device of {first_name} {first.device}, got {tensor.device}"
            )


def _check_classes(num_classes: int, smooth_others: bool) -> None:
    if smooth_others and num_classes == 1:
        raise ValueError("smoothing='others' needs at least 2 classes, got C = 1")


# ---- dispatch -----------------------------------------------------------------------------------


_SERVES = {"cpu": ("cpu",), "cuda": ("cuda",), "triton": GPU_DEVICES}


def _backend(name: str, device_type: str) -> str:
    """The backend that runs: the one named, or for "auto" the best one that the device has."""
    if name == "auto":
        for kernels, devices in _SERVES.items():
            if device_type in devices and UNAVAILABLE[kernels] is None:
                return kernels
        return "reference"
    _one_of("backend", name, ("auto", *UNAVAILABLE))
    reason = backends()[name]
    if reason != "available":
        raise RuntimeError(f"backend={name!r} is not available: {reason}")
    if device_type not in _SERVES.get(name, (device_type,)):
        raise ValueError(f"backend={name!r} cannot run on the device of logits, {device_type!r}")
    return name


def _is_distributed(*tensors: Tensor) -> bool:
    """Whether one of them is a DTensor, for which the operators have no sharding rule."""
    module = sys.modules.get("torch.distributed.tensor")  # imported, if there is one
    return module is not None and any(isinstance(tensor, module.DTensor) for tensor in tensors)


def _transformed(
    logits: Tensor, soft_labels: Tensor, target: Tensor, options: Options, operators: Operators
) -> Tensor:
    """The loss under ``torch.func``: fused rows, and a reduction that the transforms see."""
    asked = (is_tracked(logits), is_tracked(soft_labels))
    # Half gradients are rounded by the cast's derivative, after the upstream factor.
    dtype = compute_dtype(logits)
    z = widened(logits, dtype, COSINE_EPS * ZERO_ROW_GRADIENT)
    s = widened(
        soft_labels, dtype, soft_labels_factor(options.gamma, options.soft_label_temperature)
    )
    rows_options = options._replace(reduction=0)
    rows: Tensor = GiftRowsFunction.apply(z, s, target, rows_options, asked, operators)[0]
    valid = valid_rows(target, options.ignore_index)
    return reduce_rows(rows, valid, options.reduction_name)


def _check_target_range(target: Tensor, num_classes: int, ignore_index: int | None) -> None:
    """What the CPU kernel checks as it goes, for plain PyTorch on the CPU."""
    wrong = (target < 0) | (target >= num_classes)
    allowed = f"a class in [0, {num_classes})"
    if ignore_index is not None:
        wrong &= target != ignore_index
        allowed += f" or ignore_index ({ignore_index})"
    if wrong.any():
        row = int(wrong.reshape(-1).nonzero()[0])
        value = int(target.reshape(-1)[row])
        raise IndexError(f"target must be {allowed}, got {value} in row {row}")


def _dispatch(
    logits: Tensor, soft_labels: Tensor, target: Tensor, options: Options, backend: str
) -> Tensor:
    """Every call but the plainest: any shape, backend, transform, and compiled code."""
    _check_tensors(logits=logits, soft_labels=soft_labels, target=target)
    num_classes = logits.shape[-1]
    _check_classes(num_classes, options.smooth_others)
    chosen = _backend(backend, logits.device.type)

    compiling = torch.compiler.is_compiling()
    transformed = transforms_active()
    if not compiling and _is_distributed(logits, soft_labels, target):
        if backend not in ("auto", "reference"):
            raise ValueError(f"backend={backend!r} cannot run on a DTensor; 'reference' can")
        chosen = "reference"
    # Forward mode has no fused rule: the definition is right there, a kernel would say zero. Nor
    # do the transforms of torch.func take an operator with a derivative into a compiled graph.
    dual = not compiling and forward_mode._current_level >= 0
    no_rule = transformed and (compiling or not only_vmap_and_grad())
    # The first call on a GPU checks its kernels. Graphs do that when they run: operators.py.
    if (
        not compiling
        and chosen in self_check.CHECKED
        and (chosen, logits.device) not in self_check.TRUSTED
        and not self_check.trusts(chosen, logits)
    ):
        self_check.reject(chosen, logits.device, named=backend != "auto")
        chosen = "reference"
    if chosen == "reference" or dual or no_rule:
        if logits.device.type == "cpu" and not compiling and not transformed:
            _check_target_range(target, num_classes, options.ignore_index)
        return options.reference(logits, soft_labels, target)

    operators = TRITON_OPERATORS if backend == "triton" else BEST_OPERATORS
    leading = target.shape
    rows = (
        logits.reshape(-1, num_classes),
        soft_labels.reshape(-1, num_classes),
        target.reshape(-1),
    )
    if compiling:
        grad = torch.is_grad_enabled()
        asked = (grad and logits.requires_grad, grad and soft_labels.requires_grad)
        if torch.compiler.is_exporting():  # whoever loads the graph may train with it
            asked = (True, True)
        loss: Tensor = operators.gift_loss(*rows, *options, *asked)[0]
    elif transformed:
        loss = _transformed(*rows, options, operators)
    elif torch.is_grad_enabled():
        loss = GiftLossFunction.apply(*rows, options, operators)
    else:
        loss = operators.loss_and_gradients(*rows, *options, False, False)[0]
    return loss.reshape(leading) if options.reduction == REDUCTIONS["none"] else loss


def gift_loss(
    logits: Tensor,
    soft_labels: Tensor,
    target: Tensor,
    *,
    gamma: float = 0.1,
    label_smoothing: float = 0.1,
    smoothing: str = "uniform",
    soft_label_temperature: float | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    backend: str = "auto",
) -> Tensor:
    r"""One minus the cosine between the logits and the refined soft label (GIFT).

    With ``h`` the smoothed one-hot label of ``target``, a row's loss is

    .. math:: 1 - \cos\bigl(z,\; \gamma\, h / |h| + (1 - \gamma)\, s / |s|\bigr)

    Norms are bounded from below by 1e-8 (z and the refined label) and 1e-12 (s), so that zero rows
    give finite gradients. A gradient of 1e8 would still be infinite in float16, so the gradient of
    an all-zero float16 row is scaled to a norm of at most 2^15, before its weight.

    Args:
        logits: Student logits z, (..., C); float64, float32, bfloat16 or float16.
        soft_labels: Soft labels s, (..., C), of any of these types: the teacher's raw logits (what
            GIFT's public code uses), probabilities, or any other vector. On the device of logits.
        target: Hard labels, (...), int64 or int32: a class in [0, C), or `ignore_index`.
        gamma: Weight of the hard label in the refined one, in [0, 1].
        label_smoothing: alpha, the mass taken from the hard label, in [0, 1].
        smoothing: Where alpha goes. ``"uniform"``: alpha/C to every class, as in PyTorch's
            ``label_smoothing``; ``"others"``: alpha/(C-1) to each wrong class, as in GIFT's code.
        soft_label_temperature: T; the soft labels are first replaced with softmax(s/T). ``None``:
            taken as they are.
        ignore_index: Rows with this target have no loss, no gradient, and no part in the mean.
        reduction: ``"mean"`` over the valid rows, ``"sum"``, or ``"none"``.
        backend: ``"auto"`` takes the fastest that :func:`gift_fast.backends` has for the device;
            ``"cpu"``, ``"cuda"``, ``"triton"`` or ``"reference"`` insists on one.

    Returns:
        The loss: a scalar, or (...) for ``reduction="none"``. float64 for float64 logits, float32
        otherwise; sums are taken in that type too. A mean over no valid row is NaN, as in
        ``F.cross_entropy``.

    Differentiable in ``logits`` and ``soft_labels``, twice too. Float32 resolves the loss to about
    2e-7; near a perfect match the gradient's relative error grows as 1e-7 / sqrt(1 - cos^2).

    Raises:
        TypeError: An argument of the wrong type or dtype.
        ValueError: Shapes or devices that differ, an option out of its range.
        IndexError: A target that is no class, on the CPU. On a GPU it trips a device assert.
        RuntimeError: A backend that is not available.

    Source: Shang, Sun and Lin, "GIFT: Unlocking Full Potential of Labels in Distilled Dataset at
    Near-zero Cost", ICLR 2025, section 4.

    Example:
        >>> import torch
        >>> from gift_fast import gift_loss
        >>> student = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]], requires_grad=True)
        >>> teacher = torch.tensor([[3.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        >>> loss = gift_loss(student, teacher, torch.tensor([0, 2]))
        >>> loss.backward()
        >>> round(loss.item(), 3), tuple(student.grad.shape)
        (0.52, (2, 3))
    """
    if not torch.compiler.is_compiling():
        try:
            options = _options(
                gamma, label_smoothing, smoothing, soft_label_temperature, ignore_index, reduction
            )
        except TypeError:  # the cache's own, for a list: the checks below have better words
            options = None
        if options is None:
            options = _options.__wrapped__(
                gamma, label_smoothing, smoothing, soft_label_temperature, ignore_index, reduction
            )
        # A training loop on the CPU, almost always: no check here costs more than the kernel. The
        # kernel makes its own, and what it rejects is put into words below.
        if (
            backend == "auto"
            and _CPU_OPERATORS is not None
            and type(logits) in _PLAIN
            and type(soft_labels) in _PLAIN
            and type(target) is Tensor
            and logits.is_cpu
            and soft_labels.is_cpu
            and target.is_cpu
            and logits.dim() == 2
            and not (logits.is_nested or soft_labels.is_nested)
            and not (logits.is_neg() or soft_labels.is_neg() or target.is_neg())
            and not (is_zerotensor(logits) or is_zerotensor(soft_labels))
            and forward_mode._current_level < 0
            and not transforms_active()
            and not dispatch_modes()
            and not tracing()
        ):
            try:
                if not torch.is_grad_enabled():
                    return _CPU_OPERATORS.loss_and_gradients(
                        logits, soft_labels, target, *options, False, False
                    )[0]
                return GiftLossFunction.apply(  # type: ignore[no-any-return]
                    logits, soft_labels, target, options, _CPU_OPERATORS
                )
            except (TypeError, ValueError, RuntimeError) as error:
                rejected = error
            # Outside of the handler: one exception, and not a second one in the course of a first.
            try:
                _check_tensors(logits=logits, soft_labels=soft_labels, target=target)
                raise rejected
            finally:
                del rejected  # its traceback holds this frame, and with it the tensors
    else:
        # Dynamo does not look into a cache; it traces the checks themselves.
        options = _options.__wrapped__(
            gamma, label_smoothing, smoothing, soft_label_temperature, ignore_index, reduction
        )
    return _dispatch(logits, soft_labels, target, options, backend)


class GIFTLoss(torch.nn.Module):
    """:func:`gift_loss` as a module, with its options fixed; in the place of a criterion.

    Args:
        gamma: Weight of the hard label in the refined one, in [0, 1].
        label_smoothing: Mass taken from the hard label, in [0, 1].
        smoothing: ``"uniform"`` or ``"others"``.
        soft_label_temperature: Softmax temperature of the soft labels, or ``None``.
        ignore_index: Target of rows to leave out.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        backend: ``"auto"``, or a key of :func:`gift_fast.backends`.

    Raises:
        TypeError: An option of the wrong type.
        ValueError: An option out of its range; as :func:`gift_loss`, but at once.

    Example:
        >>> import torch
        >>> from gift_fast import GIFTLoss
        >>> criterion = GIFTLoss(gamma=0.1)
        >>> criterion(torch.eye(3), torch.eye(3), torch.arange(3)).shape
        torch.Size([])
    """

    def __init__(
        self,
        gamma: float = 0.1,
        label_smoothing: float = 0.1,
        smoothing: str = "uniform",
        soft_label_temperature: float | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        _options.__wrapped__(
            gamma, label_smoothing, smoothing, soft_label_temperature, ignore_index, reduction
        )
        _one_of("backend", backend, ("auto", *UNAVAILABLE))
        self.gamma = gamma
        self.label_smoothing = label_smoothing
        self.smoothing = smoothing
        self.soft_label_temperature = soft_label_temperature
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.backend = backend

    def forward(self, logits: Tensor, soft_labels: Tensor, target: Tensor) -> Tensor:
        """The loss of logits (..., C) and soft labels (..., C) under hard labels (...)."""
        return gift_loss(
            logits,
            soft_labels,
            target,
            gamma=self.gamma,
            label_smoothing=self.label_smoothing,
            smoothing=self.smoothing,
            soft_label_temperature=self.soft_label_temperature,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        """The options, for ``print``."""
        return (
            f"gamma={self.gamma}, label_smoothing={self.label_smoothing}, "
            f"smoothing={self.smoothing!r}, "
            f"soft_label_temperature={self.soft_label_temperature}, "
            f"ignore_index={self.ignore_index}, reduction={self.reduction!r}, "
            f"backend={self.backend!r}"
        )


def refine_labels(
    soft_labels: Tensor,
    target: Tensor,
    *,
    gamma: float = 0.1,
    label_smoothing: float = 0.1,
    smoothing: str = "uniform",
    soft_label_temperature: float | None = None,
) -> Tensor:
    r"""The refined soft label alone, ``gamma * h / |h| + (1 - gamma) * s / |s|``.

    For use under another loss, and to look at. Plain PyTorch, on any device; differentiable.

    Args:
        soft_labels: Soft labels s, (..., C); float64, float32, bfloat16 or float16.
        target: Hard labels (...), int64 or int32, each a class in [0, C).
        gamma: Weight of the hard label, in [0, 1].
        label_smoothing: Mass taken from the hard label, in [0, 1].
        smoothing: ``"uniform"`` or ``"others"``; see :func:`gift_loss`.
        soft_label_temperature: T; s is first replaced with softmax(s/T). ``None``: taken as it is.

    Returns:
        The refined labels, (..., C); float64 for float64 soft labels, float32 otherwise. Not of
        unit norm: :func:`gift_loss` takes a cosine with it.

    Raises:
        TypeError: An argument of the wrong type or dtype.
        ValueError: Shapes or devices that differ, an option out of its range.
        IndexError: A target that is no class, on the CPU.

    Source: Shang, Sun and Lin, ICLR 2025, section 4.

    Example:
        >>> import torch
        >>> from gift_fast import refine_labels
        >>> refine_labels(torch.tensor([[3.0, 4.0]]), torch.tensor([0]), label_smoothing=0.0)
        tensor([[0.6400, 0.7200]])
    """
    options = _options.__wrapped__(
        gamma, label_smoothing, smoothing, soft_label_temperature, -100, "none"
    )
    _check_tensors(soft_labels=soft_labels, target=target)
    num_classes = soft_labels.shape[-1]
    _check_classes(num_classes, options.smooth_others)
    if not torch.compiler.is_compiling() and not transforms_active() and target.is_cpu:
        _check_target_range(target, num_classes, None)
    with autocast_off(soft_labels.device.type):
        return refine(
            soft_labels.to(compute_dtype(soft_labels)),
            target,
            options.gamma,
            options.label_smoothing,
            smoothing,
            options.soft_label_temperature,
        )
