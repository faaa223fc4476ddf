from __future__ import annotations

import math

import pytest
import torch

from gift_fast.student import augment

N, C, H, W = 5, 3, 8, 8


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(N, C, H, W, generator=torch.Generator().manual_seed(0))


def one_by_one(images: torch.Tensor, operation, *parameters: torch.Tensor) -> torch.Tensor:
    """Applies a definition for a single image, (C, H, W) and numbers, to each of them."""
    rows = zip(images, *(p.tolist() for p in parameters), strict=True)
    return torch.stack([operation(image, *values) for image, *values in rows])


def sampled(image: torch.Tensor, matrix: list[list[float]]) -> torch.Tensor:
    """Bilinear sampling pixel by pixel; pixel centres at (2i + 1) / size - 1, zero outside."""
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
    assert torch.equal(augment.flip(images, flipped), expected)


def test_brightness_adds_a_constant(images):
    amount = torch.linspace(-0.5, 0.5, N)
    expected = one_by_one(images, lambda i, a: i + a, amount)
    torch.testing.assert_close(augment.brighten(images, amount), expected)


def test_saturation_moves_channels_about_their_pixels_mean(images):
    def definition(image, factor):
        grey = (image[0] + image[1] + image[2]) / 3
        return torch.stack([grey + factor * (channel - grey) for channel in image])

    factor = torch.linspace(0.0, 2.0, N)
    expected = one_by_one(images, definition, factor)
    torch.testing.assert_close(augment.saturate(images, factor), expected)


def test_saturation_does_nothing_to_grey_images(images):
    grey = images[:, :1]
    torch.testing.assert_close(augment.saturate(grey, torch.linspace(0.0, 2.0, N)), grey)


def test_contrast_moves_values_about_the_images_mean(images):
    def definition(image, factor):
        mean = image.sum() / (C * H * W)
        return mean + factor * (image - mean)

    factor = torch.linspace(0.5, 1.5, N)
    expected = one_by_one(images, definition, factor)
    torch.testing.assert_close(augment.contrast(images, factor), expected)


def test_shift_moves_by_whole_pixels_and_fills_with_zeros(images):
    def definition(image, down, right):
        result = torch.zeros_like(image)
        for row in range(H):
            for column in range(W):
                if 0 <= row - down < H and 0 <= column - right < W:
                    result[:, row, column] = image[:, row - down, column - right]
        return result

    down, right = torch.tensor([0, 1, -1, 3, -8]), torch.tensor([0, -1, 2, 1, 0])
    expected = one_by_one(images, definition, down, right)
    assert torch.equal(augment.shift(images, down, right), expected)


def test_scale_samples_each_axis_by_its_factor(images):
    across, down = torch.tensor([0.8, 1, 1.2, 1.1, 0.9]), torch.tensor([1.2, 1, 0.9, 1.1, 0.85])
    expected = one_by_one(images, lambda i, a, d: sampled(i, [[a, 0], [0, d]]), across, down)
    torch.testing.assert_close(augment.scale(images, across, down), expected, atol=1e-5, rtol=1e-5)


def test_rotate_turns_about_the_centre(images):
    def definition(image, angle):
        cos, sin = math.cos(angle), math.sin(angle)
        return sampled(image, [[cos, -sin], [sin, cos]])

    angle = torch.tensor([0.0, 0.1, -0.2, 0.26, -0.26])
    expected = one_by_one(images, definition, angle)
    torch.testing.assert_close(augment.rotate(images, angle), expected, atol=1e-5, rtol=1e-5)


def test_cutout_clears_half_the_side_and_is_clipped_at_the_border(images):
    def definition(image, row, column):
        result = image.clone()
        for r in range(row - 2, row + 2):
            for c in range(column - 2, column + 2):
                if 0 <= r < H and 0 <= c < W:
                    result[:, r, c] = 0.0
        return result

    row, column = torch.tensor([4, 0, 8, 1, 7]), torch.tensor([4, 0, 8, 7, 2])
    expected = one_by_one(images, definition, row, column)
    assert torch.equal(augment.cutout(images, row, column), expected)


def draws(count: int) -> augment.Draws:
    return augment.Draws(torch.empty(count, 1, H, W), torch.Generator().manual_seed(0))


def recorded(monkeypatch: pytest.MonkeyPatch, name: str) -> list[list[torch.Tensor]]:
    """Replaces a deterministic operation by one that notes its parameters."""
    calls: list[list[torch.Tensor]] = []
    monkeypatch.setattr(augment, name, lambda images, *p: (calls.append(list(p)), images)[1])
    return calls


