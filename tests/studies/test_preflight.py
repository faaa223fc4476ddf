"""What is wrong with a study is found before its first worker."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from gift_fast.cli import main
from gift_fast.cli.parser import build_parser
from gift_fast.data.datasets import load_dataset
from gift_fast.data.datasets.sizes import PUBLISHED, default_validation_size, training_size
from gift_fast.evaluation.context import RunContext
from gift_fast.files import disk
from gift_fast.studies import cluster, preflight, run
from gift_fast.studies.overrides import with_overrides
from gift_fast.studies.preflight import check_study
from gift_fast.studies.study_files import load_study
from gift_fast.training.models import new_model
from gift_fast.training.weights import save_weights

SMALL = ["--ipc", "1", "--student", "convnet3:width=8", "--epochs", "1", "--seeds", "0"]


@pytest.fixture(autouse=True)
def no_worker(monkeypatch):
    """Whatever would start a run."""

    def started(*_: object, **__: object) -> None:
        pytest.fail("a worker was started")

    monkeypatch.setattr(run.LocalRunner, "__call__", started)
    monkeypatch.setattr(cluster, "connected", started)


def study(root: Path, *arguments: str, name: str = "losses") -> int:
    folders = ["--out", str(root / "runs"), "--teacher-dir", str(root / "teachers"), "--quiet"]
    return main(["study", name, *SMALL, *folders, "--dataset-seeds", "0", *arguments])


def folder_dataset(root: Path, images: int = 40) -> str:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for k in range(images if split == "train" else 1):
                Image.new("RGB", (8, 8)).save(root / split / name / f"{k}.png")
    return "folder:side=8"


# ---- the validation split ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [("digits", 129), ("fashion-mnist", 5000), ("cifar10", 5000), ("imagenet-1k:side=64", 5000)],
)
def test_a_studys_validation_split_fits_another_dataset(dataset, expected):
    plan = with_overrides(load_study("gamma"), dataset=dataset)
    assert plan.validation == expected
    source = plan.experiments(published=False)[0].source
    assert f"heldout={expected}" in source.dataset


def test_a_number_that_is_given_is_taken_and_a_studys_own_datasets_keep_its_number():
    study = load_study("gamma")
    assert with_overrides(study, dataset="digits", validation=300).validation == 300
    assert with_overrides(study, dataset="tinyimagenet").validation == 5000
    assert (
        with_overrides(study, dataset="digits:heldout=50").validation == 5000
    )  # and is not applied
    own = with_overrides(study, dataset="digits:heldout=50").experiments(published=False)[0].source
    assert own.dataset == "digits:heldout=50"


def test_the_files_of_other_datasets_are_counted_and_none_is_decoded(tmp_path, monkeypatch):
    dataset = folder_dataset(tmp_path)
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("decoded"))
    assert training_size(dataset, tmp_path) == (80, 2)
    assert training_size(f"{dataset},in_memory=true,heldout=9", tmp_path) == (80, 2)
    assert default_validation_size(dataset, 5000, tmp_path) == 8
    assert with_overrides(load_study("gamma"), dataset=dataset, data_root=tmp_path).validation == 8


def test_there_is_an_image_for_every_class_in_it(tmp_path):
    dataset = folder_dataset(tmp_path, images=5)
    assert default_validation_size(dataset, 5000, tmp_path) == 2


def test_the_published_size_of_the_digits_is_theirs():
    digits = load_dataset("digits")
    assert PUBLISHED["digits"] == (len(digits.training_split), digits.num_classes)


# ---- the check -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ray", [[], ["--ray"], ["--ray", "local"]])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "digits", "--validation", "5000"], "validation must be 10 to 648"),
        (["--dataset", "cifar10"], "--data-root must be the folder that contains cifar10"),
        (["--dataset", "digits", "--student", "convnet6"], "at least 64 pixels for ConvNet-6"),
        (["--dataset", "digits", "--ipc", "500"], "--ipc must be from 1 to 1"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_starts(
    tmp_path, capsys, ray, arguments, message
):
    pytest.importorskip("ray")
    assert study(tmp_path, *arguments, *ray) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_set_of_no_known_format_is_told(tmp_path, capsys):
    broken = tmp_path / "sets" / "cifar100_rded_ipc1"
    broken.mkdir(parents=True)
    (broken / "notes.txt").write_text("")
    assert study(tmp_path, "--sets", str(tmp_path / "sets")) == 2
    printed = capsys.readouterr().err
    assert str(broken) in printed
    assert "must have one of these formats" in printed


def test_a_teacher_of_another_network_is_told(tmp_path, capsys):
    (tmp_path / "teachers").mkdir()
    save_weights(tmp_path / "teachers" / teacher_file(129), torch.nn.Linear(2, 2))
    assert study(tmp_path, "--dataset", "digits") == 2
    assert "does not fit the ConvNet" in capsys.readouterr().err


def teacher_file(heldout: int) -> str:
    return f"digits-heldout={heldout}_convnet3-width=8.pth"


@pytest.mark.parametrize("option", ["--out", "--teacher-dir"])
def test_a_folder_that_cannot_be_written_is_told(tmp_path, capsys, option):
    (tmp_path / "file").write_text("")
    assert study(tmp_path, "--dataset", "digits", option, str(tmp_path / "file" / "runs")) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err


LAST_BATCH_OF_ONE = """
title: Ten images in batches of nine
settings: {batch_size: 9}
sets: [{method: selected, dataset: digits, ipc: 1, network: resnet18}]
losses: ce
"""


def test_a_last_batch_of_one_image_is_told(tmp_path, capsys):
    path = tmp_path / "batches.yaml"
    path.write_text(LAST_BATCH_OF_ONE)
    assert study(tmp_path, "--student", "resnet18", name=str(path)) == 2
    printed = capsys.readouterr().err
    assert "10 images in batches of 9 end with a batch of 1" in printed
    assert "8 or 10" in printed


def test_a_disk_without_room_for_checkpoints_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    assert study(tmp_path, "--dataset", "digits") == 2
    printed = capsys.readouterr().err
    assert "not enough disk space for checkpoints" in printed
    assert str(tmp_path / "runs") in printed


def test_room_is_asked_for_two_checkpoints_with_the_optimizers_state():
    network = new_model("convnet3:width=8", load_dataset("digits"), seed=0)
    weights = sum(x.numel() * x.element_size() for x in network.state_dict().values())
    assert disk.checkpoint_bytes(network) == 2 * 3 * weights
    assert disk.checkpoint_bytes(network, averaged=True) == 2 * 4 * weights


def test_room_for_an_averaged_copy_of_the_weights_is_asked_for(tmp_path, monkeypatch):
    plan = with_overrides(
        load_study("losses"), dataset="digits", ipc=[1], student="convnet3:width=8", seeds=[0]
    )
    place = RunContext(out=tmp_path / "runs", teacher_dir=tmp_path / "teachers")
    asked = []
    monkeypatch.setattr(preflight, "check_space", lambda folder, needed, what: asked.append(needed))
    averaged = {"ema_decay": 0.9}
    students = replace(plan, settings={**plan.settings, **averaged})
    teachers = replace(plan, teacher={**plan.teacher, **averaged})
    for each in (plan, students, teachers):
        check_study(each, each.experiments(published=False), place, None)
    assert asked == [asked[0], asked[0] * 4 // 3, asked[0] * 4 // 3]


def test_a_study_that_fits_passes_and_writes_nothing(tmp_path):
    plan = with_overrides(
        load_study("losses"), dataset="digits", ipc=[1], student="convnet3:width=8", seeds=[0]
    )
    place = RunContext(out=tmp_path / "runs", teacher_dir=tmp_path / "teachers")
    check_study(plan, plan.experiments(published=False), place, None)
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_needs_no_data(tmp_path, capsys):
    assert study(tmp_path, "--dataset", "cifar10", "--dry-run") == 0
    assert "cifar10:validation=5000" in capsys.readouterr().out


def test_the_validation_split_that_is_taken_is_said(tmp_path, capsys):
    arguments = ["study", "gamma", "--dataset", "digits", "--dry-run", "--out", str(tmp_path)]
    assert main(arguments) == 0
    assert "129 training images" in capsys.readouterr().err


def test_ray_without_an_address_is_this_machine():
    parse = build_parser("study").parse_args
    assert parse(["study", "losses", "--ray"]).ray == "local"
    assert parse(["study", "losses", "--ray", "--quiet"]).ray == "local"
    assert parse(["study", "losses", "--ray", "auto"]).ray == "auto"
    assert parse(["study", "losses"]).ray is None
