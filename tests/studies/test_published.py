from __future__ import annotations

import csv
from collections import Counter
from importlib import resources

import pytest

from gift_fast.data.distilled.formats import FORMATS as READERS
from gift_fast.evaluation import EvaluationConfig
from gift_fast.evaluation.protocols import load_preset
from gift_fast.files import spec
from gift_fast.studies.published import (
    FORMATS,
    LOSSES,
    NATIVE_LOSSES,
    RDED_PAPER,
    STUDENTS,
    Published,
    Reading,
    find_published,
    read_published,
)
from gift_fast.training.models import MODELS
from gift_fast.training.objectives import OBJECTIVES, build_objective

NAMES = ("dataset", "ipc", "method", "distilled_on", "student", "loss", "optimizer")
RDED_GIFT = {
    "dataset": "cifar100",
    "ipc": 10,
    "method": "RDED",
    "distilled_on": "convnet",
    "student": "convnet",
    "loss": "gift",
    "optimizer": "adamw",
}
RESNET = {"distilled_on": "resnet18", "student": "resnet18"}


def rows() -> list[dict[str, str]]:
    path = resources.files("gift_fast.studies").joinpath("published.csv")
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def key(experiment: Published) -> tuple[str | int, ...]:
    return tuple(getattr(experiment, name) for name in NAMES)


def find(**changes: str | int) -> Published:
    found = find_published(**{**RDED_GIFT, **changes})
    assert found is not None
    return found


# ---- the data ------------------------------------------------------------------------------------


def test_the_file_has_485_complete_rows_and_a_header():
    assert len(rows()) == 485
    for row in rows():
        assert list(row) == ["table", *NAMES, "mean", "std"]
        assert all(row.values())


def test_every_row_is_of_the_tables_datasets_and_optimizers_that_the_paper_has():
    assert {row["table"] for row in rows()} == {"1", "2", "3", "4", "5", "6", "7", "12", "13"}
    assert {row["ipc"] for row in rows()} == {"1", "10", "50", "100"}
    assert {row["optimizer"] for row in rows()} == {"adam", "adamw", "sgd"}
    assert {row["distilled_on"] for row in rows()} == {"convnet", "resnet18"}


def test_every_value_is_a_percentage_with_one_decimal_but_for_two_means():
    longer = set()
    for row in rows():
        assert 0.0 < float(row["mean"]) < 100.0
        assert 0.0 <= float(row["std"]) < 5.0
        assert row["std"] == f"{float(row['std']):.1f}"
        if row["mean"] != f"{float(row['mean']):.1f}":
            longer.add((row["table"], row["mean"]))
    assert longer == {("3", "19.84"), ("4", "43.04")}


def test_no_table_holds_an_experiment_twice():
    cells = Counter((row["table"], *(row[name] for name in NAMES)) for row in rows())
    assert max(cells.values()) == 1


def test_the_rows_are_360_experiments_none_of_them_twice():
    experiments = read_published()
    assert len(experiments) == len({key(experiment) for experiment in experiments}) == 360


def test_every_row_is_a_reading_of_its_experiment_and_there_are_no_others():
    read = [
        (str(reading.table), *map(str, key(experiment)), f"{reading.mean}", f"{reading.std}")
        for experiment in read_published()
        for reading in experiment.readings
    ]
    assert sorted(read) == sorted(tuple(row.values()) for row in rows())


def test_the_value_is_that_of_the_first_table():
    for experiment in read_published():
        assert list(experiment.tables) == sorted(experiment.tables)
        assert (experiment.mean, experiment.std) == (
            experiment.readings[0].mean,
            experiment.readings[0].std,
        )


@pytest.mark.parametrize(
    ("changes", "table", "mean"),
    [
        ({"method": "SRe2L", "loss": "kl", "ipc": 1}, 1, 13.6),
        ({"method": "SRe2L", "loss": "kl", "ipc": 50}, 1, 52.3),
        ({"dataset": "tinyimagenet", "ipc": 50}, 1, 48.3),
        ({"dataset": "imagenet-1k"}, 2, 24.0),
        ({"dataset": "imagenet-1k", **RESNET, "ipc": 50}, 2, 56.5),
    ],
)
def test_values_are_the_papers(changes, table, mean):
    assert (find(**changes).first.table, find(**changes).mean) == (table, mean)


