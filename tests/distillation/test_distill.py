"""Making sets in folders, from Python and from the command line, on digits."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from gift_fast.cli import distill as distill_command
from gift_fast.cli import main
from gift_fast.data.datasets import load_dataset
from gift_fast.data.distilled import read_distilled
from gift_fast.distillation import METHODS, distill, rded_images
from gift_fast.training.weights import save_weights

METHOD = "rded:images_per_class=20"


@pytest.fixture
def command(tmp_path, teacher):
    """Calls the command with the session's teacher."""
    save_weights(tmp_path / "digits_convnet3-width=16.pth", teacher)

    def call(*arguments: str, out: str = "set") -> int:
        return main(
            [
                *("distill", METHOD, "--dataset", "digits", "--teacher", "convnet3:width=16"),
                *("--teacher-dir", str(tmp_path), "--out", str(tmp_path / out), "--ipc", "2"),
                *arguments,
            ]
        )

    return call


def test_the_files_are_read_back_by_the_rded_format(dataset, teacher, tmp_path):
    made = distill(METHOD, dataset, teacher, tmp_path / "set", ipc=2, seed=4)
    first = tmp_path / "set" / "syn_data" / "00003" / "class00003_id00001.jpg"
    with Image.open(first) as image:
        assert image.format == "JPEG"
    again = read_distilled("rded", tmp_path / "set", dataset)
    assert again.fingerprint() == made.fingerprint()
    assert again.labels.tolist() == [label for label in range(10) for _ in range(2)]
    assert "detected format rded" in read_distilled("auto", tmp_path / "set", dataset).source


def test_the_files_are_the_images_at_pillows_default_quality(dataset, teacher, tmp_path):
    distill(METHOD, dataset, teacher, tmp_path / "set", ipc=1)
    images = rded_images(dataset, teacher, ipc=1, images_per_class=20)
    Image.fromarray(images[7, 0].numpy()).save(tmp_path / "expected.jpg")
    file = tmp_path / "set" / "syn_data" / "00007" / "class00007_id00000.jpg"
    assert file.read_bytes() == (tmp_path / "expected.jpg").read_bytes()


def test_the_record_says_how_the_set_was_made(dataset, teacher, tmp_path):
    made = distill(METHOD, dataset, teacher, tmp_path / "set", ipc=1, seed=3)
    record = json.loads((tmp_path / "set" / "made.json").read_text())
    assert record["method"] == "rded:factor=1,crops=5,images_per_class=20"
    assert (record["dataset"], record["ipc"], record["seed"]) == ("digits", 1, 3)
    assert record["set"] == made.fingerprint()
    assert {"gift-fast", "torchvision", "pillow"} <= record["versions"].keys()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["rdde", "--ipc", "1"], "rdde"), (["rded", "--ipc", "0"], "--ipc must be at least 1, got 0")],
)
def test_the_command_checks_method_and_ipc_before_it_loads_anything(
    tmp_path, monkeypatch, capsys, arguments, named
):
    monkeypatch.setattr(
        distill_command, "load_dataset", lambda *_, **__: pytest.fail("data is loaded")
    )
    options = ["--dataset", "digits", "--out", str(tmp_path / "set")]
    assert main(["distill", *arguments, *options]) == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_makes_a_set_that_is_recognized(method, dataset, teacher, tmp_path):
    spec = METHOD if method == "rded" else method
    made = distill(spec, dataset, teacher, tmp_path / "set", ipc=1)
    assert made.labels.tolist() == list(range(10))
    assert read_distilled("auto", tmp_path / "set", dataset).fingerprint() == made.fingerprint()


def test_a_set_that_was_made_before_is_read_and_another_is_not_overwritten(
    dataset, teacher, tmp_path, monkeypatch
):
    path = tmp_path / "set"
    made = distill(METHOD, dataset, teacher, path, ipc=1)
    with monkeypatch.context() as patch:
        patch.setitem(METHODS, "rded", rded_unchanged)
        assert distill(METHOD, dataset, teacher, path, ipc=1).fingerprint() == made.fingerprint()
    with pytest.raises(ValueError, match=f"out must be a new folder .*{path}"):
        distill(METHOD, dataset, teacher, path, ipc=1, seed=1)
    other = distill(METHOD, dataset, teacher, path, ipc=1, seed=1, force=True)
    assert other.fingerprint() != made.fingerprint()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set"]


def rded_unchanged(dataset, teacher, path, ipc, seed, *, factor=1, crops=5, images_per_class=300):
    raise AssertionError("made again")


def test_a_folder_of_other_files_is_never_replaced(dataset, teacher, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="out must be a new folder"):
        distill(METHOD, dataset, teacher, tmp_path / "set", ipc=1, force=True)
    assert (tmp_path / "set" / "notes.txt").read_text() == "mine"


def test_a_process_that_is_slower_than_another_takes_its_set(
    dataset, teacher, tmp_path, monkeypatch
):
    path, make = tmp_path / "set", METHODS["rded"]

    def overtaken(dataset, teacher, out, ipc, seed, *, images_per_class=300):
        make(dataset, teacher, out, ipc, seed, images_per_class=images_per_class)
        monkeypatch.setitem(METHODS, "rded", quick)
        distill(METHOD, dataset, teacher, path, ipc=ipc, seed=seed)

    def quick(dataset, teacher, out, ipc, seed, *, images_per_class=300):
        make(dataset, teacher, out, ipc, seed, images_per_class=images_per_class)

    monkeypatch.setitem(METHODS, "rded", overtaken)
    made = distill(METHOD, dataset, teacher, path, ipc=1)
    assert read_distilled("rded", path, dataset).fingerprint() == made.fingerprint()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set"]


def test_a_method_that_fails_leaves_nothing_behind(dataset, teacher, tmp_path):
    with pytest.raises(ValueError, match="images_per_class must be at most"):
        distill("rded", dataset, teacher, tmp_path / "set", ipc=1)
    assert list(tmp_path.iterdir()) == []


def test_the_command_makes_the_set_of_the_function(command, tmp_path, teacher, capsys):
    assert command("--seed", "1") == 0
    digits = load_dataset("digits")
    expected = distill(METHOD, digits, teacher, tmp_path / "other", ipc=2, seed=1)
    assert expected.fingerprint() in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--seed", "-1"), "--seed must be at least 0, got -1"),
        (("--ipc", "0"), "--ipc must be at least 1, got 0"),
        (("--teacher", "convnet3:width=8"), "no weights of the teacher convnet3:width=8"),
        (("--dataset", "nothing"), "dataset must be one of"),
    ],
)
def test_the_command_names_the_option_that_is_wrong(command, arguments, message, capsys):
    assert command(*arguments) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_method_is_refused_with_those_there_are(dataset, teacher, tmp_path):
    with pytest.raises(
        ValueError, match=r"method must be one of random, rded, selected, .*'rdde'.* 'rded'"
    ):
        distill("rdde", dataset, teacher, tmp_path / "set", ipc=1)


def test_a_users_own_method_is_named_by_its_import_path(dataset, teacher, tmp_path):
    made = distill("tests.distillation.methods.black", dataset, teacher, tmp_path / "set", ipc=1)
    assert torch.equal(made.images, torch.zeros(10, 1, 8, 8))
