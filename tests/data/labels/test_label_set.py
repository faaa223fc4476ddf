"""Label sets as docs/labels.md describes them, against files with numbers written by hand."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gift_fast.data.labels.label_set import (
    LabelSet,
    Manifest,
    is_label_set,
    read_manifest,
    shard_path,
)
from gift_fast.data.labels.label_set_writer import LabelSetWriter

GOLDEN = Path(__file__).with_name("golden")
SCHEMA = Path(__file__).parents[3] / "docs" / "label-set.schema.json"

SHARDS: list[dict[str, Tensor]] = [
    {
        "image": torch.tensor([[2, 0, 1], [1, 2, 0]], dtype=torch.uint8),
        "values": torch.tensor(
            [[[4.0, 1.5], [3.0, -1.0], [2.5, 2.0]], [[8.0, 0.5], [1.0, 0.25], [6.0, 5.0]]]
        ).half(),
        "indices": torch.tensor(
            [[[3, 0], [1, 2], [0, 3]], [[2, 3], [0, 1], [1, 2]]], dtype=torch.uint8
        ),
        "rest": torch.tensor([[-2.0, -1.5, 0.0], [-0.5, -0.25, 1.0]]).half(),
        "partner": torch.tensor([[1, 0, 0], [0, 1, 0]], dtype=torch.uint8),
        "weight": torch.tensor([[0.75, 0.9375], [1.0, 0.5]], dtype=torch.float64),
        "box": torch.tensor(
            [[[0, 4, 4, 8], [0, 2, 0, 2]], [[3, 3, 3, 3], [0, 8, 0, 4]]], dtype=torch.uint8
        ),
        "augmentation.0.0.flipped": torch.tensor([[True, False, True], [False, False, True]]),
        "augmentation.1.choice": torch.tensor([[0, 1], [1, 1]], dtype=torch.uint8),
        "augmentation.1.0.top": torch.tensor([[0, 2, 0], [0, 0, 0]], dtype=torch.uint8),
        "augmentation.1.0.left": torch.tensor([[1, 1, 0], [0, 0, 0]], dtype=torch.uint8),
        "augmentation.1.1.cos": torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.5, 0.75]]),
        "augmentation.1.1.sin": torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.25, 0.5]]),
    },
]
"""Two epochs of three images in batches of two; another epoch is in the second shard."""

SHARDS.append({name: value[:1] for name, value in SHARDS[0].items()})


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of the golden files."""
    return Path(shutil.copytree(GOLDEN, tmp_path / "set"))


def change(folder: Path, shard: int = 0, **tensors: Tensor | None) -> None:
    values = {**load_file(shard_path(folder, shard)), **tensors}
    stored = {k: v.contiguous() for k, v in values.items() if v is not None}
    save_file(stored, shard_path(folder, shard))


def test_the_golden_files_hold_the_numbers_above():
    for number, expected in enumerate(SHARDS):
        stored = load_file(shard_path(GOLDEN, number))
        assert stored.keys() == expected.keys()
        for name, value in expected.items():
            assert stored[name].dtype == value.dtype, name
            assert torch.equal(stored[name], value), name


def test_the_golden_files_are_read():
    labels = LabelSet(GOLDEN)
    manifest = labels.manifest
    assert (manifest.epochs, manifest.shards, manifest.steps) == (3, 2, 2)
    assert [list(manifest.epochs_of(s)) for s in range(2)] == [[1, 2], [3]]
    assert not manifest.exact
    second, third = labels.epoch(2), labels.epoch(3)
    assert second.image.tolist() == [1, 2, 0]
    assert second.labels.tolist() == [[8.0, 0.5], [1.0, 0.25], [6.0, 5.0]]
    assert second.indices.tolist() == [[2, 3], [0, 1], [1, 2]]
    assert second.rest.tolist() == [-0.5, -0.25, 1.0]
    assert second.partner.tolist() == [0, 1, 0]
    assert second.weight.tolist() == [1.0, 0.5]
    assert second.box[1].tolist() == [0, 8, 0, 4]
    (_, ((flipped,),)), (choice, (crop, rotate)) = second.augmentation
    assert flipped.tolist() == [False, False, True]
    assert choice.tolist() == [1, 1]
    assert crop[0].dtype == torch.int64
    assert rotate[1].tolist() == [0.0, 0.25, 0.5]
    assert third.image.tolist() == [2, 0, 1]
    with pytest.raises(IndexError, match="epoch must be from 1 to 3, got 4"):
        labels.epoch(4)


def test_what_is_read_is_written_again(tmp_path):
    """With dense labels, since a writer compresses what it is given."""
    golden = LabelSet(GOLDEN)
    manifest = replace(golden.manifest, top_k=None, rest=None, dtype="float32")
    writer = LabelSetWriter(tmp_path, manifest)
    dense = torch.arange(12.0).view(3, 4)
    for shard in writer.missing():
        epochs = [
            replace(golden.epoch(e), labels=dense + e, indices=None, rest=None)
            for e in manifest.epochs_of(shard)
        ]
        writer.write(shard, epochs)
    assert list(writer.missing()) == []
    for shard in range(2):
        stored = load_file(shard_path(tmp_path, shard))
        assert torch.equal(stored.pop("labels")[0], dense + manifest.epochs_of(shard)[0])
        for name, value in stored.items():
            assert value.dtype == SHARDS[shard][name].dtype, name
            assert torch.equal(value, SHARDS[shard][name]), name


