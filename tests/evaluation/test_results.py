from __future__ import annotations

import importlib
import json
import linecache
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gift_fast.evaluation import EvaluationConfig
from gift_fast.evaluation.digests import code_of, inputs_of
from gift_fast.evaluation.results import RunResult, find_run, read_run, run_path, write_run
from gift_fast.evaluation.summary import spread, summarize
from gift_fast.process.peak_memory import peak_memory
from gift_fast.training.eval_result import EvalResult

CONFIG = EvaluationConfig(dataset="digits", ipc=1, loss="kl:temperature=4,scale_t2=true").resolved(
    10
)
INPUTS = {"test": "a", "distilled": "b", "teachers": "c"}


def run(loss: str = "kl", optimizer: str = "sgd", last: float = 70.0, best: float = 80.0):
    return RunResult(
        config=replace(CONFIG, loss=loss, optimizer=optimizer),
        inputs=INPUTS,
        checks=(
            EvalResult(1, best, 99.0, 1.0, 0.5),
            EvalResult(2, last, 98.0, 1.5, 0.25, (last, 60.0)),
        ),
        seconds=1.5,
        images_per_second=100.0,
        peak_memory=2**20,
        environment={"torch": "2"},
        source="a folder",
    )


def test_the_score_is_the_last_check_and_the_best_is_recorded_beside_it(tmp_path):
    written = json.loads(write_run(tmp_path, run()).read_text())
    assert written["last"] == {
        "epoch": 2,
        "top1": 70.0,
        "top5": 98.0,
        "test_loss": 1.5,
        "loss": 0.25,
        "halves": [70.0, 60.0],
    }
    assert written["best"]["top1"] == 80.0


@pytest.mark.parametrize(
    "broken", [{"loss": math.nan}, {"loss": math.inf}, {"test_loss": math.nan}]
)
def test_a_result_knows_when_it_diverged_also_when_it_is_read(tmp_path, broken):
    assert run().diverged is None
    first, last = run().checks
    lost = replace(run(), checks=(first, replace(last, **broken)))
    assert lost.diverged == 2
    path = write_run(tmp_path, lost)
    assert json.loads(path.read_text())["diverged"] == 2
    assert read_run(path).diverged == 2
    assert summarize([run(), lost])[0].diverged == 1


def test_a_result_is_found_again_as_it_was_written(tmp_path):
    write_run(tmp_path, run())
    assert find_run(tmp_path, run().config, INPUTS) == run()


def test_a_loss_that_is_not_finite_is_null_in_the_file_which_any_reader_of_json_takes(tmp_path):
    checks = (EvalResult(1, 10.0, 50.0, math.inf, math.nan),)
    path = write_run(tmp_path, replace(run(), checks=checks))

    def refuse(constant):
        raise AssertionError(constant)

    written = json.loads(path.read_text(), parse_constant=refuse)
    assert written["last"]["loss"] is None
    assert written["last"]["test_loss"] is None
    assert math.isnan(read_run(path).last.test_loss)


def test_a_loss_of_the_users_own_is_another_one_once_its_module_has_changed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "own_losses.py"

    def digest(text: str) -> dict[str, str]:
        module.write_text(text)
        sys.modules.pop("own_losses", None)
        importlib.invalidate_caches()
        linecache.clearcache()
        return code_of(replace(CONFIG, loss="own_losses.l1:weight=2"))

    first = digest("def l1(*, weight=1.0): return abs")
    assert digest("def l1(*, weight=1.0): return abs") == first
    assert digest("def l1(*, weight=1.0): return max") != first
    assert code_of(CONFIG) == {}


@pytest.mark.parametrize("changes", [{"seed": 1}, {"ipc": 2}, {"loss": "ce"}, {"epochs": 5}])
def test_another_configuration_is_another_run(tmp_path, changes):
    write_run(tmp_path, run())
    assert find_run(tmp_path, replace(run().config, **changes), INPUTS) is None


def test_other_inputs_are_another_run(tmp_path):
    write_run(tmp_path, run())
    assert find_run(tmp_path, run().config, {**INPUTS, "teachers": "d"}) is None


def test_a_file_name_is_readable_and_safe(tmp_path):
    name = run_path(tmp_path, CONFIG, INPUTS).name
    assert name.startswith("kl_temperature=4.0_scale_t2=true-adamw-seed0-")
    assert name.endswith(".json")


