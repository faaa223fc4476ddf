"""The self-check on a GPU: the kernels pass it, and it keeps out of the capture of a graph."""

import pytest
import torch
from expected import batch

from gift_fast.loss import self_check

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def nothing_checked_yet(monkeypatch):
    monkeypatch.delenv("GIFT_FAST_SELF_CHECK", raising=False)
    for name in ("TRUSTED", "_FAILED", "_WARNED"):
        monkeypatch.setattr(self_check, name, type(getattr(self_check, name))())


def test_the_kernels_pass_in_full(backend):
    assert self_check.self_check()[backend] == "ok"


def test_the_first_call_checks_its_device(loss, backend):
    inputs = [x.cuda() for x in batch(6, 5)]
    loss(*inputs)
    assert (backend, inputs[0].device) in self_check.TRUSTED


def test_a_captured_call_is_not_checked_and_the_next_one_is(loss, backend):
    inputs = [x.cuda() for x in batch(6, 5)]
    loss(*inputs)  # compiles
    self_check.TRUSTED.clear()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = loss(*inputs)
    assert not self_check.TRUSTED
    graph.replay()
    torch.testing.assert_close(value, loss(*inputs))
    assert (backend, inputs[0].device) in self_check.TRUSTED


def test_it_draws_no_random_numbers(loss):
    inputs = [x.cuda() for x in batch(6, 5)]
    before = torch.cuda.get_rng_state()
    loss(*inputs)
    assert torch.equal(torch.cuda.get_rng_state(), before)
