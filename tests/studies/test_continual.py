"""The study of continual learning as a user calls it, on digits with a network of width 8."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from gift_fast.cli import main
from gift_fast.evaluation import run as evaluation_run
from gift_fast.evaluation.results import read_run
from gift_fast.studies.overrides import with_overrides
from gift_fast.studies.study_files import load_study, parse_study

pytestmark = pytest.mark.usefixtures("one_thread")

STUDY = """
title: Continual learning on digits
teacher: {epochs: 1, batch_size: 500}
settings: {epochs: 1, eval_every: 1, augmentation: none}
sets: [{dataset: digits, method: selected, ipc: 1, network: "convnet3:width=8"}]
losses: [ce, gift]
classes: CLASSES
seeds: [0]
dataset_seeds: [0, 1]
"""


def study(root: Path, classes: str, *arguments: str, name: str = "steps") -> int:
    path = root / f"{name}.yaml"
    path.write_text(STUDY.replace("CLASSES", classes))
    folders = ["--out", str(root / "runs"), "--teacher-dir", str(root / "teachers"), "--quiet"]
    return main(["study", str(path), *folders, *arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory, one_thread) -> Path:
    """Two steps, two losses and two sets, which have ended."""
    root = tmp_path_factory.mktemp("continual")
    assert study(root, "{steps: 2}") == 0
    return root


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    """The classes of the students that are really trained."""
    runs = []
    train_student = evaluation_run.train_student

    def counted(config, *arguments, **options):
        runs.append(config.classes)
        return train_student(config, *arguments, **options)

    monkeypatch.setattr(evaluation_run, "train_student", counted)
    return runs


def classes_of(text: str) -> tuple[str, ...]:
    return parse_study("steps", STUDY.replace("CLASSES", text)).classes


# ---- what a study's file says --------------------------------------------------------------------


def test_steps_stand_for_every_step_once_from_few_classes_to_all():
    ten = [f"seen:steps=10,step={step}" for step in (1, 3, 7, 9)]
    half = "seen:steps=2,step=1"
    five = [f"seen:steps=5,step={step}" for step in (1, 2, 3, 4)]
    expected = (ten[0], five[0], ten[1], five[1], half, five[2], ten[2], five[3], ten[3])
    assert classes_of("{steps: [5, 10]}") == (*expected, "all")
    assert classes_of("{steps: 10}") == (*expected, "all")  # they hold the five
    assert classes_of("{steps: 5}") == (*five, "all")


def test_orders_and_heads_have_steps_of_their_own_and_share_the_last():
    assert classes_of("{steps: 2, orders: [dataset, 0], heads: [seen, all]}") == (
        "seen:steps=2,step=1",
        "seen:steps=2,step=1,head=all",
        "seen:steps=2,step=1,order=0",
        "seen:steps=2,step=1,order=0,head=all",
        "all",
    )


def test_classes_may_be_listed():
    assert classes_of("seen:step=2") == ("seen:steps=5,step=2",)
    assert classes_of("['seen:steps=10,step=4', 'seen:step=2', all]") == (
        "seen:steps=5,step=2",
        "all",
    )


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("{step: 5}", "classes may contain heads, orders, steps, got 'step'"),
        ("{orders: [0]}", "classes must have the key 'steps'"),
        ("{steps: 1}", "classes: steps must be at least 2, got 1"),
        ("{steps: five}", "classes: steps must be an integer or a list of integers, got 'five'"),
        ("{steps: 5, orders: random}", "classes: order must be dataset or a seed, got 'random'"),
        ("{steps: 5, heads: both}", "classes: head must be one of seen, all, got 'both'"),
        ("seen:step=6", "classes: step must be from 1 to 5, got 6"),
        ("3", "classes must be a string or a list of strings, got 3"),
    ],
)
def test_classes_that_cannot_be_are_refused(classes, message):
    with pytest.raises(ValueError, match=message):
        classes_of(classes)


def test_the_papers_figure_is_ten_steps_of_each_set_and_loss():
    plan = load_study("continual")
    experiments = plan.experiments(published=True)
    assert {e.source.name for e in experiments} == {
        "tinyimagenet_sre2l_ipc10_resnet18_modified",
        "tinyimagenet_rded_ipc10_resnet18_modified",
    }
    assert len(experiments) == 2 * 2 * 10 * 3
    assert {e.config.loss for e in experiments} == {"kl", "gift"}
    here = with_overrides(
        plan, dataset="fashion-mnist", student="convnet3", seeds=[0], dataset_seeds=[0]
    )
    assert len(here.experiments(published=False)) == 10 * 2


# ---- what it runs --------------------------------------------------------------------------------


def test_every_step_is_a_run_of_its_own(finished):
    runs = json.loads((finished / "runs" / "study-steps.json").read_text())["runs"]
    assert len({run["file"] for run in runs}) == len(runs) == 2 * 2 * 2
    for run in runs:
        result = read_run(finished / "runs" / run["file"])
        assert result.config.classes == run["config"]["classes"]


def test_the_table_has_a_column_a_step(finished):
    text = (finished / "runs" / "study-steps.md").read_text()
    assert "| loss | classes seen: 50 % | classes seen: 100 % |" in text.splitlines()
    with (finished / "runs" / "study-steps.csv").open() as file:
        rows = [(row["classes"], row["loss"], row["n"]) for row in csv.DictReader(file)]
    assert rows == [
        (c, loss, "2") for loss in ("ce", "gift") for c in ("seen:steps=2,step=1", "all")
    ]


def test_more_steps_train_only_what_is_new(finished, trained, capsys):
    assert study(finished, "{steps: [2, 4]}", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "  done   digits selected IPC 1 set 0, 50 % of the classes, convnet3:width=8" in printed
    assert "8 of 16 runs done; 8 left without an estimate" in printed
    assert study(finished, "{steps: [2, 4]}", name="more") == 0
    assert sorted(set(trained)) == ["seen:steps=4,step=1", "seen:steps=4,step=3"]
    assert len(trained) == 2 * 2 * 2


def test_a_study_of_all_classes_shares_the_last_step(finished, trained):
    assert study(finished, "all", name="whole") == 0
    assert trained == []