@pytest.mark.parametrize(
    "contents", [b"", b"{}", b"[]", b'{"format": 0}', b'{"format": 2, "checks": []}', b"\xff\xfe"]
)
def test_a_file_that_is_no_result_is_refused_by_name(tmp_path, contents):
    path = tmp_path / "run.json"
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=r"run\.json must contain the result of a run, got: "):
        read_run(path)


@pytest.mark.parametrize("wrong", ["0.5", 10**400, math.inf])
@pytest.mark.parametrize("name", ["top1", "top5", "loss", "test_loss"])
def test_a_test_with_a_value_that_is_no_number_is_refused(tmp_path, name, wrong):
    path = write_run(tmp_path, run())
    values = json.loads(path.read_text())
    values["checks"][0][name] = wrong
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="must contain the result of a run, got: "):
        read_run(path)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("seconds", math.nan), ("peak_memory", "5"), ("environment", {"device": 1.0})],
)
def test_a_record_with_a_value_of_another_kind_is_refused_by_name(tmp_path, name, wrong):
    path = write_run(tmp_path, run())
    path.write_text(json.dumps({**json.loads(path.read_text()), name: wrong}))
    with pytest.raises(
        ValueError, match=f"must contain the result of a run, got: .*{name} must be"
    ):
        read_run(path)


def test_the_inputs_change_with_data_normalisation_set_and_teacher(dataset, distilled, teacher):
    whole = inputs_of(dataset, distilled, [teacher])
    assert set(whole) == {"test", "distilled", "teachers"}
    assert "teachers" not in inputs_of(dataset, distilled, [])
    assert inputs_of(dataset, distilled, [teacher, teacher])["teachers"] != whole["teachers"]
    shifted = inputs_of(replace(dataset, mean=(0.5,)), distilled, [teacher])
    assert shifted["test"] != whole["test"]
    labelled = replace(distilled, soft_labels=torch.zeros(20, 10))
    assert inputs_of(dataset, labelled, [teacher])["distilled"] != whole["distilled"]


def test_a_spread_names_both_conventions():
    result = spread([1.0, 2.0, 6.0])
    assert result.mean == 3.0
    assert result.population_std == pytest.approx(math.sqrt(14 / 3))
    assert result.sample_std == pytest.approx(math.sqrt(14 / 2))
    assert result.n == 3


def test_a_single_value_has_no_sample_std():
    assert spread([5.0]).population_std == 0.0
    assert math.isnan(spread([5.0]).sample_std)


def test_no_value_has_no_spread():
    with pytest.raises(ValueError, match="values must contain at least one number, got none"):
        spread([])


def test_runs_are_grouped_by_loss_and_optimizer():
    runs = [run(last=60.0), run("ce", last=50.0), run(last=80.0), run(optimizer="adamw")]
    cells = summarize(runs)
    assert [(c.loss, c.optimizer, c.values) for c in cells] == [
        ("kl", "sgd", (60.0, 80.0)),
        ("ce", "sgd", (50.0,)),
        ("kl", "adamw", (70.0,)),
    ]
    assert cells[0].last.population_std == 10.0
    assert cells[0].best.mean == 80.0


def test_the_names_of_runs_that_have_been_recorded_do_not_change():
    config = EvaluationConfig(dataset="cifar100", ipc=10, loss="kl").resolved(1000)
    path = run_path(Path(), config, {"test": "t", "distilled": "d"})
    assert path.name == "kl-adamw-seed0-b0d01e034cd1.json"  # as the first version named it
    other = replace(config, forward_twice=True)
    assert run_path(Path(), other, {"test": "t", "distilled": "d"}) != path


@pytest.mark.parametrize("psutil_too", [False, True])
def test_a_system_that_does_not_record_the_peak_is_no_error(monkeypatch, psutil_too):
    assert peak_memory(torch.device("cpu")) > 2**20
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    if psutil_too:
        monkeypatch.setitem(sys.modules, "psutil", None)
    else:
        memory = SimpleNamespace(rss=5, peak_wset=7)
        process = SimpleNamespace(memory_info=lambda: memory)
        monkeypatch.setitem(sys.modules, "psutil", SimpleNamespace(Process=lambda: process))
    assert peak_memory(torch.device("cpu")) == (0 if psutil_too else 7)
