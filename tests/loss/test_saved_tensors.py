"""What is kept for the backward pass under hooks: activation checkpointing, offloading to the CPU.

Bytes are counted where torch allocates and frees them, so the peaks are the same in every run.
"""

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from expected import FLOATS, answer, batch, needs_cpu_kernel
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from gift_fast import gift_loss

pytestmark = needs_cpu_kernel


class Memory(TorchDispatchMode):
    """The bytes of all storages that operations returned and that are still alive, and their peak.

    Without those of the inputs, and of what an operation allocates and frees inside.
    """

    def __init__(self, *inputs):
        super().__init__()
        self.bytes = self.peak = 0
        self.seen = {x.untyped_storage()._cdata for x in inputs}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        outputs = function(*args, **(kwargs or {}))
        for x in outputs if isinstance(outputs, (tuple, list)) else [outputs]:
            if isinstance(x, torch.Tensor):
                self.count(x.untyped_storage())
        return outputs

    def count(self, storage):
        key, size = storage._cdata, storage.nbytes()
        if key in self.seen:
            return
        self.seen.add(key)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)

        def freed():
            self.seen.discard(key)
            self.bytes -= size

        weakref.finalize(storage, freed)


def saved_bytes(step):
    """The bytes that hooks see, of storages and not of their aliases."""
    seen = {}

    def pack(x):
        seen[x.data_ptr()] = x.untyped_storage().nbytes()
        return x

    with saved_tensors_hooks(pack, lambda x: x):
        loss = step()
    return sum(seen.values()), loss


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_hooks_see_one_gradient_and_no_input(reduction):
    z, s, y = batch(64, 1000)
    size, loss = saved_bytes(lambda: gift_loss(z.requires_grad_(), s, y, reduction=reduction))
    assert size == z.nbytes
    loss.sum().backward()
    torch.testing.assert_close(z.grad, answer(z, s, y, reduction=reduction).logits_grad)


@pytest.mark.parametrize("upstream", [1.0, 3.0])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("hooks", ["save_on_cpu", "checkpoint", "identity"])
def test_gradients_are_those_without_hooks(hooks, dtype, reduction, upstream):
    z, s, y = batch(9, 37, dtype)

    def loss(z, s, y):
        return gift_loss(z, s, y, reduction=reduction).sum() * upstream

    def hooked(z, s, y):
        if hooks == "checkpoint":
            return checkpoint(loss, z, s, y, use_reentrant=False)
        context = (
            save_on_cpu()
            if hooks == "save_on_cpu"
            else saved_tensors_hooks(lambda x: x, lambda x: x)
        )
        with context:
            return loss(z, s, y)

    got, want = answer(z, s, y, function=hooked), answer(z, s, y, function=loss)
    tolerance = 0 if upstream == 1.0 else 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(got, want, rtol=tolerance, atol=1e-7 if tolerance else 0)


def test_what_a_hook_keeps_is_not_written_over():
    kept = []

    def pack(x):
        kept.append(x)
        return x

    z, s, y = batch(9, 37)
    with saved_tensors_hooks(pack, lambda x: x):
        loss = gift_loss(z.requires_grad_(), s, y)
    before = [x.clone() for x in kept]
    (loss * 3).backward(retain_graph=True)
    z.grad.zero_()
    (loss * 1).backward()
    torch.testing.assert_close(kept, before, rtol=0, atol=0)
    torch.testing.assert_close(z.grad, answer(z, s, y).logits_grad, rtol=0, atol=0)


def test_second_derivatives_through_a_checkpoint():
    z, s, y = batch(9, 7, torch.float64)
    z, s = z.requires_grad_(), s.requires_grad_()

    def second(loss):
        (grad,) = torch.autograd.grad(loss, z, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), (z, s))

    got = second(checkpoint(gift_loss, z, s, y, use_reentrant=False))
    torch.testing.assert_close(got, second(gift_loss(z, s, y)))


def test_second_derivatives_under_other_hooks_are_refused():
    z, s, y = batch(9, 7)
    with save_on_cpu():
        loss = gift_loss(z.requires_grad_(), s, y)
    with pytest.raises(RuntimeError, match=r"save_on_cpu.*backend='reference'"):
        torch.autograd.grad(loss, z, create_graph=True)
    with save_on_cpu():
        loss = gift_loss(z, s, y, backend="reference")
    torch.autograd.grad(loss, z, create_graph=True)


def test_a_second_backward_pass_raises_torchs_error():
    z, s, y = batch(9, 7)
    with save_on_cpu():
        loss = gift_loss(z.requires_grad_(), s, y)
    loss.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


def test_a_checkpointed_loss_keeps_no_gradient():
    z, s, y = batch(64, 1000)
    z.requires_grad_()
    with Memory(z, s, y) as memory:
        loss = checkpoint(gift_loss, z, s, y, use_reentrant=False)
        gc.collect()
        assert memory.bytes < z.nbytes / 10
    loss.backward()
    torch.testing.assert_close(z.grad, answer(z, s, y).logits_grad, rtol=0, atol=0)


def peak_of_a_chunked_head(loss):
    """Of a step of an output layer and its loss, checkpointed in chunks of rows."""
    hidden = torch.randn(128, 16, requires_grad=True)
    head = torch.randn(4000, 16, requires_grad=True)
    soft, target = torch.randn(128, 4000), torch.randint(4000, (128,))

    def chunk(h, s, y):
        return loss(h @ head.T, s, y)

    with Memory(hidden, head, soft, target) as memory:
        total = sum(
            checkpoint(chunk, *parts, use_reentrant=False)
            for parts in zip(hidden.split(16), soft.split(16), target.split(16), strict=True)
        )
        (total / 128).backward()
    return memory.peak


def test_a_chunked_output_layer_peaks_within_a_tenth_of_cross_entropy():
    theirs = peak_of_a_chunked_head(lambda z, s, y: F.cross_entropy(z, y, reduction="sum"))
    ours = peak_of_a_chunked_head(lambda z, s, y: gift_loss(z, s, y, reduction="sum"))
    assert ours <= 1.1 * theirs
