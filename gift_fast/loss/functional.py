"""The public functions of the loss: :func:`gift_loss` and :func:`refine_labels`."""

from __future__ import annotations

import torch
from torch import Tensor

from gift_fast.loss.arguments import (
    Backend,
    MixedLabels,
    Options,
    Reduction,
    Smoothing,
    absent_target,
    check_classes,
    check_mixed_labels,
    check_target_range,
    check_tensors,
    check_top_k,
    checked_options,
    known_options,
    weight_operand,
)
from gift_fast.loss.autograd import GiftLossFunction
from gift_fast.loss.dispatch import dispatch
from gift_fast.loss.operators import BEST_OPERATORS, CPU_LIBRARY, Operators
from gift_fast.loss.reference import autocast_off, compute_dtype, refine
from gift_fast.loss.top_k_autograd import TopKLossFunction
from gift_fast.loss.top_k_checks import check_top_k_values, may_read
from gift_fast.loss.top_k_dispatch import top_k_dispatch
from gift_fast.loss.top_k_labels import TopKLabels
from gift_fast.loss.torch_internals import (
    dispatch_modes,
    forward_mode,
    is_zerotensor,
    tracing,
    transforms_active,
)

_CPU_OPERATORS: Operators | None = None  # None without CPU kernels
if CPU_LIBRARY is not None:
    # The binding that bypasses the dispatcher, if this version of torch supports it.
    _CPU_OPERATORS = BEST_OPERATORS._replace(
        loss_and_gradients=getattr(
            CPU_LIBRARY, "loss_and_gradients", BEST_OPERATORS.loss_and_gradients
        ),
        top_k_loss_and_gradients=getattr(
            CPU_LIBRARY, "top_k_loss_and_gradients", BEST_OPERATORS.top_k_loss_and_gradients
        ),
    )
_PLAIN = (Tensor, torch.nn.Parameter)


