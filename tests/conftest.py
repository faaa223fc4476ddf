"""What every test starts from."""

import os

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def no_file_in_the_users_cache(tmp_path_factory):
    """Keeps decoded images, and what was checked, in a folder of this session."""
    before = os.environ.get("GIFT_FAST_CACHE")
    os.environ["GIFT_FAST_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["GIFT_FAST_CACHE"]
    else:
        os.environ["GIFT_FAST_CACHE"] = before


@pytest.fixture(autouse=True)
def same_state_for_every_test():
    """Seeds torch, and gives back the number of threads that a test may have changed."""
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
