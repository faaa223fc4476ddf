"""What every test starts from."""

import pytest
import torch


def pytest_report_header():
    """One line for the tests that gpu/conftest.py leaves out."""
    if torch.cuda.is_available():
        return None
    return "tests/gpu: not collected, torch finds no CUDA device"


@pytest.fixture(autouse=True)
def same_state_for_every_test():
    """Seeds torch, and gives back the number of threads that a test may have changed."""
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
