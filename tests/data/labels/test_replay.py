from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torchvision.transforms import functional as tv

from gift_fast.data.labels.replay import FkdBatch, replay


def box_batch(boxes, height, width, **fields):
    """A batch that crops the pixel boxes (top, left, height, width), unless told otherwise."""
    n = len(boxes)
    parts = torch.tensor(boxes, dtype=torch.float64) / torch.tensor([height, width] * 2)
    fields = {"flip": torch.zeros(n, dtype=torch.bool), **fields}
    return FkdBatch(torch.arange(n), parts.float(), logits=torch.zeros(n, 2), **fields)


def random_boxes(n, height, width, seed=0):
    """Boxes of any shape, among them the whole image, its corners and single pixels."""
    rng = np.random.default_rng(seed)
    boxes = [
        (0, 0, height, width),
        (0, 0, 3, 5),
        (height - 5, width - 3, 5, 3),
        (0, width - 1, height, 1),
        (height // 2, width // 2, 1, 1),
    ]
    while len(boxes) < n:
        tall, wide = rng.integers(1, height + 1), rng.integers(1, width + 1)
        top, left = rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1)
        boxes.append((int(top), int(left), int(tall), int(wide)))
    return boxes


def bytes_of(n, height, width, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (n, 3, height, width), dtype=np.uint8))


SIZES = pytest.mark.parametrize(
    ("height", "width", "side"),
    [(12, 12, 24), (12, 20, 5), (17, 17, 17), (32, 32, 8), (9, 14, 11)],
    ids=["enlarged", "reduced", "as large", "halved twice", "uneven"],
)


@SIZES
def test_crops_are_those_of_torchvision_on_float_images(height, width, side):
    boxes = random_boxes(40, height, width)
    images = torch.rand(40, 1, height, width, generator=torch.Generator().manual_seed(0))
    expected = torch.stack(
        [
            torch.from_numpy(
                np.array(tv.resized_crop(Image.fromarray(x[0].numpy()), *box, [side, side]))
            )
            for x, box in zip(images, boxes, strict=True)
        ]
    )
    result = replay(images, box_batch(boxes, height, width), side)
    torch.testing.assert_close(result[:, 0], expected, rtol=0, atol=1e-6)


@SIZES
def test_crops_of_bytes_are_rounded_as_pillow_rounds_them(height, width, side):
    boxes = random_boxes(60, height, width)
    images = bytes_of(60, height, width)
    expected = torch.stack(
        [
            tv.to_tensor(tv.resized_crop(tv.to_pil_image(x), *box, [side, side]))
            for x, box in zip(images, boxes, strict=True)
        ]
    )
    result = replay(images, box_batch(boxes, height, width), side)
    assert result.dtype == torch.float32
    # Sums that end in one half, frequent at such sizes, fall either way: Pillow's weights are
    # fixed-point numbers.
    assert (result - expected).abs().max() <= 2.001 / 255
    assert (result != expected).float().mean() < 0.06


def test_boxes_between_pixels_are_rounded_as_pil_rounds_them():
    coords = torch.rand(50, 4, generator=torch.Generator().manual_seed(1))
    coords[:, 2:] = 0.2 + coords[:, 2:] * (0.8 - coords[:, :2]).clamp_min(0)
    coords[:, :2] *= 1 - coords[:, 2:]
    images = bytes_of(50, 15, 21)
    batch = box_batch([(0, 0, 15, 21)] * 50, 15, 21)
    result = replay(images, FkdBatch(batch.index, coords, batch.flip, batch.logits), 9)
    scale = (15, 21, 15, 21)
    for image, part, given in zip(images, coords.tolist(), result, strict=True):
        box = [x * s for x, s in zip(part, scale, strict=True)]
        expected = tv.to_tensor(tv.resized_crop(tv.to_pil_image(image), *box, [9, 9]))
        torch.testing.assert_close(given, expected, rtol=0, atol=2.001 / 255)


def test_flips_come_after_the_crop():
    boxes = random_boxes(20, 12, 16)
    images = torch.rand(20, 3, 12, 16)
    flip = torch.arange(20) % 3 == 0
    plain = replay(images, box_batch(boxes, 12, 16), 10)
    flipped = replay(images, box_batch(boxes, 12, 16, flip=flip), 10)
    expected = torch.where(flip[:, None, None, None], plain.flip(3), plain)
    torch.testing.assert_close(flipped, expected)


def mixed_batch(kind, n=10, side=8):
    permutation = torch.randperm(n, generator=torch.Generator().manual_seed(3))
    bbox = (0, 3, 5, side) if kind == "cutmix" else None
    flip = torch.arange(n) % 2 == 0
    boxes = random_boxes(n, 12, 12)
    return box_batch(boxes, 12, 12, flip=flip, mix_index=permutation, lam=0.3, bbox=bbox)


def test_mixup_is_the_weighted_mean_of_the_crops():
    images, batch = torch.rand(10, 3, 12, 12), mixed_batch("mixup")
    crops = replay(images, FkdBatch(batch.index, batch.coords, batch.flip, batch.logits), 8)
    expected = torch.stack([0.3 * crops[i] + 0.7 * crops[j] for i, j in enumerate(batch.mix_index)])
    torch.testing.assert_close(replay(images, batch, 8), expected)


