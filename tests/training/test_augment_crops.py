from __future__ import annotations

import itertools

import pytest
import torch
from torchvision.transforms import RandomCrop, RandomResizedCrop
from torchvision.transforms.v2 import functional as TF

from gift_fast.training.augment import build_augmentation
from gift_fast.training.augment.crops import largest_box, sample_box, sample_shuffle, sample_tile
from gift_fast.training.augment.geometry import crop, resized_crop, take_pixels
from gift_fast.training.augment.pipeline import Draws

N, C, H, W = 5, 3, 8, 10


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(N, C, H, W, generator=torch.Generator().manual_seed(0))


def draws(count: int) -> Draws:
    return Draws(count, torch.Generator().manual_seed(0))


def test_crop_is_torchvisions_crop_of_the_padded_image(images):
    top, left = torch.tensor([0, 8, 3, 4, 1]), torch.tensor([2, 0, 6, 3, 5])
    expected = [
        TF.crop(TF.pad(image, [3, 4]), t, c, H, W)  # columns come first in pad
        for image, t, c in zip(images, top.tolist(), left.tolist(), strict=True)
    ]
    assert torch.equal(crop(images, top, left, padding=(4, 3)), torch.stack(expected))


@pytest.mark.parametrize("padding", [0, 4])
def test_crop_flip_draws_the_windows_of_torchvision(padding):
    operation, _ = build_augmentation(f"crop-flip:padding={padding}", seed=0, device="cpu").steps
    tops, lefts = operation.sample(draws(20_000), H, W)
    padded = torch.zeros(1, H + 2 * padding, W + 2 * padding)
    theirs = torch.tensor([RandomCrop.get_params(padded, (H, W))[:2] for _ in range(2000)])
    for ours, other in zip((tops, lefts), theirs.unbind(1), strict=True):
        found, counts = ours.unique(return_counts=True)
        assert found.tolist() == other.unique().tolist() == list(range(2 * padding + 1))
        assert (counts / len(ours) - 1 / len(found)).abs().max() < 0.01


BOXES = [(0, 0, H, W), (2, 3, 4, 5), (7, 9, 1, 1), (0, 4, 8, 6), (5, 0, 3, 10)]


def test_resized_crop_is_torchvisions_and_reads_nothing_outside_the_box(images):
    expected = [
        TF.resized_crop(image, *box, [H, W], antialias=True)
        for image, box in zip(images, BOXES, strict=True)
    ]
    result = resized_crop(images, *torch.tensor(BOXES).unbind(1))
    torch.testing.assert_close(result, torch.stack(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("min_scale", [0.08, 0.5, 0.9])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (12, 20)])
def test_boxes_are_distributed_as_torchvisions(min_scale, height, width):
    image = torch.zeros(1, height, width)
    theirs = torch.tensor(
        [RandomResizedCrop.get_params(image, [min_scale, 1.0], [3 / 4, 4 / 3]) for _ in range(2000)]
    )
    ours = torch.stack(sample_box(draws(30_000), height, width, min_scale=min_scale), 1)
    area = [boxes[:, 2] * boxes[:, 3] for boxes in (ours, theirs)]
    aspect = [boxes[:, 3] / boxes[:, 2] for boxes in (ours, theirs)]
    for mine, other in [*zip(ours.unbind(1), theirs.unbind(1), strict=True), area, aspect]:
        # The distance of Kolmogorov and Smirnov; chance alone passes 0.04 in 1 of 200 samples of
        # these sizes, and both are seeded.
        values = torch.cat([mine, other]).unique()
        below = [
            torch.searchsorted(sample.sort().values, values, right=True) / len(sample)
            for sample in (mine, other)
        ]
        assert (below[0] - below[1]).abs().max() < 0.04


def test_boxes_lie_within_the_image_and_reach_its_borders():
    top, left, height, width = sample_box(draws(20_000), 8, 8, min_scale=0.1)
    for first, length in ((top, height), (left, width)):
        assert first.min() == 0
        assert length.min() >= 1
        assert (first + length).max() == 8
    assert ((top == 3) & (height == 5)).any()


