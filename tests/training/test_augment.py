from __future__ import annotations

import itertools
import sys
from types import ModuleType

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gift_fast.training.augment import (
    AUGMENTATIONS,
    Augmentation,
    Generators,
    OneOf,
    Operation,
    Part,
    build_augmentation,
)

EVERY = sorted(AUGMENTATIONS)
N, C, H, W = 7, 3, 9, 11  # odd, so that no vector of the CPU divides a part evenly
BATCHES = 8  # enough for every choice of one operation a batch
FORMATS = [torch.contiguous_format, torch.channels_last]


def random_images(n: int = N, channels: int = C) -> torch.Tensor:
    return torch.randn(n, channels, H, W, generator=torch.Generator().manual_seed(0))


def built(name: str, seed: int = 0) -> Augmentation:
    return build_augmentation(name, seed=seed, device="cpu")


def batches(augment: Augmentation, images: torch.Tensor, part: Part | None = None):
    return [augment(images, part) for _ in range(BATCHES)]


@pytest.mark.parametrize("memory_format", FORMATS, ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("name", EVERY)
def test_the_parts_of_a_joint_batch_are_augmented_as_the_whole(name, memory_format):
    images = random_images().contiguous(memory_format=memory_format)
    whole = batches(built(name), images)
    bounds = [0, 1, 1, 3, N]  # one image, none, two, the rest
    parts = [
        batches(built(name), images[start:stop], Part(start, stop, N))
        for start, stop in itertools.pairwise(bounds)
    ]
    for expected, *pieces in zip(whole, *parts, strict=True):
        # Vectorized loops treat the last few elements on their own, and may round them otherwise.
        torch.testing.assert_close(torch.cat(pieces), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [n for n in EVERY if n != "none"])
def test_the_seed_alone_sets_the_sequence_of_batches(name):
    images = random_images()
    first = batches(built(name), images)
    torch.manual_seed(123)
    before = torch.get_rng_state()
    again = batches(built(name), images)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, first, again))
    assert not all(map(torch.equal, first, batches(built(name, seed=1), images)))
    assert not torch.equal(first[0], first[1])


def test_choices_and_parameters_are_unrelated_numbers():
    generators = Generators(seed=0, device="cpu")
    numbers = [torch.rand(4, generator=g) for g in (generators.choices, generators.parameters)]
    assert not torch.isin(*numbers).any()


@pytest.mark.parametrize("memory_format", FORMATS, ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", EVERY)
def test_shape_type_and_memory_format_stay_and_the_input_is_not_written_to(
    name, dtype, memory_format
):
    images = random_images().to(dtype).contiguous(memory_format=memory_format)
    before = images.clone()
    for result in batches(built(name), images):
        assert result.shape == images.shape
        assert result.dtype == dtype
        assert result.is_contiguous(memory_format=memory_format)
        assert result.isfinite().all()
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", EVERY)
def test_every_type_gets_the_same_parameters(name):
    images = random_images().bfloat16()
    exact = batches(built(name), images.double())
    for result, expected in zip(batches(built(name), images.float()), exact, strict=True):
        torch.testing.assert_close(result.double(), expected, atol=1e-4, rtol=0)
    for result, expected in zip(
        batches(built(name), images), batches(built(name), images.float()), strict=True
    ):
        assert torch.equal(result, expected.bfloat16())


@pytest.mark.parametrize("name", EVERY)
def test_a_grey_image_is_augmented_as_one_of_three_equal_channels(name):
    gray = random_images(channels=1)
    colored = batches(built(name), gray.expand(-1, 3, -1, -1))
    for result, expected in zip(batches(built(name), gray), colored, strict=True):
        torch.testing.assert_close(result.expand_as(expected), expected, atol=1e-5, rtol=0)


class Recorder(TorchDispatchMode):
    """Notes the name of every operator."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.names.append(str(function.overloadpacket))
        return function(*arguments, **(options or {}))


WAITS_FOR_THE_DEVICE = {"aten._local_scalar_dense", "aten.nonzero", "aten.masked_select"}


@pytest.mark.parametrize("name", EVERY)
def test_nothing_loops_over_images_or_reads_numbers_from_the_device(name):
    def operators(n: int) -> list[str]:
        augment = built(name)
        with Recorder() as recorder:
            batches(augment, random_images(n))
        return recorder.names

    few = operators(2)
    assert few == operators(20)
    choices = sum(isinstance(step, OneOf) for step in built(name).steps)
    # The choice of one operation a batch is read from a generator on the host.
    assert sum(operator in WAITS_FOR_THE_DEVICE for operator in few) == BATCHES * choices


def test_one_of_the_operations_is_used_on_a_batch_each_equally_often():
    used = []
    operations = [
        Operation(lambda *_: (), lambda images, i=i: (used.append(i), images)[1]) for i in range(3)
    ]
    augment = Augmentation([OneOf(operations)], seed=0, device="cpu")
    for _ in range(600):
        augment(torch.zeros(2, 1, 1, 1))
    assert len(used) == 600
    assert all(160 < used.count(i) < 240 for i in range(3))


def test_a_users_own_function_is_built_from_its_import_path(monkeypatch):
    def brighter(*, amount: float = 1.0):
        return [Operation(lambda *_: (), lambda images: images + amount)]

    module = ModuleType("their_module")
    module.brighter = brighter
    monkeypatch.setitem(sys.modules, "their_module", module)
    images = random_images()
    assert torch.equal(built("their_module.brighter:amount=2")(images), images + 2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dsb", "augmentation must be one of.*got 'dsb'"),
        ("dsa:angle=3", "has the options: strategy; got 'angle'"),
        ("dsa:strategy=flip_hue", "strategy must list any of flip, color.*got 'hue' in 'flip_hue'"),
        ("dsa-one:strategy=", "strategy must list any of"),
        ("crop-flip:padding=-1", "padding must be at least 0, got -1"),
        ("rrc:min_scale=0", r"min_scale must be in \(0, 1\], got 0.0"),
        ("rrc:min_scale=1.5", r"min_scale must be in \(0, 1\], got 1.5"),
        ("rded:factor=0", "factor must be at least 1, got 0"),
        ("mosaic-dsa:factor=0", "factor must be at least 1, got 0"),
    ],
)
def test_a_bad_specification_is_refused_when_it_is_built(name, message):
    with pytest.raises(ValueError, match=message):
        built(name)


@pytest.mark.parametrize("name", ["rded:factor=10", "mosaic-dsa:factor=10"])
def test_more_tiles_than_pixels_are_refused(name):
    with pytest.raises(ValueError, match="factor must be at most the side, 9 x 11, got 10"):
        built(name)(random_images())


def test_images_of_the_wrong_type_shape_or_number_are_refused():
    augment = built("none")
    with pytest.raises(TypeError, match=r"images must be .*, got torch\.uint8"):
        augment(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"images must be \(n, C, H, W\), got \(3, 8, 8\)"):
        augment(torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match=r"images must be .*Part.*, got 4"):
        augment(torch.zeros(4, 3, 8, 8), Part(0, 3, 8))


@pytest.mark.parametrize("bounds", [(-1, 2, 4), (3, 2, 4), (0, 5, 4)])
def test_a_part_lies_within_its_joint_batch(bounds):
    with pytest.raises(ValueError, match="part must have 0 <= start <= stop <= size, got Part"):
        Part(*bounds)
