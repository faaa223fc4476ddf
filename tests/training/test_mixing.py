from __future__ import annotations

import dataclasses
import itertools
import random

import pytest
import torch

from gift_fast.training.augment.mixing import (
    MIXINGS,
    Box,
    beta,
    blend,
    box_about,
    build_mixing,
    paste,
)

N, C, H, W = 6, 3, 8, 12
EVERY = sorted(MIXINGS)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(N, C, H, W, generator=torch.Generator().manual_seed(0))


def built(name: str, seed: int = 0):
    return build_mixing(name, seed=seed, device="cpu")


def test_mixup_is_the_weighted_sum_of_every_image_and_its_partner(images):
    permutation = torch.tensor([3, 0, 1, 5, 4, 2])
    expected = [0.3 * images[i] + 0.7 * images[j] for i, j in enumerate(permutation.tolist())]
    result = blend(images, permutation, 0.3)
    torch.testing.assert_close(result, torch.stack(expected))


def test_cutmix_replaces_the_box_by_that_of_the_partner(images):
    permutation = torch.tensor([3, 0, 1, 5, 4, 2])
    expected = images.clone()
    for i, r, c in itertools.product(range(N), range(2, 7), range(3, 5)):
        expected[i, :, r, c] = images[permutation[i], :, r, c]
    before = images.clone()
    result = paste(images, permutation, Box(top=2, bottom=7, left=3, right=5))
    assert torch.equal(result, expected)
    assert torch.equal(images, before)


def sre2ls_box(row: int, column: int, weight: float) -> tuple[int, ...]:
    """Rows and columns from where to where, by the arithmetic of SRe2L's code."""
    ends = []
    for center, side in ((row, H), (column, W)):
        cut = int(side * (1 - weight) ** 0.5)
        ends += [max(center - cut // 2, 0), min(center + cut // 2, side)]
    return tuple(ends)


WEIGHTS = [(k + 0.5) / 200 for k in range(200)]
"""Even over [0, 1], as Beta(1, 1) is."""


def test_the_box_is_that_of_sre2ls_code():
    for row, column, weight in itertools.product(range(H), range(W), WEIGHTS):
        box = box_about(row, column, weight, H, W)
        assert dataclasses.astuple(box) == sre2ls_box(row, column, weight)


@pytest.mark.parametrize("name", EVERY)
def test_the_weight_and_the_permutation_tell_what_was_mixed(name):
    # Every image is a constant of its own, so what is left of it can be read off.
    images = torch.arange(N).float().view(N, 1, 1, 1).expand(N, C, H, W)
    mix = built(name)
    for _ in range(30):
        mixed = mix(images)
        assert sorted(mixed.permutation.tolist()) == list(range(N))
        assert 0.0 <= mixed.weight <= 1.0
        own, partner = torch.arange(N), mixed.permutation
        expected = mixed.weight * own + (1 - mixed.weight) * partner
        torch.testing.assert_close(mixed.images.mean((1, 2, 3)), expected)


def test_none_leaves_the_images_as_they_are(images):
    mixed = built("none")(images)
    assert mixed.images is images
    assert mixed.weight == 1.0


@pytest.mark.parametrize("alpha", [0.3, 0.8, 1.0, 4.0])
def test_weights_have_the_moments_of_the_beta_distribution(alpha):
    generator = torch.Generator().manual_seed(0)
    weights = torch.tensor([beta(alpha, generator) for _ in range(5000)], dtype=torch.float64)
    expected = torch.distributions.Beta(alpha, alpha)
    assert weights.mean().item() == pytest.approx(0.5, abs=0.02)
    assert weights.var().item() == pytest.approx(expected.variance.item(), rel=0.06)
    assert 0.0 <= weights.min() < weights.max() <= 1.0


def test_the_boxes_of_cutmix_are_where_those_of_sre2ls_code_are():
    mix = built("cutmix")
    stamped = torch.stack([torch.zeros(1, H, W), torch.ones(1, H, W)])
    covered, weights = torch.zeros(H, W), []
    for _ in range(2000):
        mixed = mix(stamped)
        if mixed.permutation[0] == 1:
            covered += mixed.images[0, 0]
            weights.append(mixed.weight)
    expected, boxes = torch.zeros(H, W), 0
    for row, column, weight in itertools.product(range(H), range(W), WEIGHTS[::4]):
        top, bottom, left, right = sre2ls_box(row, column, weight)
        expected[top:bottom, left:right] += 1
        boxes += 1
    assert len(weights) > 900
    assert (covered / len(weights) - expected / boxes).abs().max() < 0.05
    left_over = 1 - (expected / boxes).mean().item()
    assert sum(weights) / len(weights) == pytest.approx(left_over, abs=0.02)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_the_seed_alone_sets_the_sequence(name, images):
    first = built(name)(images)
    torch.manual_seed(99)
    random.seed(99)
    mix = built(name)
    again, following = mix(images), mix(images)
    assert torch.equal(again.images, first.images)
    assert again.weight == first.weight
    assert following.weight != again.weight
    assert not torch.equal(following.permutation, again.permutation)
    assert built(name, seed=1)(images).weight != first.weight


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", EVERY)
def test_shape_type_and_memory_format_stay_and_the_input_is_not_written_to(name, dtype, images):
    images = images.to(dtype).contiguous(memory_format=torch.channels_last)
    before = images.clone()
    mixed = built(name)(images)
    assert mixed.images.shape == images.shape
    assert mixed.images.dtype == dtype
    assert mixed.images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cutmixup", "mixing must be one of cutmix, mixup, none.*got 'cutmixup'"),
        ("mixup:beta=1", "has the options: alpha; got 'beta'"),
        ("mixup:alpha=0", "alpha must be positive, got 0.0"),
        ("cutmix:alpha=inf", "alpha must be positive, got inf"),
        ("cutmix:alpha=nan", "alpha must be positive, got nan"),
    ],
)
def test_a_bad_specification_is_refused_when_it_is_built(name, message):
    with pytest.raises(ValueError, match=message):
        built(name)
