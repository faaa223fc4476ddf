from __future__ import annotations

import pytest
import torch
from torch import nn

from gift_fast.evaluation.checks import check_inputs
from gift_fast.evaluation.config import EvaluationConfig, TeacherConfig
from gift_fast.evaluation.inputs import resolve_on
from gift_fast.evaluation.teacher import train_teacher
from gift_fast.training.last_batch import check_last_batch, has_single_image_batch, nearest_sizes
from gift_fast.training.processes import Processes

SHAPE = (1, 8, 8)


def pooled() -> nn.Module:
    """Batch norm on maps of one pixel, as a ResNet's last blocks have them on small images."""
    return nn.Sequential(nn.AvgPool2d(8), nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(1, 10))


def wide() -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 10))


def without() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_the_rule_is_that_of_the_batches(processes):
    for images in range(1, 30):
        for batch_size in range(1, 32):
            joint = torch.arange(images).split(batch_size)
            parts = [
                Processes(index, processes).part_of(len(batch))[0]
                for batch in joint
                for index in range(processes)
            ]
            alone = any(part.stop - part.start == 1 for part in parts)
            found = has_single_image_batch(images, batch_size, processes)
            assert found == alone, (images, batch_size)


def test_the_batch_sizes_that_are_named_leave_none_alone():
    for images in range(2, 40):
        for batch_size in range(1, images + 1):
            if has_single_image_batch(images, batch_size):
                near = nearest_sizes(images, batch_size)
                assert near
                assert not any(has_single_image_batch(images, size) for size in near)


def test_a_network_that_torch_would_refuse_is_refused_before_with_a_batch_size_that_works():
    with pytest.raises(ValueError, match=r"batch_size must .* batches of 5 end .* 4 or 6"):
        check_last_batch(pooled, SHAPE, images=6, batch_size=5, network="pooled")
    for batch_size in (4, 6):
        check_last_batch(pooled, SHAPE, images=6, batch_size=batch_size, network="pooled")


def test_a_network_that_trains_on_statistics_of_one_image_is_told():
    with pytest.warns(UserWarning, match="batch norm of wide .* 4 or 6"):
        check_last_batch(wide, SHAPE, images=6, batch_size=5, network="wide")


def test_a_network_without_batch_norm_takes_any_batch():
    check_last_batch(without, SHAPE, images=6, batch_size=5, network="without")
    check_last_batch(without, SHAPE, images=1, batch_size=1, network="without")


def test_one_image_alone_has_no_batch_size_that_helps():
    with pytest.raises(ValueError, match="more images"):
        check_last_batch(pooled, SHAPE, images=1, batch_size=1, network="pooled")


def test_students_and_teachers_are_checked(dataset, distilled):
    config = EvaluationConfig(
        dataset="digits", student="resnet18", teachers=(), loss="ce", batch_size=19, epochs=1
    )
    with pytest.raises(ValueError, match=r"batch_size must .* resnet18: 20 images in .* 19 end"):
        check_inputs(resolve_on(config, distilled), dataset, distilled, (), None)
    teacher = TeacherConfig(dataset="digits", model="resnet18", batch_size=16, epochs=1)
    with pytest.raises(ValueError, match=r"resnet18: 1297 images in batches of 16 .* 15 or"):
        train_teacher(teacher, dataset)
