"""The operators as Triton kernels: NVIDIA without nvcc, AMD, Intel.

A call launches three kernels, none of which waits for the host:

==================  ==========================================================================
``targets_kernel``  counts the valid rows and checks the targets
``rows_kernel``     losses and gradients; a program takes one row, or several short ones
``top_k_kernel``    the same with top-k labels, in its place
``reduce_kernel``   adds up the losses of the programs, in a fixed order
==================  ==========================================================================

``scale_kernel`` is the backward pass. They share ``packing`` (how tiles of rows are read, summed
and written) and ``row`` (the formulas, under the names of :mod:`gift_fast.loss.reference` and
``csrc/gift_row.h``). ``plan`` decides how rows are laid out over programs, ``launch`` has the
operators. docs/gpu-triton.md has the design and the results in emulation.
"""

from gift_fast.loss.triton_kernels.launch import (
    loss_and_gradients,
    scale_gradient_,
    top_k_loss_and_gradients,
)

__all__ = ["loss_and_gradients", "scale_gradient_", "top_k_loss_and_gradients"]
