"""The GPU path without a GPU: tensors without data, on a device that is absent."""

import pytest
import torch
from expected import answer, batch, needs_cpu_kernel
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from gift_fast import GIFTLoss, TopKLabels, backends, gift_loss
from gift_fast.loss import dispatch
from gift_fast.loss.operators import UNAVAILABLE

pytestmark = pytest.mark.skipif(
    UNAVAILABLE["triton"] is not None and UNAVAILABLE["cuda"] is not None,
    reason="needs the CUDA or the Triton kernels: FORCE_CUDA=1, or torch with triton",
)


def fake_batch(dtype=torch.float32):
    logits = torch.empty(8, 10, device="cuda", dtype=dtype, requires_grad=True)
    return logits, torch.empty(8, 10, device="cuda"), torch.zeros(8, device="cuda").long()


def test_gpu_tensors_go_to_a_kernel_and_not_to_the_reference():
    assert dispatch.chosen_backend("auto", "cuda") in ("cuda", "triton")
    assert dispatch.chosen_backend("auto", "mps") == "reference"


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_a_forward_pass_has_the_right_shape_type_and_device(dtype, reduction):
    with FakeTensorMode():
        loss = gift_loss(*fake_batch(dtype), reduction=reduction)
    assert loss.shape == ((8,) if reduction == "none" else ())
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert loss.device.type == "cuda"
    assert loss.requires_grad


class Step(torch.nn.Module):
    def __init__(self, backend="auto"):
        super().__init__()
        self.criterion = GIFTLoss(backend=backend)

    def forward(self, logits, soft_labels, target):
        return self.criterion(logits, soft_labels, target)


def operators_of(module):
    """The operators of gift_fast in the module, exported for a GPU."""
    with FakeTensorMode():
        inputs = tuple(x.detach() for x in fake_batch())
    return operators_in(module, inputs)


def operators_in(module, inputs):
    program = torch.export.export(module, inputs)
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    return [str(target) for target in targets if "gift_fast" in str(target)]


def test_a_module_on_a_gpu_is_exported_with_the_operator_in_it():
    assert operators_of(Step()) == ["gift_fast.gift_loss.default"]


# ---- a backend by name ---------------------------------------------------------------------------


@pytest.fixture
def both_are_built(monkeypatch):
    """A machine with a GPU and both sets of kernels, as far as a choice between them goes."""
    for name in ("cuda", "triton"):
        monkeypatch.setitem(UNAVAILABLE, name, None)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)


class Log(TorchDispatchMode):
    """Collects the operators of gift_fast that run under it, and the shapes of their logits."""

    def __init__(self):
        super().__init__()
        self.names, self.shapes = [], []

    def __torch_dispatch__(self, operator, types, arguments=(), keywords=None):
        if operator.namespace == "gift_fast":
            self.names.append(operator.overloadpacket.__name__)
            self.shapes.append(tuple(arguments[0].shape))
        return operator(*arguments, **(keywords or {}))


NAMED = {"auto": "", "cuda": "", "triton": "triton_"}


@pytest.mark.parametrize("backend", NAMED)
@pytest.mark.usefixtures("both_are_built")
def test_a_forward_pass_runs_the_operator_of_the_backend_that_was_named(backend):
    with FakeTensorMode(), Log() as log:
        gift_loss(*fake_batch(), backend=backend)
    assert log.names == [NAMED[backend] + "loss_and_gradients"]


@pytest.mark.parametrize("weight", [0.3, "of each row"])
@pytest.mark.parametrize("backend", NAMED)
@pytest.mark.usefixtures("both_are_built")
def test_mixed_labels_are_one_call_of_the_kernels(backend, weight):
    with FakeTensorMode(), Log() as log:
        logits, soft_labels, target = fake_batch()
        if weight == "of each row":
            weight = torch.empty(8, device="cuda")
        loss = gift_loss(logits, soft_labels, target, target, weight, backend=backend)
    assert log.names == [NAMED[backend] + "loss_and_gradients"]
    assert loss.shape == ()


@pytest.mark.parametrize("backend", NAMED)
@pytest.mark.usefixtures("both_are_built")
def test_a_slice_goes_to_the_kernels_as_it_is(backend):
    with FakeTensorMode(), Log() as log:
        logits, soft_labels, target = (x.unflatten(0, (2, 4)) for x in fake_batch())
        loss = gift_loss(
            logits[:, :-1], soft_labels[:, :-1], target[:, 1:], reduction="none", backend=backend
        )
    assert log.shapes == [(2, 3, 10)]
    assert loss.shape == (2, 3)


