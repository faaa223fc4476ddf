"""What a report says of made-up studies: its tables as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import statistics

import pytest
from recorded import ENVIRONMENT, HERE, RDED, RecordedStudy

from gift_fast.cli import main
from gift_fast.report import write_report

GIFT = [62.0, 64.0, 63.0, 65.0, 66.0]
KL = [60.0, 61.5, 60.0, 62.5, 63.0]


def report_of(folder, ending: str) -> str:
    page, _ = write_report(folder)
    return page.with_suffix(ending).read_text(encoding="utf-8")


def csv_of(folder) -> list[dict[str, str]]:
    return list(csv.DictReader(report_of(folder, ".csv").splitlines()))


def row_of(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"| {name} |"))


@pytest.fixture
def two_losses(tmp_path) -> RecordedStudy:
    study = RecordedStudy(tmp_path / "runs")
    study.over_sets("kl", KL)
    study.over_sets("gift", GIFT)
    return study


def test_a_row_holds_mean_deviation_interval_and_outcome(two_losses):
    text = report_of(two_losses.write(), ".md")
    mean, deviation = statistics.mean(KL), statistics.stdev(KL)
    differences = [a - b for a, b in zip(GIFT, KL, strict=True)]
    half = 2.7764 * statistics.stdev(differences) / math.sqrt(5)  # t, 97.5 %, 4 degrees
    low, high = statistics.mean(differences) - half, statistics.mean(differences) + half
    row = row_of(text, "KL (native)")
    assert f"{mean:.1f} ± {deviation:.1f}" in row
    assert f"+2.6 [+{low:.1f}, +{high:.1f}]" in row
    assert "GIFT better, p < 0.001" in row
    assert "**64.0 ± 1.6**" in row_of(text, "GIFT")


def test_students_of_a_set_are_averaged_before_sets_are_counted(tmp_path):
    study = RecordedStudy(tmp_path / "runs")
    for seed in (0, 1):
        study.over_sets("gift", [60.0 + 10 * seed, 62.0 + 10 * seed], seed=seed)
    (row,) = csv_of(study.write())
    assert (row["mean"], row["n"], row["over"]) == ("66.0", "2", "sets")
    assert float(row["sample_std"]) == pytest.approx(math.sqrt(2.0), abs=1e-4)


def test_three_sets_have_an_interval_and_no_test(tmp_path):
    study = RecordedStudy(tmp_path / "runs")
    study.over_sets("kl", KL[:3])
    study.over_sets("gift", GIFT[:3])
    text = report_of(study.write(), ".md")
    assert "too few sets" in text
    assert "With 3 sets, differences are not tested" in text
    assert "better" not in row_of(text, "GIFT")


def test_losses_are_compared_on_the_sets_and_seeds_that_both_have(tmp_path):
    study = RecordedStudy(tmp_path / "runs")
    study.over_sets("kl", [*KL, 10.0])
    study.over_sets("gift", GIFT)
    rows = {row["loss"]: row for row in csv_of(study.write())}
    assert float(rows["kl"]["difference"]) == pytest.approx(2.6)
    assert rows["kl"]["n"] == "6"


def test_holm_counts_every_comparison_of_the_study(tmp_path):
    few = RecordedStudy(tmp_path / "few")
    many = RecordedStudy(tmp_path / "many")
    for study in (few, many):
        study.over_sets("kl", [score + 2.0 for score in KL])
        study.over_sets("gift", GIFT)
    for temperature in (2.0, 3.0, 4.0):
        scores = [score - 3.0 + 0.1 * k for k, score in enumerate(GIFT)]
        many.over_sets(f"kl:temperature={temperature}", scores)
    p = [float({r["loss"]: r for r in csv_of(s.write())}["kl"]["p_holm"]) for s in (few, many)]
    assert p[1] == pytest.approx(p[0])  # the largest of four is multiplied by one
    again = RecordedStudy(tmp_path / "again")
    again.over_sets("kl", KL)
    again.over_sets("gift", GIFT)
    again.over_sets("mse", [score + 0.6 - 0.5 * (-1) ** k for k, score in enumerate(GIFT)])
    alone = RecordedStudy(tmp_path / "alone")
    alone.over_sets("kl", KL)
    alone.over_sets("gift", GIFT)
    p = [float({r["loss"]: r for r in csv_of(s.write())}["kl"]["p_holm"]) for s in (alone, again)]
    assert p[1] == pytest.approx(2.0 * p[0], rel=1e-3)


def test_a_tuned_loss_stands_beside_the_protocols_with_its_learning_rate(tmp_path):
    tuning = {"weight_decays": [0.0, 5e-4], "seeds": [1000], "set_seeds": [1000]}
    study = RecordedStudy(tmp_path / "runs", tuning=tuning)
    made = dataclasses.replace(HERE, dataset="digits:heldout=100")
    for loss, before, after in (("kl", 15.0, 70.3), ("gift", 68.0, 69.0)):
        for seed in range(5):
            source = dataclasses.replace(made, seed=seed)
            settings = {"source": source, "optimizer": "sgd", "learning_rate": 0.01}
            study.add(loss, before + 0.1 * seed, **settings)
            settings["learning_rate"] = 1.0 if loss == "kl" else 0.0316
            study.add(loss, after + 0.1 * seed, **settings, purpose="tuned", weight_decay=0.0)
        for rate in (0.01, 0.0316, 0.1, 0.316, 1.0):
            source = dataclasses.replace(made, seed=1000)
            study.add(
                loss,
                40.0 + 20.0 * rate,
                source=source,
                purpose="trial",
                tested_on="heldout",
                optimizer="sgd",
                learning_rate=rate,
                weight_decay=0.0,
            )
    text = report_of(study.write(), ".md")
    assert "protocol: lr 0.01, wd 0.0001: top-1, %" in text
    assert "| 1 | 0 | **70.5 ± 0.2** | +55.3 |" in text
    assert "With tuning, KL gains 55.3 points (learning rate 0.01 to 1): its collapse" in text
    assert "is due to the learning rate and not to the loss" in text
    assert "The best and the worst loss differ by 53.0 points with the protocol's settings" in text
    assert "The learning rate of KL is at an end of the grid" in text
    assert "| KL | 0 | 40.2 | 40.6 | 42.0 | 46.3 | **60.0** |" in text
    trials = [row for row in csv_of(tmp_path / "runs") if row["purpose"] == "trial"]
    assert {row["scored_on"] for row in trials} == {"validation"}


def test_what_tuning_has_made_worse_is_said(tmp_path):
    tuning = {"weight_decays": [0.0], "seeds": [1000], "set_seeds": [1000]}
    study = RecordedStudy(tmp_path / "runs", tuning=tuning)
    for loss, before, after in (("kl", 55.0, 42.0), ("gift", 51.0, 50.0)):
        for seed in range(5):
            source = dataclasses.replace(HERE, seed=seed)
            study.add(loss, before + 0.1 * seed, source=source, learning_rate=0.01)
            study.add(loss, after + 0.1 * seed, source=source, learning_rate=0.003, purpose="tuned")
    text = report_of(study.write(), ".md")
    assert (
        "With tuning, KL loses 13.0 points (learning rate 0.01 to 0.003): the trials chose" in text
    )
    assert "GIFT loses" not in text


def test_a_tuned_study_of_a_foreign_set_is_scored_on_the_half_that_did_not_choose(tmp_path):
    study = RecordedStudy(tmp_path / "runs")
    for purpose in ("protocol", "tuned"):
        study.add("gift", 50.0, source=RDED, purpose=purpose, halves=(45.0, 55.0))
    rows = csv_of(study.write())
    assert {(row["mean"], row["scored_on"]) for row in rows} == {("55.0", "second half")}
    assert "lr and wd were chosen on the first" in report_of(tmp_path / "runs", ".md")


def test_continual_learning_has_a_column_for_every_share_of_the_classes(tmp_path):
    study = RecordedStudy(tmp_path / "runs")
    for classes, score in (("seen:steps=5,step=2", 80.0), ("seen:steps=5,step=1", 90.0)):
        study.over_sets("gift", [score, score], classes=classes)
    study.over_sets("gift", [60.0, 60.0])
    text = report_of(study.write(), ".md")
    assert "| loss | classes seen: 20 % | classes seen: 40 % | classes seen: 100 % |" in text
    assert "| GIFT | 90.0 ± 0.0 | 80.0 ± 0.0 | 60.0 ± 0.0 |" in text
    assert [row["share"] for row in csv_of(tmp_path / "runs")] == ["0.2", "0.4", "1.0"]


# ---- published numbers ---------------------------------------------------------------------------


TEACHERS = {"cifar100_convnet3.pth": 61.0}
"""As accurate as the published one, 61.27 %, to a point."""


def published_study(folder, accuracies=TEACHERS, **settings) -> RecordedStudy:
    study = RecordedStudy(folder, title="Published", teachers=accuracies)
    for loss, scores in (("kl", [47.3, 47.6, 47.5]), ("gift", [50.5, 50.7, 50.6])):
        for seed, score in enumerate(scores):
            study.add(loss, score, source=RDED, seed=seed, **settings)
    return study


def test_a_verdict_names_its_interval_and_contradicting_tables(tmp_path):
    text = report_of(published_study(tmp_path / "runs").write(), ".md")
    assert "50.6 ± 0.3 (tables 1, 3, 5, 6, 7)" in text
    gift = next(row for row in csv_of(tmp_path / "runs") if row["loss"] == "gift")
    assert gift["published_mean"] == "50.6"
    assert gift["verdict"].startswith("reproduced (0.0, 90 % interval ")
    assert "table 6 has 49.5: not reproduced" in gift["verdict"]
    assert (gift["same_configuration"], gift["differences"]) == ("yes", "")
    assert "have the published configuration, with 2 reproductions" in text
    assert "undecided: one distilled set is too few" in text


@pytest.mark.parametrize(
    ("settings", "difference"),
    [
        ({"epochs": 300}, "epochs 300, not 1000"),
        ({"batch_size": 50}, "batch size 50, not 100"),
        ({"student": "convnet4"}, "student convnet4, not convnet3"),
        ({"teachers": ("resnet18_modified",)}, "teacher resnet18_modified, not convnet3"),
        ({"augmentation": "none"}, "augmentation none, not dsa"),
        ({"optimizer": "sgd"}, "the GIFT paper gives no learning rate for sgd"),
        ({"best": 60.0}, "not the best test of every run (60.0 %)"),
    ],
)
def test_another_configuration_has_a_verdict_and_is_no_reproduction(tmp_path, settings, difference):
    rows = csv_of(published_study(tmp_path / "runs", **settings).write())
    assert {row["same_configuration"] for row in rows} == {"no"}
    assert all(difference in row["differences"] for row in rows)
    if "optimizer" not in settings:
        assert {row["verdict"].split(" (")[0] for row in rows} == {"reproduced"}
    for ending in (".md", ".html"):
        assert "none is a reproduction" in report_of(tmp_path / "runs", ending)


@pytest.mark.parametrize(
    ("teachers", "difference"),
    [
        ({}, "accuracy of the teacher not recorded, published: 61.27 %"),
        ({"cifar100_convnet3.pth": 70.0}, "teacher of 70.0 %, not 61.27 %"),
    ],
)
def test_the_accuracy_of_the_teacher_is_part_of_the_configuration(tmp_path, teachers, difference):
    rows = csv_of(published_study(tmp_path / "runs", teachers).write())
    assert {row["differences"] for row in rows} == {difference}


def test_a_generated_set_and_fewer_students_are_differences(tmp_path):
    study = RecordedStudy(tmp_path / "runs", teachers=TEACHERS)
    source = dataclasses.replace(RDED, method="selected", seed=0)
    study.add("gift", 50.6, source=source)
    (row,) = csv_of(study.write())
    assert row["verdict"] == "inconclusive: one run has no interval"
    assert row["differences"] == "generated set, not RDED's own; 1 students, not 3"


RDED_SETTINGS = {
    "optimizer": "adamw:decay_1d=false",
    "weight_decay": 0.01,
    "schedule": "half-cosine",
    "epochs": 300,
    "augmentation": "rded:factor=1",
    "mixing": "cutmix:alpha=1",
    "batch_rule": "rded",
    "forward_twice": True,
    "learning_rate": 1e-3,
}


@pytest.mark.parametrize(("ipc", "published"), [(1, "23.5"), (10, "50.2"), (50, "68.4")])
def test_rdeds_own_accuracies_stand_beside_its_protocol_on_jpeg_copies(tmp_path, ipc, published):
    dataset = "cifar10-jpeg:normalization=imagenet"
    teachers = {"cifar10-jpeg-normalization=imagenet_convnet3.pth": 85.8}
    study = RecordedStudy(tmp_path / "runs", preset="rded", teachers=teachers)
    for seed, score in enumerate((54.0, 54.1, 54.2)):
        source = dataclasses.replace(RDED, dataset=dataset, ipc=ipc, seed=seed)
        study.add("kl", score, source=source, **RDED_SETTINGS)
    (row,) = csv_of(study.write())
    assert (row["published_mean"], row["published_in"]) == (published, "the RDED paper")
    assert row["verdict"].startswith("not reproduced")
    assert row["same_configuration"] == "no"
    expected = (
        "generated set, not RDED's own; JPEG copies of cifar10; teacher of 85.8 %, not 82.24 %"
    )
    assert row["differences"] == expected
    for ending in (".md", ".html", ".tex"):
        assert "teacher of 85.8" in report_of(tmp_path / "runs", ending)


def test_the_gift_protocol_on_cifar10_has_no_published_number(tmp_path):
    study = RecordedStudy(tmp_path / "runs")
    study.add("kl", 64.8, source=dataclasses.replace(RDED, dataset="cifar10", seed=0))
    assert csv_of(study.write())[0]["published_mean"] == ""


def test_another_loss_does_not_stand_beside_a_published_one(tmp_path):
    study = RecordedStudy(tmp_path / "runs")
    study.add("gift:gamma=0.3", 50.6, source=RDED)
    assert csv_of(study.write())[0]["published_mean"] == ""


def test_a_report_without_anything_published_says_so(two_losses):
    assert "There are no published numbers for these runs" in report_of(two_losses.write(), ".md")


# ---- files ---------------------------------------------------------------------------------------


def test_unfinished_runs_are_counted(two_losses):
    two_losses.add("gift", 60.0, seed=7, finished=False)
    text = report_of(two_losses.write(), ".md")
    assert "1 of 11 runs have not finished (1 with the protocol's settings)" in text


def test_a_damaged_file_is_named_and_the_rest_is_shown(two_losses, capsys):
    folder = two_losses.write()
    damaged = folder / two_losses.runs[0]["file"]
    damaged.write_text("{}")
    (folder / "study-other.json").write_text('{"format": 1}')
    assert main(["report", str(folder)]) == 1
    printed = capsys.readouterr()
    assert f"{damaged} must contain the result of a run" in printed.err
    assert "study-other.json must be the record of a study" in printed.err
    assert "report.html" in printed.out
    assert "**64.0 ± 1.6**" in (folder / "report.md").read_text()
    assert "could not be read" in (folder / "report.md").read_text()


def test_a_folder_without_a_study_is_refused(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "study-NAME.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("report.pdf", "must be the name of an HTML file"),
        ("study-mine.html", "must not start with study-"),
    ],
)
def test_a_page_that_could_not_be_told_from_other_files_is_refused(
    two_losses, capsys, name, message
):
    folder = two_losses.write()
    assert main(["report", str(folder), "--out", str(folder / name)]) == 2
    assert message in capsys.readouterr().err
    assert not (folder / name).exists()


def test_latex_escapes_what_it_would_take_for_a_command(tmp_path):
    study = RecordedStudy(tmp_path / "runs", title="50 % & more_of #1")
    study.over_sets("kl:scale_t2=true", KL)
    study.over_sets("gift", GIFT)
    text = report_of(study.write(), ".tex")
    assert r"KL (scale\_t2=true)" in text
    assert r"50 \% \& more\_of \#1" in text
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == text.count(r"\end{table}")
    assert r"$\pm$" in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len({line.count("&") - line.count(r"\&") for line in rows}) == 1


def test_a_title_starts_no_markup(tmp_path):
    study = RecordedStudy(tmp_path / "runs", title="*all* <b>losses</b>")
    study.over_sets("gift", GIFT)
    text = report_of(study.write(), ".md")
    assert r"## \*all\* \<b>losses\</b>" in text


def test_a_text_of_a_study_cannot_become_part_of_the_page(tmp_path, monkeypatch):
    attack = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    monkeypatch.setitem(ENVIRONMENT, "device", attack)
    study = RecordedStudy(tmp_path / "runs", title=attack, notes=attack, answers=[attack])
    study.over_sets("gift", GIFT)
    page = report_of(study.write(), ".html")
    assert page.count("<script") == page.count("</script>") == 2  # the data and the page's own
    before, _, rest = page.partition('id="data">')
    data, _, _ = rest.partition("</script>")
    assert "<img src=x" not in before
    assert json.loads(data)["environments"][0]["device"] == attack


def test_runs_of_another_set_under_the_same_name_are_left_out_and_told(tmp_path):
    study = RecordedStudy(tmp_path / "runs")
    study.over_sets("gift", [60.0, 60.0])
    folder = study.write()
    before = report_of(folder, ".md")
    manifest = json.loads((folder / "study-mine.json").read_text())
    last = manifest["runs"][-1]
    other = json.loads((folder / last["file"]).read_text())
    other["inputs"]["distilled"] = "another"
    other["config"]["seed"] = 77
    other["last"]["top1"] = other["best"]["top1"] = other["checks"][-1]["top1"] = 1.0
    (folder / "other.json").write_text(json.dumps(other))
    manifest["runs"].append(
        {**last, "config": {**last["config"], "seed": 77}, "file": "other.json"}
    )
    (folder / "study-mine.json").write_text(json.dumps(manifest))
    assert "| GIFT | **60.0 ± 0.0** |" in before.replace("| GIFT | 60.0", "| GIFT | **60.0")
    text = report_of(folder, ".md")
    assert "60.0 ± 0.0" in text
    assert "1 runs are not included, because their distilled sets or teachers differ" in text


def test_a_file_that_holds_another_run_is_told(tmp_path):
    study = RecordedStudy(tmp_path / "runs")
    study.over_sets("gift", [60.0, 60.0])
    folder = study.write()
    path = next(p for p in folder.glob("*.json") if not p.name.startswith("study-"))
    contents = json.loads(path.read_text())
    contents["config"]["loss"] = "mse"
    path.write_text(json.dumps(contents))
    assert f"{path.name} must be the result of digits" in report_of(folder, ".md")


def test_diverged_runs_are_marked_in_every_table_and_counted(tmp_path):
    study = RecordedStudy(tmp_path)
    for seed in (0, 1):
        for loss in ("ce", "gift"):
            for student in ("convnet3", "convnet4"):
                lost = loss == "ce" and seed == 1
                study.add(loss, 10.0, seed=seed, student=student, diverged=lost)
    study.write()
    page, _ = write_report(tmp_path)
    markdown = page.with_suffix(".md").read_text()
    marked = [line for line in markdown.splitlines() if line.startswith("| CE ")]
    assert len(marked) == 2
    assert all("10.0 ± 0.0†" in line for line in marked)
    overview = next(line for line in markdown.splitlines() if line.startswith("| convnet3 "))
    assert overview.count("†") == 1
    assert "† 2 of 8 runs diverged" in markdown  # the study
    assert markdown.count("† 1 of 4 runs diverged") == 2  # its conditions
    assert r"10.0 $\pm$ 0.0$\dagger$" in page.with_suffix(".tex").read_text()
    assert "10.00†" in page.read_text()  # the run behind the number
    assert {(row["loss"], row["diverged"]) for row in csv_of(tmp_path)} == {
        ("ce", "1"),
        ("gift", "0"),
    }
