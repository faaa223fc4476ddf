"""Random training images as a distilled set."""

from __future__ import annotations

import pytest
import torch

from gift_fast.data.datasets import load_dataset
from gift_fast.distillation import distill
from gift_fast.training.models import build_model


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def teacher():
    return build_model("convnet3:width=8", channels=1, side=8, num_classes=10, seed=0)


def test_they_are_different_training_images_of_their_class(digits, teacher, tmp_path):
    made = distill("random", digits, teacher, tmp_path / "set", ipc=3, seed=0)
    assert made.labels.tolist() == [label for label in range(10) for _ in range(3)]
    images, labels = next(digits.training_split.batches([torch.arange(len(digits.training_split))]))
    found = made.images.float() / (255.0 if made.images.dtype == torch.uint8 else 1.0)
    differences = (found.flatten(1)[:, None] - images.flatten(1)[None]).abs().amax(2)
    nearest = differences.argmin(1)
    assert differences.amin(1).max() < 1 / 255
    assert torch.equal(labels[nearest], made.labels)
    assert len(set(nearest.tolist())) == 30


def test_another_seed_draws_other_images(digits, teacher, tmp_path):
    sets = [distill("random", digits, teacher, tmp_path / str(s), ipc=2, seed=s) for s in (0, 1)]
    assert not torch.equal(sets[0].images, sets[1].images)


def test_more_images_than_a_class_has_are_refused(digits, teacher, tmp_path):
    with pytest.raises(ValueError, match="ipc must be from 1 to"):
        distill("random", digits, teacher, tmp_path / "set", ipc=10_000, seed=0)
