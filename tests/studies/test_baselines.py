"""Baselines of a distilled set and DD-Ranking's scores, against numbers computed by hand."""

from __future__ import annotations

import csv
import dataclasses
from collections import Counter
from pathlib import Path

import pytest
from recorded import HERE, RecordedStudy

from gift_fast.cli import main
from gift_fast.report import write_report
from gift_fast.studies import baselines
from gift_fast.studies.baselines import (
    augmentation_robust_score,
    baseline_experiments,
    label_robust_score,
)
from gift_fast.studies.study_files import parse_study

pytestmark = pytest.mark.usefixtures("one_thread")

STUDY = """
title: Baselines on digits
teacher: {epochs: 1, batch_size: 500}
settings: {epochs: 1, eval_every: 1}
sets: [{dataset: digits, method: selected, ipc: 1, network: "convnet3:width=8"}]
losses: [kl, ce]
seeds: [0]
dataset_seeds: [0]
validation: 100
baselines: true
"""


# With e = 2.718282 and 1/e = 0.367879, the denominator e - 1/e is 2.350402.
@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        # alpha = (0.55 - 0.35) / 2 - (0.85 - 0.45) / 2 = -0.1; e^-0.1 = 0.904837
        ((0.85, 0.45, 0.55, 0.35), 0.536958 / 2.350402),
        # alpha = 0: no better than random images, and hard labels lose nothing
        ((0.5, 0.5, 0.4, 0.4), 0.632121 / 2.350402),
        # alpha = 1 / 2 - 0 = 0.5; e^0.5 = 1.648721
        ((1.0, 1.0, 1.0, 0.0), 1.280842 / 2.350402),
        # alpha = -1 / 2 - 1 / 2 = -1
        ((1.0, 0.0, 0.0, 1.0), 0.0),
    ],
)
def test_the_label_robust_score(accuracies, expected):
    names = ("full_hard", "distilled_hard", "distilled", "random")
    score = label_robust_score(**dict(zip(names, accuracies, strict=True)))
    assert score == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        # beta = (0.55 - 0.35) / 2 + (0.4 - 0.3) / 2 = 0.15; e^0.15 = 1.161834
        ((0.55, 0.35, 0.4, 0.3), 0.793955 / 2.350402),
        ((1.0, 0.0, 1.0, 0.0), 1.0),
    ],
)
def test_the_augmentation_robust_score(accuracies, expected):
    names = ("distilled", "random", "distilled_plain", "random_plain")
    score = augmentation_robust_score(**dict(zip(names, accuracies, strict=True)))
    assert score == pytest.approx(expected, abs=1e-5)


def test_percentages_are_refused():
    with pytest.raises(ValueError, match=r"fractions in \[0, 1\], got 55"):
        label_robust_score(full_hard=0.9, distilled_hard=0.5, distilled=55.0, random=0.3)


def test_the_runs_of_a_loss_with_soft_labels():
    study = parse_study("mine", STUDY)
    found = baseline_experiments(study.experiments(published=False))
    assert {experiment.config.learning_rate for experiment in found} == {
        0.001,
        0.005,
        0.01,
        0.05,
        0.1,
    }
    arms = Counter(
        (e.source.method, e.config.loss, e.config.augmentation, e.config.tested_on) for e in found
    )
    expected = {
        (method, loss, augmentation, split)
        for method, loss, augmentation in (
            ("selected", "kl", "dsa"),
            ("selected", "kl", "none"),
            ("random", "kl", "dsa"),
            ("random", "kl", "none"),
            ("selected", "ce", "dsa"),
        )
        for split in ("test", "heldout")
    }
    assert set(arms) == expected
    assert set(arms.values()) == {5}


def test_the_full_training_set_is_a_teacher_of_the_students_network():
    text = STUDY.replace('network: "convnet3:width=8"', "network: convnet3, students: mlp")
    text = text.replace("mlp", '"convnet3:width=8"')
    study = parse_study("mine", text)
    (experiment,) = {e.source for e in study.experiments(published=False)}
    assert set(study.teachers_of(experiment)) == {"convnet3", "convnet3:width=8"}
    assert study.teachers_of(baselines.random_source(experiment)) == study.teachers_of(experiment)


def recorded(folder: Path) -> Path:
    """Accuracies at two learning rates; test images and validation split prefer different ones."""
    dataset = "digits:heldout=100"
    study = RecordedStudy(folder, teachers={"digits-heldout=100_convnet3.pth": 90.0})
    source = dataclasses.replace(HERE, dataset=dataset)
    random = dataclasses.replace(source, method="random")
    study.add("kl", 60.0, source=source)
    arms = [
        (source, "kl", "dsa", (60.0, 70.0), (65.0, 64.0)),
        (source, "kl", "none", (50.0, 40.0), (50.0, 40.0)),
        (random, "kl", "dsa", (40.0, 45.0), (40.0, 39.0)),
        (random, "kl", "none", (30.0, 20.0), (30.0, 20.0)),
        (source, "ce", "dsa", (35.0, 30.0), (35.0, 30.0)),
    ]
    for of, loss, augmentation, *scores in arms:
        for split, tops in zip(("test", "heldout"), scores, strict=True):
            for rate, top1 in zip((0.01, 0.1), tops, strict=True):
                settings = {"augmentation": augmentation, "learning_rate": rate, "tested_on": split}
                study.add(loss, top1, source=of, purpose="baseline", **settings)
    return study.write()


def test_the_table_has_both_scores_with_both_selections(tmp_path):
    page, damaged = write_report(recorded(tmp_path / "runs"))
    assert damaged == ()
    lines = page.with_suffix(".md").read_text().splitlines()
    (row,) = [line for line in lines if line.startswith("| digits | selected | convnet3 | KL")]
    cells = [cell.strip() for cell in row.strip("|").split("|")][4:]
    # By validation: 60, 40 and 35 % of 90 %: alpha = 0.1 - 0.275 = -0.175; beta = 0.1 + 0.1 = 0.2.
    # By test images: 70, 45 and 35 %:        alpha = 0.125 - 0.275 = -0.15; beta = 0.225.
    assert cells == [
        *("10", "90.0"),
        *("60.0", "40.0", "35.0", "0.201", "0.363"),
        *("70.0", "45.0", "35.0", "0.210", "0.376"),
    ]
    for ending in (".html", ".tex"):
        assert "Baselines of the distilled sets" in page.with_suffix(ending).read_text()


def test_a_study_without_baselines_has_no_table(tmp_path):
    study = RecordedStudy(tmp_path / "runs")
    study.add("kl", 60.0)
    page, _ = write_report(study.write())
    assert "Baselines of the distilled sets" not in page.with_suffix(".md").read_text()


def test_a_study_runs_its_baselines(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(baselines, "LEARNING_RATES", (0.01,))
    path = tmp_path / "mine.yaml"
    path.write_text(STUDY.replace("baselines: true", ""))
    out = tmp_path / "runs"
    arguments = ["study", str(path), "--baselines", "--out", str(out), "--quiet"]
    arguments += ["--teacher-dir", str(tmp_path / "teachers"), "--device", "cpu"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "Baselines of the distilled sets" in printed
    (row,) = [
        line for line in printed.splitlines() if line.startswith("| digits | selected | conv")
    ]
    assert " - |" not in row  # every accuracy and score is known
    with (out / "study-mine.csv").open() as file:
        assert {line["purpose"] for line in csv.DictReader(file)} == {"protocol"}
