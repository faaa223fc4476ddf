from __future__ import annotations

import json
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from gift_fast.data.distilled import DistilledSet, read_distilled, write_distilled

GENERATOR = torch.Generator().manual_seed(0)

BYTES = DistilledSet(
    images=torch.randint(0, 256, (6, 3, 8, 8), generator=GENERATOR, dtype=torch.uint8),
    labels=torch.tensor([0, 0, 1, 1, 2, 2]),
    source="noise",
)
WHITENED = DistilledSet(
    images=torch.randn(6, 3, 8, 8, generator=GENERATOR),
    labels=torch.tensor([2, 1, 0, 0, 1, 2]),
    soft_labels=torch.randn(6, 3, generator=GENERATOR).half(),
    whitened=True,
    learning_rate=0.1 + 0.2,
    source="noise \N{GREEK SMALL LETTER SIGMA}",
)


def bits(tensor):
    return None if tensor is None else (tensor.dtype, tensor.shape, tensor.numpy().tobytes())


@pytest.mark.parametrize("distilled", [BYTES, WHITENED], ids=["bytes", "whitened"])
def test_what_is_read_is_what_was_written_bit_for_bit(tmp_path, animals, distilled):
    if distilled is WHITENED:
        distilled.images[0, 0, 0, :2] = torch.tensor([-0.0, 1e-42])  # what a sum would lose
    write_distilled(tmp_path / "set", distilled, animals)
    read = read_distilled("gift-fast", tmp_path / "set", animals)
    for name in ("images", "labels", "soft_labels"):
        assert bits(getattr(read, name)) == bits(getattr(distilled, name))
    assert read.whitened == distilled.whitened
    assert read.learning_rate == distilled.learning_rate
    assert read.source == distilled.source
    assert read.class_names == animals.class_names
    assert read.fingerprint() == distilled.fingerprint()


@pytest.mark.parametrize("written", ["set.ipc2", "set.ipc2.json", "set.ipc2.safetensors"])
def test_either_file_their_name_and_their_folder_stand_for_the_pair(tmp_path, animals, written):
    write_distilled(tmp_path / written, BYTES, animals)
    names = {"set.ipc2.json", "set.ipc2.safetensors"}
    assert {file.name for file in tmp_path.iterdir()} == names
    for path in (tmp_path, tmp_path / "set.ipc2", *(tmp_path / name for name in names)):
        for name in ("gift-fast", "auto"):
            assert read_distilled(name, path, animals).fingerprint() == BYTES.fingerprint()


def test_a_strided_set_is_written_as_its_values(tmp_path, animals):
    strided = replace(BYTES, images=BYTES.images.to(memory_format=torch.channels_last))
    write_distilled(tmp_path / "set", strided, animals)
    assert torch.equal(read_distilled("gift-fast", tmp_path, animals).images, BYTES.images)


def test_a_write_that_fails_leaves_the_old_pair(tmp_path, animals, monkeypatch):
    write_distilled(tmp_path / "set", BYTES, animals)

    def fail(tensors, path):
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    with pytest.raises(OSError, match="no space left"):
        write_distilled(tmp_path / "set", WHITENED, animals)
    assert len(list(tmp_path.iterdir())) == 2
    assert read_distilled("gift-fast", tmp_path, animals).fingerprint() == BYTES.fingerprint()


def test_a_full_disk_is_an_os_error_that_names_the_file(tmp_path, animals, monkeypatch):
    def fail(tensors, path):
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    with pytest.raises(OSError, match=r"set\.safetensors could not be written: .*No space left"):
        write_distilled(tmp_path / "set", BYTES, animals)


def test_files_of_two_sets_are_no_pair(tmp_path, animals):
    write_distilled(tmp_path / "a", BYTES, animals)
    write_distilled(tmp_path / "b", replace(BYTES, labels=BYTES.labels.flip(0)), animals)
    (tmp_path / "a.json").rename(tmp_path / "b.json")
    with pytest.raises(
        ValueError, match=r"b\.safetensors must be the file that b\.json was written"
    ):
        read_distilled("gift-fast", tmp_path / "b", animals)


