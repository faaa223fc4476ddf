from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from gift_fast.training.augment import OneOf, build_augmentation, dsa
from gift_fast.training.augment.dsa import OPERATIONS, PAPER_STRATEGY, parse_strategy
from gift_fast.training.augment.pipeline import Draws

N, C, H, W = 5, 3, 8, 10
MANY = 20_000


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(N, C, H, W, generator=torch.Generator().manual_seed(0))


def one_by_one(images: torch.Tensor, definition, *parameters: torch.Tensor) -> torch.Tensor:
    """Applies a definition for a single image, (C, H, W) and numbers, to each of them."""
    rows = zip(images, *(p.tolist() for p in parameters), strict=True)
    return torch.stack([definition(image, *values) for image, *values in rows])


def sampled(image: torch.Tensor, matrix: list[list[float]]) -> torch.Tensor:
    """Bilinear sampling pixel by pixel; pixel centers at (2i + 1) / size - 1, zero outside."""
    result = torch.zeros_like(image)
    for row in range(H):
        for column in range(W):
            x, y = (2 * column + 1) / W - 1, (2 * row + 1) / H - 1
            across = ((matrix[0][0] * x + matrix[0][1] * y + 1) * W - 1) / 2
            down = ((matrix[1][0] * x + matrix[1][1] * y + 1) * H - 1) / 2
            left, top = math.floor(across), math.floor(down)
            for r in (top, top + 1):
                for c in (left, left + 1):
                    if 0 <= r < H and 0 <= c < W:
                        weight = (1 - abs(across - c)) * (1 - abs(down - r))
                        result[:, row, column] += weight * image[:, r, c]
    return result


def test_flip_mirrors_the_named_images(images):
    flipped = torch.tensor([True, False, True, False, False])
    expected = one_by_one(
        images, lambda i, yes: i[:, :, range(W - 1, -1, -1)] if yes else i, flipped
    )
    assert torch.equal(OPERATIONS["flip"].apply(images, flipped), expected)


def test_color_changes_brightness_then_saturation_then_contrast(images):
    def definition(image, brightness, saturation, contrast):
        image = image + brightness
        gray = (image[0] + image[1] + image[2]) / 3
        image = torch.stack([gray + saturation * (channel - gray) for channel in image])
        mean = image.sum() / (C * H * W)
        return mean + contrast * (image - mean)

    brightness = torch.tensor([-0.5, 0.3, 0.0, 0.1, 0.5])
    saturation = torch.tensor([2.0, 0.0, 1.0, 0.4, 1.3])
    contrast = torch.tensor([0.7, 1.0, 1.5, 0.5, 1.2])
    expected = one_by_one(images, definition, brightness, saturation, contrast)
    result = OPERATIONS["color"].apply(images, brightness, saturation, contrast)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


def test_saturation_does_nothing_to_grey_images(images):
    gray, one = images[:, :1], torch.ones(N)
    result = OPERATIONS["color"].apply(gray, 0 * one, torch.linspace(0.0, 2.0, N), one)
    torch.testing.assert_close(result, gray, atol=1e-6, rtol=0)


def test_crop_moves_by_whole_pixels_and_fills_with_zeros(images):
    def definition(image, top, left):
        result = torch.zeros_like(image)
        for row in range(H):
            for column in range(W):
                r, c = row + top - 1, column + left - 1  # an eighth of 8 and of 10, rounded
                if 0 <= r < H and 0 <= c < W:
                    result[:, row, column] = image[:, r, c]
        return result

    top, left = torch.tensor([0, 1, 2, 0, 2]), torch.tensor([1, 0, 2, 2, 1])
    expected = one_by_one(images, definition, top, left)
    assert torch.equal(OPERATIONS["crop"].apply(images, top, left), expected)


def test_scale_samples_each_axis_by_its_factor(images):
    across, down = torch.tensor([0.84, 1, 1.2, 1.1, 0.9]), torch.tensor([1.2, 1, 0.9, 1.1, 0.85])
    expected = one_by_one(images, lambda i, a, d: sampled(i, [[a, 0], [0, d]]), across, down)
    result = OPERATIONS["scale"].apply(images, across, down)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


def test_rotate_turns_about_the_centre(images):
    angle = torch.tensor([0.0, 0.1, -0.2, 0.26, -0.26])
    cos, sin = angle.cos(), angle.sin()
    expected = one_by_one(images, lambda i, c, s: sampled(i, [[c, -s], [s, c]]), cos, sin)
    result = OPERATIONS["rotate"].apply(images, cos, sin)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


def test_rotate_turns_anticlockwise():
    image = torch.zeros(1, 1, 3, 3)
    image[0, 0, 0, 1] = 1.0  # above the center
    result = OPERATIONS["rotate"].apply(image, torch.tensor([0.0]), torch.tensor([1.0]))
    torch.testing.assert_close(result[0, 0, 1, 0], torch.tensor(1.0))  # left of it


