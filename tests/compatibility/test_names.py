"""Names of version 0.1 mean the same as the present ones, and give the same digests."""

from __future__ import annotations

import pytest

from gift_fast.cli.main import main
from gift_fast.data import load_dataset
from gift_fast.evaluation import EvaluationConfig, TeacherConfig
from gift_fast.evaluation.description import setting_texts
from gift_fast.studies.study_files import parse_study

STUDY = """
title: Digits
sets: [{dataset: digits, method: selected, ipc: 1, network: convnet3}]
losses: [gift]
"""
FORMER = "heldout: 300\nset_seeds: [4]\ntuning: {seeds: 100, set_seeds: 5}\n"
PRESENT = "validation: 300\ndataset_seeds: [4]\ntuning: {seeds: 100, dataset_seeds: 5}\n"


def test_a_validation_split_has_one_record_under_both_names():
    former = EvaluationConfig(dataset="digits:heldout=300", tested_on="heldout")
    present = EvaluationConfig(dataset="digits:validation=300", tested_on="validation")
    assert former == present
    assert present.to_dict()["dataset"] == "digits:heldout=300"
    assert present.to_dict()["tested_on"] == "heldout"
    assert TeacherConfig(dataset="digits:validation=300") == TeacherConfig(
        dataset="digits:heldout=300"
    )


def test_a_dataset_is_split_under_both_names():
    former, present = (load_dataset(f"digits:{name}=300") for name in ("heldout", "validation"))
    assert present.validation.labels.equal(former.validation.labels)
    with pytest.warns(DeprecationWarning, match="ImageDataset.validation"):
        assert former.heldout is former.validation
    assert len(present.validation) == 300


def test_settings_are_shown_under_the_present_names():
    config = EvaluationConfig(dataset="digits:heldout=300", tested_on="heldout")
    words = setting_texts(config)
    assert (words["dataset"], words["tested_on"]) == ("digits:validation=300", "validation")


def test_a_study_is_the_same_under_both_names():
    assert parse_study("digits", STUDY + FORMER) == parse_study("digits", STUDY + PRESENT)


def test_a_key_under_two_names_is_refused():
    with pytest.raises(ValueError, match="validation only once"):
        parse_study("digits", STUDY + FORMER + "validation: 200\n")


def dry_run(folder, capsys, *arguments: str) -> tuple[str, str]:
    path = folder / "digits.yaml"
    path.write_text(STUDY)
    assert main(["study", str(path), "--out", str(folder), "--dry-run", *arguments]) == 0
    printed = capsys.readouterr()
    return printed.out, printed.err


def test_a_former_option_does_the_same_and_names_the_present_one(tmp_path, capsys):
    former, note = dry_run(tmp_path, capsys, "--heldout", "300", "--set-seeds", "4")
    present, nothing = dry_run(tmp_path, capsys, "--validation", "300", "--dataset-seeds", "4")
    assert former == present
    assert "--validation" in note
    assert "--dataset-seeds" in note
    assert "is now" not in nothing
