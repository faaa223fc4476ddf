from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gift_fast.auditing.class_order import (
    compare_classes,
    distinct_tail,
    is_knowledge,
    is_strict_maximum,
)


def predictions_of(expected: Tensor, accuracy: float, classes: int, seed: int) -> Tensor:
    """What is expected with this probability, else any class."""
    generator = torch.Generator().manual_seed(seed)
    right = torch.rand(len(expected), generator=generator) < accuracy
    return torch.where(right, expected, torch.randint(classes, expected.shape, generator=generator))


def labels_of(classes: int, images: int) -> Tensor:
    return torch.arange(classes).repeat_interleave(images)


def permutation_of(classes: int, seed: int) -> Tensor:
    return torch.randperm(classes, generator=torch.Generator().manual_seed(seed))


def in_order(classes: int) -> tuple[int, ...]:
    return tuple(range(classes))


@pytest.mark.parametrize(
    ("classes", "images", "accuracy"),
    # The last one: ImageNet-1K under the teacher that the paper calls ConvNet-4, 43.6 %.
    [(10, 10, 0.9), (10, 100, 0.4), (100, 10, 0.6), (200, 5, 0.9), (1000, 50, 0.436)],
)
def test_a_permutation_of_all_classes_is_found(classes, images, accuracy):
    permutation = permutation_of(classes, seed=1)
    labels = labels_of(classes, images)
    order = compare_classes(
        labels, predictions_of(permutation[labels], accuracy, classes, seed=2), classes
    )
    wrong = [label for label in range(classes) if order.class_map[label] != permutation[label]]
    assert order.certain
    assert not order.same
    assert order.agreement < 2 * 100 / classes + 5
    assert order.mapped == pytest.approx(100 * accuracy, abs=10)
    assert set(wrong) <= set(order.guessed)
    assert len(wrong) <= 0.03 * classes


def test_a_permutation_of_some_classes_is_found_and_the_others_stay():
    permutation = torch.arange(100)
    permutation[[3, 7, 50, 51, 52]] = torch.tensor([7, 3, 51, 52, 50])
    labels = labels_of(100, 20)
    order = compare_classes(labels, predictions_of(permutation[labels], 0.7, 100, seed=0), 100)
    assert order.moved == (3, 7, 50, 51, 52)
    assert order.class_map == tuple(permutation.tolist())
    assert order.same  # 95 classes are


def test_two_swapped_classes_of_ten_are_found_with_ten_images_each():
    permutation = torch.arange(10)
    permutation[[0, 9]] = torch.tensor([9, 0])
    labels = labels_of(10, 10)
    order = compare_classes(labels, predictions_of(permutation[labels], 0.95, 10, seed=0), 10)
    assert order.moved == (0, 9)


def test_a_class_that_is_never_predicted_is_placed_by_elimination():
    permutation = permutation_of(10, seed=3)
    labels = labels_of(10, 20)
    predictions = permutation[labels]
    predictions[labels == 4] = permutation[5]
    order = compare_classes(labels, predictions, 10)
    assert order.class_map == tuple(permutation.tolist())
    assert order.guessed == (4,) or order.guessed == (4, 5)


def test_one_image_a_class_is_enough_where_all_predictions_differ():
    permutation = torch.arange(100).roll(1)
    order = compare_classes(torch.arange(100), permutation, 100)
    assert order.class_map == tuple(permutation.tolist())
    assert order.certain
    assert order.rearranged is None


def test_ten_single_images_make_a_permutation_likely_and_not_certain():
    order = compare_classes(torch.arange(10), torch.arange(10).roll(1), 10)
    assert order.permuted
    assert not order.certain
    assert 1e-4 < order.probability < 1e-3


@pytest.mark.parametrize("accuracy", [0.0, 0.3, 0.6, 0.9])
@pytest.mark.parametrize(("classes", "images"), [(10, 1), (10, 2), (10, 10), (100, 1), (100, 5)])
def test_predictions_that_are_right_or_random_are_never_called_a_permutation(
    classes, images, accuracy
):
    labels = labels_of(classes, images)
    for seed in range(60):
        predictions = predictions_of(labels, accuracy, classes, seed)
        order = compare_classes(labels, predictions, classes)
        assert not order.permuted
        assert order.class_map == in_order(classes)


@pytest.mark.parametrize("images", [1, 5, 20])
def test_pairs_of_classes_that_are_often_mistaken_for_each_other_are_no_permutation(images):
    labels = labels_of(40, images)
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        mistaken = torch.rand(len(labels), generator=generator) < 0.4
        predictions = torch.where(mistaken, labels ^ 1, labels)
        assert not compare_classes(labels, predictions, 40).permuted


def test_two_classes_that_cannot_be_told_apart_are_no_permutation():
    labels = labels_of(10, 50)
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        coin = torch.rand(len(labels), generator=generator) < 0.5
        predictions = torch.where(coin & (labels < 2), labels ^ 1, labels)
        assert not compare_classes(labels, predictions, 10).permuted


