from __future__ import annotations

import gzip
import importlib
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from gift_fast.data.datasets import load_dataset

# The package has the function under this name.
fashion_mnist = importlib.import_module("gift_fast.data.datasets.fashion_mnist")

NAMES = {True: "train", False: "t10k"}


def idx(values: torch.Tensor) -> bytes:
    """The IDX format: two zeros, the type, the dimensions, the sizes, the values."""
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes([0, 0, 8, values.dim()]) + sizes + values.numpy().tobytes()


def contents(train: bool) -> tuple[torch.Tensor, torch.Tensor]:
    n = 5 if train else 3
    generator = torch.Generator().manual_seed(n)
    images = torch.randint(1, 256, (n, 28, 28), generator=generator, dtype=torch.uint8)
    return images, torch.arange(n, dtype=torch.uint8) * 2


def write(root: Path, *, compressed: bool) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for train, prefix in NAMES.items():
        images, labels = contents(train)
        for name, values in (("images-idx3", images), ("labels-idx1", labels)):
            path = root / f"{prefix}-{name}-ubyte"
            if compressed:
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(idx(values)))
            else:
                path.write_bytes(idx(values))


@pytest.mark.parametrize("layout", ["published", "torchvision"])
def test_both_layouts_give_the_images_padded_to_32(tmp_path, layout):
    if layout == "published":
        write(tmp_path, compressed=True)
    else:
        write(tmp_path / "FashionMNIST" / "raw", compressed=False)
    dataset = load_dataset("fashion-mnist", tmp_path)
    for split, train in ((dataset.train, True), (dataset.test, False)):
        images, labels = contents(train)
        assert torch.equal(split.images[:, 0, 2:30, 2:30], images)
        assert split.images.sum() == images.sum()
        assert split.images.shape[1:] == (1, 32, 32)
        assert torch.equal(split.labels, labels.long())
    assert len(dataset.class_names) == 10
    assert load_dataset("fashion-mnist", tmp_path, train=False).train is None


def test_without_a_root_it_is_looked_for_where_debian_puts_it(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path)
    with pytest.raises(FileNotFoundError, match="apt-get install dataset-fashion-mnist"):
        load_dataset("fashion-mnist")
    write(tmp_path, compressed=True)
    assert len(load_dataset("fashion-mnist").test) == 3


@pytest.mark.parametrize("damage", ["truncated", "plain", "short", "floats"])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path, damage):
    write(tmp_path, compressed=True)
    path = tmp_path / "t10k-labels-idx1-ubyte.gz"
    labels = idx(contents(False)[1])
    path.write_bytes(
        {
            "truncated": gzip.compress(labels)[:-9],
            "plain": labels,
            "short": gzip.compress(labels[:-1]),
            "floats": gzip.compress(labels[:2] + b"\x0d" + labels[3:]),
        }[damage]
    )
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte\.gz must be "):
        load_dataset("fashion-mnist", tmp_path)


@pytest.mark.skipif(
    not fashion_mnist.DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist"
)
def test_the_real_images_have_the_published_sizes_and_statistics():
    dataset = load_dataset("fashion-mnist")
    assert len(dataset.train) == 60_000
    assert len(dataset.test) == 10_000
    assert dataset.train.labels.bincount().tolist() == [6000] * 10
    pixels = dataset.train.images[::10, :, 2:30, 2:30] / 255  # a tenth is enough for 1 %
    assert pixels.mean().item() == pytest.approx(dataset.mean[0], rel=0.01)
    assert pixels.std().item() == pytest.approx(dataset.std[0], rel=0.01)
    assert torch.equal(F.pad(dataset.test.images[:, :, 2:30, 2:30], [2] * 4), dataset.test.images)
