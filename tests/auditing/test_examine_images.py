from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from made import MEAN, STD, distilled_set, views, world
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.nn import functional as F

from gift_fast.auditing.audit_report import Finding
from gift_fast.auditing.images import examine_images
from gift_fast.data.distilled import DistilledSet

IMAGENET_MEAN = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
IMAGENET_STD = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)


def examine(distilled: DistilledSet) -> list[Finding]:
    return examine_images(world(), distilled, torch.arange(len(distilled)))[0]


@cache
def photographs() -> Tensor:
    """120 patches (3, 8, 8) in [0, 1] of the photographs that come with scikit-learn."""
    generator = torch.Generator().manual_seed(0)
    patches = []
    for photograph in load_sample_images().images:
        pixels = torch.from_numpy(photograph.copy()).permute(2, 0, 1).float() / 255
        small = F.interpolate(pixels[None], scale_factor=0.25, mode="bilinear", antialias=True)
        tiles = small[0].unfold(1, 8, 8).unfold(2, 8, 8).flatten(1, 2).transpose(0, 1)
        patches.append(tiles[torch.randperm(len(tiles), generator=generator)[:60]])
    return torch.cat(patches)


def whitened(images: Tensor) -> Tensor:
    """ZCA with DATM's eps, by its definition: the eigenvectors of the covariance."""
    rows = images.flatten(1).double()
    rows = rows - rows.mean(0)
    values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    return (rows @ vectors @ torch.diag((values + 0.1).rsqrt()) @ vectors.T).view_as(images).float()