def test_half_of_the_images_are_flipped(monkeypatch):
    calls = recorded(monkeypatch, "flip")
    augment.random_flip(torch.zeros(10_000, 1, H, W), draws(10_000))
    assert calls[0][0].float().mean().item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("random_name", "name", "which", "low", "high"),
    [
        ("random_color", "brighten", 0, -0.5, 0.5),
        ("random_color", "saturate", 0, 0.0, 2.0),
        ("random_color", "contrast", 0, 0.5, 1.5),
        ("random_scale", "scale", 0, 1 / 1.2, 1.2),
        ("random_scale", "scale", 1, 1 / 1.2, 1.2),
        ("random_rotate", "rotate", 0, -math.pi / 12, math.pi / 12),
    ],
)
def test_a_parameter_is_even_over_its_range(monkeypatch, random_name, name, which, low, high):
    calls = recorded(monkeypatch, name)
    getattr(augment, random_name)(torch.zeros(10_000, 1, H, W), draws(10_000))
    values = calls[0][which]
    slack = 0.002 * (high - low)
    assert low <= values.min() < low + slack
    assert high - slack < values.max() <= high
    assert values.mean().item() == pytest.approx((low + high) / 2, abs=0.02 * (high - low))


@pytest.mark.parametrize(
    ("random_name", "name", "expected"),
    [
        ("random_crop", "shift", range(-1, 2)),  # an eighth of 8
        ("random_cutout", "cutout", range(9)),  # a square of 4, both borders included
    ],
)
def test_whole_pixels_take_every_value_alike(monkeypatch, random_name, name, expected):
    calls = recorded(monkeypatch, name)
    getattr(augment, random_name)(torch.zeros(10_000, 1, H, W), draws(10_000))
    for values in calls[0]:
        found, counts = values.unique(return_counts=True)
        assert found.tolist() == list(expected)
        assert counts.min() > 0.9 * 10_000 / len(expected)
    assert not torch.equal(*calls[0])


def test_scale_draws_its_axes_independently(monkeypatch):
    calls = recorded(monkeypatch, "scale")
    augment.random_scale(torch.zeros(100, 1, H, W), draws(100))
    assert abs(torch.corrcoef(torch.stack(calls[0]))[0, 1].item()) < 0.3


def test_a_strategy_runs_in_the_order_of_the_code():
    names = augment.parse_strategy(augment.PAPER_STRATEGY)
    assert names == ("flip", "color", "crop", "scale", "rotate", "cutout")


def test_one_of_crop_scale_and_rotate_is_chosen_a_batch_and_the_rest_always_runs(monkeypatch):
    used: list[str] = []
    for name in augment.OPERATIONS:
        monkeypatch.setitem(
            augment.OPERATIONS,
            name,
            lambda images, draws, name=name: (used.append(name), images)[1],
        )
    run = augment.Augmentation(augment.PAPER_STRATEGY, seed=0, device="cpu")
    chosen = set()
    for _ in range(30):
        used.clear()
        run(torch.zeros(2, 3, H, W))
        assert [*used[:2], used[3]] == ["flip", "color", "cutout"]
        assert len(used) == 4
        chosen.add(used[2])
    assert chosen == {"crop", "scale", "rotate"}


def test_every_image_gets_parameters_of_its_own():
    same = torch.randn(1, 3, H, W).expand(8, -1, -1, -1)
    result = augment.Augmentation("color", seed=0, device="cpu")(same)
    assert len({tuple(image.flatten().tolist()) for image in result}) == 8


def test_the_seed_alone_sets_the_sequence_of_batches(images):
    def batches(seed: int) -> list[torch.Tensor]:
        run = augment.Augmentation(augment.PAPER_STRATEGY, seed=seed, device="cpu")
        return [run(images) for _ in range(4)]

    first = batches(0)
    torch.manual_seed(123)
    assert all(torch.equal(a, b) for a, b in zip(first, batches(0), strict=True))
    assert not torch.equal(first[0], batches(1)[0])
    assert not torch.equal(first[0], first[1])


def test_the_seed_sets_which_operation_each_batch_gets():
    def choices(seed: int) -> list[str | None]:
        run = augment.Augmentation("crop_scale_rotate", seed=seed, device="cpu")
        return [run.choose_warp() for _ in range(30)]

    assert choices(0) == choices(0)
    assert choices(0) != choices(1)


@pytest.mark.parametrize("strategy", ["none", "crop_scale_rotate", augment.PAPER_STRATEGY])
def test_shape_and_dtype_stay_and_the_input_is_not_written_to(images, strategy):
    before = images.clone()
    run = augment.Augmentation(strategy, seed=0, device="cpu")
    for _ in range(5):
        result = run(images)
        assert result.shape == images.shape
        assert result.dtype == images.dtype
    assert torch.equal(images, before)
    if strategy == "none":
        assert torch.equal(result, images)
