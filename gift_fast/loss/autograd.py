"""The fused loss as ``torch.autograd.Function``: one for plain eager code, one for ``torch.func``.

Both compute the gradient in the forward pass, while the row is in cache, and only multiply it by
the upstream gradient in the backward pass. Second derivatives are computed by
:mod:`gift_fast.loss.reference`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gift_fast.loss.arguments import MixedLabels, Options
from gift_fast.loss.operators import Operators, ignored_rows, scaled_gradient, unpack_gradients
from gift_fast.loss.reference import valid_rows
from gift_fast.loss.torch_internals import (
    CHECKPOINT,
    graph_is_kept,
    is_legacy_batched,
    saved_tensor_hooks,
    transforms_active,
)


def _differentiable_gradients(
    saved: list[Tensor], options: Options, requested: tuple[bool, bool], grad_output: Tensor
) -> list[Tensor | None]:
    """Compute the gradients again with the reference implementation, with a graph."""
    # Aliases, because only the derivatives with respect to the inputs are needed. If one input were
    # computed from the other, the engine would follow that path and run the hooks of both again.
    logits, soft_labels = (x.view_as(x) for x in saved[:2])
    inputs = [x for x, wanted in zip((logits, soft_labels), requested, strict=True) if wanted]
    loss = options.reference(logits, soft_labels, *saved[2:])
    grads = iter(torch.autograd.grad(loss, inputs, grad_output, create_graph=True))
    return [next(grads) if wanted else None for wanted in requested]


_NO_INPUTS = (
    "gift_loss does not save inputs for second derivatives under saved-tensor hooks such as "
    "save_on_cpu, nor inference tensors under any hooks; for create_graph=True, call it without "
    "hooks or with backend='reference'"
)


def keep(
    ctx: Any,
    gradients: list[Tensor],
    logits: Tensor,
    others: tuple[Tensor | None, ...],
    needed: bool = False,
) -> None:
    """Save the gradients for the backward pass, and the inputs if that is free or ``needed``.

    Usually only second derivatives read the inputs. Autograd cannot save inference tensors, such as
    a teacher's logits, so references to them are kept; in-place changes to them in between would
    not be detected.
    """
    inference = any(x is not None and x.is_inference() for x in others)
    hooks = saved_tensor_hooks()
    ctx.referred = others if inference else ()
    if hooks is None:
        ctx.gradients = gradients
        ctx.save_for_backward(logits, *(() if inference else others))
        return
    ctx.gradients = len(gradients)
    if needed or (hooks == CHECKPOINT and not inference):
        ctx.save_for_backward(*gradients, logits, *(() if inference else others))
    else:
        ctx.referred = ()
        ctx.save_for_backward(*gradients)


def kept_inputs(ctx: Any, saved: tuple[Any, ...]) -> list[Any]:
    """The inputs that :func:`keep` has saved."""
    inputs = list(saved)
    if isinstance(ctx.gradients, int):
        inputs = inputs[ctx.gradients :]
        if not inputs:
            raise RuntimeError(_NO_INPUTS)
    # Inference tensors cannot be part of a graph, but their copies can.
    return [*inputs, *(None if x is None else x.clone() for x in ctx.referred)]


def handed_out(
    ctx: Any,
    requested: tuple[bool, bool],
    grad_output: Tensor,
    operators: Operators,
    saved: tuple[Any, ...] | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Multiply the saved gradients by the upstream one, in place if nothing else reads them.

    ``saved`` are the saved tensors, if they have been read; a checkpoint returns them only once.
    """
    gradients = ctx.gradients
    hooked = isinstance(gradients, int)
    if hooked:
        # Without the inputs, whose memory can then be freed with the hooks' references.
        gradients = list((ctx.saved_tensors if saved is None else saved)[:gradients])
    elif not gradients:
        _ = ctx.saved_tensors  # a second backward pass: torch raises its error
    if torch.compiler.is_compiling():
        # Compiled autograd traces this function, and does not know whether the graph is retained.
        pairs = unpack_gradients([grad_output, *gradients], *requested)
        one, other = (pair and scaled_gradient(pair[0], grad_output, pair[1]) for pair in pairs)
        return one, other
    # Gradients that a retained graph or a batch of gradients reads again must not be overwritten.
    owned = not (graph_is_kept() or transforms_active() or is_legacy_batched(grad_output))
    if (
        owned
        and len(gradients) == 1
        and requested[0]
        and type(grad_output) is Tensor  # a fake tensor has no value
        and grad_output.is_cpu
        and grad_output.dim() == 0
        and grad_output.item() == 1.0
    ):
        # A shortcut for the most common case, which saves 6 us. Here and below, there must be no
        # other reference to the gradient, or autograd would copy it to .grad.
        return gradients.pop(), None

    pairs = unpack_gradients([grad_output, *gradients], *requested)
    if hooked or not owned:  # a tensor that a hook returns may be used elsewhere
        one, other = (pair and scaled_gradient(pair[0], grad_output, pair[1]) for pair in pairs)
        return one, other
    gradients.clear()
    for pair in pairs:
        if pair is not None:
            operators.scale_gradient_(pair[0], grad_output, pair[1])
    one, other = (pair and pair[0] for pair in pairs)
    return one, other


