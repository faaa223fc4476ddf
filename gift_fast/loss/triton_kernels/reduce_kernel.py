"""Adds up the losses of the programs, in one program and in the same order every time.

Shapes: losses ``[programs]``; weight and loss ``[1]``. Traffic: reads 8 bytes per program.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["programs"])
def reduce_kernel(
    losses,  # [programs] float64
    weight,  # [1] float64; [2] for mixed labels
    loss,  # [1] float32 or float64
    programs,
    MIXED: tl.constexpr,  # the labels: the losses are weighed already
    BLOCK: tl.constexpr,
):
    """The sum of all losses times the weight of a row."""
    total = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, programs, BLOCK):
        program = start + tl.arange(0, BLOCK).to(tl.int64)
        total += tl.load(losses + program, mask=program < programs, other=0.0)
    # The mean of nothing: 0 * inf, NaN.
    if MIXED:
        tl.store(loss, tl.sum(total, 0) + 0.0 * (tl.load(weight) + tl.load(weight + 1)))
    else:
        tl.store(loss, tl.sum(total, 0) * tl.load(weight))
