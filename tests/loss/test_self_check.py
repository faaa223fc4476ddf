"""gift_fast.loss.self_check: kernels that are wrong, or fail, are found before they are relied on.

The CPU plays the GPU here: kernels are put behind the operators ``triton_*`` for CPU tensors, right
ones and faulty ones. tests/kernels/interpreted_triton.py does the same with the Triton kernels.
"""

import re
import threading
import warnings

import pytest
import torch
from expected import answer, batch, needs_cpu_kernel

from gift_fast import gift_loss
from gift_fast.loss import dispatch, functional, plain_operator, self_check
from gift_fast.loss import operators as ops
from gift_fast.loss.reference import reference_loss

pytestmark = needs_cpu_kernel

CPU = torch.device("cpu")
PLACE = ("triton", CPU)
QUICK_CASES = len(self_check.QUICK)


class Kernels:
    """Stands in for the Triton kernels; counts its calls, and has a fault on demand."""

    def __init__(self):
        self.calls = 0
        self.fault = None

    def loss_and_gradients(self, *arguments):
        self.calls += 1
        outputs = torch.ops.gift_fast.loss_and_gradients(*arguments)
        return outputs if self.fault is None else self.fault(outputs)

    def top_k_loss_and_gradients(self, *arguments):
        self.calls += 1
        outputs = torch.ops.gift_fast.top_k_loss_and_gradients(*arguments)
        return outputs if self.fault is None else self.fault(outputs)

    def scale_gradient_(self, *arguments):
        torch.ops.gift_fast.scale_gradient_(*arguments)


@pytest.fixture
def kernels(monkeypatch):
    """A machine whose GPU is the CPU, without kernels that were known to be right there."""
    monkeypatch.delenv("GIFT_FAST_SELF_CHECK", raising=False)
    monkeypatch.setitem(ops.UNAVAILABLE, "triton", None)
    monkeypatch.setitem(ops.UNAVAILABLE, "cpu", "it plays the GPU")
    monkeypatch.setattr(dispatch, "backends", lambda: {"triton": "available"})
    monkeypatch.setattr(functional, "_CPU_OPERATORS", None)
    monkeypatch.setattr(dispatch, "SERVES", {"triton": ("cpu",)})
    monkeypatch.setattr(dispatch, "BEST_OPERATORS", ops.TRITON_OPERATORS)
    for name in ("TRUSTED", "_FAILED", "_WARNED"):
        monkeypatch.setattr(self_check, name, type(getattr(self_check, name))())
    stand_in = Kernels()
    library = torch.library.Library("gift_fast", "IMPL")
    library.impl("triton_loss_and_gradients", stand_in.loss_and_gradients, "CPU")
    library.impl("triton_top_k_loss_and_gradients", stand_in.top_k_loss_and_gradients, "CPU")
    library.impl("triton_scale_gradient_", stand_in.scale_gradient_, "CPU")
    checked = ops._checked(
        "triton", True, stand_in.loss_and_gradients, plain_operator.loss_and_gradients
    )
    library.impl("triton_gift_loss", checked, "CPU")
    yield stand_in
    library._destroy()


def off_by_one_percent(outputs):
    return [outputs[0], *(x * 1.01 for x in outputs[1:])]


def not_a_number(outputs):
    return [x * float("nan") for x in outputs]


def only_the_loss(outputs):
    return [outputs[0] + 1e-3, *outputs[1:]]


def a_launch_error(outputs):
    raise RuntimeError("CUDA error: too many resources requested for launch\nand more lines")


FAULTS = {
    "gradients": (off_by_one_percent, "gradient of the logits is off by"),
    "nan": (not_a_number, "the loss is off by nan"),
    "loss": (only_the_loss, "the loss is off by 0.001"),
    "launch": (a_launch_error, "RuntimeError: CUDA error: too many resources"),
}


# ---- kernels that are right ----------------------------------------------------------------------


