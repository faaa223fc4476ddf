from __future__ import annotations

import threading
import time

import pytest
import torch
from layouts import random_image, write_image
from PIL import Image
from torchvision import transforms

from gift_fast.data.datasets import FileSplit
from gift_fast.data.images import file_split
from gift_fast.data.images.file_split import decode, decoding_threads

SIZES = [(40, 30), (30, 40), (31, 31), (24, 57)]


@pytest.fixture
def split(tmp_path) -> FileSplit:
    names = [f"{i % 2}/{i}.png" for i in range(4)]
    for i, (name, (width, height)) in enumerate(zip(names, SIZES, strict=True)):
        write_image(tmp_path / name, width, height, seed=i)
    return FileSplit(tmp_path, tuple(names), torch.tensor([0, 1, 0, 1]), side=14, resize=16)


def test_batches_are_what_torchvisions_validation_transform_gives(split):
    transform = transforms.Compose(
        [transforms.Resize(16), transforms.CenterCrop(14), transforms.ToTensor()]
    )
    expected = [transform(Image.open(split.root / name).convert("RGB")) for name in split.names]
    (images, labels), (last, _) = split.batches([torch.tensor([2, 0, 1]), torch.tensor([3])])
    assert torch.equal(images, torch.stack([expected[2], expected[0], expected[1]]))
    assert torch.equal(last[0], expected[3])
    assert labels.tolist() == [0, 0, 1]
    assert images.shape[1:] == split.shape


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA", "1"])
def test_images_of_every_mode_become_color_images(tmp_path, mode):
    image = random_image(8, 8).convert(mode)
    path = tmp_path / ("image.tiff" if mode == "CMYK" else "image.png")
    image.save(path)
    expected = transforms.functional.pil_to_tensor(Image.open(path).convert("RGB"))
    assert torch.equal(decode(path, 8, None), expected)
    assert decode(path, 8, None).shape == (3, 8, 8)


def test_many_batches_come_in_their_order_however_the_threads_run(split, monkeypatch):
    monkeypatch.setattr(file_split, "decoding_threads", lambda: 3)
    read = FileSplit.read

    def slow(self, index):
        time.sleep(0.002 * (index == 0))
        return read(self, index)

    monkeypatch.setattr(FileSplit, "read", slow)
    order = torch.randint(4, (20, 3))
    for index, (images, labels) in zip(order, split.batches(order), strict=True):
        assert torch.equal(labels, split.labels[index])
        assert torch.equal(images, next(split.batches([index]))[0])


def test_no_more_than_a_few_batches_are_decoded_ahead(split, monkeypatch):
    asked = []

    def indices():
        for i in range(100):
            asked.append(i)
            yield torch.tensor([0, 1])

    batches = split.batches(indices())
    next(batches)
    assert len(asked) == 1 + file_split.BATCHES_AHEAD
    batches.close()
    assert len(asked) == 1 + file_split.BATCHES_AHEAD


def test_no_thread_outlives_its_batches(split):
    batches = split.batches([torch.tensor([0])] * 5)
    next(batches)
    batches.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("decode")]


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_a_damaged_image_is_an_error_that_names_the_file(split, damage):
    path = split.root / split.names[2]
    whole = path.read_bytes()
    half = whole[: len(whole) // 2]
    path.write_bytes({"truncated": half, "text": b"no image", "empty": b""}[damage])
    with pytest.raises(ValueError, match=r"0/2\.png must be an image, but it cannot be decoded: "):
        list(split.batches([torch.arange(4)]))


def test_a_file_that_vanished_is_an_error_that_names_it(split):
    (split.root / split.names[1]).unlink()
    with pytest.raises(FileNotFoundError, match=r"1/1\.png"):
        list(split.batches([torch.arange(4)]))


def test_an_image_of_another_size_is_refused_where_none_is_resized(tmp_path):
    path = write_image(tmp_path / "wide.png", 10, 8)
    with pytest.raises(ValueError, match=r"wide\.png must .* 8 x 8 pixels, got 10 x 8"):
        decode(path, 8, None)


def test_an_image_of_another_size_is_refused_before_it_is_decoded(tmp_path):
    path = write_image(tmp_path / "cut.png", 40, 8)
    path.write_bytes(path.read_bytes()[:60])  # the size is there, the pixels are not
    with pytest.raises(ValueError, match=r"cut\.png must .* 8 x 8 pixels, got 40 x 8"):
        decode(path, 8, None)


def test_a_subset_keeps_the_order_of_its_index(split):
    part = split.subset(torch.tensor([3, 0]))
    assert part.names == ("1/3.png", "0/0.png")
    assert part.labels.tolist() == [1, 0]
    (images, _), *_ = part.batches([torch.arange(2)])
    assert torch.equal(images, next(split.batches([torch.tensor([3, 0])]))[0])


def test_batches_go_to_the_device_that_was_asked_for(split):
    images, labels = next(split.to("meta").batches([torch.arange(2)]))
    assert images.device.type == labels.device.type == "meta"


def test_the_fingerprint_follows_names_sizes_labels_and_rule_but_not_the_place(split, tmp_path):
    moved = FileSplit(
        split.root.rename(tmp_path.parent / "moved"), split.names, split.labels, 14, 16
    )
    before = moved.fingerprint()
    others = [
        FileSplit(moved.root, moved.names, moved.labels.flip(0), 14, 16),
        FileSplit(moved.root, moved.names, moved.labels, 13, 16),
        FileSplit(moved.root, moved.names, moved.labels, 14, 17),
        moved.subset(torch.tensor([1, 0, 2, 3])),
    ]
    prints = {before, *(other.fingerprint() for other in others)}
    assert len(prints) == 5
    with (moved.root / moved.names[0]).open("ab") as file:
        file.write(b"more")
    assert moved.fingerprint() not in prints
    moved.root.rename(tmp_path)  # the place itself does not count
    assert FileSplit(tmp_path, moved.names, moved.labels, 14, 16).fingerprint() not in prints


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ()}, r"names must .* at least one file of .*, got none"),
        ({"labels": torch.zeros(3)}, r"labels must have shape \(4,\), got \(3,\)"),
        ({"side": 0}, "side must be at least 1, got 0"),
        ({"resize": 13}, "resize must be at least side, 14, got 13"),
    ],
)
def test_arguments_that_cannot_be_are_refused(split, changes, message):
    fields = {"names": split.names, "labels": split.labels, "side": 14, "resize": 16, **changes}
    with pytest.raises(ValueError, match=message):
        FileSplit(split.root, **fields)


def test_the_processes_of_a_run_share_the_processors(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: range(12), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert decoding_threads() == 12
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert decoding_threads() == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert decoding_threads() == 1
