from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gift_fast.data.distilled import read_distilled, write_distilled


def write_datm(folder, *, ipc=2, classes=3, side=8, images=None, logits=None, rate=None):
    """As DATM saves its best step: labels still require a gradient, images leave [0, 1]."""
    n = ipc * classes
    images = torch.randn(n, 3, side, side) if images is None else images
    logits = torch.randn(n, classes, requires_grad=True) if logits is None else logits
    torch.save(images, folder / "images_best.pt")
    torch.save(logits, folder / "labels_best.pt")
    torch.save(torch.tensor(0.02) if rate is None else rate, folder / "lr_best.pt")
    return images, logits


@pytest.mark.parametrize("name", ["datm", "auto"])
def test_images_are_whitened_and_logits_are_soft_labels_without_gradient(tmp_path, animals, name):
    images, logits = write_datm(tmp_path)
    distilled = read_distilled(name, tmp_path, animals)
    assert torch.equal(distilled.images, images)
    assert torch.equal(distilled.soft_labels, logits.detach())
    assert not distilled.soft_labels.requires_grad
    assert distilled.whitened


@pytest.fixture
def subset(animals):
    return replace(animals, name="imagenet-subset")


@pytest.mark.parametrize("name", ["datm", "auto", "datm:zca=false"])
def test_images_of_imagenets_subsets_are_normalized_ones(tmp_path, animals, subset, name):
    dataset = animals if "zca" in name else subset
    images, logits = write_datm(tmp_path)
    distilled = read_distilled(name, tmp_path, dataset)
    assert not distilled.whitened
    torch.testing.assert_close(dataset.normalize(distilled.images), images)
    assert torch.equal(distilled.soft_labels, logits.detach())
    assert "normalized" in distilled.source


def test_what_the_images_are_can_be_said(tmp_path, subset):
    images, _ = write_datm(tmp_path)
    distilled = read_distilled("datm:zca=true", tmp_path, subset)
    assert distilled.whitened
    assert torch.equal(distilled.images, images)
    with pytest.raises(ValueError, match="zca must be auto, true or false, got 'yes'"):
        read_distilled("datm:zca=yes", tmp_path, subset)


def test_images_that_look_normalized_are_not_taken_as_whitened_by_default(tmp_path, animals):
    write_datm(tmp_path, images=animals.normalize(torch.rand(6, 3, 8, 8)))
    with pytest.raises(ValueError, match=r"look normalized.*datm:zca=false or datm:zca=true"):
        read_distilled("datm", tmp_path, animals)
    assert read_distilled("datm:zca=true", tmp_path, animals).whitened


def test_images_that_look_whitened_are_not_taken_as_normalized(tmp_path, subset):
    write_datm(tmp_path, images=12 * torch.randn(6, 3, 8, 8))
    with pytest.raises(ValueError, match="are they whitened"):
        read_distilled("datm", tmp_path, subset)


def test_normalized_images_are_kept_unclipped_by_the_projects_own_format(tmp_path, subset):
    write_datm(tmp_path)
    distilled = read_distilled("datm", tmp_path, subset)
    assert distilled.images.min() < -0.1
    write_distilled(tmp_path / "copy", distilled, subset)
    copy = read_distilled("gift-fast", tmp_path / "copy", subset)
    assert torch.equal(copy.images, distilled.images)
    assert not copy.clipped


def test_hard_labels_come_class_by_class_whatever_the_logits_say(tmp_path, animals):
    write_datm(tmp_path, ipc=3)
    distilled = read_distilled("datm", tmp_path, animals)
    assert distilled.labels.tolist() == [i // 3 for i in range(9)]
    assert distilled.labels.dtype == torch.int64


@pytest.mark.parametrize(
    "rate", [torch.tensor(0.25), torch.tensor([0.25], requires_grad=True), 0.25]
)
def test_the_learned_rate_is_a_number_however_it_was_saved(tmp_path, animals, rate):
    write_datm(tmp_path, rate=rate)
    assert read_distilled("datm", tmp_path, animals).learning_rate == 0.25


def test_without_lr_best_there_is_no_learned_rate(tmp_path, animals):
    write_datm(tmp_path)
    (tmp_path / "lr_best.pt").unlink()
    assert read_distilled("datm", tmp_path, animals).learning_rate is None


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"logits": torch.randn(6, 4)}, r"labels_best\.pt must .* logits \(6, 3\).*got \(6, 4\)"),
        ({"logits": torch.randn(5, 3)}, r"labels_best\.pt must .* logits \(6, 3\).*got \(5, 3\)"),
        (
            {"logits": torch.arange(6)},
            r"labels_best\.pt must .* floating-point .*, got int64 \(6,\)",
        ),
        (
            {"images": torch.randn(5, 3, 8, 8), "logits": torch.randn(5, 3)},
            r"equally many rows per class, got \(5, 3\)",
        ),
        ({"images": [torch.randn(3, 8, 8)]}, r"images_best\.pt must .* a dense .*, got list"),
        ({"images": torch.randn(6, 3, 8)}, r"images must be \(N, C, S, S\), .*got \(6, 3, 8\)"),
        ({"images": torch.full((6, 3, 8, 8), torch.nan)}, r"images must be finite, got NaN"),
        ({"images": torch.randn(6, 1, 8, 8)}, r"images must have the 3 channels of animals, got 1"),
        ({"side": 16}, r"whitened images must have the dataset's side 8, got 16"),
        ({"rate": -0.1}, r"lr_best\.pt must .* one positive number, got -0\.1"),
        ({"rate": torch.tensor([0.1, 0.2])}, r"lr_best\.pt must .* one positive number"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, animals, contents, message):
    write_datm(tmp_path, **contents)
    with pytest.raises(ValueError, match=message) as raised:
        read_distilled("datm", tmp_path, animals)
    assert str(raised.value).startswith(f"{tmp_path} must be readable as datm: ")


def test_a_missing_file_is_named(tmp_path, animals):
    write_datm(tmp_path)
    (tmp_path / "labels_best.pt").unlink()
    with pytest.raises(FileNotFoundError, match=r"labels_best\.pt"):
        read_distilled("datm", tmp_path, animals)
