"""Files written by version 0.1 are still read, and its finished runs are found; see README.md."""

from __future__ import annotations

import filecmp
import json
import shutil
from pathlib import Path

import pytest
import torch

from gift_fast.cli.main import main
from gift_fast.evaluation import run, teacher
from gift_fast.evaluation.context import RunContext
from gift_fast.evaluation.inputs import load_inputs
from gift_fast.evaluation.job import job_of_preset
from gift_fast.evaluation.results import read_run, run_path
from gift_fast.evaluation.student import train_student
from gift_fast.training.checkpoint import CheckpointConfig
from gift_fast.training.observer import Observer

RECORDS = Path(__file__).parent / "records"
RUNS = sorted(
    path
    for path in (*RECORDS.glob("runs/*.json"), *RECORDS.glob("evaluate/*.json"))
    if not path.name.startswith("study-")
)
NETWORK = "convnet3:width=4"
SET = "sets/digits_selected_ipc1_seed3-8be93cf55a37fb8d"


@pytest.fixture
def records(tmp_path, monkeypatch) -> Path:
    """A copy of the files, in which nothing may be trained."""
    folder = tmp_path / "records"
    shutil.copytree(RECORDS, folder)
    for module, name in ((run, "train_student"), (teacher, "train_teacher")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("a run was repeated"))
    monkeypatch.chdir(folder)
    return folder


MANIFEST = "study-study.json"


def changed(records: Path) -> list[str]:
    """Files that are not as they were."""
    return [
        str(path.relative_to(RECORDS))
        for path in RECORDS.rglob("*")
        if path.is_file()
        and not filecmp.cmp(path, records / path.relative_to(RECORDS), shallow=False)
    ]


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_a_run_is_read_and_keeps_its_digest(path):
    result = read_run(path)
    assert run_path(path.parent, result.config, result.inputs) == path


def test_a_finished_study_is_not_repeated(records, capsys):
    command = "study study.yaml --out runs --teacher-dir teachers --device cpu --quiet"
    assert main(command.split()) == 0
    assert "digits" in capsys.readouterr().out
    assert changed(records) == [f"runs/{MANIFEST}"]
    manifest = json.loads((records / "runs" / MANIFEST).read_text(encoding="utf-8"))
    assert 0 < manifest.pop("teachers").popitem()[1] < 100  # version 0.1 did not record it
    assert manifest == json.loads((RECORDS / "runs" / MANIFEST).read_text(encoding="utf-8"))


EVALUATE = (
    f"evaluate --data runs/{SET} --dataset digits:heldout=300 --tested-on heldout --epochs 2 "
    f"--student {NETWORK} --teacher {NETWORK} --teacher-dir teachers --seeds 0 1 --loss kl "
    "--out evaluate --device cpu --quiet --no-check"
)


def test_a_finished_evaluation_is_not_repeated(records):
    assert main(EVALUATE.split()) == 0
    assert changed(records) == []


def test_a_run_resumes_from_its_checkpoint():
    class Stop(Exception):  # noqa: N818
        pass

    class AtStart(Observer):
        def start(self, epochs: int, done: float) -> None:
            raise Stop(done)

    (path,) = RECORDS.glob("checkpoint/*.ckpt")
    settings = {"student": NETWORK, "teachers": (NETWORK,), "loss": "kl", "tested_on": "heldout"}
    job = job_of_preset(
        RECORDS / "runs" / SET,
        "digits:heldout=300",
        "paper",
        {**settings, "epochs": 200_000, "seed": 7},
    )
    inputs = load_inputs(job, RunContext(teacher_dir=RECORDS / "teachers"), torch.device("cpu"))
    config = inputs.resolve(job.config)
    assert run_path(path.parent, config, inputs.digests_of(config)).stem == path.stem
    with pytest.raises(Stop) as stop:
        train_student(
            config,
            inputs.dataset,
            inputs.distilled,
            inputs.teachers,
            checkpoint=CheckpointConfig(path),
            observer=AtStart(),
            inputs=inputs.digests_of(config),
        )
    assert stop.value.args[0] > 900
