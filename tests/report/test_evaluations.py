"""One table of a folder's evaluations; the expected figures are worked out by hand."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from recorded import RecordedStudy

from gift_fast.cli import main
from gift_fast.evaluation.config import EvaluationConfig
from gift_fast.evaluation.results import RunResult, write_run
from gift_fast.report.evaluations import evaluations_table, read_evaluations
from gift_fast.training.eval_result import EvalResult

CONFIG = EvaluationConfig(
    dataset="cifar100", ipc=10, learning_rate=1e-3, epochs=2, batch_size=50
).resolved(1000)
INPUTS = {"test": "a" * 64, "distilled": "b" * 64, "teachers": "c" * 64}


def write(
    folder: Path,
    top1: float,
    *,
    best: float | None = None,
    inputs: dict[str, str] | None = None,
    source: str = "rded, 1000 images",
    loss_at_end: float = 0.25,
    **fields: object,
) -> None:
    result = RunResult(
        config=replace(CONFIG, **fields),
        inputs={**INPUTS, **(inputs or {})},
        checks=(
            EvalResult(1, top1 if best is None else best, 80.0, 2.0, 0.5),
            EvalResult(2, top1, 75.0, 2.5, loss_at_end),
        ),
        seconds=1.0,
        images_per_second=100.0,
        peak_memory=1,
        environment={},
        source=source,
    )
    folder.mkdir(exist_ok=True)
    write_run(folder, result)


def texts(folder: Path) -> list[list[str]]:
    """Head and rows."""
    table = evaluations_table(read_evaluations(folder)[0])
    head = [column.title for column in table.columns]
    return [head, *([item.text for item in row] for row in table.rows)]


def test_seeds_are_put_together_and_the_best_loss_comes_first(tmp_path: Path) -> None:
    for seed, top1 in enumerate((50.0, 53.0, 56.0)):
        write(tmp_path, top1, seed=seed)
    write(tmp_path, 60.0, best=64.0, loss="kl")
    assert texts(tmp_path) == [
        ["loss", "top-1", "seeds", "top-5", "best top-1"],
        ["kl", "60.0", "1", "75.0", "64.0"],
        ["gift", "53.0 ± 3.0", "3", "75.0", "53.0"],
    ]


def test_every_setting_that_differs_has_a_column(tmp_path: Path) -> None:
    write(tmp_path, 40.0, student="resnet18", loss="kl")
    write(tmp_path, 30.0, student="resnet18")
    write(tmp_path, 20.0, compile=True)
    head, *rows = texts(tmp_path)
    assert head[:3] == ["loss", "compile", "student"]
    assert [row[:4] for row in rows] == [
        ["kl", "no", "resnet18", "40.0"],
        ["gift", "no", "resnet18", "30.0"],
        ["gift", "yes", "convnet3", "20.0"],
    ]
    assert evaluations_table(read_evaluations(tmp_path)[0]).notes[0] == (
        "All rows: dataset cifar100, ipc 10, teachers convnet3, optimizer adamw, "
        "learning rate 0.001, epochs 2."
    )


def test_other_files_under_the_same_settings_are_other_rows(tmp_path: Path) -> None:
    write(tmp_path, 40.0)
    write(tmp_path, 50.0, inputs={"distilled": "d" * 64}, source="sre2l, 1000 images")
    write(tmp_path, 60.0, inputs={"teachers": "e" * 64})
    head, *rows = texts(tmp_path)
    assert head[1:3] == ["distilled set", "teachers, digest"]
    assert [row[1:4] for row in rows] == [
        ["rded, 1000 images", "eeeeeee", "60.0"],
        ["sre2l, 1000 images", "ccccccc", "50.0"],
        ["rded, 1000 images", "ccccccc", "40.0"],
    ]


def test_a_set_that_was_changed_in_its_place_is_told_by_its_digest(tmp_path: Path) -> None:
    write(tmp_path, 40.0)
    write(tmp_path, 50.0, inputs={"distilled": "d" * 64})
    head, *rows = texts(tmp_path)
    assert head[1] == "distilled, digest"
    assert [row[1] for row in rows] == ["ddddddd", "bbbbbbb"]


def test_inputs_that_follow_from_the_settings_have_no_column(tmp_path: Path) -> None:
    write(tmp_path, 40.0)
    write(tmp_path, 50.0, ipc=50, inputs={"distilled": "d" * 64}, source="another")
    write(tmp_path, 60.0, ipc=50, inputs={"distilled": "d" * 64}, source="another", loss="kl")
    write(
        tmp_path,
        45.0,
        loss="gift_fast.training.objectives.ce",
        inputs={"code": "f" * 64},
    )
    assert texts(tmp_path)[0][:3] == ["loss", "ipc", "top-1"]


def test_runs_of_studies_and_other_files_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = RecordedStudy(tmp_path)
    study.add("gift", 70.0)
    study.write()
    (tmp_path / "map.json").write_text("{}")
    assert main(["table", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert f"got {tmp_path}, which has 1 runs of studies: use gift-fast report" in error
    write(tmp_path, 40.0)
    assert texts(tmp_path)[1] == ["gift", "40.0", "1", "75.0", "40.0"]
    assert main(["table", str(tmp_path)]) == 0
    assert "not included: 1 runs of studies" in capsys.readouterr().err


def test_a_configuration_is_whole_although_a_study_has_some_of_its_runs(tmp_path: Path) -> None:
    for seed, top1 in enumerate((50.0, 60.0, 70.0)):
        write(tmp_path, top1, seed=seed)
    write(tmp_path, 10.0, loss="kl")
    study = RecordedStudy(tmp_path)
    for name in ("gift-adamw-seed0", "kl-adamw-seed0"):
        (file,) = tmp_path.glob(f"{name}-*.json")
        study.add("mse", 1.0, finished=False)
        study.runs[-1]["file"] = file.name
    study.write()
    (evaluation,), damaged, left_out = read_evaluations(tmp_path)
    assert (evaluation.top1.mean, evaluation.top1.n) == (60.0, 3)
    assert (damaged, left_out) == ((), 1)  # KL is the study's alone


def test_a_damaged_manifest_is_told_with_what_follows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, 40.0)
    (tmp_path / "study-mine.json").write_text("{")
    assert main(["table", str(tmp_path)]) == 1
    assert "its runs are shown as evaluations" in capsys.readouterr().err


def test_classes_and_images_are_told_where_they_are_not_all_and_the_test_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = {"classes": "seen:steps=5,step=1", "tested_on": "heldout"}
    write(tmp_path, 90.0, dataset="fashion-mnist:heldout=5000", **seen)
    assert main(["table", str(tmp_path), "--markdown"]) == 0
    printed = capsys.readouterr().out
    assert "**Accuracy on the validation split after the last epoch, percent**" in printed
    assert "classes seen:steps=5,step=1, tested on validation." in printed


def test_numbers_that_are_written_in_two_ways_are_the_same(tmp_path: Path) -> None:
    write(tmp_path, 50.0, seed=0, weight_decay=0)
    write(tmp_path, 60.0, seed=1, weight_decay=0.0)
    assert texts(tmp_path)[1] == ["gift", "55.0 ± 7.1", "2", "75.0", "55.0"]


def test_numbers_that_differ_are_told_apart_and_sorted_by_size(tmp_path: Path) -> None:
    for rate in (0.01234568, 0.01234567, 0.1, 0.002):
        write(tmp_path, 50.0, learning_rate=rate)
    head, *rows = texts(tmp_path)
    assert head[0] == "learning rate"
    assert [row[0] for row in rows] == ["0.002", "0.01234567", "0.01234568", "0.1"]


def test_a_copy_of_a_run_is_not_another_seed(tmp_path: Path) -> None:
    write(tmp_path, 50.0)
    (original,) = tmp_path.glob("*.json")
    copy = tmp_path / f"old-{original.name}"
    copy.write_bytes(original.read_bytes())
    (evaluation,), damaged, _ = read_evaluations(tmp_path)
    assert evaluation.top1.n == 1
    (message,) = damaged
    assert message.startswith(f"{copy} must be named {original.name}")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("checks", [{"epoch": 1, "top1": 5.0, "top5": "x", "halves": [1, 1]}]),
        ("inputs", {"teachers": 5}),
        ("source", {}),
        ("config", {"dataset": "digits", "learning_rate": 10**400}),
    ],
)
def test_what_parses_and_is_no_run_is_told(tmp_path: Path, name: str, value: object) -> None:
    write(tmp_path, 50.0)
    (path,) = tmp_path.glob("*.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    found, (message,), _ = read_evaluations(tmp_path)
    assert found == ()
    assert message.startswith(f"{path} must contain the result of a run")


def test_the_command_prints_a_table_markdown_or_csv(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, 50.0, seed=0, loss="kl:temperature=4")
    write(tmp_path, 51.0, seed=1, loss="kl:temperature=4")
    write(tmp_path, 40.0)
    assert main(["table", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if "kl:temperature=4" in line)
    assert "50.5 ± 0.7" in row
    assert "All rows: dataset cifar100" in printed
    assert main(["table", str(tmp_path), "--markdown"]) == 0
    assert "| gift | 40.0 | 1 | 75.0 | 40.0 |" in capsys.readouterr().out.splitlines()
    assert main(["table", str(tmp_path), "--csv"]) == 0
    first, second = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (first["loss"], first["n"], first["seeds"]) == ("kl:temperature=4.0", "2", "0 1")
    assert (first["top1"], first["teachers"]) == ("50.5", "convnet3")
    assert (first["teachers_digest"], first["distilled_digest"]) == ("c" * 64, "b" * 64)
    assert (first["population_std"], first["sample_std"]) == ("0.5", "0.7071")
    assert (second["sample_std"], second["source"]) == ("", "rded, 1000 images")


def test_a_diverged_run_is_marked_and_the_mark_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, 1.0, seed=0, loss="mse", loss_at_end=math.nan)
    write(tmp_path, 40.0, seed=1, loss="mse")
    write(tmp_path, 50.0)
    for form in ([], ["--markdown"]):
        assert main(["table", str(tmp_path), *form]) == 0
        printed = capsys.readouterr().out
        (row,) = (line for line in printed.splitlines() if "mse" in line)
        assert "20.5 ± 27.6†" in row
        assert "50.0†" not in printed
        assert "† 1 of 3 runs diverged" in printed
        assert "after epoch 2." in printed
        assert "lower learning rate" in printed
    assert main(["table", str(tmp_path), "--csv"]) == 0
    rows = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert {row["loss"]: row["diverged"] for row in rows} == {"mse": "1", "gift": "0"}


def test_a_table_of_finite_losses_has_no_mark(tmp_path: Path) -> None:
    write(tmp_path, 1.0)
    table = evaluations_table(read_evaluations(tmp_path)[0])
    assert "†" not in str(table)


def test_a_damaged_run_is_named_and_the_rest_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, 40.0)
    damaged = tmp_path / "gift-adamw-seed1-0123456789ab.json"
    damaged.write_text("{")
    assert main(["table", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert "40.0" in printed.out
    assert str(damaged) in printed.err


def test_a_folder_without_runs_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["table", str(tmp_path / "nowhere")]) == 2
    assert "folder must contain runs" in capsys.readouterr().err
