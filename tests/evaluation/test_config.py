from __future__ import annotations

import dataclasses
import json
from dataclasses import replace

import pytest

from gift_fast.evaluation import EvaluationConfig, TeacherConfig
from gift_fast.evaluation.rules import paper_batch_size


def config(**changes: object) -> EvaluationConfig:
    return EvaluationConfig(**{"dataset": "digits", "ipc": 1, **changes})


def test_the_defaults_are_the_papers_protocol():
    defaults = config().resolved(num_images=100)
    assert (defaults.optimizer, defaults.learning_rate, defaults.epochs) == ("adamw", 1e-3, 1000)
    assert (defaults.weight_decay, defaults.schedule, defaults.loss) == (1e-4, "multistep", "gift")
    assert (defaults.augmentation, defaults.mixing) == ("dsa", "none")
    assert (defaults.batch_size, defaults.eval_every) == (50, 250)


@pytest.mark.parametrize(
    ("images", "batch_size"),
    [(1, 10), (10, 10), (11, 50), (500, 50), (501, 100), (20_000, 100), (20_001, 200)],
)
def test_the_batch_size_follows_the_papers_rule(images, batch_size):
    assert paper_batch_size(images) == batch_size
    assert config().resolved(images).batch_size == batch_size
    assert config(batch_size=7).resolved(images).batch_size == 7


@pytest.mark.parametrize(
    ("changes", "epochs"),
    [
        ({"epochs": 10}, [2, 4, 6, 8, 10]),
        ({"epochs": 12}, [3, 6, 9, 12]),
        ({"epochs": 5, "eval_every": 3}, [3, 5]),
        ({"epochs": 3}, [1, 2, 3]),
        ({"epochs": 10, "eval_every": 1, "eval_after": 0.8}, [9, 10]),
        ({"epochs": 10, "eval_every": 3, "eval_after": 0.5}, [6, 9, 10]),
    ],
)
def test_a_student_is_tested_every_quarter_and_after_the_last_epoch(changes, epochs):
    settings = config(**changes).resolved(num_images=10)
    tested = [e for e in range(1, settings.epochs + 1) if settings.is_test_epoch(e)]
    assert tested == epochs


def test_a_configuration_survives_json():
    original = config(loss="kl:temperature=4", batch_size=8, seed=3, teachers=("convnet3",) * 2)
    assert EvaluationConfig.from_dict(json.loads(json.dumps(original.to_dict()))) == original


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"dataset": "mnist"}, ValueError, "dataset must be one of cifar10, .*; got 'mnist'"),
        ({"ipc": 0}, ValueError, "ipc must be at least 1, got 0"),
        ({"ipc": 1.0}, TypeError, "ipc must be an integer, got 1.0"),
        ({"ipc": True}, TypeError, "ipc must be an integer, got True"),
        ({"student": "vgg"}, ValueError, "student must be one of convnet3, .*; got 'vgg'"),
        ({"teachers": ("vgg",)}, ValueError, "teachers must be one of convnet3, .*; got 'vgg'"),
        ({"teachers": "convnet3"}, TypeError, "teachers must be a sequence of names"),
        ({"loss": "l1"}, ValueError, "loss must be one of annealed-kl, ce, .*; got 'l1'"),
        (
            {"loss": "kl:temperature=0"},
            ValueError,
            "temperature must be positive and finite, got 0.0",
        ),
        ({"optimizer": "lion"}, ValueError, "optimizer must be one of adam, .*; got 'lion'"),
        ({"schedule": "linear"}, ValueError, "schedule must be one of constant, .*; got 'linear'"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate must be positive, got 0"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate must be positive, got nan"),
        ({"learning_rate": "1e-3"}, TypeError, "learning_rate must be a number, got '1e-3'"),
        ({"weight_decay": -1.0}, ValueError, "weight_decay must be 0 or more, got -1.0"),
        ({"momentum": 1.0}, ValueError, r"momentum must be in \[0, 1\), got 1.0"),
        ({"epochs": 0}, ValueError, "epochs must be at least 1, got 0"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"eval_every": 0}, ValueError, "eval_every must be at least 1, got 0"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"augmentation": "blur"}, ValueError, "augmentation must be one of .*; got 'blur'"),
        ({"mixing": "blend"}, ValueError, "mixing must be one of .*; got 'blend'"),
        ({"mixed_precision": "fp8"}, ValueError, "mixed_precision must be one of no, bf16, fp16"),
        ({"forward_twice": 1}, TypeError, "forward_twice must be True or False, got 1"),
        ({"eval_after": 1.0}, ValueError, r"eval_after must be in \[0, 1\), got 1.0"),
        ({"batch_rule": "mine"}, ValueError, "batch_rule must be one of paper, rded, got 'mine'"),
        ({"compile": 1}, TypeError, "compile must be True or False, got 1"),
        ({"mixed_targets": None}, TypeError, "mixed_targets must be True or False, got None"),
        ({"augmentation": None}, TypeError, "augmentation must be a string, got NoneType"),
    ],
)
def test_a_bad_value_is_refused_by_name(changes, error, message):
    with pytest.raises(error, match=message):
        config(**changes)


