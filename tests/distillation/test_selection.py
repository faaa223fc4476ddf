from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from gift_fast.data.distilled import DistilledSet
from gift_fast.distillation.selection import random_crops, select_crops


def test_the_set_is_class_blocked_with_ipc_images_a_class(distilled):
    assert distilled.labels.tolist() == [label for label in range(10) for _ in range(2)]
    assert distilled.images.shape == (20, 1, 8, 8)
    assert distilled.images.min() >= 0.0
    assert distilled.images.max() <= 1.0


def test_the_teacher_is_surer_of_the_set_than_of_the_training_images(dataset, teacher, distilled):
    def loss(images, labels):
        with torch.no_grad():
            return F.cross_entropy(teacher(dataset.normalize(images)), labels)

    chosen = loss(distilled.images, distilled.labels)
    assert chosen < 0.7 * loss(dataset.train.images, dataset.train.labels)


def test_a_classs_images_come_with_the_surest_first(dataset, teacher, distilled):
    with torch.no_grad():
        logits = teacher(dataset.normalize(distilled.images))
    loss = F.cross_entropy(logits, distilled.labels, reduction="none").view(10, 2)
    assert (loss[:, 0] <= loss[:, 1] + 1e-6).all()


def test_more_crops_never_make_the_teacher_less_sure(dataset, teacher):
    def total_loss(crops):
        chosen = select_crops(dataset, teacher, ipc=1, crops_per_image=crops)
        with torch.no_grad():
            return F.cross_entropy(teacher(dataset.normalize(chosen.images)), chosen.labels)

    assert total_loss(6) < total_loss(1)


def test_the_seed_alone_sets_the_set(dataset, teacher, distilled):
    torch.manual_seed(123)
    again = select_crops(dataset, teacher, ipc=2, crops_per_image=2)
    other = select_crops(dataset, teacher, ipc=2, crops_per_image=2, seed=1)
    assert torch.equal(again.images, distilled.images)
    assert not torch.equal(other.images, distilled.images)


def test_a_crop_stays_within_the_image_and_keeps_its_direction():
    ramp = torch.linspace(0.0, 1.0, 8).expand(200, 1, 8, 8)  # rises to the right
    crops = random_crops(ramp, torch.Generator().manual_seed(0))
    assert (crops.diff(dim=3) >= -1e-6).all()
    torch.testing.assert_close(crops, crops[:, :, :1].expand_as(crops))
    # A window of half the area spans 0.71 of the side, so of the ramp's rise.
    rise = (crops[..., 6] - crops[..., 1])[:, 0, 0] / (5 / 7)
    assert 0.70 < rise.min() < 0.75
    assert 0.95 < rise.max() <= 1.001


def test_an_ipc_beyond_the_smallest_class_is_refused(dataset, teacher):
    with pytest.raises(
        ValueError, match=r"ipc must be from 1 to 1[0-9]+, .*smallest class, got 200"
    ):
        select_crops(dataset, teacher, ipc=200)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((0, 1, 8, 8), (0,), None), r"images must be \(N, C, S, S\), N >= 1, got \(0, 1, 8, 8\)"),
        (((2, 8, 8), (2,), None), r"images must be .*, got \(2, 8, 8\)"),
        (((2, 1, 8, 8), (3,), None), r"labels must have shape \(2,\), got \(3,\)"),
        (((2, 1, 8, 8), (2,), (3, 10)), r"soft_labels must have 2 rows, .*, got \(3, 10\)"),
    ],
)
def test_tensors_that_disagree_are_refused(shapes, message):
    tensors = [None if shape is None else torch.zeros(shape) for shape in shapes]
    with pytest.raises(ValueError, match=message):
        DistilledSet(*tensors)
