"""The GPU path without a GPU: tensors without data, on a device that is absent."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from gift_fast import gift_loss
from gift_fast.ops import UNAVAILABLE

pytestmark = pytest.mark.skipif(
    UNAVAILABLE["triton"] is not None and UNAVAILABLE["cuda"] is not None,
    reason="needs the CUDA or the Triton kernels: FORCE_CUDA=1, or torch with triton",
)


def fake_batch(dtype=torch.float32):
    logits = torch.empty(8, 10, device="cuda", dtype=dtype, requires_grad=True)
    return logits, torch.empty(8, 10, device="cuda"), torch.zeros(8, device="cuda").long()


def test_gpu_tensors_go_to_a_kernel_and_not_to_the_reference():
    from gift_fast.loss import _backend

    assert _backend("auto", "cuda") in ("cuda", "triton")
    assert _backend("auto", "mps") == "reference"


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_a_forward_pass_has_the_right_shape_type_and_device(dtype, reduction):
    with FakeTensorMode():
        loss = gift_loss(*fake_batch(dtype), reduction=reduction)
    assert loss.shape == ((8,) if reduction == "none" else ())
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert loss.device.type == "cuda"
    assert loss.requires_grad


def test_a_module_on_a_gpu_is_exported_with_the_operator_in_it():
    class Step(torch.nn.Module):
        def forward(self, logits, soft_labels, target):
            return gift_loss(logits, soft_labels, target)

    with FakeTensorMode():
        batch = tuple(x.detach() for x in fake_batch())
    program = torch.export.export(Step(), batch)
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert torch.ops.gift_fast.gift_loss.default in targets