def test_cutmix_replaces_the_box_by_the_partners_crop():
    images, batch = torch.rand(10, 3, 12, 12), mixed_batch("cutmix")
    crops = replay(images, FkdBatch(batch.index, batch.coords, batch.flip, batch.logits), 8)
    result = replay(images, batch, 8)
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[0:5, 3:8] = True
    for i, j in enumerate(batch.mix_index.tolist()):
        torch.testing.assert_close(result[i][:, inside], crops[j][:, inside])
        torch.testing.assert_close(result[i][:, ~inside], crops[i][:, ~inside])
    assert batch.mix_weight(8) == pytest.approx((~inside).double().mean().item())


def test_normalizing_after_mixing_gives_what_normalizing_before_gives():
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor(0.25)
    images = torch.rand(10, 3, 12, 12, dtype=torch.float64)
    for kind in ("mixup", "cutmix"):
        batch = mixed_batch(kind)
        before = replay((images - mean) / std, batch, 8)
        torch.testing.assert_close(before, (replay(images, batch, 8) - mean) / std)


@pytest.mark.parametrize("kind", ["none", "mixup", "cutmix"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64])
def test_the_parts_of_a_batch_are_slices_of_the_whole(kind, dtype):
    images = bytes_of(10, 12, 12)
    images = images if dtype == torch.uint8 else images.to(dtype) / 255
    batch = mixed_batch(kind)
    if kind == "none":
        batch = FkdBatch(batch.index, batch.coords, batch.flip, batch.logits)
    whole = replay(images, batch, 8)
    for part in [(0, 3), (3, 4), (4, 10), (0, 10)]:
        torch.testing.assert_close(replay(images, batch, 8, part), whole[slice(*part)])


def test_the_weight_of_a_mixed_batchs_own_labels():
    assert mixed_batch("mixup").mix_weight(8) == 0.3
    assert mixed_batch("cutmix").mix_weight(8) == pytest.approx(1 - 5 * 5 / 64)  # lam is .3
    assert box_batch([(0, 0, 4, 4)], 4, 4).mix_weight(8) == 1.0


def test_cutouts_are_the_rectangles_that_pil_draws():
    side, n = 16, 30
    rng = np.random.default_rng(0)
    centers = rng.integers(0, side, (n, 2))
    colors = rng.integers(0, 256, (n, 3))
    images = bytes_of(n, side, side)
    expected = []
    for image, (row, column), color in zip(images, centers, colors, strict=True):
        drawn = tv.to_pil_image(image)
        edges = [max(column - 4, 0), max(row - 4, 0), min(column + 4, side), min(row + 4, side)]
        ImageDraw.Draw(drawn).rectangle([int(x) for x in edges], fill=tuple(map(int, color)))
        expected.append(tv.to_tensor(drawn))
    half = np.full((n, 2), 0.5)
    cutout = torch.from_numpy(np.concatenate([centers / side, half, colors], 1)).float()
    batch = box_batch([(0, 0, side, side)] * n, side, side, cutout=cutout)
    torch.testing.assert_close(replay(images, batch, side), torch.stack(expected))


def test_autocast_does_not_blur_the_crops():
    images, batch = torch.rand(10, 3, 12, 12), mixed_batch("mixup")
    expected = replay(images, batch, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(replay(images, batch, 8), expected, rtol=0, atol=0)


def test_images_that_are_not_the_batchs_are_refused():
    batch = mixed_batch("cutmix")
    with pytest.raises(ValueError, match=r"images must be \(10, C, H, W\), got \(9, 3, 12, 12\)"):
        replay(torch.rand(9, 3, 12, 12), batch, 8)


@pytest.mark.parametrize("part", [(3, 3), (-1, 4), (5, 11)])
def test_a_part_must_lie_within_the_batch(part):
    with pytest.raises(ValueError, match=r"part must be within \(0, 10\) and not be empty"):
        replay(torch.rand(10, 3, 12, 12), mixed_batch("cutmix"), 8, part)


def test_a_side_smaller_than_the_labels_were_made_on_is_refused():
    batch = mixed_batch("cutmix")
    with pytest.raises(ValueError, match=r"at least 8 pixels for .* box \(0, 3, 5, 8\)"):
        replay(torch.rand(10, 3, 12, 12), batch, 6)
    with pytest.raises(ValueError, match="at least 8 pixels"):
        batch.mix_weight(6)


def test_a_crop_that_is_less_than_a_pixel_is_refused():
    batch = box_batch([(0, 0, 100, 100), (50, 50, 1, 100)], 200, 200)
    with pytest.raises(ValueError, match="coords of row 1 must be a box of at least one pixel"):
        replay(torch.rand(2, 3, 20, 20), batch, 8)


def test_a_batch_moves_all_but_its_coords():
    batch = mixed_batch("cutmix").to("meta")
    assert {batch.index.device.type, batch.flip.device.type, batch.mix_index.device.type} == {
        "meta"
    }
    assert batch.coords.device.type == "cpu"
    assert batch.bbox == (0, 3, 5, 8)
