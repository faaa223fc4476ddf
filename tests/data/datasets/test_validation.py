from __future__ import annotations

import pytest
import torch

from gift_fast.data.datasets import load_dataset
from gift_fast.evaluation.config import EvaluationConfig, TeacherConfig
from gift_fast.evaluation.inputs import load_tested


@pytest.fixture(scope="module")
def whole():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def parted():
    return load_dataset("digits:validation=300")


def rows(split) -> set[bytes]:
    return {image.numpy().tobytes() for image in split.images}


def test_training_images_are_in_one_split_and_no_test_image_moves(whole, parted):
    assert (len(parted.train), len(parted.validation)) == (len(whole.train) - 300, 300)
    assert rows(parted.train) | rows(parted.validation) == rows(whole.train)
    assert not rows(parted.train) & rows(parted.validation)
    assert torch.equal(parted.test.images, whole.test.images)


def test_every_class_has_its_share(whole, parted):
    shares = parted.validation.labels.bincount() / whole.train.labels.bincount()
    torch.testing.assert_close(shares, torch.full((10,), 300 / 1297), atol=0.01, rtol=0)


def test_the_same_images_are_taken_every_time(parted):
    again = load_dataset("digits:validation=300")
    assert torch.equal(parted.validation.images, again.validation.images)


def test_a_run_is_tested_on_the_split_that_it_names(whole, parted):
    dataset = "digits:validation=300"
    on_test = load_tested(EvaluationConfig(dataset=dataset), None)
    on_validation = load_tested(EvaluationConfig(dataset=dataset, tested_on="validation"), None)
    assert torch.equal(on_test.test.images, whole.test.images)
    assert torch.equal(on_validation.test.images, parted.validation.images)
    assert on_validation.train is None


@pytest.mark.parametrize("images", ["9", "649", "-1", "half", ""])
def test_another_number_of_images_is_refused(images):
    with pytest.raises(ValueError, match="validation must be"):
        load_dataset(f"digits:validation={images}")


def test_a_run_on_the_validation_split_needs_one():
    with pytest.raises(ValueError, match=r"dataset must have a validation split .* got 'digits'"):
        EvaluationConfig(dataset="digits", tested_on="validation")
    with pytest.raises(ValueError, match="validation must be a number of images, got 'x'"):
        TeacherConfig(dataset="digits:validation=x")