@pytest.mark.parametrize(("height", "width"), [(30, 90), (90, 30), (32, 32), (30, 35)])
def test_the_largest_box_is_torchvisions_last_resort(height, width):
    # No box of this area fits, so torchvision takes its last resort.
    image = torch.zeros(1, height, width)
    i, j, h, w = RandomResizedCrop.get_params(image, [4.0, 4.0], [3 / 4, 4 / 3])
    assert largest_box(height, width) == (h, w)
    if min(height, width) == 30 and max(height, width) == 90:
        boxes = sample_box(draws(100), height, width, min_scale=1.0)
        assert torch.stack(boxes, 1).unique(dim=0).tolist() == [[i, j, h, w]]


def test_a_box_of_the_whole_area_changes_nothing_on_a_square():
    images = torch.randn(20, 3, 16, 16)
    box = sample_box(draws(20), 16, 16, min_scale=1.0)
    torch.testing.assert_close(resized_crop(images, *box), images, atol=1e-5, rtol=0)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_a_tile_replaces_the_mosaic_as_often_as_in_gifts_code(factor):
    boxes = torch.stack(sample_tile(draws(20_000), 13, 8, factor=factor), 1)
    whole = (boxes == torch.tensor([0, 0, 13, 8])).all(1)
    assert whole.float().mean().item() == pytest.approx(1 / factor**2, abs=0.01)
    if factor > 1:
        found, counts = boxes[~whole].unique(dim=0, return_counts=True)
        h, w = 13 // factor, 8 // factor
        tiles = [[i * h, j * w, h, w] for i in range(factor) for j in range(factor)]
        assert found.tolist() == tiles
        assert (counts / (~whole).sum() - 1 / factor**2).abs().max() < 0.015


def test_mosaic_dsa_enlarges_tiles_and_then_runs_dsa():
    steps = build_augmentation("mosaic-dsa:strategy=flip", seed=0, device="cpu").steps
    assert steps[0].apply is resized_crop
    assert list(steps[1:]) == list(
        build_augmentation("dsa:strategy=flip", seed=0, device="cpu").steps
    )


def strips(size: int, factor: int) -> list[list[int]]:
    """As RDED's code cuts: the last strip takes what is left."""
    length = size // factor
    starts = [k * length for k in range(factor)]
    return [list(range(s, e)) for s, e in zip(starts, [*starts[1:], size], strict=True)]


@pytest.mark.parametrize(("size", "factor"), [(8, 2), (8, 1), (9, 2), (11, 3)])
def test_the_strips_of_a_mosaic_come_in_every_order_alike(size, factor):
    possible = sorted(
        [pixel for strip in order for pixel in strip]
        for order in itertools.permutations(strips(size, factor))
    )
    rows, columns = sample_shuffle(draws(20_000), size, 12, factor=factor)
    found, counts = rows.unique(dim=0, return_counts=True)
    assert found.tolist() == possible
    assert (counts / len(rows) - 1 / len(possible)).abs().max() < 0.01
    # Rows and columns are shuffled independently.
    pairs = torch.stack([rows[:, 0], columns[:, 0]], 1).unique(dim=0)
    assert len(pairs) == factor**2


def test_pixels_are_taken_row_by_row_and_column_by_column(images):
    rows = torch.stack([torch.randperm(H) for _ in range(N)])
    columns = torch.stack([torch.randperm(W) for _ in range(N)])
    expected = torch.empty_like(images)
    for n, r, c in itertools.product(range(N), range(H), range(W)):
        expected[n, :, r, c] = images[n, :, rows[n, r], columns[n, c]]
    assert torch.equal(take_pixels(images, rows, columns), expected)


def test_rded_takes_boxes_of_at_least_one_part_in_factor():
    shuffle, box, flip = build_augmentation("rded:factor=3", seed=0, device="cpu").steps
    assert shuffle.apply is take_pixels
    _, _, height, width = box.sample(draws(20_000), 30, 30)
    area = (height * width).float() / 900
    assert 0.31 < area.min() < 0.35
    assert area.max() > 0.95
    assert flip.sample(draws(20_000), 30, 30)[0].float().mean().item() == pytest.approx(
        0.5, abs=0.01
    )
