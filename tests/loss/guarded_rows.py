"""Rows that begin or end where memory does: reading past either end is a crash; a script.

    python tests/guarded_rows.py

Exits with 0 where every loss and gradient is that of the definition.
"""

from __future__ import annotations

import ctypes
from itertools import product

import torch
from torch import Tensor

from gift_fast import TopKLabels, gift_loss

PAGE = 4096
PROT_NONE, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS = 0, 1 | 2, 0x02 | 0x20  # of Linux
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def guarded(values: Tensor, *, at_end: bool) -> Tensor:
    """A copy that ends where a page begins that may not be touched, or begins where one ends."""
    size = values.numel() * values.element_size()
    pages = -(-size // PAGE)
    base = LIBC.mmap(None, (pages + 2) * PAGE, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0)
    last = base + (pages + 1) * PAGE
    for page in (base, last):
        assert LIBC.mprotect(page, PAGE, PROT_NONE) == 0
    memory = (ctypes.c_char * size).from_address(last - size if at_end else base + PAGE)
    copy = torch.frombuffer(memory, dtype=values.dtype).view(values.shape)
    return copy.copy_(values)


def check(classes: int, dtypes: tuple[torch.dtype, torch.dtype], at_end: bool) -> None:
    """Loss and gradients of three rows, with the soft labels as they are and softened."""
    logits, soft_labels = (torch.randn(3, classes).to(dtype) for dtype in dtypes)
    target = torch.randint(classes, (3,))
    for temperature in (None, 3.0):
        ours = [guarded(x, at_end=at_end).requires_grad_() for x in (logits, soft_labels)]
        exact = [x.double().clone().requires_grad_() for x in (logits, soft_labels)]
        options = {"soft_label_temperature": temperature}
        loss = gift_loss(*ours, target, **options, backend="cpu")
        expected = gift_loss(*exact, target, **options, backend="reference")
        loss.backward()
        expected.backward()
        sums = TOLERANCE[torch.float64 if dtypes[0] == torch.float64 else torch.float32]
        assert abs(loss.item() - expected.item()) <= sums
        for mine, theirs in zip(ours, exact, strict=True):
            tolerance = max(sums, TOLERANCE[mine.dtype])
            torch.testing.assert_close(
                mine.grad.double(), theirs.grad, atol=tolerance, rtol=tolerance
            )


def check_top_k(classes: int, dtype: torch.dtype, at_end: bool) -> None:
    """Loss and gradient of three rows with top-k labels of a third of the classes."""
    logits, dense = torch.randn(3, classes).to(dtype), torch.randn(3, classes).to(dtype)
    labels = TopKLabels.from_dense(dense, -(-classes // 3), "min")
    target = torch.randint(classes, (3,))
    for temperature in (None, 3.0):
        ours = guarded(logits, at_end=at_end).requires_grad_()
        exact = logits.double().clone().requires_grad_()
        options = {"soft_label_temperature": temperature}
        fields = TopKLabels(*(guarded(x, at_end=at_end) for x in labels))
        loss = gift_loss(ours, fields, target, **options, backend="cpu")
        expected = gift_loss(exact, labels.dense(classes), target, **options, backend="reference")
        loss.backward()
        expected.backward()
        sums = TOLERANCE[torch.float64 if dtype == torch.float64 else torch.float32]
        assert abs(loss.item() - expected.item()) <= sums
        tolerance = max(sums, TOLERANCE[dtype])
        torch.testing.assert_close(ours.grad.double(), exact.grad, atol=tolerance, rtol=tolerance)


def check_scaling(classes: int, dtype: torch.dtype, at_end: bool) -> None:
    """A gradient that is written in its place."""
    values = torch.randn(3, classes).to(dtype)
    gradient = guarded(values, at_end=at_end)
    factor = torch.tensor(2.0, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    torch.ops.gift_fast.scale_gradient_(gradient, factor, None)
    torch.testing.assert_close(gradient, 2 * values, atol=0, rtol=0)


if __name__ == "__main__":
    torch.manual_seed(0)
    for classes in (*range(2, 34), 63, 64, 65):
        for pair, at_end in product(product(TOLERANCE, repeat=2), (False, True)):
            check(classes, pair, at_end)
        for dtype, at_end in product(TOLERANCE, (False, True)):
            check_scaling(classes, dtype, at_end)
            check_top_k(classes, dtype, at_end)