@pytest.mark.parametrize("align_corners", [False, True])
def test_on_squares_both_conventions_of_the_corners_give_the_same_images(align_corners):
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    cos, sin = torch.tensor([0.97, 0.99]), torch.tensor([0.24, -0.14])
    across, down = torch.tensor([0.85, 1.2]), torch.tensor([1.1, 0.9])
    zero = torch.zeros(2)
    for result, matrix in [
        (OPERATIONS["rotate"].apply(images, cos, sin), [[cos, -sin], [sin, cos]]),
        (OPERATIONS["scale"].apply(images, across, down), [[across, zero], [zero, down]]),
    ]:
        rows = [torch.stack([*row, zero], 1) for row in matrix]
        grid = F.affine_grid(torch.stack(rows, 1), (2, 3, 8, 8), align_corners=align_corners)
        expected = F.grid_sample(images, grid, align_corners=align_corners)
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


def test_cutout_clears_half_the_side_and_is_clipped_at_the_border(images):
    def definition(image, row, column):
        result = image.clone()
        for r in range(row - 2, row + 2):  # half of 8
            for c in range(column - 2, column + 3):  # half of 10
                if 0 <= r < H and 0 <= c < W:
                    result[:, r, c] = 0.0
        return result

    row, column = torch.tensor([4, 0, 8, 1, 7]), torch.tensor([4, 0, 9, 7, 2])
    expected = one_by_one(images, definition, row, column)
    assert torch.equal(OPERATIONS["cutout"].apply(images, row, column), expected)


def drawn(name: str, height: int = H, width: int = W) -> tuple[torch.Tensor, ...]:
    draws = Draws(MANY, torch.Generator().manual_seed(0))
    return OPERATIONS[name].sample(draws, height, width)


def test_half_of_the_images_are_flipped():
    (flipped,) = drawn("flip")
    assert flipped.float().mean().item() == pytest.approx(0.5, abs=0.01)


def angles() -> torch.Tensor:
    cos, sin = drawn("rotate")
    return torch.atan2(sin, cos)


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        (lambda: drawn("color")[0], -0.5, 0.5),
        (lambda: drawn("color")[1], 0.0, 2.0),
        (lambda: drawn("color")[2], 0.5, 1.5),
        (lambda: drawn("scale")[0], 1 / 1.2, 1.2),
        (lambda: drawn("scale")[1], 1 / 1.2, 1.2),
        (angles, -math.pi / 12, math.pi / 12),
    ],
    ids=["brightness", "saturation", "contrast", "scale across", "scale down", "angle"],
)
def test_a_parameter_is_even_over_its_range(values, low, high):
    numbers = values()
    slack = 1e-6 * (high - low)
    assert low - slack <= numbers.min()
    assert numbers.max() <= high + slack
    counts = torch.histc(numbers, 10, low, high)
    assert counts.sum() >= MANY - 2
    assert (counts / MANY - 0.1).abs().max() < 0.01


@pytest.mark.parametrize(
    ("name", "side", "values"),
    [
        ("crop", 8, range(3)),  # one pixel either way, an eighth of 8
        ("crop", 12, range(5)),  # 1.5 pixels, rounded half up
        ("cutout", 8, range(9)),  # a square of 4, both borders included
        ("cutout", 6, range(6)),  # a square of 3
    ],
)
def test_whole_pixels_take_every_value_alike(name, side, values):
    for numbers in drawn(name, side, side):
        found, counts = numbers.unique(return_counts=True)
        assert found.tolist() == list(values)
        assert (counts / MANY - 1 / len(values)).abs().max() < 0.01


@pytest.mark.parametrize("name", ["color", "crop", "scale", "cutout"])
def test_the_parameters_of_an_operation_are_independent(name):
    correlation = torch.corrcoef(torch.stack([values.float() for values in drawn(name)]))
    assert (correlation - torch.eye(len(correlation))).abs().max() < 0.03


def test_a_strategy_runs_in_the_order_of_the_code():
    assert parse_strategy(PAPER_STRATEGY) == ("flip", "color", "crop", "scale", "rotate", "cutout")


def named(operation) -> str:
    return next(name for name, known in OPERATIONS.items() if known is operation)


def names(steps) -> list[str | set[str]]:
    return [
        {named(o) for o in step.operations} if isinstance(step, OneOf) else named(step)
        for step in steps
    ]


def test_gifts_code_runs_flip_color_one_warp_and_cutout():
    steps = build_augmentation("dsa", seed=0, device="cpu").steps
    assert names(steps) == ["flip", "color", {"crop", "scale", "rotate"}, "cutout"]


def test_a_strategy_leaves_out_what_it_does_not_name():
    assert names(dsa(strategy="crop_scale_rotate")) == [{"crop", "scale", "rotate"}]
    assert names(dsa(strategy="cutout_flip")) == ["flip", "cutout"]


def test_the_dsa_papers_code_runs_one_of_all_six():
    steps = build_augmentation("dsa-one", seed=0, device="cpu").steps
    assert names(steps) == [set(OPERATIONS)]