def gift_loss(
    logits: Tensor,
    soft_labels: Tensor | TopKLabels,
    target: Tensor | None = None,
    other_target: Tensor | None = None,
    target_weight: Tensor | float | None = None,
    *,
    gamma: float = 0.1,
    label_smoothing: float = 0.1,
    smoothing: Smoothing = "uniform",
    soft_label_temperature: float | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    backend: Backend = "auto",
    check_indices: bool = False,
) -> Tensor:
    r"""One minus the cosine between the logits and the refined soft label (GIFT).

    With ``h`` the smoothed one-hot label of ``target``, the loss of a row is

    .. math:: 1 - \cos\bigl(z,\; \gamma\, h / |h| + (1 - \gamma)\, s / |s|\bigr)

    Norms are clamped to at least 1e-8 (z and the refined label) and 1e-12 (s), so gradients of zero
    rows are finite. In float16 they would still overflow, so the gradient of an all-zero float16
    row is scaled to a norm of at most 2^15 before the row's weight is applied.

    Classes are the last dimension, (..., C). :func:`torch.nn.functional.cross_entropy` expects them
    in the second dimension, (N, C, d1, ...); ``logits.movedim(1, -1)`` converts without a copy.

    With mixed labels (mixup, CutMix) the loss is ``w L(target) + (1 - w) L(other_target)``,
    computed in the same single pass. L is the reduced loss of one label, so each mean is taken over
    the valid rows of its own label.

    Args:
        logits: Student logits z, (..., C); float64, float32, bfloat16 or float16.
        soft_labels: Soft labels s, (..., C), of any of these types and on the same device: the
            teacher's logits (as in GIFT's public code), probabilities, or any other vector. Or
            :class:`gift_fast.TopKLabels`, the k largest values of each row.
        target: Hard labels, (...), int64 or int32: a class in [0, C) or ``ignore_index``. Optional
            if ``gamma`` is 0.
        other_target: Second hard labels of mixed rows, like ``target``. Default: ``None``.
        target_weight: w, the weight of ``target`` in mixed rows: a number in [0, 1] (the lambda of
            mixup and CutMix) or a tensor of such numbers, 0-d or (...), that does not require a
            gradient. Pass a tensor in compiled code, which is recompiled for every new number.
        gamma: Weight of the hard label in the refined label, in [0, 1].
        label_smoothing: alpha, the amount of smoothing of the hard label, in [0, 1].
        smoothing: How alpha is distributed. ``"uniform"``: alpha/C to every class, as PyTorch's
            ``label_smoothing`` does; ``"others"``: alpha/(C-1) to every wrong class, as GIFT's code
            does.
        soft_label_temperature: T; replaces the soft labels with softmax(s/T). ``None`` uses them
            unchanged.
        ignore_index: Rows with this target contribute neither to the loss nor to the gradient, and
            are not counted in the mean.
        reduction: ``"mean"`` over the valid rows, ``"sum"`` or ``"none"``.
        backend: ``"auto"`` selects the fastest of :func:`gift_fast.backends` for the device;
            ``"cpu"``, ``"cuda"``, ``"triton"`` and ``"reference"`` select one explicitly.
        check_indices: Whether to raise an error if a row of top-k labels contains an index twice.
            Synchronizes with the GPU. Ignored in compiled code and under ``torch.func``.

    Returns:
        The loss: a scalar, or (...) for ``reduction="none"``; float64 for float64 logits, float32
        otherwise. A mean over zero valid rows is NaN, as in ``F.cross_entropy``.

    The loss is twice differentiable in ``logits`` and ``soft_labels`` (for top-k labels, in
    ``values`` and ``rest``). In float32 its error is about 2e-7; near a perfect match the relative
    error of the gradient grows as 1e-7 / sqrt(1 - cos^2).

    Raises:
        TypeError: If an argument has the wrong type or dtype.
        ValueError: If shapes or devices do not match, an option is out of range, or (on the CPU)
            top-k labels without ``rest`` are not probabilities.
        IndexError: If a target or an index of top-k labels is out of range, on the CPU. GPUs raise
            a device-side assert.
        RuntimeError: If the backend is not available.

    Source: Shang, Sun and Lin, "GIFT: Unlocking Full Potential of Labels in Distilled Dataset at
    Near-zero Cost", ICLR 2025, section 4.

    Example:
        >>> import torch
        >>> from gift_fast import TopKLabels, gift_loss
        >>> student = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]], requires_grad=True)
        >>> teacher = torch.tensor([[3.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        >>> loss = gift_loss(student, teacher, torch.tensor([0, 2]))
        >>> loss.backward()
        >>> round(loss.item(), 3), tuple(student.grad.shape)
        (0.52, (2, 3))

        A batch mixed by CutMix, where 0.7 of every image belongs to ``target``:

        >>> target, other_target = torch.tensor([0, 2]), torch.tensor([2, 0])
        >>> mixed = gift_loss(student, teacher, target, other_target, 0.7)
        >>> one, other = (gift_loss(student, teacher, y) for y in (target, other_target))
        >>> torch.allclose(mixed, 0.7 * one + 0.3 * other)
        True

        The two largest probabilities of each row, with the remaining mass spread evenly:

        >>> labels = TopKLabels.from_dense(teacher.softmax(-1), k=2)
        >>> loss = gift_loss(student, labels, target)
        >>> torch.allclose(loss, gift_loss(student, labels.dense(3), target))
        True
    """
    compiling = torch.compiler.is_compiling()
    # Dynamo cannot trace the cache, but it can trace the checks.
    options = (checked_options if compiling else known_options)(
        gamma, label_smoothing, smoothing, soft_label_temperature, ignore_index, reduction
    )
    if target is None:
        if other_target is not None or target_weight is not None:
            raise TypeError("target must be given with other_target and target_weight, got None")
        target = absent_target(logits, options.gamma)
        options = options._replace(ignore_index=-100)
    if other_target is not None or target_weight is not None:
        other_target, target_weight = check_mixed_labels(target, other_target, target_weight)
    if isinstance(soft_labels, TopKLabels):
        if backend == "auto" and not (compiling or check_indices):
            loss = _plain_top_k(logits, soft_labels, target, other_target, target_weight, options)
            if loss is not None:
                return loss
        return top_k_dispatch(
            logits,
            soft_labels,
            target,
            other_target,
            target_weight,
            options,
            backend,
            check_indices,
        )
    if not compiling:
        # The fast path of a training loop on the CPU, with cheap checks only. The kernel has its
        # own checks; for what it rejects, the message is created below.
        operators = _CPU_OPERATORS  # None: not built
        plain = (
            backend == "auto"
            and type(logits) in _PLAIN
            and type(soft_labels) in _PLAIN
            and type(target) is Tensor
            and logits.is_cpu
            and soft_labels.is_cpu
            and target.is_cpu
            and 2 <= logits.dim() <= 3
            and not (logits.is_nested or soft_labels.is_nested)
            and not (logits.is_neg() or soft_labels.is_neg() or target.is_neg())
            and not (is_zerotensor(logits) or is_zerotensor(soft_labels))
            and forward_mode._current_level < 0
            and not transforms_active()
            and not dispatch_modes()
            and not tracing()
        )
        mixed: MixedLabels = ()
        if other_target is not None and target_weight is not None and plain:
            plain = _are_plain(other_target, target_weight)
            if plain:
                mixed = (other_target, weight_operand(target_weight, target))
        if plain and operators is not None:
            try:
                if not torch.is_grad_enabled():
                    return operators.loss_and_gradients(
                        logits, soft_labels, target, *options, False, False, *mixed
                    )[0]
                return GiftLossFunction.apply(  # type: ignore[no-any-return]
                    logits, soft_labels, target, mixed, options, operators
                )
            except (TypeError, ValueError, RuntimeError) as error:
                rejected = error
            # Outside of the handler, so that there is one exception, not a chain of two.
            try:
                check_tensors(logits=logits, soft_labels=soft_labels, target=target)
                if mixed:
                    check_tensors(logits=logits, other_target=mixed[0])
                raise rejected
            finally:
                del rejected  # its traceback refers to this frame and its tensors
    return dispatch(logits, soft_labels, target, other_target, target_weight, options, backend)