def normalized(images: Tensor) -> Tensor:
    return (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


SCALES = {
    "normalized": (
        normalized,
        "error",
        "they were normalized with the constants of patterns, and would be normalized again",
    ),
    "normalized for ImageNet": (
        lambda images: ((images * 1.06 - 0.03).clamp(0, 1) - IMAGENET_MEAN) / IMAGENET_STD,
        "error",
        "normalized with the constants of ImageNet",
    ),
    "normalized somehow": (
        lambda images: (images - 0.1) / 0.11,
        "error",
        "normalized with unknown constants",
    ),
    "centered": (lambda images: 2 * images - 1, "error", "they are in [-1, 1]"),
    "bytes as floats": (lambda images: (255 * images).round(), "error", "divide by 255"),
    "any scale": (lambda images: 1000 * images, "error", "their scale is unknown"),
    "divided twice": (lambda images: images / 255, "error", "divided by 255 twice"),
    "not clipped": (lambda images: 1.2 * images - 0.1, "warning", "they were not clipped"),
    "bytes of floats": (lambda images: images.byte(), "error", "their content is lost"),
    "dark": (lambda images: images / 4, "note", "those of patterns are 0.50, 0.50, 0.50"),
}


@pytest.mark.parametrize("name", SCALES)
def test_another_scale_is_recognized(name):
    change, severity, text = SCALES[name]
    distilled = distilled_set(ipc=40)
    (finding,) = examine(replace(distilled, images=change(distilled.images)))
    assert finding.severity == severity
    assert text in finding.text


def photographic(images: Tensor) -> DistilledSet:
    return DistilledSet(images, torch.arange(len(images)) % 12)


def test_whitened_images_are_told_from_normalized_ones():
    (finding,) = examine(photographic(whitened(photographs())))
    assert finding.severity == "error"
    assert "typical of whitened images" in finding.text
    findings = examine(photographic(normalized(photographs())))
    assert [finding.severity for finding in findings] == ["error"]
    assert "with the constants of patterns" in findings[0].text


def test_values_are_given_as_they_are():
    distilled = distilled_set()
    images = distilled.images.clamp(0.2, 0.9)
    images[0, 0, 0, 0], images[1, 0, 0, 0] = -2.5, 300
    (finding,) = examine(replace(distilled, images=images))
    assert "[-2.5, 300]" in finding.text


@pytest.mark.parametrize(
    "images",
    [
        (255 * distilled_set().images).round().byte(),
        distilled_set().images * 1.0005,  # float16 rounds as much
    ],
)
def test_bytes_and_floats_that_are_right_are_found_to_be_right(images):
    (finding,) = examine(replace(distilled_set(), images=images))
    assert finding.severity == "ok"


def test_whitened_images_are_right_where_they_are_said_to_be_whitened():
    (finding,) = examine(replace(photographic(whitened(photographs())), whitened=True))
    assert finding.severity == "ok"
    assert "whitened, values from -" in finding.text
    (finding,) = examine(replace(distilled_set(), whitened=True))
    assert finding.severity == "warning"
    assert "but the set is read as whitened" in finding.text


def test_numbers_are_those_of_all_values():
    distilled = distilled_set()
    _, measures = examine_images(world(), distilled, torch.arange(120))
    by_channel = distilled.images.double().transpose(0, 1).flatten(1)
    assert measures["mean"] == pytest.approx(by_channel.mean(1).tolist())
    assert measures["std"] == pytest.approx(by_channel.std(1, correction=0).tolist(), rel=1e-5)
    assert measures["minimum"] == distilled.images.min().item()
    assert measures["outside"] == 0


def test_only_the_images_that_are_named_are_looked_at():
    distilled = distilled_set()
    images = distilled.images.clone()
    images[7] = torch.nan
    faulty = replace(distilled, images=images)
    assert examine_images(world(), faulty, torch.arange(7))[0][0].severity == "ok"
    assert examine_images(world(), faulty, torch.arange(8))[0][0].severity == "error"


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_images_that_are_not_finite_are_counted(value):
    distilled = distilled_set()
    images = distilled.images.clone()
    images[[3, 50], 1, 2, 2] = value
    (finding,) = examine(replace(distilled, images=images))
    assert (finding.severity, finding.text) == ("error", "2 of 120 images contain NaN or infinity.")


def test_a_few_images_of_a_single_color_are_a_warning_and_all_of_them_an_error():
    distilled = distilled_set()
    colors = distilled.images.mean((2, 3), keepdim=True).expand_as(distilled.images)
    some = torch.cat([colors[:4], distilled.images[4:]])
    (finding,) = examine(replace(distilled, images=some))
    assert (finding.severity, finding.text) == (
        "warning",
        "4 of 120 images have a single color.",
    )
    (finding,) = examine(replace(distilled, images=colors))
    assert finding.severity == "error"


@pytest.mark.parametrize("scale", [1, 255])
def test_grey_images_are_told_where_the_test_images_are_colored(scale):
    distilled = distilled_set()
    gray = distilled.images.mean(1, keepdim=True).expand_as(distilled.images)
    images = gray if scale == 1 else (255 * gray).round().byte()
    (finding,) = examine(replace(distilled, images=images))
    assert finding.text == "120 of 120 images are gray, but most test images are not."


def test_copies_are_told_and_those_with_another_label_are_an_error():
    distilled = distilled_set()
    images = distilled.images.clone()
    images[1] = images[0]
    (finding,) = examine(replace(distilled, images=images))
    assert finding.severity == "warning"
    assert finding.text == "1 of 120 images are duplicates: 1 = 0."
    images[119] = images[0]
    (finding,) = examine(replace(distilled, images=images))
    assert finding.severity == "error"
    assert (
        finding.text
        == "1 images are duplicates of images of another class: 119 = 0 (labels 11 and 0)."
    )


def test_another_shape_is_told():
    distilled = distilled_set()
    last = distilled.images.permute(0, 2, 3, 1)
    finding = examine(replace(distilled, images=last[:, :3].transpose(1, 3)[:, :, :3]))[0]
    assert "The images are (C, H, W) = (3, 3, 3), the test images (3, 8, 8)." in finding.text


def test_a_single_channel_is_never_grey_by_mistake():
    """Digits: every image is gray, and so is every test image."""
    from gift_fast.data.datasets import load_dataset

    digits = load_dataset("digits")
    index = torch.arange(20)
    images, labels = next(iter(digits.test.batches([index])))
    findings, measures = examine_images(digits, DistilledSet(images, labels), index)
    assert [finding.severity for finding in findings] == ["ok"]
    assert measures["shape"] == [1, 8, 8]


def test_views_differ():
    """What the other tests rest on: no image of the made set is there twice."""
    images = views(torch.zeros(10, dtype=torch.int64), seed=0)
    assert len(images.flatten(1).unique(dim=0)) == 10


def test_images_that_were_optimized_without_clipping_may_leave_the_range():
    images = photographs() * 1.6 - 0.3
    (finding,) = examine(replace(photographic(images), clipped=False))
    assert finding.severity == "ok"
