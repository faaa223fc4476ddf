"""The random numbers of a run are those of version 0.1: the words that seed them may not change."""

from __future__ import annotations

from hashlib import sha256

import pytest
import torch

from gift_fast.data import load_dataset
from gift_fast.evaluation import TeacherConfig
from gift_fast.training import batches, models
from gift_fast.training.batches import RandomBatches
from gift_fast.training.processes import Processes


def seed(text: str) -> int:
    """The seed that version 0.1 takes for a purpose: 48 bits of a digest."""
    return int(sha256(text.encode()).hexdigest()[:12], 16)


def test_the_seed_of_the_initial_weights_is_kept(monkeypatch):
    used = []
    monkeypatch.setattr(models, "build_model", lambda *_, seed, **__: used.append(seed))
    models.new_model("convnet3", load_dataset("digits", train=False), 5)
    assert used == [seed("5/initialisation")]


@pytest.mark.parametrize("purpose", ["augmentation", "mixing"])
def test_the_seeds_of_a_batch_are_kept(purpose, monkeypatch):
    used = []
    build = getattr(batches, f"build_{purpose}")
    monkeypatch.setattr(
        batches,
        f"build_{purpose}",
        lambda *a, seed, **k: used.append(seed) or build(*a, seed=seed, **k),
    )
    assert [*first_batches()]
    assert used == [seed(f"5/{purpose}/3")]


def test_the_order_of_the_images_is_kept():
    generator = torch.Generator().manual_seed(seed("5/order/3"))
    dataset = load_dataset("digits")
    order = torch.randperm(len(dataset.train), generator=generator)
    assert torch.equal(
        torch.cat([batch.target for batch in first_batches()]), dataset.train.labels[order]
    )


def first_batches():
    dataset = load_dataset("digits")
    config = TeacherConfig(dataset="digits", seed=5, augmentation="none").resolved(
        len(dataset.train)
    )
    return RandomBatches(dataset.train, dataset.normalize, config, Processes()).epoch(3)