def _plain_top_k(
    logits: Tensor,
    labels: TopKLabels,
    target: Tensor,
    other_target: Tensor | None,
    target_weight: Tensor | float | None,
    options: Options,
) -> Tensor | None:
    """Call the CPU kernel directly, as in :func:`gift_loss`; ``None`` if that is not possible."""
    operators = _CPU_OPERATORS
    plain = (
        operators is not None
        and all(type(x) in _PLAIN for x in (logits, labels.values))
        and all(type(x) is Tensor for x in (labels.indices, target))
        and (labels.rest is None or type(labels.rest) in _PLAIN)
        and all(
            x.is_cpu and not (x.is_nested or x.is_neg() or is_zerotensor(x))
            for x in (logits, *labels, target)
            if x is not None
        )
        and 2 <= logits.dim() <= 3
        and forward_mode._current_level < 0
        and not transforms_active()
        and not dispatch_modes()
        and not tracing()
    )
    mixed: MixedLabels = ()
    if other_target is not None and target_weight is not None and plain:
        plain = _are_plain(other_target, target_weight)
        mixed = (other_target, weight_operand(target_weight, target))
    if not plain or operators is None:
        return None
    try:
        if not torch.is_grad_enabled():
            return operators.top_k_loss_and_gradients(
                logits, *labels, target, *options, False, *mixed
            )[0]
        return TopKLossFunction.apply(  # type: ignore[no-any-return]
            logits, *labels, target, mixed, options, operators
        )
    except (TypeError, ValueError, RuntimeError):
        return None  # the general path raises the error


def _are_plain(other_target: Tensor, target_weight: Tensor | float) -> bool:
    """Whether mixed labels can go straight to the CPU kernel."""
    tensors = [other_target]
    if isinstance(target_weight, Tensor):
        tensors.append(target_weight)
    return all(
        type(x) is Tensor and x.is_cpu and not (x.is_neg() or is_zerotensor(x)) for x in tensors
    )


def refine_labels(
    soft_labels: Tensor | TopKLabels,
    target: Tensor,
    *,
    gamma: float = 0.1,
    label_smoothing: float = 0.1,
    smoothing: Smoothing = "uniform",
    soft_label_temperature: float | None = None,
    num_classes: int | None = None,
) -> Tensor:
    r"""Compute the refined soft label, ``gamma * h / |h| + (1 - gamma) * s / |s|``.

    It can be used with another loss, or for inspection. It is implemented in plain PyTorch, runs on
    any device and is differentiable.

    Args:
        soft_labels: Soft labels s, (..., C); float64, float32, bfloat16 or float16. Or
            :class:`gift_fast.TopKLabels`, (..., k).
        target: Hard labels (...), int64 or int32, each a class in [0, C).
        gamma: Weight of the hard label, in [0, 1].
        label_smoothing: Amount of smoothing of the hard label, in [0, 1].
        smoothing: ``"uniform"`` or ``"others"``; see :func:`gift_loss`.
        soft_label_temperature: T; replaces s with softmax(s/T). ``None`` uses s unchanged.
        num_classes: C, required for top-k labels; ``None`` for dense ones.

    Returns:
        The refined labels, dense (..., C), also for top-k labels; float64 for float64 soft labels,
        float32 otherwise. They do not have unit norm.

    Raises:
        TypeError: If an argument has the wrong type or dtype.
        ValueError: If shapes or devices do not match, or an option is out of range.
        IndexError: If a target or an index of top-k labels is out of range, on the CPU.

    Source: Shang, Sun and Lin, ICLR 2025, section 4.

    Example:
        >>> import torch
        >>> from gift_fast import refine_labels
        >>> refine_labels(torch.tensor([[3.0, 4.0]]), torch.tensor([0]), label_smoothing=0.0)
        tensor([[0.6400, 0.7200]])
    """
    options = checked_options(
        gamma, label_smoothing, smoothing, soft_label_temperature, -100, "none"
    )
    if isinstance(soft_labels, TopKLabels):
        soft_labels = _dense(soft_labels, num_classes, options.soft_label_temperature)
    elif num_classes is not None:
        raise ValueError(f"num_classes must be None for dense labels, got {num_classes}")
    check_tensors(soft_labels=soft_labels, target=target)
    num_classes = soft_labels.shape[-1]
    check_classes(num_classes, options.smooth_others)
    if not torch.compiler.is_compiling() and not transforms_active() and target.is_cpu:
        check_target_range("target", target, num_classes, None)
    with autocast_off(soft_labels.device.type):
        return refine(
            soft_labels.to(compute_dtype(soft_labels)),
            target,
            options.gamma,
            options.label_smoothing,
            smoothing,
            options.soft_label_temperature,
        )


def _dense(labels: TopKLabels, num_classes: int | None, temperature: float | None) -> Tensor:
    """Check top-k labels and convert them to dense labels."""
    if num_classes is None:
        raise TypeError("num_classes must be given for top-k labels")
    dense = labels.dense(num_classes)
    check_top_k(dense, labels, temperature)
    if may_read(labels.values):
        everywhere = torch.ones_like(labels.values[..., 0], dtype=torch.bool)
        check_top_k_values(labels, num_classes, temperature, everywhere)
    return dense
