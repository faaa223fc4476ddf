from __future__ import annotations

import pytest
import torch

from gift_fast.data.datasets import DATASETS, ImageDataset, TensorSplit, load_dataset
from gift_fast.data.datasets.normalization import NORMALIZATIONS
from gift_fast.evaluation.config import EvaluationConfig, TeacherConfig
from gift_fast.evaluation.digests import inputs_of
from gift_fast.training.weights import checkpoint_name


def color(root, train: bool = True) -> ImageDataset:
    split = TensorSplit(torch.full((20, 3, 4, 4), 0.5), torch.arange(20) % 2)
    cifar = NORMALIZATIONS["cifar"]
    return ImageDataset("color", split, split, cifar.mean, cifar.std, ("ape", "bee"))


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(DATASETS, "color", color)


def test_the_option_replaces_the_constants_and_nothing_else():
    own = load_dataset("color")
    other = load_dataset("color:normalization=imagenet")
    assert (other.mean, other.std) == NORMALIZATIONS["imagenet"]
    assert other.name == own.name
    assert torch.equal(other.test.images, own.test.images)
    expected = (0.5 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(other.normalize(other.test.images)[0, :, 0, 0], expected)


def test_it_stands_beside_the_other_options_of_every_dataset():
    dataset = load_dataset("color:heldout=4,normalization=imagenet,resize=8")
    assert len(dataset.train) == 16
    assert dataset.side == 8
    assert dataset.mean == NORMALIZATIONS["imagenet"].mean


def test_a_run_with_other_constants_is_another_run_with_a_teacher_of_its_own():
    specs = ("cifar10", "cifar10:normalization=imagenet")
    own, other = (EvaluationConfig(dataset=spec) for spec in specs)
    assert own.to_dict() != other.to_dict()
    assert TeacherConfig(dataset=specs[1]).dataset == specs[1]
    assert checkpoint_name(specs[0], "convnet3") != checkpoint_name(specs[1], "convnet3")
    digests = [
        inputs_of(load_dataset(spec), load_dataset("color").test, ())["test"]
        for spec in ("color", "color:normalization=imagenet")
    ]
    assert digests[0] != digests[1]


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("digits:normalization=imagenet", "normalization must be constants for 1 channels, .* 3"),
        ("digits:normalization=imagnet", "must be one of cifar, .* got 'imagnet'; .* 'imagenet'"),
    ],
)
def test_constants_that_do_not_fit_are_refused(dataset, message):
    with pytest.raises(ValueError, match=message):
        load_dataset(dataset)


def test_unknown_constants_are_refused_before_anything_is_read():
    with pytest.raises(ValueError, match="normalization must be one of cifar"):
        EvaluationConfig(dataset="cifar10:normalization=mine")
