from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gift_fast.cli import main, train_teacher
from gift_fast.cli.arguments import add_fields
from gift_fast.cli.commands import COMMANDS
from gift_fast.cli.demo import experiment as demo
from gift_fast.cli.parser import build_parser
from gift_fast.evaluation import run as evaluation_run
from gift_fast.evaluation.config import TeacherConfig

PNG = b"\x89PNG\r\n\x1a\n"
SMALL = ["--seeds", "1", "--ipc", "1", "--epochs", "2"]


@pytest.fixture(autouse=True)
def short_teacher(monkeypatch):
    monkeypatch.setattr(demo, "TEACHER", replace(demo.TEACHER, epochs=1))


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    """The losses of the students that are really trained."""
    losses = []
    train_student = evaluation_run.train_student

    def counted(config, *arguments, **options):
        losses.append(config.loss)
        return train_student(config, *arguments, **options)

    monkeypatch.setattr(evaluation_run, "train_student", counted)
    return losses


def run(out: Path, *arguments: str) -> int:
    return main(["demo", "--out", str(out), *SMALL, *arguments])


def results(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "runs").glob("*.json")}


def test_the_demo_leaves_a_table_findings_pictures_and_a_file_a_run(tmp_path, capsys):
    assert run(tmp_path) == 0
    printed = capsys.readouterr()
    assert "1297 training and 500 test images" in printed.out
    assert "| GIFT | SGD" in printed.out
    assert "- Under AdamW: " in printed.out
    assert "std: population (ddof 0)" in printed.out
    assert "[7/7] GIFT, SGD, seed 0: top-1 " in printed.err
    assert (tmp_path / "distilled.png").read_bytes().startswith(PNG)
    assert (tmp_path / "accuracies.svg").read_text(encoding="utf-8").startswith("<svg ")
    written = [json.loads(text) for text in results(tmp_path).values()]
    assert {(w["config"]["loss"], w["config"]["optimizer"]) for w in written} == {
        (loss, optimizer) for loss in ("ce", "kl", "gift") for optimizer in ("adamw", "sgd")
    }
    assert all(w["config"]["ipc"] == 1 and w["config"]["epochs"] == 2 for w in written)
    distilled = torch.load(tmp_path / "distilled.pt", weights_only=True)
    assert distilled["dataset"] == "digits"
    assert distilled["data"].shape == (10, 1, 8, 8)
    assert distilled["label"].tolist() == list(range(10))


def test_a_finished_run_is_not_repeated_unless_forced(tmp_path, trained):
    run(tmp_path, "--losses", "ce", "--quiet")
    before = results(tmp_path)
    run(tmp_path, "--losses", "ce", "--quiet")
    assert len(trained) == 2
    assert results(tmp_path) == before
    run(tmp_path, "--losses", "ce", "--quiet", "--force")
    assert len(trained) == 4


def test_another_setting_is_another_run(tmp_path, trained):
    run(tmp_path, "--losses", "ce", "--quiet")
    run(tmp_path, "--losses", "ce", "--quiet", "--epochs", "3")
    run(tmp_path, "--losses", "ce", "--quiet", "--ipc", "2")
    assert len(trained) == 6
    assert len(results(tmp_path)) == 6


def test_a_teacher_of_another_configuration_is_not_reused(tmp_path, trained, monkeypatch):
    run(tmp_path, "--losses", "ce", "--quiet")
    monkeypatch.setattr(demo, "TEACHER", replace(demo.TEACHER, epochs=2))
    run(tmp_path, "--losses", "ce", "--quiet")
    assert len(trained) == 4
    checkpoint = torch.load(tmp_path / "digits_convnet3-width=32.pth", weights_only=True)
    assert checkpoint["config"]["epochs"] == 2


