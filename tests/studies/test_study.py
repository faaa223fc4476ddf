"""A study as a user calls it, on digits with a network of width 8."""

from __future__ import annotations

import csv
import errno
import json
import shutil
import statistics
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from commands import ENDLESS, running

from gift_fast.cli import main
from gift_fast.evaluation import run as evaluation_run
from gift_fast.evaluation.results import read_run
from gift_fast.studies import manifest, tuning
from gift_fast.studies.study_files import parse_study

pytestmark = pytest.mark.usefixtures("one_thread")

STUDY = """
title: Losses on digits
answers: table 6
teacher: {epochs: 1, batch_size: 500}
settings: {epochs: 1, eval_every: 1, augmentation: none}
sets: [{dataset: digits, method: selected, ipc: 1, network: "convnet3:width=8"}]
losses: [%s]
seeds: [0, 1]
dataset_seeds: [0, 1]
"""


@pytest.fixture
def trained(monkeypatch) -> list[tuple[str, int]]:
    """Loss and seed of the students that are really trained."""
    runs = []
    train_student = evaluation_run.train_student

    def counted(config, *arguments, **options):
        runs.append((config.loss, config.seed))
        return train_student(config, *arguments, **options)

    monkeypatch.setattr(evaluation_run, "train_student", counted)
    return runs