def test_right_kernels_are_checked_once_and_then_called(kernels):
    inputs = batch(6, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = answer(*inputs)
    assert kernels.calls == QUICK_CASES + 1
    assert PLACE in self_check.TRUSTED
    answer(*inputs)
    assert kernels.calls == QUICK_CASES + 2
    torch.testing.assert_close(got, answer(*inputs, function=reference_loss))


def test_a_named_backend_is_checked_too(kernels):
    gift_loss(*batch(6, 5), backend="triton")
    assert kernels.calls == QUICK_CASES + 1


def test_every_device_and_every_set_of_kernels_is_checked_for_itself(kernels):
    gift_loss(*batch(6, 5))
    assert PLACE in self_check.TRUSTED
    assert ("triton", torch.device("cuda:1")) not in self_check.TRUSTED
    assert ("cuda", CPU) not in self_check.TRUSTED


def test_threads_that_come_at_once_wait_for_one_check(kernels):
    inputs, losses = batch(6, 5), []
    threads = [
        threading.Thread(target=lambda: losses.append(gift_loss(*inputs).item())) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(losses) == 8
    assert len(set(losses)) == 1
    assert kernels.calls == QUICK_CASES + 8


def test_the_check_is_out_of_reach_of_the_callers_state(kernels):
    z, s, y = batch(6, 5)
    before = torch.get_rng_state()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        gift_loss(z, s, y)
    assert PLACE in self_check.TRUSTED
    assert torch.equal(torch.get_rng_state(), before)
    self_check.TRUSTED.clear()
    torch.func.vmap(torch.func.grad(gift_loss))(z, s, y)
    assert PLACE in self_check.TRUSTED
    self_check.TRUSTED.clear()
    with torch.no_grad():
        gift_loss(z, s, y)
        assert not torch.is_grad_enabled()
    assert PLACE in self_check.TRUSTED


# ---- kernels that are wrong ----------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS)
def test_auto_warns_once_and_runs_the_definition(kernels, fault):
    kernels.fault, words = FAULTS[fault]
    inputs = batch(6, 5)
    with pytest.warns(RuntimeWarning, match=words) as caught:
        got = answer(*inputs)
    message = str(caught[0].message)
    assert len(caught) == 1
    assert caught[0].filename == answer.__code__.co_filename  # the caller's line
    assert "backend='triton'" in message
    assert "cpu" in message
    assert "\n" not in message
    calls = kernels.calls
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answer(*inputs)
    assert kernels.calls == calls
    torch.testing.assert_close(got, answer(*inputs, function=reference_loss))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_named_backend_raises_every_time(kernels, fault):
    kernels.fault, words = FAULTS[fault]
    for _ in range(2):
        with pytest.raises(RuntimeError, match=words) as raised:
            gift_loss(*batch(6, 5), backend="triton")
    assert "GIFT_FAST_SELF_CHECK=0" in str(raised.value)
    assert kernels.calls <= QUICK_CASES


def test_a_device_that_is_lost_is_said_to_be_and_nothing_runs_on_it(kernels, monkeypatch):
    kernels.fault = a_launch_error
    monkeypatch.setattr(self_check, "_is_lost", lambda device: True)
    for backend in ("auto", "triton"):
        with pytest.raises(RuntimeError, match="restart") as raised:
            gift_loss(*batch(6, 5), backend=backend)
        assert "backend='reference'" in str(raised.value)


def test_a_device_that_computes_is_not_lost():
    assert not self_check._is_lost(CPU)
    assert self_check._is_lost(torch.device("meta"))


def test_a_full_memory_is_no_verdict(kernels):
    def full(outputs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    kernels.fault = full
    with pytest.raises(torch.OutOfMemoryError):  # of the call itself
        gift_loss(*batch(6, 5))
    kernels.fault = None
    gift_loss(*batch(6, 5))
    assert PLACE in self_check.TRUSTED


# ---- when it is left out, or put off -------------------------------------------------------------


def test_the_environment_turns_it_off(kernels, monkeypatch):
    monkeypatch.setenv("GIFT_FAST_SELF_CHECK", "0")
    kernels.fault = only_the_loss
    inputs = batch(6, 5)
    torch.testing.assert_close(
        gift_loss(*inputs), reference_loss(*inputs) + 1e-3, rtol=0, atol=1e-5
    )
    assert kernels.calls == 1


class Capturing:
    """A tensor's device while a CUDA graph is captured, as far as the check asks."""

    def __init__(self, monkeypatch):
        self.active = True
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: self.active)


def test_during_the_capture_of_a_graph_it_is_put_off(kernels, monkeypatch):
    capture = Capturing(monkeypatch)
    # As on a CUDA device: the fixture's is the CPU.
    requested = []

    def may_wait_for(x):
        requested.append(x)
        return not torch.cuda.is_current_stream_capturing()

    monkeypatch.setattr(self_check, "_may_wait_for", may_wait_for)
    gift_loss(*batch(6, 5))
    assert kernels.calls == 1
    assert not self_check.TRUSTED
    capture.active = False
    gift_loss(*batch(6, 5))
    assert kernels.calls == QUICK_CASES + 2
    assert PLACE in self_check.TRUSTED
    assert len(requested) == 2


def test_it_does_not_wait_for_a_stream_that_captures(monkeypatch):
    class OnCuda:
        device = torch.device("cuda:0")

    monkeypatch.setattr(self_check, "Tensor", OnCuda)
    capture = Capturing(monkeypatch)
    assert not self_check._may_wait_for(OnCuda())
    capture.active = False
    assert self_check._may_wait_for(OnCuda())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not self_check._may_wait_for(OnCuda())


def test_fake_tensors_are_not_waited_for():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        assert not self_check._may_wait_for(torch.empty(2))


# ---- graphs --------------------------------------------------------------------------------------


def compiled():
    torch._dynamo.reset()
    return torch.compile(
        lambda *inputs: gift_loss(*inputs, backend="triton"), backend="aot_eager", fullgraph=True
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_graph_checks_when_it_runs_and_not_when_it_is_traced(kernels):
    inputs = batch(6, 5)
    function = compiled()
    torch.testing.assert_close(answer(*inputs, function=function), answer(*inputs))
    # Once in the graph; what eager mode asks afterwards is known.
    assert kernels.calls == QUICK_CASES + 2
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_graph_that_names_kernels_that_fail_raises(kernels):
    kernels.fault = only_the_loss
    with pytest.raises(RuntimeError, match="the loss is off by"):
        compiled()(*batch(6, 5))
    torch._dynamo.reset()


def arguments(dtype, temperature, reduction, requested, others=False, gamma=0.3):
    z, s, y = batch(7, 5, *dtype)
    y[2] = -100
    z[3], s[4] = 0, 0
    return z, s, y, gamma, 0.1, others, temperature, -100, reduction, *requested


def test_a_graph_falls_back_with_a_warning_where_auto_was_asked_for(kernels):
    kernels.fault = only_the_loss
    operator = ops._checked(
        "triton", False, kernels.loss_and_gradients, plain_operator.loss_and_gradients
    )
    call = arguments((torch.float32,) * 2, None, 1, (True, True))
    with pytest.warns(RuntimeWarning, match="the loss is off by"):
        got = operator(*call)
    want = torch.ops.gift_fast.loss_and_gradients(*call)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("requested", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("reduction", [0, 1, 2])
@pytest.mark.parametrize("temperature", [None, 2.0])
@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    "dtype",
    [(torch.float64,) * 2, (torch.float16,) * 2, (torch.bfloat16, torch.float16)],
    ids=["float64", "float16", "mixed"],
)
def test_the_definition_as_an_operator_is_the_kernels_operator(
    dtype, gamma, temperature, reduction, requested
):
    call = arguments(dtype, temperature, reduction, requested, gamma=gamma)
    got = plain_operator.loss_and_gradients(*call)
    want = torch.ops.gift_fast.loss_and_gradients(*call)
    assert [(x.shape, x.dtype) for x in got] == [(x.shape, x.dtype) for x in want]
    pairs = zip(
        ops.unpack_gradients(got, *requested), ops.unpack_gradients(want, *requested), strict=True
    )
    torch.testing.assert_close(got[0], want[0], rtol=1e-5, atol=1e-6)
    one = torch.ones((), dtype=got[0].dtype)
    for x, y in pairs:
        if x is None:
            assert y is None
            continue
        x, y = (ops.scaled_gradient(grad, one, scale).double() for grad, scale in (x, y))
        largest = y.abs().amax(-1, keepdim=True)
        eps = {torch.float64: 1e-12}.get(dtype[0], 1e-2)
        assert ((x - y).abs() <= eps * largest + 1e-7).all()


# ---- in full -------------------------------------------------------------------------------------


def test_every_backend_of_this_machine_is_right():
    results = self_check.self_check()
    assert list(results) == ["cpu", "cuda", "triton", "reference"]
    assert results["cpu"] == "ok"
    assert results["reference"] == "ok"
    for name in ("cuda", "triton"):
        if ops.UNAVAILABLE[name] is not None:
            assert results[name] == ops.UNAVAILABLE[name]
        elif not torch.accelerator.is_available():
            assert results[name].startswith("no device: ")


@pytest.mark.parametrize("fault", FAULTS)
def test_in_full_it_tells_what_is_wrong(kernels, monkeypatch, fault):
    kernels.fault, words = FAULTS[fault]
    monkeypatch.setattr(self_check, "_devices", lambda name: [CPU] if name == "triton" else [])
    result = self_check.self_check()["triton"]
    assert re.match(r"failed on cpu: ", result)
    assert words in result


def test_a_fault_in_one_type_or_length_alone_is_found_in_full(kernels, monkeypatch):
    def only_long_bfloat16(outputs):
        gradient = outputs[1]
        if gradient.dtype == torch.bfloat16 and gradient.shape[1] == 21841:
            gradient[-1, -1] = gradient[-1, -1] + 1
        return outputs

    kernels.fault = only_long_bfloat16
    monkeypatch.setattr(self_check, "_devices", lambda name: [CPU] if name == "triton" else [])
    assert "21841 classes, bfloat16" in self_check.self_check()["triton"]
