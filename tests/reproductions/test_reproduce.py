"""A reproduction as a user calls it, on digits with a network of width 8."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from gift_fast.cli import main
from gift_fast.data.datasets import load_dataset
from gift_fast.evaluation.context import RunContext
from gift_fast.report import write_report
from gift_fast.reproductions import estimate
from gift_fast.reproductions.estimate import estimate_parts, format_estimates
from gift_fast.reproductions.measure import (
    RunTime,
    Stopwatch,
    measure_set,
    measure_student,
    measure_teacher,
)
from gift_fast.reproductions.plan import (
    load_reproduction,
    reproduction_names,
    reproductions_folder,
)
from gift_fast.training.eval_result import EvalResult

pytestmark = pytest.mark.usefixtures("one_thread")

PLAN = """
title: Digits
parts:
  - {study: first, teachers: strong}
  - {study: second, teachers: strong}
  - {study: third, teachers: weak}
"""

STUDY = """
title: Losses on digits
teacher: {epochs: 1, batch_size: 500}
settings: {epochs: 2, eval_every: 1, augmentation: none}
sets: [{dataset: digits, method: rded, ipc: 1, network: "convnet3:width=8"}]
made_by: "rded:images_per_class=20"
losses: [%s]
seeds: 0
dataset_seeds: [0, 1]
"""


def write_plan(root: Path, plan: str = PLAN) -> Path:
    folder = root / "mine"
    folder.mkdir()
    (folder / "plan.yaml").write_text(plan)
    for name, losses in (("first", "gift, kl"), ("second", "ce"), ("third", "kl")):
        (folder / f"{name}.yaml").write_text(STUDY % losses)
    return folder


def call(folder: Path, *arguments: str) -> int:
    out = str(folder.parent / "out")
    return main(["reproduce", str(folder), "--out", out, "--quiet", *arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory, one_thread) -> tuple[Path, str]:
    """A reproduction that has ended, and what the first call said that it would do."""
    folder = write_plan(tmp_path_factory.mktemp("reproduction"))
    place = RunContext(out=folder.parent / "out")
    plan = load_reproduction(str(folder))
    text = format_estimates(plan, estimate_parts(plan, place, lambda text: None))
    assert call(folder) == 0
    return folder, text


# ---- the plan ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", reproduction_names())
def test_every_reproduction_of_the_package_is_a_plan_of_studies_on_generated_sets(name):
    plan = load_reproduction(name)
    assert plan.title
    for part in plan.parts:
        assert all(source.generated for source in part.sources)
        assert part.experiments


def test_rded_on_cifar10_is_run_under_two_teachers_with_imagenets_constants():
    plan = load_reproduction("rded-cifar10")
    native = [part for part in plan.parts if part.study.preset == "rded"]
    assert len({part.teachers for part in native}) == len(native) == 2
    for part in native:
        configs = [experiment.config for experiment in part.experiments]
        assert {config.ipc for config in configs} == {1, 10, 50}
        assert {config.dataset for config in configs} == {"cifar10:normalization=imagenet"}
        assert all(config.forward_twice and config.loss == "kl" for config in configs)
        assert {source.method for source in part.sources} == {"rded"}


def test_another_dataset_takes_the_place_of_the_plans_and_its_options_stay():
    plan = load_reproduction("rded-cifar10").on("cifar10-jpeg")
    datasets = {experiment.config.dataset for part in plan.parts for experiment in part.experiments}
    assert datasets == {"cifar10-jpeg", "cifar10-jpeg:normalization=imagenet"}


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ("title: x", "plan.yaml must be a mapping with .* parts"),
        ("parts: [first]", "a part must be a mapping with study and teachers, got 'first'"),
        ("parts: [{study: first}]", "a part must be a mapping with study and teachers"),
        ("parts: [{study: 1, teachers: a}]", "study and teachers of a part must be strings"),
        ("parts: [{study: none, teachers: a}]", r"none\.yaml"),
        ("part: []\nparts: [{study: first, teachers: a}]", "got 'part'; did you mean 'parts'"),
        ("parts: [", "plan.yaml must be valid YAML"),
    ],
)
def test_what_is_no_plan_is_refused_with_the_reason(tmp_path, plan, message):
    with pytest.raises(ValueError, match=message):
        load_reproduction(str(write_plan(tmp_path, plan)))


def test_an_unknown_reproduction_is_refused_with_those_there_are(capsys):
    assert main(["reproduce", "rded-cifar"]) == 2
    assert "reproduction must be one of rded-cifar10" in capsys.readouterr().err


# ---- what it says before it starts ---------------------------------------------------------------


def test_the_plan_says_what_every_part_has_to_do_and_shares(finished):
    lines = finished[1].splitlines()
    assert lines[0] == "mine: Digits"
    assert "1 teacher" in lines[1]
    assert "2 sets" in lines[1]
    assert "4 of 4 runs" in lines[1]
    assert "teacher" not in lines[2]  # the first part leaves teacher and sets behind
    assert "set" not in lines[2]
    assert "2 of 2 runs" in lines[2]
    assert "1 teacher" in lines[3]
    assert "2 sets" in lines[3]
    assert lines[4].startswith("  total: about ")


def test_a_dry_run_measures_and_runs_nothing(tmp_path, capsys):
    folder = write_plan(tmp_path)
    assert call(folder, "--dry-run") == 0
    assert "first: 1 teacher" in capsys.readouterr().out
    assert not list((tmp_path / "out").rglob("*.json"))


def test_estimates_are_of_what_is_measured(tmp_path, monkeypatch):
    paces = {"teacher": RunTime(1.0, 10.0, 100.0), "student": RunTime(2.0, 20.0, 200.0)}
    monkeypatch.setattr(estimate, "measure_teacher", lambda *arguments: paces["teacher"])
    monkeypatch.setattr(estimate, "measure_student", lambda *arguments: paces["student"])
    monkeypatch.setattr(estimate, "measure_set", lambda *arguments: 7.0)
    plan = load_reproduction(str(write_plan(tmp_path)))
    first, second, third = estimate_parts(plan, RunContext(out=tmp_path / "out"), lambda text: None)
    assert first.teacher_seconds == third.teacher_seconds == 1.0 + 10.0 + 100.0  # one epoch
    assert first.set_seconds == 2 * 7.0
    assert first.run_seconds == 4 * (2.0 + 2 * 20.0 + 2 * 200.0)
    assert second.seconds == 2 * (2.0 + 2 * 20.0 + 2 * 200.0)


def test_the_trials_of_a_tuned_study_are_estimated(tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "measure_teacher", lambda *arguments: RunTime(0.0, 0.0, 0.0))
    monkeypatch.setattr(estimate, "measure_student", lambda *arguments: RunTime(1.0, 0.0, 0.0))
    monkeypatch.setattr(estimate, "measure_set", lambda *arguments: 7.0)
    folder = write_plan(tmp_path, "parts: [{study: third, teachers: weak}]")
    path = folder / "third.yaml"
    tuning = "{weight_decays: [0.0], seeds: [1000], dataset_seeds: [1000, 1001]}"
    path.write_text(path.read_text() + f"validation: 100\ntuning: {tuning}\n")
    plan = load_reproduction(str(folder))
    (left,) = estimate_parts(plan, RunContext(out=tmp_path / "out"), lambda text: None)
    # KL on two sets, five learning rates on two other sets, and KL on two sets as tuned.
    assert left.run_seconds == 2 + 5 * 2 + 2
    assert left.set_seconds == 4 * 7.0
    assert "14 of at least 14 runs" in format_estimates(plan, [left])


def test_what_cannot_be_run_to_its_end_is_refused_before_anything_is_measured(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(estimate, "measure_teacher", lambda *arguments: pytest.fail("measured"))
    folder = write_plan(tmp_path)
    third = folder / "third.yaml"
    third.write_text(third.read_text().replace("ipc: 1,", "ipc: 1000,"))
    assert call(folder) == 2
    assert "ipc must be from 1 to 1" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("*.json"))


def stand_in(name: str, root: Path) -> Path:
    """A plan of the package with the digits, small networks, one epoch and no compilation."""
    folder = root / name
    shutil.copytree(str(reproductions_folder().joinpath(name)), folder)
    for path in folder.glob("*.yaml"):
        text = path.read_text()
        text = re.sub(r"dataset: (tinyimagenet|cifar10)\b", "dataset: digits", text)
        text = re.sub(r"network: convnet\d", 'network: "convnet3:width=8"', text)
        text = text.replace("made_by: rded", 'made_by: "rded:images_per_class=20"')
        text = re.sub(r"settings: \{.*\}", "settings: {epochs: 1}", text)
        text = re.sub(r"teacher: \{.*\}", "teacher: {epochs: 1, batch_size: 500}", text)
        path.write_text(text)
    return folder


def test_rded_on_tinyimagenet_runs_on_a_stand_in(tmp_path):
    plan = load_reproduction("rded-tinyimagenet")
    configs = [experiment.config for part in plan.parts for experiment in part.experiments]
    assert {config.student for config in configs} == {"convnet4"}
    assert {(config.ipc, config.loss) for config in configs} == {
        (ipc, loss) for ipc in (1, 10) for loss in ("kl", "gift", "ce")
    }
    assert len(configs) == 2 * 3 * 3
    folder = stand_in("rded-tinyimagenet", tmp_path)
    assert call(folder) == 0
    table = (tmp_path / "out" / "tinyimagenet" / "report.md").read_text()
    assert "Tiny-ImageNet, 10 images per class" in table


def test_the_tables_of_a_report_need_the_run_records_alone(finished, tmp_path):
    out = finished[0].parent / "out" / "strong"
    for record in out.glob("*.json"):
        shutil.copy(record, tmp_path)
    write_report(out)
    page, damaged = write_report(tmp_path)
    assert damaged == ()
    for ending in (".md", ".tex", ".csv"):
        rebuilt = page.with_suffix(ending).read_bytes()
        assert rebuilt == (out / f"report{ending}").read_bytes()
        assert rebuilt.count(b"GIFT") or ending == ".csv"


def test_a_forced_reproduction_repeats_its_students_alone(finished, monkeypatch):
    monkeypatch.setattr(estimate, "measure_student", lambda *arguments: RunTime(1.0, 0.0, 0.0))
    place = RunContext(out=finished[0].parent / "out", force=True)
    estimates = estimate_parts(load_reproduction(str(finished[0])), place, lambda text: None)
    assert [(left.teachers, left.sets, left.runs, left.done) for left in estimates] == [
        (0, 0, 4, 0),
        (0, 0, 2, 0),
        (0, 0, 2, 0),
    ]


def test_a_stopwatch_leaves_out_what_was_compiled(monkeypatch):
    """Epochs of 1 s and tests of 3 s; 50 s more in the first epoch, 20 s in the first test."""
    now = iter([0.0, 51.0, 75.0, 76.0, 80.0, 81.0, 85.0])
    monkeypatch.setattr("gift_fast.reproductions.measure.time.perf_counter", lambda: next(now))
    check = EvalResult(epoch=1, top1=1.0, top5=1.0, test_loss=1.0, loss=1.0)
    stopwatch = Stopwatch(torch.device("cpu"))
    stopwatch.start(6, 0)
    for epoch in range(1, 7):
        stopwatch.epoch(epoch, 10, check if epoch % 2 == 0 else None)
    assert stopwatch.run_time(6, 0.5) == RunTime(start=70.0, epoch=1.0, test=6.0)


def test_a_measurement_is_of_the_configuration_on_as_many_images(monkeypatch):
    from gift_fast.reproductions import measure

    seen = []
    train = measure.train_student

    def recorded(config, dataset, distilled, teachers, **options):
        seen.append((config, len(distilled), len(teachers), len(dataset.test)))
        return train(config, dataset, distilled, teachers, **options)

    monkeypatch.setattr(measure, "train_student", recorded)
    plan = load_reproduction("rded-cifar10")
    settings = {**plan.parts[0].experiments[0].config.to_dict(), "compile": False}
    network = "convnet3:width=8"
    settings.update(dataset="digits", student=network, teachers=(network,), ipc=2)
    config = plan.parts[0].experiments[0].config.from_dict({**settings, "batch_size": 10})
    pace = measure_student(config, load_dataset("digits"), RunContext(device="cpu"))
    assert pace.epoch > 0.0
    ((used, images, teachers, tests),) = seen
    assert (images, teachers, tests) == (20, 1, 500)
    assert used.forward_twice
    assert (used.mixing, used.batch_size) == (config.mixing, 10)


def test_teachers_and_sets_are_measured_on_a_part_and_scaled(monkeypatch):
    from gift_fast.distillation import METHODS
    from gift_fast.evaluation.config import TeacherConfig
    from gift_fast.reproductions import measure

    digits, place = load_dataset("digits"), RunContext(device="cpu")
    config = TeacherConfig(dataset="digits", model="convnet3:width=8", batch_size=50)
    monkeypatch.setattr(
        Stopwatch, "run_time", lambda self, epochs, share: RunTime(0.0, 1.0, 1.0 / share)
    )
    pace = measure_teacher(config, digits, place)
    assert pace.epoch == pytest.approx(len(digits.train) / 100)

    def slow(dataset, teacher, path, ipc, seed, *, factor=1):
        assert dataset.num_classes == 2
        assert set(dataset.train.labels.tolist()) == {0, 1}

    monkeypatch.setitem(METHODS, "slow", slow)
    times = iter([0.0, 3.0])
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(times))
    assert measure_set("slow", digits, "convnet3:width=8", 1, place) == 15.0


# ---- running -------------------------------------------------------------------------------------


def test_every_part_has_its_runs_and_every_folder_its_report(finished):
    out = finished[0].parent / "out"
    for folder, studies in (("strong", ("first", "second")), ("weak", ("third",))):
        for study in studies:
            runs = json.loads((out / folder / f"study-{study}.json").read_text())["runs"]
            assert all((out / folder / run["file"]).exists() for run in runs)
            assert (out / folder / f"study-{study}.md").exists()
        assert (out / folder / "report.html").exists()
        assert len(list((out / folder / "teachers").glob("*.pth"))) == 1
        assert len(list((out / folder / "sets").iterdir())) == 2


def test_what_has_finished_is_not_repeated(finished, monkeypatch, capsys):
    from gift_fast.evaluation import run as evaluation_run
    from gift_fast.evaluation import teacher

    def fail(*arguments, **options):
        raise AssertionError("trained again")

    monkeypatch.setattr(evaluation_run, "train_student", fail)
    monkeypatch.setattr(teacher, "train_teacher", fail)
    monkeypatch.setattr(estimate, "measure_student", fail)
    assert call(finished[0]) == 0
    assert "nothing left to run" in capsys.readouterr().out


def test_a_run_that_fails_stops_no_other_part(tmp_path, monkeypatch, capsys):
    from gift_fast.evaluation import run as evaluation_run

    train = evaluation_run.train_student

    def broken(config, *arguments, **options):
        if config.loss == "gift":
            raise RuntimeError("no luck")
        return train(config, *arguments, **options)

    monkeypatch.setattr(evaluation_run, "train_student", broken)
    folder = write_plan(tmp_path)
    assert call(folder) == 1
    printed = capsys.readouterr().err
    assert "no luck" in printed
    assert "retry the failed runs" in printed
    assert (tmp_path / "out" / "weak" / "study-third.md").exists()


def test_a_folder_for_teachers_is_the_plans_to_choose(tmp_path, capsys):
    with pytest.raises(SystemExit):
        call(write_plan(tmp_path), "--teacher-dir", "elsewhere")
    assert "--teacher-dir" in capsys.readouterr().err
