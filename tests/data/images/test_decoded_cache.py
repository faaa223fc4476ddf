from __future__ import annotations

import pytest
import torch
from layouts import write_image

from gift_fast.data.datasets import FileSplit
from gift_fast.data.images.decoded_cache import decoded_once
from gift_fast.files.cache import cache_folder


@pytest.fixture
def split(tmp_path) -> FileSplit:
    names = tuple(f"{i}.png" for i in range(3))
    for i, name in enumerate(names):
        write_image(tmp_path / "images" / name, 20, 16, seed=i)
    return FileSplit(tmp_path / "images", names, torch.tensor([2, 0, 1]), side=8, resize=9)


def test_the_pixels_are_those_of_the_files(split, tmp_path):
    memory = decoded_once(split, "trial", tmp_path / "cache")
    everything = [torch.arange(3)]
    assert memory.images.dtype == torch.uint8
    for (a, b), (c, d) in zip(memory.batches(everything), split.batches(everything), strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)


def test_the_second_call_reads_the_cache_and_no_image(split, tmp_path, monkeypatch):
    first = decoded_once(split, "trial", tmp_path / "cache")

    def refuse(self, index):
        raise AssertionError("decoded again")

    monkeypatch.setattr(FileSplit, "read", refuse)
    assert torch.equal(decoded_once(split, "trial", tmp_path / "cache").images, first.images)


def test_other_files_are_decoded_anew(split, tmp_path):
    decoded_once(split, "trial", tmp_path / "cache")
    write_image(split.root / split.names[0], 30, 30, seed=9)
    changed = decoded_once(split, "trial", tmp_path / "cache")
    assert torch.equal(changed.images[0], split.read(0))
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_damaged_image_leaves_no_cache_behind(split, tmp_path):
    (split.root / split.names[1]).write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"1\.png must be an image"):
        decoded_once(split, "trial", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("damage", [b"", b"no cache", None])
def test_a_damaged_cache_is_made_anew_and_said(split, tmp_path, caplog, damage):
    first = decoded_once(split, "trial", tmp_path / "cache").images.clone()
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if damage is None else damage)
    assert torch.equal(decoded_once(split, "trial", tmp_path / "cache").images, first)
    assert "is damaged and is created again" in caplog.text


def test_the_cache_lies_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/users/cache")
    monkeypatch.delenv("GIFT_FAST_CACHE", raising=False)
    assert str(cache_folder()) == "/users/cache/gift-fast"
    monkeypatch.setenv("GIFT_FAST_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
