"""RDED's sets, against its recipe written out one image at a time with torchvision's transforms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms

from gift_fast.data.datasets import ImageDataset, TensorSplit
from gift_fast.distillation import rded_images
from gift_fast.distillation.rded import mosaics
from gift_fast.training.models import build_model
from gift_fast.training.seeds import seed_for

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PER_CLASS = 12


@pytest.fixture(scope="module")
def photos() -> ImageDataset:
    """Two classes of 15 noisy color images, 16 x 16, normalized as RDED normalizes all images."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (30, 3, 16, 16), generator=generator, dtype=torch.uint8)
    split = TensorSplit(images, torch.arange(30) % 2)
    return ImageDataset("photos", split, split, mean=MEAN, std=STD, class_names=("ape", "bee"))


@pytest.fixture(scope="module")
def judge() -> nn.Module:
    """In float64, where no two crops score alike to rounding."""
    network = build_model("convnet3:width=8", channels=3, side=16, num_classes=2, seed=3)
    return network.double().eval()


def one_by_one(
    photos: ImageDataset, judge: nn.Module, *, ipc: int, factor: int, crops: int, seed: int
) -> list[Image.Image]:
    """The recipe, slowly."""
    side = photos.side // factor
    normalize = transforms.Normalize(MEAN, STD)
    denormalize = transforms.Compose(
        [
            transforms.Normalize((0.0, 0.0, 0.0), [1 / s for s in STD]),
            transforms.Normalize([-m for m in MEAN], (1.0, 1.0, 1.0)),
        ]
    )
    made = []
    for label in range(2):
        members = [i for i, y in enumerate(photos.train.labels.tolist()) if y == label]
        torch.manual_seed(seed_for(seed, f"rded/{label}"))
        drawn = [members[i] for i in torch.randperm(len(members)).tolist()[:PER_CLASS]]
        cropper = transforms.RandomResizedCrop(
            side, scale=(0.08, 1.0), ratio=(1.0, 1.0), antialias=True
        )
        found = []
        for index in drawn:
            pixels = photos.train.images[index].permute(1, 2, 0).numpy()
            image = transforms.functional.to_tensor(Image.fromarray(pixels))
            best = None
            for _ in range(crops):
                crop = normalize(cropper(image))
                shown = torch.zeros(3, 16, 16)
                start = (16 - side) // 2
                shown[:, start : start + side, start : start + side] = crop
                with torch.no_grad():
                    logits = judge(shown.double().unsqueeze(0))
                loss = nn.functional.cross_entropy(logits, torch.tensor([label])).item()
                if best is None or loss < best[0]:
                    best = loss, crop
            found.append(best)
        found.sort(key=lambda pair: pair[0])
        for number in range(ipc):
            whole = torch.zeros(3, 16, 16)
            for row in range(factor):
                for column in range(factor):
                    tile = found[(row * factor + column) * ipc + number][1]
                    at = (
                        slice(row * side, (row + 1) * side),
                        slice(column * side, (column + 1) * side),
                    )
                    whole[:, at[0], at[1]] = tile
            array = denormalize(whole).numpy().transpose(1, 2, 0)
            made.append(Image.fromarray((array * 255).astype(np.uint8)))
    return made


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("seed", [0, 5])
def test_the_images_are_those_of_the_recipe_to_the_byte(photos, judge, factor, seed):
    options = {"ipc": 3, "factor": factor, "crops": 4, "seed": seed}
    made = rded_images(photos, judge, images_per_class=PER_CLASS, **options)
    expected = one_by_one(photos, judge, **options)
    assert len(made) == len(expected) == 6
    for ours, theirs in zip(made, expected, strict=True):
        assert torch.equal(ours, torch.from_numpy(np.array(theirs)).permute(2, 0, 1))


def test_the_defaults_are_those_of_the_scripts_for_cifar10():
    from gift_fast.distillation import rded

    assert rded.__kwdefaults__ == {"factor": 1, "crops": 5, "images_per_class": 300}


def test_the_seed_determines_the_images_and_the_global_generator_is_left_alone(photos, judge):
    def made(seed: int) -> torch.Tensor:
        return rded_images(photos, judge, ipc=2, seed=seed, images_per_class=PER_CLASS)

    torch.manual_seed(7)
    expected = torch.rand(2)
    torch.manual_seed(7)
    first = made(0)
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(first, made(0))
    assert not torch.equal(first, made(1))


def test_a_teacher_in_training_mode_scores_in_eval_mode(photos, judge):
    expected = rded_images(photos, judge, ipc=1, images_per_class=PER_CLASS)
    judge.train()
    assert torch.equal(rded_images(photos, judge, ipc=1, images_per_class=PER_CLASS), expected)
    assert not judge.training


def test_the_constants_of_the_dataset_change_what_the_teacher_sees(photos, judge):
    from dataclasses import replace

    shifted = replace(photos, mean=(0.0, 0.9, 0.1), std=(1.0, 0.1, 0.5))
    ours, other = (
        rded_images(d, judge, ipc=3, images_per_class=PER_CLASS) for d in (photos, shifted)
    )
    assert not torch.equal(ours, other)


def test_tiles_fill_a_mosaic_whose_side_does_not_divide():
    crops = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 1, 2, 2)  # 2 images of 2 x 2 tiles
    whole = mosaics(crops, 5, 2)
    assert whole.shape == (2, 1, 5, 5)
    assert whole[1, 0].int().tolist() == [[1, 1, 1, 3, 3]] * 3 + [[5, 5, 5, 7, 7]] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ipc": 0}, "ipc must be at least 1, got 0"),
        ({"ipc": 1, "crops": 0}, "crops must be at least 1, got 0"),
        ({"ipc": 1, "factor": 17}, "factor must be at most the side, 16 pixels, got 17"),
        ({"ipc": 1}, "images_per_class must be at most 15, .* smallest class of photos, got 300"),
        (
            {"ipc": 4, "factor": 2, "images_per_class": 15},
            "ipc must be at most 3, .* uses 4 of the 15 .* got 4",
        ),
    ],
)
def test_what_the_training_images_do_not_allow_is_refused_by_name(photos, judge, options, message):
    with pytest.raises(ValueError, match=message):
        rded_images(photos, judge, **options)
