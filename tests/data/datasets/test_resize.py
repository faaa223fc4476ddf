from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from gift_fast.data.datasets import load_dataset
from gift_fast.data.distilled import DistilledSet, write_distilled
from gift_fast.evaluation.config import EvaluationConfig, TeacherConfig
from gift_fast.evaluation.context import RunContext
from gift_fast.evaluation.inputs import load_inputs
from gift_fast.evaluation.job import EvaluationJob
from gift_fast.evaluation.run import run_job
from gift_fast.evaluation.teacher import run_teacher


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def resized_by_pillow(image: torch.Tensor, side: int) -> torch.Tensor:
    """A gray image in floating point; Pillow's bilinear filter is antialiased where it shrinks."""
    resized = Image.fromarray(image.numpy()).resize((side, side), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized))


@pytest.mark.parametrize("side", [4, 12, 16])
def test_every_image_is_resized_as_pillow_does_it(digits, side):
    resized = load_dataset(f"digits:resize={side}")
    assert (resized.side, resized.num_classes, len(resized.train)) == (side, 10, 1297)
    for split, own in ((resized.test, digits.test), (resized.train, digits.train)):
        images, labels = next(split.batches([torch.arange(5, 9)]))
        assert images.shape == (4, *split.shape) == (4, 1, side, side)
        expected = torch.stack([resized_by_pillow(image[0], side) for image in own.images[5:9]])
        torch.testing.assert_close(images[:, 0], expected, atol=1e-5, rtol=0)
        assert torch.equal(labels, own.labels[5:9])


def test_a_subset_and_other_labels_keep_the_size(digits):
    split = load_dataset("digits:resize=16").test
    few = split.subset(torch.tensor([7, 2])).with_labels(torch.tensor([1, 0]))
    images, labels = next(few.batches([torch.arange(2)]))
    assert torch.equal(images, next(split.batches([torch.tensor([7, 2])]))[0])
    assert labels.tolist() == few.labels.tolist() == [1, 0]
    assert split.fingerprint() != digits.test.fingerprint() != few.fingerprint()


def test_held_out_images_are_the_same_and_resized_too(digits):
    resized = load_dataset("digits:resize=16,heldout=300")
    own = load_dataset("digits:heldout=300")
    assert (len(resized.validation), resized.validation.shape) == (300, (1, 16, 16))
    assert torch.equal(resized.validation.labels, own.validation.labels)


@pytest.mark.parametrize("text", ["0", "-1", "big", "1.5"])
def test_a_size_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match=f"resize must be a number of pixels, got '{text}'"):
        EvaluationConfig(dataset=f"digits:resize={text}")


@pytest.fixture
def set_of_eight_pixels(tmp_path, digits):
    images = digits.train.images[:20]
    labels = torch.arange(10).repeat_interleave(2)
    write_distilled(tmp_path / "set", DistilledSet(images, labels), digits)
    return tmp_path / "set"


def test_teacher_student_test_and_distilled_images_have_the_size(tmp_path, set_of_eight_pixels):
    place = RunContext(out=tmp_path / "runs", teacher_dir=tmp_path / "teachers", quiet=True)
    dataset, model = "digits:resize=16", "convnet4:width=4"  # which takes no image of 8 pixels
    with pytest.raises(ValueError, match="side must be at least 16 pixels"):
        run_teacher(TeacherConfig(dataset="digits", model=model, epochs=1), place)
    run_teacher(TeacherConfig(dataset=dataset, model=model, epochs=1, batch_size=500), place)
    config = EvaluationConfig(dataset=dataset, student=model, teachers=(model,), epochs=1)
    job = EvaluationJob(config=config, data=set_of_eight_pixels, seeds=(0,), check_set=False)
    inputs = load_inputs(job, place, torch.device("cpu"))
    assert inputs.distilled.images.shape == (20, 1, 16, 16)
    assert "resized from 8 x 8 to 16 x 16" in inputs.distilled.source
    (result,) = run_job(job, place)
    assert result.config.dataset == dataset
    some = replace(config, classes="seen:step=2")
    (result,) = run_job(replace(job, config=some), place)
    assert result.config.classes == some.classes
    assert result.inputs == inputs.digests_of(some) != inputs.digests_of(config)
    assert inputs.narrowed(some.classes).dataset.test.shape == (1, 16, 16)