def test_fields_that_were_added_later_change_no_earlier_runs_record():
    added = {"batch_rule": "rded", "forward_twice": True, "eval_after": 0.8}
    written = config().to_dict()
    assert not added.keys() & written.keys()
    assert EvaluationConfig.from_dict(written) == config()
    changed = config(**added)
    assert added.items() <= changed.to_dict().items()
    assert EvaluationConfig.from_dict(json.loads(json.dumps(changed.to_dict()))) == changed
    assert changed.all_fields().keys() == config().all_fields().keys() >= written.keys()


def test_an_unknown_field_is_refused_by_name():
    with pytest.raises(ValueError, match=r"EvaluationConfig has the fields .*; got 'lr'"):
        EvaluationConfig.from_dict({"dataset": "digits", "ipc": 1, "lr": 0.1})


def test_a_missing_field_is_refused_by_name():
    with pytest.raises(ValueError, match="EvaluationConfig must have the field 'dataset'"):
        EvaluationConfig.from_dict({"ipc": 1})


def test_a_teachers_model_is_checked():
    with pytest.raises(ValueError, match=r"model must be one of convnet3, .*; got 'vgg'"):
        TeacherConfig(dataset="digits", model="vgg")


@pytest.mark.parametrize(
    ("changes", "rate", "epochs"),
    [
        ({}, 1e-3, 1000),
        ({"student": "swin_v2_t"}, 1e-4, 1000),
        ({"dataset": "imagenet-1k:side=64"}, 1e-3, 300),
        ({"dataset": "imagenet-nette"}, 1e-3, 1000),
        ({"learning_rate": 0.5, "epochs": 7}, 0.5, 7),
    ],
)
def test_what_is_left_open_follows_the_protocol(changes, rate, epochs):
    settled = config(**changes).resolved(num_images=10)
    assert (settled.learning_rate, settled.epochs) == (rate, epochs)


def test_every_field_but_the_data_explains_itself_to_the_command_line():
    for kind in (EvaluationConfig, TeacherConfig):
        silent = {f.name for f in dataclasses.fields(kind) if not f.metadata.get("help")}
        assert silent <= {"dataset", "ipc", "teachers"}


def test_a_loss_is_written_in_one_way_whatever_was_asked_for():
    def written(loss: str) -> str:
        return EvaluationConfig(dataset="digits", loss=loss).loss

    assert written("gift:gamma=0.1") == "gift"
    assert written("kl:scale_t2=True,temperature=20") == "kl:scale_t2=true"
    assert written("kl:temperature=4.0") == written("kl:temperature=4") == "kl:temperature=4.0"


@pytest.mark.parametrize("field", ["learning_rate", "epochs", "batch_size", "eval_every"])
def test_a_resolved_configuration_has_no_empty_field(field):
    resolved = config().resolved(num_images=100)
    assert replace(resolved) == resolved
    with pytest.raises(ValueError, match=f"{field} .* got None"):
        replace(resolved, **{field: None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hard_loss": "kl"}, "hard_loss must not read soft labels, use ce; got 'kl'"),
        ({"hard_loss": "cee"}, r"hard_loss must be one of .*; got 'cee'"),
        ({"hard_start": 1.0}, r"hard_start must be in \[0, 1\), got 1.0"),
        (
            {"hard_start": 0.5, "hard_stop": 0.4},
            "hard_stop must be between hard_start, 0.5, and 1, got",
        ),
        ({"hard_stop": 1.5}, "hard_stop must be between hard_start, 0.25, and 1, got 1.5"),
    ],
)
def test_a_part_of_hard_labels_must_be_one(changes, message):
    with pytest.raises(ValueError, match=message):
        EvaluationConfig(dataset="digits", **changes)


def test_what_was_added_is_recorded_only_if_it_is_used():
    added = {"ema_decay", "ema_buffers", "hard_loss", "hard_start", "hard_stop"}
    assert not added & set(EvaluationConfig(dataset="digits").to_dict())
    values = EvaluationConfig(dataset="digits", hard_loss="ce", ema_decay=0.5).to_dict()
    assert added & set(values) == {"hard_loss", "ema_decay"}
