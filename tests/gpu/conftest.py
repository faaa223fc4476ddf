"""What the tests on a GPU start from: ``make gpu-check`` runs them, and writes a report."""

from functools import partial

import pytest
import torch

from gift_fast import backends, gift_loss


def pytest_collection_modifyitems(items):
    """Skips what is marked ``gpu`` where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


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
