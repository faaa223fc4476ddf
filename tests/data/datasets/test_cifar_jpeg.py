from __future__ import annotations

import pytest
import torch

from gift_fast.data.datasets import cifar_jpeg, load_dataset
from tests.layouts import write_image

CLASSES = [
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
]


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Two training images and one test image per class."""
    monkeypatch.setenv("GIFT_FAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cifar_jpeg, "IMAGES", {"train": 20, "test": 10})
    for label, name in enumerate(CLASSES):
        for number in range(3):
            split = "test" if number == 2 else "train"
            path = tmp_path / "cifar10-jpeg" / split / name / f"{number:04d}.jpg"
            write_image(path, 32, 32, seed=3 * label + number)
    return tmp_path


@pytest.mark.parametrize("within", [False, True])
def test_the_copies_are_read_in_the_order_of_cifar10s_classes(root, within):
    dataset = load_dataset("cifar10-jpeg", root / "cifar10-jpeg" if within else root)
    assert dataset.name == "cifar10-jpeg"
    assert dataset.class_names == tuple(CLASSES)
    assert dataset.train.labels.tolist() == [label for label in range(10) for _ in range(2)]
    assert dataset.test.labels.tolist() == list(range(10))
    assert dataset.test.images.shape == (10, 3, 32, 32)
    assert dataset.test.images.dtype == torch.uint8
    assert (dataset.mean, dataset.std) == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


def test_a_student_is_tested_without_the_training_images(root):
    assert load_dataset("cifar10-jpeg", root, train=False).train is None


def test_a_missing_image_is_told(root):
    (root / "cifar10-jpeg" / "train" / "deer" / "0001.jpg").unlink()
    with pytest.raises(ValueError, match=r"train must .* 20 images, got 19"):
        load_dataset("cifar10-jpeg", root)


def test_other_classes_are_refused(root):
    write_image(root / "cifar10-jpeg" / "test" / "apple" / "0.jpg", 32, 32)
    with pytest.raises(ValueError, match=r"must .* folder for each of airplane.*, got apple"):
        load_dataset("cifar10-jpeg", root)
