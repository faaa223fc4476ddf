"""A pytest plugin: the loss on the CPU runs the Triton kernels, in Triton's interpreter.

``TRITON_INTERPRET=1 pytest -p triton_on_cpu tests/loss/test_numerics.py``, with this directory on
PYTHONPATH: the tests of the CPU kernel are tests of the Triton ones then. The interpreter is chosen
when triton is imported, so they need a process of their own.
"""

import os

import numpy as np
import pytest
import torch


def round_like_hardware() -> None:
    """Makes the interpreter round to bfloat16 as a GPU does; it cuts the lower half off."""
    import triton.language as tl
    from triton.runtime import interpreter

    builder = interpreter.InterpreterBuilder
    cast, fp_to_fp = builder.cast_impl, builder.create_fp_to_fp

    def bfloat16_of(source, wanted):
        kinds = source.dtype.scalar, wanted.scalar
        if kinds == (tl.float32, tl.bfloat16):
            values = torch.from_numpy(np.array(source.data, np.float32))
            data = values.to(torch.bfloat16).view(torch.uint16).numpy()
        elif kinds == (tl.bfloat16, tl.float32):
            values = torch.from_numpy(np.array(source.data, np.uint16))
            data = values.view(torch.bfloat16).float().numpy()
        else:
            return None
        return interpreter.TensorHandle(data, wanted.scalar)

    def patched_cast(self, source, wanted):
        rounded = bfloat16_of(source, wanted)
        return cast(self, source, wanted) if rounded is None else rounded

    def patched_fp_to_fp(self, source, wanted, rounding):
        rounded = bfloat16_of(source, wanted)
        return fp_to_fp(self, source, wanted, rounding) if rounded is None else rounded

    builder.cast_impl, builder.create_fp_to_fp = patched_cast, patched_fp_to_fp
    for name in ("create_fp_ext", "create_fp_trunc"):
        setattr(builder, name, patched_cast)


def add_whole_rows() -> None:
    """Gives the kernels' reductions of several sums to NumPy; one by one they take minutes."""
    from triton.runtime import interpreter

    from gift_fast.loss.triton_kernels import packing, top_k_kernel

    sums = packing._add, top_k_kernel._add_two, top_k_kernel._add_three
    one_at_a_time = interpreter.ReduceOps.generic_reduce

    def reduce(self, inputs):
        if self.combine_fn not in sums:
            return one_at_a_time(self, inputs)
        with np.errstate(all="ignore"):
            return tuple(self.to_tensor(x.handle.data.sum(self.axis), x.dtype) for x in inputs)

    interpreter.ReduceOps.generic_reduce = reduce


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    """Puts the Triton kernels into the place of the CPU's."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        raise pytest.UsageError("triton_on_cpu needs TRITON_INTERPRET=1")
    from gift_fast.loss import functional as loss
    from gift_fast.loss import operators as ops
    from gift_fast.loss import triton_kernels

    round_like_hardware()
    add_whole_rows()

    # NumPy's warnings of what a masked lane does.
    config.addinivalue_line("filterwarnings", "ignore::RuntimeWarning:triton.*")
    library = torch.library.Library("gift_fast", "IMPL")
    config.gift_fast_library = library  # its registrations end with it
    for name, kernel in (
        ("loss_and_gradients", triton_kernels.loss_and_gradients),
        ("gift_loss", triton_kernels.loss_and_gradients),
        ("top_k_loss_and_gradients", triton_kernels.top_k_loss_and_gradients),
        ("top_k_gift_loss", triton_kernels.top_k_loss_and_gradients),
        ("scale_gradient_", triton_kernels.scale_gradient_),
    ):
        library.impl(name, kernel, "CPU", allow_override=True)
        library.impl(f"triton_{name}", kernel, "CPU", allow_override=True)
    ops.UNAVAILABLE["cpu"] = None
    loss._CPU_OPERATORS = ops.BEST_OPERATORS._replace(
        loss_and_gradients=triton_kernels.loss_and_gradients
    )