def test_another_class_order_is_refused_with_the_class_map_that_mends_it(tmp_path, animals):
    write_distilled(tmp_path / "set", WHITENED, animals)
    other = replace(animals, class_names=("cat", "ape", "bee"))
    with pytest.raises(ValueError, match=r"label 0 is 'ape' in the set and 'cat'") as raised:
        read_distilled("gift-fast", tmp_path, other)

    suggested = tmp_path / "classes.json"
    suggested.write_text(str(raised.value).rpartition(": ")[2])
    read = read_distilled("gift-fast", tmp_path, other, class_map=suggested)
    named = [other.class_names[label] for label in read.labels]
    assert named == [animals.class_names[label] for label in WHITENED.labels]


def test_other_classes_are_named(tmp_path, animals):
    write_distilled(tmp_path / "set", BYTES, animals)
    other = replace(animals, class_names=("ape", "bee", "dog"))
    with pytest.raises(ValueError, match=r"unexpected: \['cat'\], missing: \['dog'\]"):
        read_distilled("gift-fast", tmp_path, other)


def test_equal_class_names_get_no_class_map(tmp_path, animals):
    """ImageNet has two classes called crane and two called maillot."""
    twice = replace(animals, class_names=("crane", "bee", "crane"))
    write_distilled(tmp_path / "set", BYTES, twice)
    assert len(read_distilled("gift-fast", tmp_path, twice)) == 6
    with pytest.raises(ValueError, match=r"several classes have the same name, so no"):
        read_distilled("gift-fast", tmp_path, replace(twice, class_names=("bee", "crane", "crane")))


def rewrite(folder, **changes):
    file = folder / "set.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: rewrite(folder, format="other"), r"set\.json must .* 'gift-fast'"),
        (lambda folder: rewrite(folder, version=2), r"set\.json must have version 1, got 2"),
        (lambda folder: rewrite(folder, whitened="no"), r"whitened must be a bool, got 'no'"),
        (lambda folder: rewrite(folder, learning_rate="1"), r"learning_rate must be a float or"),
        *(
            (lambda folder, rate=rate: rewrite(folder, learning_rate=rate), message)
            for rate, message in [
                (True, "learning_rate must be a float or int or NoneType, got True"),
                (0, "learning_rate must be positive and finite, got 0"),
                (-0.1, "learning_rate must be positive and finite, got -0.1"),
                (float("nan"), "learning_rate must be positive and finite, got nan"),
                (float("inf"), "learning_rate must be positive and finite, got inf"),
            ]
        ),
        (
            lambda folder: rewrite(folder, class_names=[1, 2]),
            r"class_names must be strings, got \[1",
        ),
        (lambda folder: (folder / "set.json").write_text("{"), r"set\.json must be a JSON file"),
        (
            lambda folder: (folder / "set.safetensors").write_bytes(b"404"),
            r"set\.safetensors must be a safetensors file",
        ),
        (
            lambda folder: safetensors.torch.save_file(
                {"images": BYTES.images}, folder / "set.safetensors"
            ),
            r"set\.safetensors must .* images, labels and .* soft_labels, got \['images'\]",
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, animals, change, message):
    write_distilled(tmp_path / "set", BYTES, animals)
    change(tmp_path)
    with pytest.raises(ValueError, match=message):
        read_distilled("gift-fast", tmp_path, animals)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"images": BYTES.images.double() / 255},
            r"images must be uint8 or float32, got .*float64",
        ),
        ({"labels": BYTES.labels + 1}, r"labels must be int64 from 0 to 2, .* from 1 to 3"),
        ({"labels": BYTES.labels.int()}, r"labels must be int64"),
        ({"soft_labels": torch.rand(6, 4)}, r"soft_labels must be .* \(6, 3\), .* \(6, 4\)"),
    ],
)
def test_a_set_that_could_not_be_read_is_not_written(tmp_path, animals, change, message):
    with pytest.raises(ValueError, match=message):
        write_distilled(tmp_path / "set", replace(BYTES, **change), animals)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_two_sets_is_refused(tmp_path, animals):
    for name in ("one", "two"):
        write_distilled(tmp_path / name, BYTES, animals)
    with pytest.raises(
        ValueError, match=r"must .* one file NAME\.safetensors, got \['one', 'two'\]"
    ):
        read_distilled("gift-fast", tmp_path, animals)


def test_a_folder_is_no_name_to_write_under(tmp_path, animals):
    with pytest.raises(ValueError, match="path must be the common name of two files"):
        write_distilled(tmp_path, BYTES, animals)