class GiftLossFunction(torch.autograd.Function):
    """The loss in plain eager mode, with minimal autograd overhead.

    The gradient is stored on the context, and the backward pass returns it without a copy: the
    upstream gradient is almost always one, and any other factor is applied in place. If the graph
    is retained or differentiated again, it returns a copy.

    Under saved-tensor hooks (activation checkpointing, ``save_on_cpu``), the gradient is saved like
    any other tensor, so that hooks see everything that is kept. The inputs, which only second
    derivatives read, are saved if that is free: without hooks, and under a checkpoint.

    ``operators`` can have a binding with the same arguments as its ``loss_and_gradients``.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        logits: Tensor,
        soft_labels: Tensor,
        target: Tensor,
        mixed: MixedLabels,
        options: Options,
        operators: Operators,
    ) -> Tensor:
        # The gradients that were computed. In the backward pass, `needs_input_grad` may differ, if
        # backward(inputs=...) requests fewer.
        requested = ctx.needs_input_grad[:2]
        loss, *gradients = operators.loss_and_gradients(
            logits, soft_labels, target, *options, *requested, *mixed
        )
        # With reduction="none", the upstream gradient of an ignored row may be NaN or inf, for
        # instance after a masked division. It must not be multiplied by the zeros of that row.
        ctx.ignored = (
            None if options.reduction else ignored_rows(options.ignore_index, target, *mixed[:1])
        )
        keep(ctx, gradients, logits, (soft_labels, target, *mixed))
        ctx.state = options, operators, requested
        return loss

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        options, operators, requested = ctx.state
        if torch.is_grad_enabled():  # create_graph=True
            grads = _differentiable_gradients(
                kept_inputs(ctx, ctx.saved_tensors), options, requested, grad_output
            )
            return *grads, None, None, None, None
        if ctx.ignored is not None:
            grad_output = grad_output.masked_fill(ctx.ignored, 0.0)
        return *handed_out(ctx, requested, grad_output, operators), None, None, None, None


@dataclass(frozen=True)
class RowsCall:
    """The arguments of :class:`GiftRowsFunction` that are not tensors.

    They are one object because ``torch.func`` flattens tuples for every transform: with tuples,
    this took half of the time of 32 per-sample gradients.

    Attributes:
        options: with ``reduction="none"``.
        requested: the gradients that are requested.
        operators: the kernels that compute them.
    """

    options: Options
    requested: tuple[bool, bool]
    operators: Operators

    def run(self, logits: Tensor, soft_labels: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        """Compute the losses and gradients, without autograd."""
        tensors = (logits, soft_labels, target)
        if target.dim() > 0:
            outputs = self.operators.loss_and_gradients(*tensors, *self.options, *self.requested)
            return tuple(outputs)
        matrix = (x.unsqueeze(0) for x in tensors)
        outputs = self.operators.loss_and_gradients(*matrix, *self.options, *self.requested)
        return tuple(x.squeeze(0) for x in outputs)


class GiftRowsFunction(torch.autograd.Function):
    """Row losses and their gradients under ``torch.func``: composable, without the reduction.

    Takes float32 or float64 logits and soft labels (N, C), target (N,), and a :class:`RowsCall`.
    Returns the losses of the rows (N,) and the gradients (N, C); they are outputs, so that a
    transform can differentiate through them. One row can be (C) and (), which vmap batches to a
    matrix.
    """

    @staticmethod
    def forward(  # noqa: D102
        logits: Tensor,
        soft_labels: Tensor,
        target: Tensor,
        call: RowsCall,
    ) -> tuple[Tensor, ...]:
        return call.run(logits, soft_labels, target)

    @staticmethod
    def setup_context(  # noqa: D102
        ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]
    ) -> None:
        *tensors, ctx.call = inputs
        ctx.save_for_backward(*tensors, *output[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(  # noqa: D102
        ctx: Any, grad_rows: Tensor | None, *grad_gradients: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        logits, soft_labels, target, *gradients = ctx.saved_tensors
        argnums = tuple(i for i in (0, 1) if ctx.call.requested[i])
        grads: list[Tensor | None] = [None] * 4
        if grad_rows is not None:
            # The upstream factor may be infinite, for instance of a mean without valid rows.
            valid = valid_rows(target, ctx.call.options.ignore_index)
            grad_rows = torch.where(valid, grad_rows, 0.0)
            for i, gradient in zip(argnums, gradients, strict=True):
                grads[i] = grad_rows.unsqueeze(-1) * gradient
        if any(g is not None for g in grad_gradients):
            # The Hessian of each row times the upstream gradients, from the reference
            # implementation.
            def total(z: Tensor, s: Tensor) -> Tensor:
                rows: Tensor = ctx.call.options.reference(z, s, target)
                return rows.sum()

            def along(z: Tensor, s: Tensor) -> Tensor:
                first = torch.func.grad(total, argnums)(z, s)
                products = [
                    (g * gradient).sum()
                    for g, gradient in zip(grad_gradients, first, strict=True)
                    if g is not None
                ]
                return torch.stack(products).sum()

            second = torch.func.grad(along, argnums)(logits, soft_labels)
            for i, product in zip(argnums, second, strict=True):
                before = grads[i]
                grads[i] = product if before is None else before + product
        return tuple(grads)

    @staticmethod
    def vmap(  # noqa: D102
        info: Any,
        in_dims: tuple[Any, ...],
        logits: Tensor,
        soft_labels: Tensor,
        target: Tensor,
        call: RowsCall,
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        # Rows are independent, so a batch of matrices is a longer matrix, and a batch of single
        # rows is a matrix.
        def batched(x: Tensor, dim: int | None) -> Tensor:
            if dim is None:
                return x.expand(info.batch_size, *x.shape)
            return x if dim == 0 else x.movedim(dim, 0)

        tensors = [*map(batched, (logits, soft_labels, target), in_dims[:3])]
        matrices = tensors[2].dim() > 1
        if matrices:
            tensors = [x.flatten(0, 1) for x in tensors]
        # At the last level, the tensors are plain and usually not differentiated.
        plain = not transforms_active()
        if plain and not (torch.is_grad_enabled() and any(x.requires_grad for x in tensors)):
            outputs = call.run(*tensors)
        else:
            outputs = GiftRowsFunction.apply(*tensors, call)
        if matrices:
            outputs = tuple(x.unflatten(0, (info.batch_size, -1)) for x in outputs)
        return outputs, (0,) * len(outputs)