@pytest.mark.parametrize("backend", NAMED)
@pytest.mark.usefixtures("both_are_built")
def test_top_k_labels_go_to_the_kernels_as_they_are(backend):
    with FakeTensorMode(), Log() as log:
        logits, soft_labels, target = (x.unflatten(0, (2, 4)) for x in fake_batch())
        indices = torch.zeros(2, 4, 3, device="cuda", dtype=torch.int16)
        labels = TopKLabels(soft_labels[..., :3], indices, soft_labels[..., 9])
        weight = torch.empty(2, 4, device="cuda")
        loss = gift_loss(logits, labels, target, target, weight, reduction="none", backend=backend)
    assert log.names == [NAMED[backend] + "top_k_loss_and_gradients"]
    assert log.shapes == [(2, 4, 10)]
    assert loss.shape == (2, 4)


@pytest.fixture
def triton_on_the_cpu(both_are_built, monkeypatch):
    """The CPU's kernels stand in for Triton's: a backward pass needs a device that is there."""
    monkeypatch.setitem(dispatch.SERVES, "triton", ("cpu",))
    library = torch.library.Library("gift_fast", "IMPL")
    for name in ("loss_and_gradients", "scale_gradient_"):
        library.impl(f"triton_{name}", getattr(torch.ops.gift_fast, name), "CPU")
    yield
    library._destroy()


@needs_cpu_kernel
@pytest.mark.usefixtures("triton_on_the_cpu")
def test_a_backward_pass_runs_the_operator_of_the_backend_that_was_named():
    inputs, upstream = batch(6, 5), torch.tensor(3.0)
    with Log() as log:
        got = answer(*inputs, backend="triton", upstream=upstream)
    assert log.names == ["triton_loss_and_gradients", *["triton_scale_gradient_"] * 2]
    torch.testing.assert_close(got, answer(*inputs, upstream=upstream))


@needs_cpu_kernel
@pytest.mark.usefixtures("triton_on_the_cpu")
def test_a_transform_runs_the_operator_of_the_backend_that_was_named():
    with Log() as log:
        torch.func.grad(lambda *inputs: gift_loss(*inputs, backend="triton"))(*batch(6, 5))
    assert log.names == ["triton_loss_and_gradients"]


@pytest.mark.parametrize("backend", NAMED)
@pytest.mark.usefixtures("both_are_built")
def test_a_graph_holds_the_operator_of_the_backend_that_was_named(backend):
    assert operators_of(Step(backend)) == [f"gift_fast.{NAMED[backend]}gift_loss.default"]


class TopKStep(Step):
    def forward(self, logits, values, indices, target):
        return self.criterion(logits, TopKLabels(values, indices), target)


@pytest.mark.parametrize("backend", NAMED)
@pytest.mark.usefixtures("both_are_built")
def test_a_graph_holds_the_operator_of_top_k_labels(backend):
    with FakeTensorMode():
        logits, soft_labels, target = (x.detach() for x in fake_batch())
        indices = torch.zeros(8, 10, device="cuda", dtype=torch.int32)
    name = f"gift_fast.{NAMED[backend]}top_k_gift_loss.default"
    assert operators_in(TopKStep(backend), (logits, soft_labels, indices, target)) == [name]


@pytest.mark.usefixtures("both_are_built")
def test_auto_takes_cuda_then_triton_then_the_reference(monkeypatch):
    chosen = []
    for missing in ("nothing", "cuda", "triton"):
        monkeypatch.setitem(UNAVAILABLE, missing, "it is not built")
        chosen.append(dispatch.chosen_backend("auto", "cuda"))
    assert chosen == ["cuda", "triton", "reference"]


@pytest.mark.parametrize("absent", ["cuda", "triton"])
@pytest.mark.usefixtures("both_are_built")
def test_an_absent_backend_is_an_error_also_where_the_other_one_is(absent, monkeypatch):
    monkeypatch.setitem(UNAVAILABLE, absent, "it is not built")
    assert backends()[absent] == "it is not built"
    with (
        FakeTensorMode(),
        pytest.raises(RuntimeError, match=f"backend='{absent}' is not available: it is not built"),
    ):
        gift_loss(*fake_batch(), backend=absent)