# ---- contradictions ------------------------------------------------------------------------------

SRE2L = {"method": "SRe2L", "loss": "kl"}
DATM = {"method": "DATM", "dataset": "tinyimagenet"}
TINY = {"dataset": "tinyimagenet"}
IMAGENET = {"dataset": "imagenet-1k"}

CONTRADICTIONS = [
    (SRE2L, 33.7, Reading(5, 34.5, 0.4)),
    ({**SRE2L, **TINY}, 34.5, Reading(5, 33.7, 0.5)),
    ({**DATM, "loss": "softce"}, 26.5, Reading(4, 36.1, 0.2)),
    (DATM, 27.5, Reading(4, 37.8, 0.3)),
    ({**DATM, "loss": "softce", "student": "resnet18"}, 26.7, Reading(4, 27.3, 0.2)),
    ({}, 50.6, Reading(6, 49.5, 0.2)),
    ({"ipc": 50}, 57.9, Reading(6, 57.0, 0.1)),
    (TINY, 44.0, Reading(6, 42.9, 0.2)),
    ({**TINY, "ipc": 50}, 48.3, Reading(6, 47.5, 0.1)),
    (IMAGENET, 24.0, Reading(6, 21.7, 0.6)),
]

DEVIATIONS = [
    ({**SRE2L, **IMAGENET}, Reading(12, 12.5, 0.1)),
    ({**IMAGENET, **RESNET, "method": "SRe2L"}, Reading(13, 31.9, 0.1)),
    ({**IMAGENET, **RESNET, "ipc": 50}, Reading(13, 56.5, 0.2)),
    ({**DATM, "student": "resnet18"}, Reading(4, 29.0, 0.2)),
]


@pytest.mark.parametrize(("changes", "mean", "other"), CONTRADICTIONS)
def test_a_contradiction_is_kept_beside_the_value(changes, mean, other):
    assert find(**changes).mean == mean
    assert find(**changes).contradictions == (other,)


@pytest.mark.parametrize(("changes", "other"), DEVIATIONS)
def test_a_repeat_with_another_deviation_contradicts_nothing(changes, other):
    assert find(**changes).other_deviations == (other,)
    assert find(**changes).contradictions == ()


def test_nothing_else_is_contradictory():
    disputed = [experiment for experiment in read_published() if experiment.contradictions]
    assert {key(experiment) for experiment in disputed} == {
        key(find(**changes)) for changes, _, _ in CONTRADICTIONS
    }
    uneven = [experiment for experiment in read_published() if experiment.other_deviations]
    assert {key(experiment) for experiment in uneven} == {
        key(find(**changes)) for changes, _ in DEVIATIONS
    }


def test_table_5_swaps_sre2l_between_two_datasets():
    cifar, tiny = find(**SRE2L), find(**SRE2L, **TINY)
    assert (cifar.mean, cifar.std) == (tiny.contradictions[0].mean, tiny.contradictions[0].std)
    assert (tiny.mean, tiny.std) == (cifar.contradictions[0].mean, cifar.contradictions[0].std)


@pytest.mark.parametrize("loss", ["softce", "gift"])
def test_table_4_has_cifar_100s_numbers_for_datm(loss):
    cifar = find(method="DATM", loss=loss)
    assert find(**DATM, loss=loss).contradictions[0].mean == cifar.mean


@pytest.mark.parametrize("changes", [changes for changes, _, other in CONTRADICTIONS[5:]])
def test_the_gift_cells_of_table_6_are_those_of_the_cosine_alone(changes):
    cosine = find(**changes, loss="cosine")
    (other,) = find(**changes).contradictions
    assert (other.mean, other.std) == (cosine.mean, cosine.std)


# ---- names ---------------------------------------------------------------------------------------


def test_every_experiment_has_a_place_in_the_tables_of_names():
    experiments = read_published()
    named = {(e.dataset, e.student) for e in (*experiments, *read_published(RDED_PAPER))}
    assert named == set(STUDENTS)
    assert {experiment.loss for experiment in experiments} == set(LOSSES)
    assert {experiment.method for experiment in experiments} == set(NATIVE_LOSSES) == set(FORMATS)


