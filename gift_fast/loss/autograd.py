"""The fused loss as ``torch.autograd.Function``: one for plain eager code, one for ``torch.func``.

Both compute the gradient in the forward pass, where the row is in cache, and only multiply it with
the upstream gradient in the backward pass. Second derivatives come from
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
    saved: list[Tensor], options: Options, asked: tuple[bool, bool], grad_output: Tensor
) -> list[Tensor | None]:
    """The gradients once more, by the definition and with a graph of their own."""
    # Aliases: the derivatives to the inputs alone are wanted. Where one is computed from the other,
    # the engine would go that way too, and run the hooks of both once more.
    logits, soft_labels = (x.view_as(x) for x in saved[:2])
    inputs = [x for x, wanted in zip((logits, soft_labels), asked, strict=True) if wanted]
    loss = options.reference(logits, soft_labels, *saved[2:])
    grads = iter(torch.autograd.grad(loss, inputs, grad_output, create_graph=True))
    return [next(grads) if wanted else None for wanted in asked]


_NO_INPUTS = (
    "gift_loss keeps no inputs for second derivatives under saved-tensor hooks such as "
    "save_on_cpu, nor inference tensors under any; call it outside of them, or with "
    "backend='reference', for create_graph=True"
)


def keep(
    ctx: Any,
    gradients: list[Tensor],
    logits: Tensor,
    others: tuple[Tensor | None, ...],
    needed: bool = False,
) -> None:
    """Keeps the gradients for the backward pass, and the inputs where that is free or ``needed``.

    Mostly only second derivatives read the inputs. Those of inference mode, as of a teacher, are
    referred to, since autograd refuses to save them: nobody may have written to them in between,
    which nothing can check.
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
    """The inputs that :func:`keep` has kept, from the saved tensors."""
    inputs = list(saved)
    if isinstance(ctx.gradients, int):
        inputs = inputs[ctx.gradients :]
        if not inputs:
            raise RuntimeError(_NO_INPUTS)
    # Inference tensors take no part in a graph; their copies do.
    return [*inputs, *(None if x is None else x.clone() for x in ctx.referred)]


