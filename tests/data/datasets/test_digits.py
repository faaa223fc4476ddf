from __future__ import annotations

import pytest
import torch

from gift_fast.data.datasets import load_dataset


def test_digits_have_the_stated_split_and_range(dataset):
    assert dataset.train.images.shape == (1297, 1, 8, 8)
    assert dataset.test.images.shape == (500, 1, 8, 8)
    assert dataset.train.images.dtype == torch.float32
    assert dataset.train.labels.dtype == torch.int64
    assert dataset.train.images.min() == 0.0
    assert dataset.train.images.max() == 1.0


def test_the_splits_of_digits_share_no_image_and_lose_none(dataset):
    from sklearn.datasets import load_digits

    both = torch.cat([dataset.train.images, dataset.test.images]).flatten(1) * 16
    everything = torch.from_numpy(load_digits().data).float()
    assert torch.equal(both.unique(dim=0), everything.unique(dim=0))
    assert len(both) == len(everything)


def test_every_class_has_its_share_of_the_test_split(dataset):
    train = dataset.train.labels.bincount() / len(dataset.train)
    test = dataset.test.labels.bincount() / len(dataset.test)
    assert (train - test).abs().max() < 0.002


def test_the_split_is_the_same_every_time_and_without_the_training_images(dataset):
    again = load_dataset("digits", train=False)
    assert torch.equal(again.test.images, dataset.test.images)
    assert again.train is None
    assert again.mean == dataset.mean


def test_normalized_training_images_have_mean_zero_and_std_one(dataset):
    images = dataset.normalize(dataset.train.images)
    assert images.mean().item() == pytest.approx(0.0, abs=1e-5)
    assert images.std().item() == pytest.approx(1.0, abs=1e-5)