def test_our_names_are_configurations_of_this_package():
    for experiment in read_published():
        if experiment.our_student and experiment.our_loss:
            EvaluationConfig(
                dataset=experiment.our_dataset,
                ipc=experiment.ipc,
                student=experiment.our_student,
                loss=experiment.our_loss,
                optimizer=experiment.optimizer,
            )


@pytest.mark.parametrize("method", FORMATS)
def test_every_method_has_a_reader_and_a_preset(method):
    assert FORMATS[method] in READERS
    assert load_preset(FORMATS[method]).settings


def test_a_loss_whose_options_are_not_published_has_no_name_of_ours():
    undetermined = {name for name, ours in LOSSES.items() if ours is None}
    assert undetermined == {"kd", "wsld", "dkd", "nkd", "kl+ce", "refine+kl"}
    assert undetermined <= set(OBJECTIVES)


def test_gift_is_the_papers_and_not_the_codes():
    assert LOSSES["gift"] == load_preset("paper").settings["loss"]
    assert LOSSES["gift"] != load_preset("official").settings["loss"]


def test_every_determined_loss_can_be_built_with_options_that_are_written_out():
    for ours in filter(None, LOSSES.values()):
        build_objective(ours)
    assert spec.resolve("loss", LOSSES["kl"], OBJECTIVES)[1] == {
        "temperature": 20.0,
        "scale_t2": False,
    }


@pytest.mark.parametrize(
    ("changes", "dataset", "student"),
    [
        ({}, "cifar100", "convnet3"),
        ({**RESNET}, "cifar100", "resnet18_modified"),
        (TINY, "tinyimagenet", "convnet4"),
        ({**TINY, "student": "swin_v2_t"}, "tinyimagenet", "swin_v2_t"),
        ({**TINY, "student": "resnet101"}, "tinyimagenet", None),
        (IMAGENET, "imagenet-1k:side=64", "convnet4"),
        ({**IMAGENET, **RESNET}, "imagenet-1k", "resnet18"),
        ({"method": "DATM"}, "cifar100", "convnet3:norm=instance"),
        (DATM, "tinyimagenet", "convnet4:norm=instance"),
        ({**DATM, "student": "resnet18"}, "tinyimagenet", "resnet18_modified"),
        ({**DATM, "student": "resnet101"}, "tinyimagenet", None),
    ],
)
def test_the_network_follows_the_dataset(changes, dataset, student):
    assert (find(**changes).our_dataset, find(**changes).our_student) == (dataset, student)
    assert student is None or spec.resolve("student", student, MODELS)


# ---- GIFT and the native loss --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "loss"),
    [("SRe2L", "kl"), ("RDED", "kl"), ("DATM", "softce"), ("G-VBSM", "mse+ce")],
)
def test_the_native_experiment_differs_in_the_loss_alone(method, loss):
    gift = find(method=method)
    assert gift.native is not None
    assert gift.native.loss == loss
    changed = [a != b for a, b in zip(key(gift), key(gift.native), strict=True)]
    assert [name for name, other in zip(NAMES, changed, strict=True) if other] == ["loss"]


def test_gift_and_the_native_loss_are_of_the_same_table():
    for experiment in read_published():
        if experiment.loss == "gift" and experiment.native is not None:
            assert experiment.first.table == experiment.native.first.table


def test_the_paper_has_gift_ahead_of_the_native_loss_in_all_its_124_experiments():
    gains = [
        experiment.mean - experiment.native.mean
        for experiment in read_published()
        if experiment.loss == "gift" and experiment.native is not None
    ]
    assert len(gains) == sum(experiment.loss == "gift" for experiment in read_published()) == 124
    assert min(gains) > 0.0


# ---- looking one up ------------------------------------------------------------------------------


def test_an_experiment_that_is_not_published_is_none():
    assert find_published(**{**RDED_GIFT, "loss": "kl", "optimizer": "sgd", "ipc": 1}) is None


@pytest.mark.parametrize(
    ("name", "value"), [("method", "rded"), ("ipc", 20), ("ipc", "10"), ("loss", "gift:gamma=0.1")]
)
def test_a_name_that_the_paper_does_not_use_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"{name} must be one of .*; got {value!r}"):
        find_published(**{**RDED_GIFT, name: value})