def test_the_schema_takes_what_the_reader_takes(tmp_path):
    schema = json.loads(SCHEMA.read_text())
    manifest = json.loads((GOLDEN / "manifest.json").read_text())
    jsonschema.validate(manifest, schema)
    dense = {**manifest, "top_k": None, "rest": None, "temperature": None}
    jsonschema.validate(dense, schema)
    assert Manifest.from_dict(dense).top_k is None
    LabelSetWriter(tmp_path, Manifest.from_dict(dense))
    jsonschema.validate(json.loads((tmp_path / "manifest.json").read_text()), schema)


WRONG = [
    {"format": "other"},
    {"version": 2},
    {"epochs": 0},
    {"epochs": 1.5},
    {"seed": -1},
    {"dtype": "int8"},
    {"top_k": 0},
    {"rest": None},
    {"rest": "median"},
    {"rest": "logmeanexp"},
    {"temperature": 2.0},
    {"top_k": None},
    {"channels_last": "yes"},
    {"augmentation_steps": [[{"operation": "flip"}]]},
    {"teachers": [1]},
    {"environment": 3},
    {"more": 1},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_the_schema_and_the_reader_refuse_the_same(wrong, folder):
    manifest = {**json.loads((folder / "manifest.json").read_text()), **wrong}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest, json.loads(SCHEMA.read_text()))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"manifest\.json must be the manifest of a label set"):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"image": None}, "it has no 'image'"),
        ({"image": SHARDS[0]["image"].float()}, "image must be integers"),
        ({"image": SHARDS[0]["image"][:, :2]}, r"image must be integers \(3,\)"),
        ({"image": -SHARDS[0]["image"].int()}, "image must be 0 or more"),
        ({"indices": SHARDS[0]["indices"] + 1}, "indices must be 0 or more and less than 4"),
        ({"partner": SHARDS[0]["partner"] + 1}, "partner must be a row of the same batch"),
        ({"values": SHARDS[0]["values"].int()}, "values must be floating-point"),
        ({"rest": SHARDS[0]["rest"][:1]}, "rest must have 2 epochs"),
        ({"weight": SHARDS[0]["weight"][:, :1]}, r"weight must be floating-point \(2,\)"),
        ({"augmentation.1.choice": SHARDS[0]["augmentation.1.choice"] + 1}, "less than 2"),
        ({"augmentation.0.0.flipped": None}, "it has no 'augmentation.0.0.flipped'"),
    ],
    ids=str,
)
def test_a_shard_of_another_set_is_refused_with_its_name(tensors, message, folder):
    change(folder, **tensors)
    with pytest.raises(ValueError, match=message) as error:
        LabelSet(folder).epoch(1)
    assert "labels-00000.safetensors" in str(error.value)


def test_a_cut_shard_is_refused_with_what_to_do(folder):
    path = shard_path(folder, 0)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"labels-00000.* delete it and run gift-fast label again"):
        LabelSet(folder).epoch(1)


def test_a_missing_shard_is_missed_at_once(folder):
    shard_path(folder, 1).unlink()
    with pytest.raises(FileNotFoundError, match=r"must .* 2 shards"):
        LabelSet(folder)
    assert is_label_set(folder)


def test_the_fingerprint_covers_manifest_and_contents_and_no_environment(folder):
    before = LabelSet(folder).fingerprint()
    assert LabelSet(GOLDEN).fingerprint() == before
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "environment": {"torch": "9"}}))
    assert LabelSet(folder).fingerprint() == before
    change(folder, 1, rest=SHARDS[1]["rest"] + 1)
    changed = LabelSet(folder).fingerprint()
    assert changed != before
    (folder / "manifest.json").write_text(json.dumps({**manifest, "seed": 5}))
    assert LabelSet(folder).fingerprint() not in (before, changed)


def test_a_full_disk_leaves_whole_shards_and_a_clear_error(tmp_path, monkeypatch):
    golden = LabelSet(GOLDEN)
    manifest = replace(golden.manifest, top_k=None, rest=None, dtype="float32")
    writer = LabelSetWriter(tmp_path, manifest)
    epochs = [
        replace(golden.epoch(e), labels=torch.zeros(3, 4), indices=None, rest=None)
        for e in (1, 2, 3)
    ]
    writer.write(0, epochs[:2])

    def full(path: Path, contents: bytes) -> int:
        with path.open("wb") as file:
            file.write(contents[:9])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"labels-00001\.safetensors could not be written: the disk"):
        writer.write(1, epochs[2:])
    assert list(writer.missing()) == [1]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "labels-00000.safetensors",
        "manifest.json",
    ]