def study(root: Path, losses: str, *arguments: str, name: str = "mine") -> int:
    path = root / f"{name}.yaml"
    path.write_text(STUDY % losses)
    folders = ["--out", str(root / "runs"), "--teacher-dir", str(root / "teachers"), "--quiet"]
    return main(["study", str(path), *folders, *arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory, one_thread) -> Path:
    """A study of two losses, two sets and two seeds that has ended."""
    root = tmp_path_factory.mktemp("study")
    assert study(root, "ce, gift") == 0
    return root


def runs_of(root: Path, name: str = "mine") -> list[dict]:
    return json.loads((root / "runs" / f"study-{name}.json").read_text())["runs"]


def test_the_manifest_names_the_file_of_every_run_and_the_set_it_was_trained_on(finished):
    runs = runs_of(finished)
    assert len(runs) == len({run["file"] for run in runs}) == 2 * 2 * 2
    digests = {}
    for run in runs:
        result = read_run(finished / "runs" / run["file"])
        assert (result.config.loss, result.config.seed) == (
            run["config"]["loss"],
            run["config"]["seed"],
        )
        assert f"seed {run['set']['seed']}" in result.source
        digests.setdefault(run["set"]["seed"], set()).add(result.inputs["distilled"])
    assert [len(found) for found in digests.values()] == [1, 1]
    assert digests[0] != digests[1]


def test_the_tables_hold_mean_and_sample_deviation_over_sets(finished):
    means = {0: [], 1: []}
    for run in runs_of(finished):
        if run["config"]["loss"] == "gift":
            score = read_run(finished / "runs" / run["file"]).last.top1
            means[run["set"]["seed"]].append(score)
    per_set = [statistics.mean(scores) for scores in means.values()]
    mean, deviation = statistics.mean(per_set), statistics.stdev(per_set)

    with (finished / "runs" / "study-mine.csv").open() as file:
        rows = {row["loss"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["ce", "gift"]
    assert float(rows["gift"]["mean"]) == pytest.approx(mean, abs=1e-4)
    assert float(rows["gift"]["sample_std"]) == pytest.approx(deviation, abs=1e-4)
    assert (rows["gift"]["n"], rows["gift"]["over"]) == ("2", "sets")
    assert rows["gift"]["best_mean"] == rows["gift"]["mean"]  # there is one test, after one epoch

    text = (finished / "runs" / "study-mine.md").read_text()
    assert text.startswith(
        "## Losses on digits\n\nCorresponds to table 6. On digits, selected sets"
    )
    gift = next(line for line in text.splitlines() if line.startswith("| GIFT |"))
    assert f"{mean:.1f} ± {deviation:.1f}" in gift
    assert "n = 2 distilled sets" in text


def test_a_finished_study_is_read_and_not_repeated(finished, trained, capsys):
    assert study(finished, "ce, gift") == 0
    assert trained == []
    assert "| GIFT |" in capsys.readouterr().out


def test_what_two_studies_share_is_trained_once(finished, trained):
    assert study(finished, "'gift:gamma=0.1', mse", name="other") == 0
    assert {loss for loss, _ in trained} == {"mse"}
    gift = [
        sorted(r["file"] for r in runs_of(finished, name) if r["config"]["loss"] == "gift")
        for name in ("mine", "other")
    ]
    assert len(gift[0]) == 4
    assert gift[0] == gift[1]


def test_a_dry_run_trains_nothing_and_counts_what_other_studies_have_done(
    finished, trained, capsys
):
    assert study(finished, "ce, kl", "--dry-run", name="third") == 0
    printed = capsys.readouterr().out
    assert "  done   digits selected IPC 1 set 0, convnet3:width=8, CE, AdamW, seed 0" in printed
    assert "  to do  digits selected IPC 1 set 1, convnet3:width=8, KL, AdamW, seed 1" in printed
    assert "4 of 8 runs done; 4 left, which take about " in printed
    assert study(finished, "ce", "--dry-run", "--ipc", "2") == 0
    printed = capsys.readouterr().out
    assert "0 of 4 runs done; 4 left without an estimate" in printed
    assert trained == []
    assert not (finished / "runs" / "study-third.json").exists()


def test_the_estimate_is_the_mean_time_of_those_done(tmp_path, finished, capsys):
    (tmp_path / "runs").mkdir()
    for path in (finished / "runs").glob("*.json"):
        contents = json.loads(path.read_text())
        if "seconds" in contents:
            contents["seconds"] = 90.0 if contents["config"]["seed"] % 2 else 30.0
        (tmp_path / "runs" / path.name).write_text(json.dumps(contents))
    assert study(tmp_path, "ce, gift, softce", "--dry-run") == 0
    assert "8 of 12 runs done; 4 left, which take about 4 min 0 s" in capsys.readouterr().out


def test_an_interrupted_study_goes_on_where_it_stood(tmp_path, trained, monkeypatch, capsys):
    counted = evaluation_run.train_student

    def stopped(config, *arguments, **options):
        if len(trained) == 2:
            raise KeyboardInterrupt
        return counted(config, *arguments, **options)

    few = ("--seeds", "0", "--dataset-seeds", "0")
    with monkeypatch.context() as patch:
        patch.setattr(evaluation_run, "train_student", stopped)
        assert study(tmp_path, "ce, kl, gift", *few) == 130
    assert "run the same command to resume" in capsys.readouterr().err
    assert not (tmp_path / "runs" / "study-mine.md").exists()
    assert study(tmp_path, "ce, kl, gift", *few, "--dry-run") == 0
    assert "2 of 3 runs done" in capsys.readouterr().out
    assert study(tmp_path, "ce, kl, gift", *few) == 0
    assert trained == [("ce", 0), ("kl", 0), ("gift", 0)]
    printed = capsys.readouterr().out
    assert "of one student on one set" in printed
    assert "±" not in next(line for line in printed.splitlines() if line.startswith("| GIFT"))


def test_a_signal_saves_the_run_in_progress_and_says_what_is_left(tmp_path):
    text = (STUDY % "ce, gift").replace("epochs: 1, eval_every: 1", f"epochs: {ENDLESS}")
    (tmp_path / "mine.yaml").write_text(text)
    folders = ["--out", "runs", "--teacher-dir", "teachers", "--device", "cpu"]
    arguments = ["study", "mine.yaml", *folders, "--checkpoint-every", "0.01s"]
    with running(tmp_path, arguments) as command:
        command.wait_for(lambda: list((tmp_path / "runs").glob("*.ckpt")))
        command.process.terminate()
        status = command.wait()
    log = command.printed
    assert status == 143, log
    last = log.splitlines()[-1]
    assert "interrupted by SIGTERM; state saved at step " in last
    assert "; 0 of 8 runs done, 8 left; run the same command" in last
    assert "runs failed" not in log


def test_published_sets_are_read_from_their_folders_and_the_others_left_out(
    finished, tmp_path, capsys
):
    made = next((finished / "runs" / "sets").glob("*seed0*.safetensors"))
    folder = tmp_path / "sets" / "digits_rded_ipc1"
    folder.mkdir(parents=True)
    for suffix in (".safetensors", ".json"):
        (folder / f"set{suffix}").write_bytes(made.with_suffix(suffix).read_bytes())
    text = (STUDY % "native").replace("selected, ipc: 1", "[rded, sre2l], ipc: 1")
    (tmp_path / "published.yaml").write_text(text)
    arguments = ["study", str(tmp_path / "published.yaml"), "--sets", str(tmp_path / "sets")]
    folders = ["--out", str(tmp_path / "runs"), "--teacher-dir", str(finished / "teachers")]
    assert main([*arguments, *folders, "--quiet", "--seeds", "0"]) == 0
    printed = capsys.readouterr()
    assert f"skipped, not found in {tmp_path / 'sets'}: digits_sre2l_ipc1" in printed.err
    assert "On digits, rded sets, IPC 1" in printed.out
    assert "| KL (native) | " in printed.out
    empty = tmp_path / "empty"
    assert main([*arguments[:2], "--sets", str(empty), *folders, "--quiet"]) == 2
    assert "the study published must have at least one run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0", "0"], "seeds must be a non-empty list without duplicates, got [0, 0]"),
        (["--epochs", "0"], "epochs must be at least 1, got 0"),
        (["--dataset", "mnits"], "got 'mnits'"),
    ],
)
def test_a_bad_argument_is_refused_before_any_work(tmp_path, capsys, arguments, message):
    assert study(tmp_path, "ce", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_another_studys_damaged_manifest_is_named_and_left_aside(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "study-old.json").write_text('{"format": 0}')
    with pytest.warns(UserWarning, match=r"study-old\.json must be the record of a study"):
        assert study(tmp_path, "ce", "--dry-run") == 0


def test_a_studys_own_damaged_manifest_is_refused_and_kept(tmp_path, trained, capsys):
    (tmp_path / "runs").mkdir()
    own = tmp_path / "runs" / "study-mine.json"
    own.write_text('{"format": 0}')
    assert study(tmp_path, "ce") == 2
    assert trained == []
    printed = capsys.readouterr().err
    assert "study-mine.json must be the record of a study" in printed
    assert "delete it" in printed
    assert own.read_text() == '{"format": 0}'


def test_a_run_that_raises_stops_no_other_and_is_run_again_alone(
    tmp_path, trained, monkeypatch, capsys
):
    counted = evaluation_run.train_student

    def hungry(config, *arguments, **options):
        if config.loss == "ce" and config.seed == 0:
            raise LookupError("there is no more")
        return counted(config, *arguments, **options)

    few = ("--seeds", "0", "1", "--dataset-seeds", "0")
    with monkeypatch.context() as patch:
        patch.setattr(evaluation_run, "train_student", hungry)
        assert study(tmp_path, "ce, gift", *few) == 1
    log = capsys.readouterr().err
    report = log[log.index("1 of 4 runs failed:") :]
    assert 'raise LookupError("there is no more")' in report
    assert "  digits selected IPC 1 set 0, convnet3:width=8, CE, AdamW, seed 0\n" in report
    assert len(trained) == 3
    assert study(tmp_path, "ce, gift", *few) == 0
    assert trained[3:] == [("ce", 0)]


def test_a_full_disk_stops_the_whole_study(tmp_path, trained, monkeypatch, capsys):
    def full(folder, result):
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    monkeypatch.setattr(evaluation_run, "write_run", full)
    assert study(tmp_path, "ce, gift") == 2
    assert "the disk is full" in capsys.readouterr().err
    assert len(trained) == 1


def test_a_set_that_cannot_be_read_stops_no_run_on_another(finished, tmp_path, capsys):
    made = next((finished / "runs" / "sets").glob("*seed0*.safetensors"))
    for method in ("rded", "sre2l"):
        folder = tmp_path / "sets" / f"digits_{method}_ipc1"
        folder.mkdir(parents=True)
        for suffix in (".safetensors", ".json"):
            (folder / f"set{suffix}").write_bytes(made.with_suffix(suffix).read_bytes())
    broken = tmp_path / "sets" / "digits_rded_ipc1" / "set.safetensors"
    broken.write_bytes(broken.read_bytes()[:100])
    text = (STUDY % "native").replace("selected, ipc: 1", "[rded, sre2l], ipc: 1")
    (tmp_path / "published.yaml").write_text(text)
    arguments = ["study", str(tmp_path / "published.yaml"), "--sets", str(tmp_path / "sets")]
    folders = ["--out", str(tmp_path / "runs"), "--teacher-dir", str(finished / "teachers")]
    assert main([*arguments, *folders, "--quiet", "--seeds", "0"]) == 1
    log = capsys.readouterr().err
    assert "1 of 2 runs failed:" in log
    assert "set.safetensors" in log
    assert len(list((tmp_path / "runs").glob("kl-*.json"))) == 1


TUNED = "validation: 300\ntuning: {weight_decays: 0.0, seeds: 100, dataset_seeds: 100}\n"


def test_a_tuned_study_tries_then_repeats_with_what_was_chosen(
    tmp_path, trained, monkeypatch, capsys
):
    monkeypatch.setattr(tuning, "INITIAL_STEPS", 1)
    monkeypatch.setattr(tuning, "MAX_STEPS", 1)
    few = ("--seeds", "0", "--dataset-seeds", "0")
    text = STUDY % "ce, gift" + TUNED
    path = tmp_path / "mine.yaml"

    def call(*more: str, quiet: bool = True) -> int:
        path.write_text(text)
        folders = ["--out", str(tmp_path / "runs"), "--teacher-dir", str(tmp_path / "teachers")]
        return main(["study", str(path), *folders, *["--quiet"] * quiet, *few, *more])

    assert call("--dry-run") == 0
    assert "0 of at least 10 runs done" in capsys.readouterr().out  # 2, 2 x 3 trials, 2 again
    assert call("--no-tuning") == 0
    capsys.readouterr()
    assert call("--dry-run") == 0
    printed = capsys.readouterr().out
    assert "2 of at least 10 runs done" in printed  # those tuned are no runs yet
    assert (
        "to do  digits:validation=300 selected IPC 1 set 0, convnet3:width=8, GIFT, AdamW, seed 0, "
        "tuned with hyperparameters not chosen yet" in printed
    )
    assert call() == 0
    runs = runs_of(tmp_path)
    assert Counter(run["purpose"] for run in runs) == {"protocol": 2, "trial": 6, "tuned": 2}
    assert {run["set"]["dataset"] for run in runs} == {"digits:heldout=300"}

    scores = {}
    for run in (run for run in runs if run["purpose"] == "trial"):
        result = read_run(tmp_path / "runs" / run["file"])
        assert (result.config.tested_on, result.config.seed, run["set"]["seed"]) == (
            "heldout",
            100,
            100,
        )
        scores.setdefault(result.config.loss, {})[result.config.learning_rate] = result.last.top1
    for run in (run for run in runs if run["purpose"] == "tuned"):
        config = run["config"]
        tried = scores[config["loss"]]
        assert tried[config["learning_rate"]] == max(tried.values())
        assert (config["weight_decay"], config["tested_on"], config["seed"]) == (0.0, "test", 0)

    before = len(trained)
    assert capsys.readouterr().err == ""
    assert call(quiet=False) == 0
    assert len(trained) == before
    parts = [line for line in capsys.readouterr().err.splitlines() if line.startswith("part")]
    assert parts == [
        "part 1 of 3: 2 runs with the protocol's hyperparameters",
        "part 2 of 3: trials; the grid is extended if accuracy still rises at one of its ends",
        "part 3 of 3: 2 runs with hyperparameters from 6 trials",
    ]
    assert call("--dry-run") == 0
    printed = capsys.readouterr().out
    assert "10 of 10 runs done; no runs left" in printed
    assert "GIFT, AdamW, seed 0, tuned: learning rate" in printed
    assert call("--no-tuning", "--dry-run") == 0
    assert "2 of 2 runs done" in capsys.readouterr().out


def test_tuned_runs_at_settings_that_are_no_longer_chosen_leave_the_manifest(tmp_path):
    plan = parse_study("mine", STUDY % "ce, gift")
    first, *_ = plan.experiments(published=False)

    def tuned_at(rate: float, seed: int):
        config = replace(first.config, learning_rate=rate, seed=seed)
        return replace(first, config=config, purpose="tuned")

    def record(*experiments) -> list[float]:
        files = {
            experiment: tmp_path / f"{index}.json" for index, experiment in enumerate(experiments)
        }
        manifest.Record(tmp_path, plan, experiments).add(files)
        runs = manifest.read_manifest(tmp_path / "study-mine.json")
        return [run["config"]["learning_rate"] for run in runs]

    assert record(tuned_at(0.1, 0), tuned_at(0.1, 1)) == [0.1, 0.1]
    assert record(tuned_at(0.1, 2)) == [0.1, 0.1, 0.1]
    assert record(tuned_at(0.3, 0)) == [0.3]


def test_sets_are_made_by_the_method_that_a_study_names(tmp_path):
    text = STUDY.replace("selected", "rded") + 'made_by: "rded:images_per_class=20"\n'
    (tmp_path / "mine.yaml").write_text(text % "native")
    folders = ["--out", str(tmp_path / "runs"), "--teacher-dir", str(tmp_path), "--quiet"]
    assert main(["study", str(tmp_path / "mine.yaml"), *folders]) == 0
    sets = sorted((tmp_path / "runs" / "sets").iterdir())
    assert [path.name.split("-")[-2].rpartition("_")[2] for path in sets] == ["seed0", "seed1"]
    records = [json.loads((path / "made.json").read_text()) for path in sets]
    assert [record["seed"] for record in records] == [0, 1]
    assert {record["method"] for record in records} == {"rded:factor=1,crops=5,images_per_class=20"}
    runs = runs_of(tmp_path)
    assert {run["config"]["loss"] for run in runs} == {"kl"}
    distilled = {run["set"]["seed"]: read_run(tmp_path / "runs" / run["file"]) for run in runs}
    assert [distilled[k].inputs["distilled"] for k in (0, 1)] == [r["set"] for r in records]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jpg")}
    assert main(["study", str(tmp_path / "mine.yaml"), *folders]) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jpg")} == before


def test_a_study_whose_record_is_deleted_finds_its_runs_again(finished, tmp_path, trained):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    record = tmp_path / "runs" / "study-mine.json"
    before = runs_of(tmp_path)
    record.unlink()
    assert study(tmp_path, "ce, gift") == 0
    assert trained == []
    assert runs_of(tmp_path) == before
