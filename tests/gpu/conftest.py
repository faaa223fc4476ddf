"""What the tests on a GPU start from: ``make gpu-check`` runs them, and writes a report."""

from functools import partial

import pytest
import torch

from gift_fast import backends, gift_loss


def pytest_ignore_collect():
    """Collects nothing in this folder where there is no GPU; ../conftest.py says so."""
    return None if torch.cuda.is_available() else True


@pytest.fixture(params=["cuda", "triton"])
def backend(request):
    """The name of each set of kernels that is here."""
    reason = backends()[request.param]
    if reason != "available":
        pytest.skip(f"backend {request.param!r}: {reason}")
    return request.param


@pytest.fixture
def loss(backend):
    """The loss with each set of kernels."""
    return partial(gift_loss, backend=backend)
