"""The fused loss of top-k labels as ``torch.autograd.Function``, in plain eager mode.

The kernels compute the loss and the gradient of the logits. The gradients of ``values`` and
``rest``, of size (N, k) and (N,), come from :mod:`gift_fast.loss.top_k_sums` in the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gift_fast.loss.arguments import MixedLabels, Options
from gift_fast.loss.autograd import handed_out, keep, kept_inputs
from gift_fast.loss.operators import Operators, ignored_rows
from gift_fast.loss.top_k_labels import TopKLabels
from gift_fast.loss.top_k_sums import top_k_loss

Grads = list[Tensor | None]


def _differentiable_gradients(
    saved: list[Any], options: Options, requested: tuple[bool, ...], grad_output: Tensor
) -> Grads:
    """The gradients of logits, values and rest once more, by the definition."""
    logits, values, indices, rest, *hard = saved
    # Aliases: see gift_fast/loss/autograd.py.
    z, v = logits.view_as(logits), values.view_as(values)
    u = None if rest is None else rest.view_as(rest)
    loss = options.reference(z, TopKLabels(v, indices, u), *hard)
    return _gradients(loss, (z, v, u), requested, grad_output, create_graph=True)


def _label_gradients(
    saved: list[Any], options: Options, requested: tuple[bool, ...], grad_output: Tensor
) -> Grads:
    """The gradients of values and rest; nothing of the size of the logits is kept for them."""
    logits, values, indices, rest, target, *mixed = saved
    with torch.enable_grad():
        v = values.detach().requires_grad_()
        u = None if rest is None else rest.detach().requires_grad_()
        other, weight = mixed or (None, None)
        labels = TopKLabels(v, indices, u)
        loss = top_k_loss(logits.detach(), labels, target, other, weight, options)
        return _gradients(loss, (v, u), requested, grad_output, create_graph=False)


def _gradients(
    loss: Tensor,
    inputs: tuple[Tensor | None, ...],
    requested: tuple[bool, ...],
    grad_output: Tensor,
    create_graph: bool,
) -> Grads:
    """The requested gradients, and None in place of the others."""
    wanted = [x for x, one in zip(inputs, requested, strict=True) if one and x is not None]
    grads = iter(torch.autograd.grad(loss, wanted, grad_output, create_graph=create_graph))
    return [next(grads) if one else None for one in requested]


class TopKLossFunction(torch.autograd.Function):
    """:class:`~gift_fast.loss.autograd.GiftLossFunction` for top-k labels."""

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        logits: Tensor,
        values: Tensor,
        indices: Tensor,
        rest: Tensor | None,
        target: Tensor,
        mixed: MixedLabels,
        options: Options,
        operators: Operators,
    ) -> Tensor:
        requested = ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.needs_input_grad[3]
        loss, *gradients = operators.top_k_loss_and_gradients(
            logits, values, indices, rest, target, *options, requested[0], *mixed
        )
        ctx.ignored = (
            None if options.reduction else ignored_rows(options.ignore_index, target, *mixed[:1])
        )
        inputs = values, indices, rest, target, *mixed
        keep(ctx, gradients, logits, inputs, needed=requested[1] or requested[2])
        ctx.state = options, operators, requested
        return loss

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        options, operators, requested = ctx.state
        others = None, None, None, None
        if torch.is_grad_enabled():  # create_graph=True
            inputs = kept_inputs(ctx, ctx.saved_tensors)
            z, v, u = _differentiable_gradients(inputs, options, requested, grad_output)
            return z, v, None, u, *others
        if ctx.ignored is not None:
            grad_output = grad_output.masked_fill(ctx.ignored, 0.0)
        z = v = u = saved = None
        if requested[1] or requested[2]:
            saved = ctx.saved_tensors
            v, u = _label_gradients(kept_inputs(ctx, saved), options, requested[1:], grad_output)
        if requested[0]:
            z, _ = handed_out(ctx, (True, False), grad_output, operators, saved)
        return z, v, None, u, *others
