from __future__ import annotations

from dataclasses import replace
from itertools import chain

import pytest
import torch

from gift_fast.data.datasets import TensorSplit
from gift_fast.data.distilled import DistilledSet
from gift_fast.data.labels.fkd import FkdLabels
from gift_fast.evaluation.config import EvaluationConfig
from gift_fast.training.batches import Batch, RandomBatches, ReplayBatches
from gift_fast.training.processes import Processes

CONFIG = EvaluationConfig(
    dataset="digits", batch_size=8, learning_rate=1e-3, epochs=2, augmentation="none"
)
NUMBERS = torch.arange(20.0)
ALONE = Processes()
SPLIT = TensorSplit(NUMBERS.view(-1, 1, 1, 1).repeat(1, 3, 8, 8), torch.arange(20) % 10)


def batches(config: EvaluationConfig = CONFIG, processes: Processes = ALONE) -> RandomBatches:
    soft_labels = NUMBERS.view(-1, 1).repeat(1, 10)
    return RandomBatches(SPLIT, lambda images: images / 2, config, processes, soft_labels)


def numbers(batch: Batch) -> list[int]:
    """Which images a batch without augmentation holds."""
    return (2 * batch.images[:, 0, 0, 0]).int().tolist()


def test_an_epoch_takes_every_image_once_in_an_order_of_its_own():
    first, second = ([numbers(b) for b in batches().epoch(epoch)] for epoch in (1, 2))
    assert [len(batch) for batch in first] == [8, 8, 4]
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(20))
    assert first != second


def test_images_labels_and_stored_soft_labels_stay_together():
    for batch in batches().epoch(1):
        assert batch.target.tolist() == [n % 10 for n in numbers(batch)]
        assert batch.soft_labels[:, 0].int().tolist() == numbers(batch)


def test_any_epoch_is_the_same_whichever_came_before():
    resumed = [b.images for b in batches(replace(CONFIG, augmentation="dsa")).epoch(2)]
    unbroken = batches(replace(CONFIG, augmentation="dsa"))
    list(unbroken.epoch(1))
    for one, other in zip(unbroken.epoch(2), resumed, strict=True):
        assert torch.equal(one.images, other)


def test_the_order_depends_on_the_seed_and_not_on_the_augmentation():
    def order(**changes: object) -> list[int]:
        targets = [b.target.tolist() for b in batches(replace(CONFIG, **changes)).epoch(1)]
        return list(chain(*targets))

    assert order() == order(augmentation="dsa") == order(mixing="cutmix")
    assert order() != order(seed=1)


@pytest.mark.parametrize("augmentation", ["dsa", "dsa-one", "rrc"])
@pytest.mark.parametrize("mixing", ["none", "mixup", "cutmix"])
@pytest.mark.parametrize("count", [2, 3])
def test_the_parts_of_several_processes_are_what_one_process_sees(augmentation, mixing, count):
    config = replace(CONFIG, augmentation=augmentation, mixing=mixing)
    whole = list(batches(config).epoch(1))
    parts = [list(batches(config, Processes(i, count)).epoch(1)) for i in range(count)]
    for joint, *pieces in zip(whole, *parts, strict=True):
        images = torch.cat([p.images for p in pieces])
        torch.testing.assert_close(images, joint.images, atol=1e-4, rtol=1e-6)
        assert torch.equal(torch.cat([p.target for p in pieces]), joint.target)
        assert torch.equal(torch.cat([p.soft_labels for p in pieces]), joint.soft_labels)
        assert sum(p.share for p in pieces) == pytest.approx(1)
        assert {p.weight for p in pieces} == {joint.weight}
        if mixing != "none":
            assert torch.equal(torch.cat([p.mixed_target for p in pieces]), joint.mixed_target)


def test_a_process_without_an_image_of_its_own_takes_part_with_no_share():
    config = replace(CONFIG, batch_size=19)  # the second batch has a single image
    first, second = (list(batches(config, Processes(i, 2)).epoch(1))[1] for i in (0, 1))
    assert {first.share, second.share} == {0.0, 1.0}
    assert len(first.images) == len(second.images) == 1


def test_a_mixed_image_has_the_labels_of_both_its_parents():
    config = replace(CONFIG, mixing="mixup")
    for batch in batches(config).epoch(1):
        mixed = 2 * batch.images[:, 0, 0, 0]
        # Which pair of images a mean comes from is not unique; their labels are numbers mod 10.
        w = batch.weight
        parents = [
            (a, b)
            for a in range(20)
            for b in range(20)
            for m in mixed
            if abs(w * a + (1 - w) * b - m) < 1e-4
        ]
        expected = {(a % 10, b % 10) for a, b in parents}
        assert set(zip(batch.target.tolist(), batch.mixed_target.tolist(), strict=True)) <= expected


def stored(folder, n: int = 12, size: int = 4) -> FkdLabels:
    """Seven-item FKD labels of whole images, two epochs, each naming its images' classes."""
    labels = torch.arange(n) % 3
    for epoch in range(2):
        order = torch.randperm(n)
        (folder / f"epoch_{epoch}").mkdir(parents=True)
        for number, index in enumerate(order.split(size)):
            b = len(index)
            mix = torch.randperm(b)
            items = [
                torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(b, 1),
                torch.zeros(b, dtype=torch.bool),
                mix,
                0.75,
                (0, 0, 8, 4),
                10 * torch.nn.functional.one_hot(labels[index], 3).half(),
                index,
            ]
            torch.save(items, folder / f"epoch_{epoch}" / f"batch_{number}.tar")
    return FkdLabels(folder, labels, 3)


@pytest.mark.parametrize("count", [1, 3])
def test_stored_batches_are_replayed_with_their_labels_and_mixing(tmp_path, count):
    labels = stored(tmp_path)
    images = torch.arange(12, dtype=torch.float32).view(-1, 1, 1, 1).repeat(1, 1, 8, 8)
    distilled = DistilledSet(images, labels.labels, replay=labels)
    processes = [Processes(i, count) for i in range(count)]
    parts = [
        list(ReplayBatches(distilled.replay, distilled, lambda x: x, CONFIG.seed, p).epoch(2))
        for p in processes
    ]
    for batch, *pieces in zip(labels.epoch(1), *parts, strict=True):
        left = torch.cat([p.images[:, 0, 0, 0] for p in pieces])
        right = torch.cat([p.images[:, 0, 0, 7] for p in pieces])
        assert left.tolist() == batch.index[batch.mix_index].tolist()
        assert right.tolist() == batch.index.tolist()
        assert torch.equal(torch.cat([p.target for p in pieces]), labels.labels[batch.index])
        assert torch.equal(
            torch.cat([p.mixed_target for p in pieces]),
            labels.labels[batch.index[batch.mix_index]],
        )
        assert torch.equal(torch.cat([p.soft_labels for p in pieces]), batch.logits.float())
        assert {p.weight for p in pieces} == {0.5}
