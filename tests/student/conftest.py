from __future__ import annotations

import pytest
from torch import nn

from gift_fast.student.config import TeacherConfig
from gift_fast.student.datasets import ImageDataset, load_dataset
from gift_fast.student.distilled import DistilledSet
from gift_fast.student.distilled.selection import select_crops
from gift_fast.student.train import train_teacher


@pytest.fixture(scope="session")
def dataset() -> ImageDataset:
    return load_dataset("digits")


@pytest.fixture(scope="session")
def teacher(dataset: ImageDataset) -> nn.Module:
    """Six epochs of training: right on most of the digits, sure of few."""
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
    return select_crops(dataset, teacher, ipc=2, crops_per_image=2)
