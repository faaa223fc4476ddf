from __future__ import annotations

import os

import pytest
import torch
from layouts import write_folders, write_image

from gift_fast.data.datasets import FileSplit, load_dataset
from gift_fast.data.images.unreadable_files import check_readable


@pytest.fixture
def split(tmp_path) -> FileSplit:
    names = tuple(f"{i:02d}.jpg" for i in range(14))
    for i, name in enumerate(names):
        write_image(tmp_path / "images" / name, 32, 24, seed=i)
    labels = torch.zeros(14, dtype=torch.long)
    return FileSplit(tmp_path / "images", names, labels, side=14, resize=16)


def break_images(split, count):
    for name in split.names[:count]:
        (split.root / name).write_bytes(b"404")


def test_all_bad_files_are_told_at_once_ten_by_name(split, tmp_path):
    break_images(split, 12)
    with pytest.raises(ValueError, match="12 of 14 images") as raised:
        check_readable(split, tmp_path / "cache")
    text = str(raised.value)
    assert [name in text for name in split.names] == [True] * 10 + [False] * 4
    assert "2 more" in text


def test_one_bad_file_is_told_by_itself(split, tmp_path):
    break_images(split, 1)
    with pytest.raises(ValueError, match=r"00\.jpg must be an image"):
        check_readable(split, tmp_path / "cache")


def test_broken_links_are_told_with_the_others(split, tmp_path):
    break_images(split, 1)
    missing = split.root / split.names[1]
    missing.unlink()
    missing.symlink_to(tmp_path / "nowhere.jpg")
    with pytest.raises(ValueError, match=r"2 of 14 .*\n.*00\.jpg.*\n.*01\.jpg"):
        check_readable(split, tmp_path / "cache")


def test_good_files_are_read_once_until_they_change(split, tmp_path):
    check_readable(split, tmp_path / "cache")
    path = split.root / split.names[0]
    before, times = path.read_bytes(), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_bytes(b"x" * len(before))
    os.utime(path, ns=times)
    check_readable(split, tmp_path / "cache")  # not read again: the same size and time
    os.utime(path, ns=(times[0], times[1] + 1))
    with pytest.raises(ValueError, match=r"00\.jpg"):
        check_readable(split, tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_no_error(split, tmp_path):
    (tmp_path / "file").touch()
    check_readable(split, tmp_path / "file" / "cache")


def test_images_of_another_size_are_found_where_none_is_resized(tmp_path):
    write_image(tmp_path / "0.png", 8, 8)
    write_image(tmp_path / "1.png", 9, 8)
    split = FileSplit(tmp_path, ("0.png", "1.png"), torch.tensor([0, 1]), side=8)
    with pytest.raises(ValueError, match=r"1\.png must .* 8 x 8 pixels, got 9 x 8"):
        check_readable(split, tmp_path / "cache")


def test_processes_of_a_machine_check_a_share_each(split, tmp_path, monkeypatch):
    break_images(split, 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    check_readable(split, tmp_path / "cache")
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(ValueError, match=r"00\.jpg"):
        check_readable(split, tmp_path / "cache")


@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize("in_memory", ["true", "false"])
def test_a_dataset_with_bad_files_is_refused_when_it_is_loaded(
    tmp_path, monkeypatch, part, in_memory
):
    monkeypatch.setenv("GIFT_FAST_CACHE", str(tmp_path / "cache"))
    for name in ("train", "val"):
        write_folders(tmp_path / name, ["ant", "bee"], images=2)
    for bad in ("ant_0", "ant_1"):
        (tmp_path / part / "ant" / f"{bad}.JPEG").write_bytes(b"404")
    with pytest.raises(ValueError, match=r"2 of 4 images .*\n.*ant_0.*\n.*ant_1"):
        load_dataset(f"folder:side=8,in_memory={in_memory}", tmp_path)
