"""The functions that ``gift_fast`` exports, from names and paths to numbers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import fmean, pstdev

import pytest
import torch

import gift_fast
from gift_fast.cli.main import main
from gift_fast.data import load_dataset, write_distilled
from gift_fast.data.distilled import DistilledSet

NETWORK = "convnet3:width=4"
SETTINGS = {"dataset": "digits", "student": NETWORK, "epochs": 2, "check_set": False, "quiet": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A distilled set, the same with soft labels, and a teacher."""
    root = tmp_path_factory.mktemp("from_files")
    images, labels = torch.rand(20, 1, 8, 8), torch.arange(20) % 10
    torch.save({"dataset": "digits", "data": images, "label": labels}, root / "plain.pt")
    soft = DistilledSet(images, labels, soft_labels=torch.randn(20, 10))
    write_distilled(root / "soft", soft, load_dataset("digits", train=False))
    gift_fast.train_teacher("digits", NETWORK, epochs=1, teacher_dir=root / "teachers", quiet=True)
    return root


@pytest.fixture(scope="module")
def scores(folder):
    return gift_fast.evaluate(
        folder / "plain.pt",
        teacher=NETWORK,
        loss="kl",
        seeds=2,
        teacher_dir=folder / "teachers",
        out=folder / "runs",
        **SETTINGS,
    )


def test_the_numbers_are_those_of_the_command(folder, scores, tmp_path, capsys):
    arguments = f"evaluate --dataset digits --student {NETWORK} --teacher {NETWORK} --loss kl"
    arguments += f" --epochs 2 --seeds 0 1 --no-check --quiet --json --out {tmp_path}"
    arguments += f" --teacher-dir {folder / 'teachers'} --data {folder / 'plain.pt'}"
    assert main(arguments.split()) == 0
    json.loads(capsys.readouterr().out)
    for run, path in zip(scores.runs, scores.paths, strict=True):
        recorded = json.loads((tmp_path / path.name).read_text())
        assert recorded["config"] == run.config.to_dict()
        assert recorded["checks"] == [check.to_dict() for check in run.checks]


def test_mean_and_standard_deviation_are_over_the_seeds(scores):
    values = [run.last.top1 for run in scores.runs]
    assert [run.config.seed for run in scores.runs] == [0, 1]
    assert scores.mean == pytest.approx(fmean(values))
    assert scores.std == pytest.approx(pstdev(values))


def test_scores_print_as_a_table_with_a_row_for_each_seed(scores):
    lines = str(scores).splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["0", "1"]
    assert f"{scores.mean:.2f} ± {scores.std:.2f}" in lines[-1]
    assert repr(scores) == f"Scores(mean={scores.mean:.2f}, std={scores.std:.2f}, runs=2)"


def test_a_set_with_stored_labels_needs_no_teacher(folder):
    scores = gift_fast.evaluate(
        folder / "soft", seeds=[3], teacher_dir=folder / "none", out=folder / "runs", **SETTINGS
    )
    assert scores.runs[0].config.teachers == ()
    assert scores.runs[0].config.seed == 3


def test_a_set_without_labels_and_a_missing_teacher_is_told_how_to_train_one(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"convnet3.*train-teacher"):
        gift_fast.evaluate(folder / "plain.pt", teacher_dir=tmp_path, out=tmp_path, **SETTINGS)


@pytest.mark.parametrize(
    ("changes", "meant"),
    [
        ({"loss": "gfit"}, "gift"),
        ({"student": "convnt3"}, "convnet3"),
        ({"dataset": "digit"}, "digits"),
        ({"epoch": 3}, "epochs"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(folder, tmp_path, changes, meant):
    with pytest.raises(ValueError, match=f"did you mean '{meant}'"):
        gift_fast.evaluate(
            folder / "plain.pt", **{**SETTINGS, "teacher": NETWORK, "out": tmp_path, **changes}
        )


def test_without_pandas_the_error_says_what_to_install(scores, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        scores.to_pandas()


def test_pandas_gets_a_row_for_each_student(scores, monkeypatch):
    class Pandas:
        @staticmethod
        def DataFrame(rows):  # noqa: N802
            return rows

    monkeypatch.setitem(sys.modules, "pandas", Pandas)
    rows = scores.to_pandas()
    assert [(row["seed"], row["top1"]) for row in rows] == [
        (run.config.seed, run.last.top1) for run in scores.runs
    ]


def test_a_teacher_is_loaded_as_it_was_trained(folder):
    trained, result = gift_fast.train_teacher(
        "digits", NETWORK, epochs=1, teacher_dir=folder / "teachers", quiet=True
    )
    loaded = gift_fast.load_teacher(NETWORK, dataset="digits", teacher_dir=folder / "teachers")
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(trained(images), loaded(images))
    assert result.epoch == 1


def test_an_audit_warns_of_a_class_without_images(tmp_path):
    labels = torch.arange(9)
    contents = {"dataset": "digits", "data": torch.rand(9, 1, 8, 8), "label": labels}
    torch.save(contents, tmp_path / "set.pt")
    report = gift_fast.audit(tmp_path / "set.pt", dataset="digits")
    assert report.severity == "warning"


def test_a_distilled_set_is_read_with_its_soft_labels(folder):
    distilled = gift_fast.read_distilled(folder / "soft", dataset="digits")
    assert distilled.images.shape == (20, 1, 8, 8)
    assert distilled.soft_labels.shape == (20, 10)