def test_a_stopped_demo_goes_on_where_it_stood(tmp_path, trained, monkeypatch, capsys):
    counted: Callable[..., object] = evaluation_run.train_student

    def stopped(config, *arguments, **options):
        if len(trained) == 3:
            raise KeyboardInterrupt
        return counted(config, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(evaluation_run, "train_student", stopped)
        assert run(tmp_path) == 130
        assert "run the same command to resume" in capsys.readouterr().err
        assert run(tmp_path, "--force") == 130
        assert "run the same command without --force to resume" in capsys.readouterr().err
    assert len(results(tmp_path)) == 3
    assert run(tmp_path) == 0
    assert trained == ["ce", "ce", "kl", "kl", "gift", "gift"]
    assert "KL, AdamW, seed 0: " in capsys.readouterr().err


def test_quiet_leaves_the_results_alone_on_the_screen(tmp_path, capsys):
    run(tmp_path, "--losses", "ce", "--quiet")
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "| CE   | AdamW" in printed.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "seeds must be at least 1, got 0"),
        (["--ipc", "0"], "ipc must be at least 1, got 0"),
        (["--epochs", "0"], "epochs must be at least 1, got 0"),
        (["--losses", "l1"], "loss must be one of annealed-kl, ce, cosine, "),
        (["--losses", "nothing.here"], "loss must be importable, got 'nothing.here'"),
        (["--losses", "ce", "ce"], "losses must differ from each other, got ce ce"),
        (
            ["--device", "abacus"],
            "device must be auto or cpu (CUDA_VISIBLE_DEVICES selects a GPU), got 'abacus'",
        ),
    ],
)
def test_a_bad_argument_is_refused_before_any_work(tmp_path, capsys, arguments, message):
    assert run(tmp_path / "out", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_ipc_that_the_training_split_cannot_give_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "prepare_teacher", lambda *_, **__: pytest.fail("a teacher trains"))
    assert run(tmp_path, "--ipc", "1000") == 2
    assert "ipc must be from 1 to 1" in capsys.readouterr().err


def test_a_missing_package_is_named_with_the_way_to_get_it(monkeypatch, capsys, tmp_path):
    find = importlib.util.find_spec
    missing = {"sklearn", "rich"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in missing else find(name)
    )
    assert run(tmp_path) == 2
    error = capsys.readouterr().err
    assert "scikit-learn, rich" in error or "rich, scikit-learn" in error
    assert "pip install 'gift-fast[student]'" in error


def test_a_folder_that_cannot_be_written_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "prepare_teacher", lambda *_, **__: pytest.fail("a teacher trains"))
    occupied = tmp_path / "file"
    occupied.write_text("")
    assert run(occupied, "--quiet") == 2
    assert str(occupied) in capsys.readouterr().err


IMPORTED_WITHOUT_THE_EXTRA = """
import sys
from gift_fast.cli.commands import COMMANDS
from gift_fast.cli.parser import build_parser
from gift_fast.cli.requirements import STUDENT_PACKAGES
for name in STUDENT_PACKAGES:
    if name != "numpy":
        sys.modules[name] = None
import gift_fast.cli.demo.experiment
for command in COMMANDS:
    build_parser(command)
"""


def test_the_demo_and_every_parser_are_imported_with_nothing_of_the_extra_but_numpy():
    command = [sys.executable, "-c", IMPORTED_WITHOUT_THE_EXTRA]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_help_and_version_are_answered(capsys):
    for arguments, expected in [
        (["--help"], "demo"),
        (["demo", "--help"], "--losses"),
        (["--version"], "gift-fast "),
    ]:
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0
        assert expected in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "augmentation"),
    [
        (["--dataset", "digits"], "none"),
        (["--dataset", "digits:heldout=300"], "none"),
        (["--dataset", "digits", "--augmentation", "crop-flip"], "crop-flip"),
        (["--dataset", "cifar10"], "crop-flip"),
    ],
)
def test_a_teacher_is_trained_without_mirroring_digits(monkeypatch, arguments, augmentation):
    configs = []

    def recorded(config, context):
        configs.append(config)
        raise ValueError("enough")

    monkeypatch.setattr(train_teacher, "run_teacher", recorded)
    assert main(["train-teacher", *arguments]) == 2
    assert [config.augmentation for config in configs] == [augmentation]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained_and_the_usage_names_what_is_required(name):
    parser = build_parser(name)._subparsers._group_actions[0].choices[name]
    for action in parser._actions:
        assert action.help, action.option_strings or action.dest
        if action.required and action.option_strings:
            assert action.option_strings[0] in parser.usage


def test_a_field_of_a_configuration_without_a_group_is_refused():
    parser = argparse.ArgumentParser()
    with pytest.raises(ValueError, match="titles must have every field of TeacherConfig"):
        add_fields(parser, TeacherConfig, {"training": ("model",)})