def clusters(prototypes: Tensor, images: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points about each prototype, and their classes."""
    labels = labels_of(len(prototypes), images)
    noise = torch.randn(len(labels), prototypes.shape[1], generator=generator)
    return prototypes[labels] + 1.5 * noise, labels


def small_network(prototypes: Tensor, steps: int, seed: int) -> nn.Module:
    """A network after a few steps of training; 0 leaves it untrained."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(prototypes.shape[1], 32), nn.ReLU(), nn.Linear(32, 10))
    points, labels = clusters(prototypes, 20, generator)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.2, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(network(points), labels))
        optimizer.step()
    return network


@pytest.mark.parametrize("steps", [0, 2, 20])
def test_networks_that_learned_little_are_never_called_permuted(steps):
    for seed in range(20):
        generator = torch.Generator().manual_seed(1000 + seed)
        prototypes = torch.randn(10, 16, generator=generator)
        network = small_network(prototypes, steps, seed)
        for images in (1, 10, 50):
            points, labels = clusters(prototypes, images, generator)
            with torch.no_grad():
                order = compare_classes(labels, network(points).argmax(1), 10)
            assert not order.permuted


def test_a_network_that_says_the_same_of_every_image_is_neither_the_same_nor_permuted():
    labels = labels_of(10, 50)
    order = compare_classes(labels, torch.full_like(labels, 3), 10)
    assert not order.permuted
    assert not order.same
    assert order.agreement == pytest.approx(order.chance)


def test_a_rearrangement_of_random_predictions_explains_no_more_than_chance_of_other_images():
    labels = labels_of(10, 100)
    order = compare_classes(labels, predictions_of(labels, 0.0, 10, seed=0), 10)
    assert order.rearranged == pytest.approx(10, abs=3)


def test_classes_of_different_sizes_weigh_the_same():
    labels = torch.cat([torch.zeros(2000, dtype=torch.int64), labels_of(10, 20)])
    permutation = permutation_of(10, seed=5)
    order = compare_classes(labels, predictions_of(permutation[labels], 0.5, 10, seed=1), 10)
    assert order.class_map == tuple(permutation.tolist())


def test_classes_without_images_stay_where_they_are():
    labels = labels_of(5, 20) + 3
    permutation = torch.arange(10)
    permutation[3:8] = torch.tensor([4, 5, 6, 7, 3])
    order = compare_classes(labels, permutation[labels], 10)
    assert order.class_map == tuple(permutation.tolist())


def test_the_probability_of_distinct_mistakes_is_that_of_counting():
    """Of all 4^4 ways in which 4 mistakes hit 4 classes, 4! hit all and 4 hit a single one."""
    assert distinct_tail(4, 4, 4, 4) == pytest.approx(math.factorial(4) / 4**4)
    assert distinct_tail(4, 4, 4, 2) == pytest.approx(1 - 4 / 4**4)
    assert distinct_tail(4, 4, 4, 1) == pytest.approx(1)


def test_a_mistake_never_hits_its_own_class():
    """One mistake among four classes of which two are free, its own and another: 1 of 3 ways."""
    assert distinct_tail(1, 2, 4, 1) == pytest.approx(1 / 3)


def test_nine_of_ten_single_predictions_that_differ_are_no_permutation():
    predictions = torch.arange(10).roll(1)
    predictions[3] = predictions[4]
    assert not compare_classes(torch.arange(10), predictions, 10).permuted


@pytest.mark.parametrize(
    ("settled", "explained", "known"),
    [(10, 30.0, True), (9, 30.0, False), (9, 80.0, True), (5, 99.0, False)],
)
def test_an_untrained_network_would_do_as_well_unless_all_of_ten_classes_or_most_images_fit(
    settled, explained, known
):
    assert is_knowledge(settled, 10, 10, explained) == known


def test_equal_shares_make_no_most_frequent_partner():
    group, weight = torch.tensor([0, 1, 0, 0, 1]).numpy(), torch.tensor([2.0, 5, 2, 1, 4]).numpy()
    assert is_strict_maximum(group, weight).tolist() == [False, True, False, False, False]


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        ([0, 1], [0], r"labels and predictions must be \(N\), N >= 1, got \(2,\) and \(1,\)"),
        ([], [], r"N >= 1, got \(0,\) and \(0,\)"),
        ([0, 3], [0, 1], "labels must be from 0 to 2, got 0 to 3"),
        ([0, 1], [-1, 1], "predictions must be from 0 to 2, got -1 to 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(labels, predictions, message):
    kind = torch.int64
    with pytest.raises(ValueError, match=message):
        compare_classes(torch.tensor(labels, dtype=kind), torch.tensor(predictions, dtype=kind), 3)
