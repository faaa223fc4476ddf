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
    return load_dataset("digits:heldout=300")


def rows(split) -> set[bytes]:
    return {image.numpy().tobytes() for image in split.images}


def test_training_images_are_either_kept_or_held_out_and_no_test_image_moves(whole, parted):
    assert (len(parted.train), len(parted.heldout)) == (len(whole.train) - 300, 300)
    assert rows(parted.train) | rows(parted.heldout) == rows(whole.train)
    assert not rows(parted.train) & rows(parted.heldout)
    assert torch.equal(parted.test.images, whole.test.images)


def test_every_class_has_its_share(whole, parted):
    shares = parted.heldout.labels.bincount() / whole.train.labels.bincount()
    torch.testing.assert_close(shares, torch.full((10,), 300 / 1297), atol=0.01, rtol=0)


def test_the_same_images_are_taken_every_time(parted):
    again = load_dataset("digits:heldout=300")
    assert torch.equal(parted.heldout.images, again.heldout.images)


def test_a_run_is_tested_on_the_split_that_it_names(whole, parted):
    dataset = "digits:heldout=300"
    on_test = load_tested(EvaluationConfig(dataset=dataset), None)
    on_heldout = load_tested(EvaluationConfig(dataset=dataset, tested_on="heldout"), None)
    assert torch.equal(on_test.test.images, whole.test.images)
    assert torch.equal(on_heldout.test.images, parted.heldout.images)
    assert on_heldout.train is None


@pytest.mark.parametrize("images", ["9", "649", "-1", "half", ""])
def test_another_number_of_images_is_refused(images):
    with pytest.raises(ValueError, match="heldout must be"):
        load_dataset(f"digits:heldout={images}")


def test_a_run_on_held_out_images_needs_some():
    with pytest.raises(ValueError, match=r"dataset must have a validation split .* got 'digits'"):
        EvaluationConfig(dataset="digits", tested_on="heldout")
    with pytest.raises(ValueError, match="heldout must be a number of images, got 'x'"):
        TeacherConfig(dataset="digits:heldout=x")
