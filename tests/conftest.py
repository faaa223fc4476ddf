"""What every test starts from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:  # the tests of the loss run where torch alone is installed
    from torch import nn

    from gift_fast.data import DistilledSet, ImageDataset


def pytest_report_header():
    """One line for the tests that gpu/conftest.py leaves out."""
    if torch.cuda.is_available():
        return None
    return "tests/gpu: not collected, torch finds no CUDA device"


@pytest.fixture(autouse=True, scope="session")
def own_compiler_cache(tmp_path_factory):
    """Keeps compiled graphs apart from those of other runs.

    The cache of torch.compile is shared by all processes of a user. What was compiled under
    one ATEN_CPU_CAPABILITY is found under another, and gives NaN there (torch 2.14.1).
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        yield


@pytest.fixture(autouse=True, scope="session")
def no_file_in_the_users_cache(tmp_path_factory):
    """Keeps decoded images, and what was checked, in a folder of this session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GIFT_FAST_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def same_state_for_every_test():
    """Seeds torch, and gives back the number of threads that a test may have changed."""
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def one_thread():
    """One thread for all tests of a module: networks as small as theirs only wait for a second."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def dataset() -> ImageDataset:
    from gift_fast.data import load_dataset

    return load_dataset("digits")


@pytest.fixture(scope="session")
def teacher(dataset: ImageDataset) -> nn.Module:
    """Six epochs of training: right on most of the digits, sure of few."""
    from gift_fast.evaluation import TeacherConfig, train_teacher

    config = TeacherConfig(
        dataset="digits",
        model="convnet3:width=16",
        optimizer="adamw",
        learning_rate=1e-3,
        epochs=6,
        augmentation="none",
        batch_size=50,
    )
    return train_teacher(config, dataset)[0]


@pytest.fixture(scope="session")
def distilled(dataset: ImageDataset, teacher: nn.Module) -> DistilledSet:
    from gift_fast.distillation.selection import select_crops

    return select_crops(dataset, teacher, ipc=2, crops_per_image=2)