def handed_out(
    ctx: Any,
    asked: tuple[bool, bool],
    grad_output: Tensor,
    operators: Operators,
    saved: tuple[Any, ...] | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """The kept gradients times the upstream one, in place where nothing else reads them.

    ``saved``: the saved tensors, if they have been read; a checkpoint gives them once.
    """
    gradients = ctx.gradients
    hooked = isinstance(gradients, int)
    if hooked:
        # Without the inputs, which may end with the hooks' references to them.
        gradients = list((ctx.saved_tensors if saved is None else saved)[:gradients])
    elif not gradients:
        _ = ctx.saved_tensors  # a second backward pass: raises torch's own error
    if torch.compiler.is_compiling():
        # Compiled autograd traces this function. It cannot be asked whether the graph is kept.
        pairs = unpack_gradients([grad_output, *gradients], *asked)
        one, other = (pair and scaled_gradient(pair[0], grad_output, pair[1]) for pair in pairs)
        return one, other
    # Nothing may be written over that a kept graph or a batch of gradients reads once more.
    owned = not (graph_is_kept() or transforms_active() or is_legacy_batched(grad_output))
    if (
        owned
        and len(gradients) == 1
        and asked[0]
        and type(grad_output) is Tensor  # a fake one has no value to ask for
        and grad_output.is_cpu
        and grad_output.dim() == 0
        and grad_output.item() == 1.0
    ):
        # A shortcut for the most common case, which saves 6 us. No other reference to the gradient
        # may exist, here and below: autograd would copy it into .grad.
        return gradients.pop(), None

    pairs = unpack_gradients([grad_output, *gradients], *asked)
    if hooked or not owned:  # what a hook returned may be somebody else's too
        one, other = (pair and scaled_gradient(pair[0], grad_output, pair[1]) for pair in pairs)
        return one, other
    gradients.clear()
    for pair in pairs:
        if pair is not None:
            operators.scale_gradient_(pair[0], grad_output, pair[1])
    one, other = (pair and pair[0] for pair in pairs)
    return one, other


class GiftLossFunction(torch.autograd.Function):
    """The loss in plain eager mode: the cheapest way through autograd.

    The gradient is held on the context and handed out by the backward pass itself, not copied: the
    upstream gradient is one almost always, and any other factor is applied in place. A graph that
    is kept, or differentiated again, gets a copy.

    Under saved-tensor hooks (activation checkpointing, ``save_on_cpu``) the gradient is saved like
    any other tensor, so that they see all that is kept. The inputs, which second derivatives
    alone read, are saved where that is free: without hooks, and under a checkpoint.

    ``operators`` may hold a binding with the arguments of ``loss_and_gradients`` in its place.
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
        # Kept for the backward pass: which gradients `gradients` holds. `needs_input_grad` may say
        # something else there, if backward(inputs=...) asks for fewer.
        asked = ctx.needs_input_grad[:2]
        loss, *gradients = operators.loss_and_gradients(
            logits, soft_labels, target, *options, *asked, *mixed
        )
        # Of single rows the upstream gradient may be NaN or inf where the row is ignored, as under
        # a masked division: it must not reach the zeros of that row.
        ctx.ignored = (
            None if options.reduction else ignored_rows(options.ignore_index, target, *mixed[:1])
        )
        keep(ctx, gradients, logits, (soft_labels, target, *mixed))
        ctx.state = options, operators, asked
        return loss

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        options, operators, asked = ctx.state
        if torch.is_grad_enabled():  # create_graph=True
            grads = _differentiable_gradients(
                kept_inputs(ctx, ctx.saved_tensors), options, asked, grad_output
            )
            return *grads, None, None, None, None
        if ctx.ignored is not None:
            grad_output = grad_output.masked_fill(ctx.ignored, 0.0)
        return *handed_out(ctx, asked, grad_output, operators), None, None, None, None


@dataclass(frozen=True)
class RowsCall:
    """How :class:`GiftRowsFunction` is called, apart from its tensors.

    One object, since ``torch.func`` takes tuples apart once for every transform: with the options
    and operators as tuples that took half of the time of 32 per-sample gradients.

    Attributes:
        options: with ``reduction="none"``.
        asked: which gradients are asked for.
        operators: what computes them.
    """

    options: Options
    asked: tuple[bool, bool]
    operators: Operators

    def run(self, logits: Tensor, soft_labels: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        """The losses and gradients, without a derivative."""
        tensors = (logits, soft_labels, target)
        if target.dim() > 0:
            outputs = self.operators.loss_and_gradients(*tensors, *self.options, *self.asked)
            return tuple(outputs)
        matrix = (x.unsqueeze(0) for x in tensors)
        outputs = self.operators.loss_and_gradients(*matrix, *self.options, *self.asked)
        return tuple(x.squeeze(0) for x in outputs)


class GiftRowsFunction(torch.autograd.Function):
    """Row losses and their gradients under ``torch.func``: composable, without the reduction.

    Takes float32 or float64 logits and soft labels (N, C), target (N,), and a :class:`RowsCall`.
    Returns the rows' losses (N,) and the gradients (N, C): outputs, so that a transform can
    differentiate through them. One row may come as (C) and (): what vmap makes of them is a matrix.
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
        argnums = tuple(i for i in (0, 1) if ctx.call.asked[i])
        grads: list[Tensor | None] = [None] * 4
        if grad_rows is not None:
            # Over no valid row a mean's factor is infinite, and so may any row's be upstream.
            valid = valid_rows(target, ctx.call.options.ignore_index)
            grad_rows = torch.where(valid, grad_rows, 0.0)
            for i, gradient in zip(argnums, gradients, strict=True):
                grads[i] = grad_rows.unsqueeze(-1) * gradient
        if any(g is not None for g in grad_gradients):
            # The Hessian of each row times the upstream gradients, by the reference implementation.
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
        # Rows are independent, so a batch of matrices is a longer matrix. A batch of single rows is
        # one already.
        def batched(x: Tensor, dim: int | None) -> Tensor:
            if dim is None:
                return x.expand(info.batch_size, *x.shape)
            return x if dim == 0 else x.movedim(dim, 0)

        tensors = [*map(batched, (logits, soft_labels, target), in_dims[:3])]
        matrices = tensors[2].dim() > 1
        if matrices:
            tensors = [x.flatten(0, 1) for x in tensors]
        # At the last level plain tensors have come, and mostly nothing differentiates them.
        plain = not transforms_active()
        if plain and not (torch.is_grad_enabled() and any(x.requires_grad for x in tensors)):
            outputs = call.run(*tensors)
        else:
            outputs = GiftRowsFunction.apply(*tensors, call)
        if matrices:
            outputs = tuple(x.unflatten(0, (info.batch_size, -1)) for x in outputs)
        return outputs, (0,) * len(outputs)
