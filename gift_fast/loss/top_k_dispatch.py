"""Backend choice for top-k labels: kernels, sums in plain PyTorch, or the definition."""

from __future__ import annotations

import torch
from torch import Tensor

from gift_fast.loss.arguments import (
    REDUCTIONS,
    MixedLabels,
    Options,
    check_classes,
    check_target_range,
    check_tensors,
    check_top_k,
    weight_operand,
)
from gift_fast.loss.dispatch import matrix_of, running_backend
from gift_fast.loss.operators import BEST_OPERATORS, TRITON_OPERATORS
from gift_fast.loss.reference import valid_rows
from gift_fast.loss.top_k_autograd import TopKLossFunction
from gift_fast.loss.top_k_checks import check_no_duplicates, check_top_k_values, may_read
from gift_fast.loss.top_k_labels import TopKLabels
from gift_fast.loss.top_k_sums import top_k_loss
from gift_fast.loss.torch_internals import transforms_active


def top_k_dispatch(
    logits: Tensor,
    labels: TopKLabels,
    target: Tensor,
    other_target: Tensor | None,
    target_weight: Tensor | float | None,
    options: Options,
    backend: str,
    check_indices: bool,
) -> Tensor:
    """:func:`gift_fast.loss.dispatch.dispatch` for top-k labels."""
    hard = {"target": target}
    if other_target is not None:
        hard["other_target"] = other_target
    check_tensors(logits=logits, **hard)
    check_top_k(logits, labels, options.soft_label_temperature)
    values, indices, rest = labels
    num_classes = logits.shape[-1]
    check_classes(num_classes, options.smooth_others)
    tensors = {"logits": logits, "values": values, "indices": indices, **hard}
    if rest is not None:
        tensors["rest"] = rest
    chosen = running_backend(backend, tensors, target_weight)
    compiling, transformed = torch.compiler.is_compiling(), transforms_active()

    if check_indices and not (compiling or transformed):
        check_no_duplicates(indices, _labeled(hard, options))
    grad = torch.is_grad_enabled()
    labels_grad = grad and (values.requires_grad or (rest is not None and rest.requires_grad))
    # Kernels give the gradient of the logits alone, and know no transform.
    plain = chosen == "reference" or transformed
    plain = plain or (compiling and labels_grad and not torch.compiler.is_exporting())
    if plain:
        if may_read(logits):
            for name, one in hard.items():
                check_target_range(name, one, num_classes, options.ignore_index)
            temperature = options.soft_label_temperature
            check_top_k_values(labels, num_classes, temperature, _labeled(hard, options))
        if backend == "reference":
            return options.reference(logits, labels, target, other_target, target_weight)
        return top_k_loss(logits, labels, target, other_target, target_weight, options)

    operators = TRITON_OPERATORS if backend == "triton" else BEST_OPERATORS
    mixed: MixedLabels = ()
    if other_target is not None and target_weight is not None:
        mixed = (other_target, weight_operand(target_weight, target))
    leading = target.shape
    groups = len(leading) > 1
    logits, values, indices = (matrix_of(x, groups, 1) for x in (logits, values, indices))
    rest = None if rest is None else matrix_of(rest, groups, 0)
    target = matrix_of(target, groups, 0)
    if mixed:
        mixed = tuple(matrix_of(x, groups, 0) if x.dim() > 0 or not leading else x for x in mixed)
    fields = values, indices, rest
    if compiling:
        requested = grad and logits.requires_grad
        if torch.compiler.is_exporting():  # the loaded program may be trained
            requested = True
        loss: Tensor = operators.top_k_gift_loss(
            logits, *fields, target, *options, requested, *mixed
        )[0]
    elif grad:
        loss = TopKLossFunction.apply(logits, *fields, target, mixed, options, operators)
    else:
        loss = operators.top_k_loss_and_gradients(logits, *fields, target, *options, False, *mixed)[
            0
        ]
    return loss.reshape(leading) if options.reduction == REDUCTIONS["none"] else loss


def _labeled(hard: dict[str, Tensor], options: Options) -> Tensor:
    """The rows with a label that counts, bool (...)."""
    valid = [valid_rows(one, options.ignore_index) for one in hard.values()]
    return valid[0] | valid[-1]
