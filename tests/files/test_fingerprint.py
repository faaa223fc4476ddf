from __future__ import annotations

import torch

from gift_fast.files.fingerprint import fingerprint


def test_a_fingerprint_tells_values_shapes_and_dtypes_apart():
    tensors = [
        torch.zeros(4),
        torch.ones(4),
        torch.zeros(2, 2),
        torch.zeros(4, dtype=torch.int32),
        torch.tensor([0.0, 0.0, 0.0, -0.0]),
    ]
    assert len({fingerprint([tensor]) for tensor in tensors}) == len(tensors)
    assert fingerprint([torch.zeros(4)]) == fingerprint([torch.zeros(4)])


def test_a_fingerprint_takes_every_dtype_and_layout():
    for dtype in (torch.bfloat16, torch.float16, torch.bool, torch.uint8, torch.int64):
        assert fingerprint([torch.ones((), dtype=dtype)]) != fingerprint(
            [torch.ones((), dtype=torch.float64)]
        )
    grid = torch.arange(6.0).view(2, 3)
    assert fingerprint([grid.t()]) == fingerprint([grid.t().contiguous()])


def test_texts_do_not_run_into_each_other():
    assert fingerprint(["ab", "c"]) != fingerprint(["a", "bc"])
