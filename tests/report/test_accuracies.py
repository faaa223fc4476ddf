from __future__ import annotations

import io
import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from gift_fast.data.distilled import DistilledSet
from gift_fast.evaluation.config import EvaluationConfig
from gift_fast.evaluation.results import RunResult
from gift_fast.evaluation.summary import LossSummary, spread
from gift_fast.report import pictures
from gift_fast.report.pictures import save_accuracies, save_images
from gift_fast.report.ranking import ranking, ranking_sentences
from gift_fast.report.terminal import accuracy_table, print_results, print_table
from gift_fast.training.eval_result import EvalResult
from gift_fast.training.objectives import display_name


def cell(loss: str, optimizer: str, *values: float) -> LossSummary:
    return LossSummary(loss, optimizer, spread(values), spread(values), values, seconds=1.0)


def test_the_leader_is_named_whoever_it_is():
    text = ranking([cell("gift", "adamw", 80.0, 80.2), cell("kl", "adamw", 90.0, 90.2)])
    assert text.startswith("Under AdamW: KL 90.1, GIFT 80.1. KL is better by 10.0 points")


def test_a_gap_within_one_std_is_no_lead():
    text = ranking([cell("gift", "adamw", 80.0, 90.0), cell("ce", "adamw", 83.0, 85.0)])
    assert "differ by 1.0, less than one std (5.0): 2 seeds are not enough" in text


def test_a_single_seed_settles_no_order():
    text = ranking([cell("gift", "adamw", 90.0), cell("ce", "adamw", 80.0)])
    assert "With a single seed, the order is unreliable." in text


def test_where_no_loss_learns_none_is_said_to_collapse():
    text = "\n".join(
        ranking_sentences([cell("ce", "adamw", 12.0), cell("gift", "adamw", 20.0)], 10)
    )
    assert "All losses are close to chance (best 20.0, chance 10.0)" in text
    assert "collapsed" not in text


def test_of_two_classes_a_loss_may_be_far_above_chance():
    assert len(ranking_sentences([cell("ce", "adamw", 99.0), cell("gift", "adamw", 97.0)], 2)) == 1
    assert ranking_sentences([], 10) == []


def test_one_seed_has_no_deviation_in_the_table():
    table = accuracy_table([cell("ce", "adamw", 50.0), cell("gift", "adamw", 50.0, 60.0)])
    (column,) = (column for column in table.columns if column.header == "std")
    assert list(column.cells) == ["-", "5.0"]


@pytest.mark.parametrize("loss", ["ce", "kl", "gift"])
def test_a_collapse_is_told_of_any_loss(loss):
    cells = [cell(loss, "sgd", 12.0, 14.0), cell("mse", "sgd", 50.0, 51.0)]
    text = "\n".join(ranking_sentences(cells, num_classes=10))
    assert f"{display_name(loss)} collapsed under SGD: 13.0, where chance is 10.0." in text


def test_no_collapse_is_told_where_there_is_none():
    assert "collapsed" not in "\n".join(ranking_sentences([cell("ce", "sgd", 50.0, 51.0)], 10))


def test_a_change_of_optimizer_is_told_in_points():
    cells = [cell("ce", "adamw", 80.0), cell("ce", "sgd", 78.5)]
    assert "From AdamW to SGD, in points: CE -1.5." in ranking_sentences(cells, 10)


@pytest.mark.parametrize(
    ("kl", "optimizer", "score", "explained"),
    [
        ("kl", "sgd", 12.0, True),
        ("kl:temperature=4", "sgd", 60.0, True),
        ("kl", "sgd", 89.0, False),
        ("kl:scale_t2=true", "sgd", 12.0, False),
        ("kl", "adamw", 12.0, False),
    ],
)
def test_kl_far_behind_under_sgd_is_put_down_to_the_missing_factor(kl, optimizer, score, explained):
    text = "\n".join(
        ranking_sentences([cell(kl, optimizer, score), cell("ce", optimizer, 90.0)], 10)
    )
    assert ("without the factor T^2" in text) is explained


def test_the_table_holds_mean_population_std_and_n():
    columns = accuracy_table([cell("gift", "sgd", 80.0, 90.0)]).columns
    row = [next(iter(column.cells)) for column in columns]
    assert row == ["GIFT", "SGD", "85.0", "5.0", "2", "85.0", "1.0"]


@pytest.mark.parametrize("channels", [1, 3])
def test_distilled_images_are_saved_as_a_grid(tmp_path, channels):
    images = torch.zeros(20, channels, 8, 8)
    labels = torch.arange(10).repeat(2)  # not class-blocked
    images[labels == 4] = 0.5
    path = tmp_path / "grid.png"
    save_images(path, DistilledSet(images, labels))
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("L"))[:: pictures.PIXEL, :: pictures.PIXEL]
    # Ten rows of two images, with a white line between them; row 4 is gray.
    assert pixels.shape == (10 * 9 - 1, 2 * 9 - 1)
    assert (pixels[8::9] == 255).all()
    assert (pixels[:, 8] == 255).all()
    assert (pixels[36:44, :8] == 128).all()
    assert (pixels[36:44, 9:] == 128).all()
    assert (pixels[45:53, :8] == 0).all()


def test_accuracies_are_saved_as_a_chart(tmp_path):
    path = tmp_path / "chart.svg"
    cells = [cell(loss, opt, 50.0, 60.0) for loss in ("ce", "kl") for opt in ("adamw", "sgd")]
    save_accuracies(path, cells, num_classes=10)
    assert list(tmp_path.iterdir()) == [path]
    svg = "{http://www.w3.org/2000/svg}"
    root = ElementTree.parse(path).getroot()
    texts = [text.text for text in root.iter(f"{svg}text")]
    assert {"CE", "KL", "AdamW", "SGD", "chance"} <= set(texts)
    assert texts.count("55.0") == 4
    bars = [g for g in root.iter(f"{svg}g") if len(g.findall(f"{svg}circle")) == 2]
    assert len(bars) == 4  # each with its two seeds


def results(*scores: float) -> list[RunResult]:
    return [
        RunResult(
            config=EvaluationConfig(dataset="digits", seed=seed).resolved(100),
            inputs={},
            checks=(
                EvalResult(1, score + 5, 99.0, 1.0, 0.5),
                EvalResult(2, score, 98.0, 1.0, 0.25),
            ),
            seconds=2.0,
            images_per_second=100.0,
            peak_memory=1,
            environment={},
        )
        for seed, score in enumerate(scores)
    ]


def test_results_are_printed_with_both_standard_deviations_named(capsys):
    print_results(results(70.0, 74.0))
    out = capsys.readouterr().out
    assert "top-1 after the last epoch: 72.00, population std 2.00 (ddof 0)" in out
    assert "sample std 2.83 (ddof 1), 2 seeds" in out
    assert "top-1 of the best test: 77.00" in out


def test_a_single_seed_has_no_sample_std_in_words_nor_in_json(capsys):
    print_results(results(70.0))
    assert "ddof 1" not in capsys.readouterr().out
    print_results(results(70.0), as_json=True)
    written = json.loads(capsys.readouterr().out)
    assert written["last"] == {"mean": 70.0, "population_std": 0.0, "sample_std": None, "n": 1}
    assert written["best"]["mean"] == 75.0
    assert written["runs"][0]["last"]["top5"] == 98.0


@pytest.mark.parametrize("width", [40, 50, 60, 80])
def test_a_narrow_terminal_shows_every_number_whole(width):
    losses = ("kl:temperature=20,scale_t2=true", "refine+mse+ce:weight=0.025")
    cells = [cell(loss, "adamw", 100.0, 98.75) for loss in losses]
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    print_table(console, accuracy_table(cells))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert len(re.findall(r"\b99\.4\b.* 0\.6\b.* 2\b.* 99\.4\b.* 1\.0\b", text)) == 2
    first_words = "".join(word for line in lines for word in line.strip("| ").split()[:1])
    assert "scale_t2=true" in first_words  # folded, not cut


@pytest.mark.parametrize("terminal", [True, False])
def test_numbers_stay_whole_where_there_is_no_room_for_them(terminal):
    console = Console(
        width=20, file=io.StringIO(), force_terminal=terminal, color_system=None, highlight=False
    )
    print_table(console, accuracy_table([cell("gift", "adamw", 51.25, 53.75)] * 2))
    text = console.file.getvalue()
    assert len(re.findall(r"\b52\.5\b.* 1\.2\b.* 2\b.* 52\.5\b.* 1\.0\b", text)) == 2
    assert ("| GIFT | AdamW     |" in text) == (not terminal)  # a file has no edge


def test_a_wide_terminal_shows_the_table_with_its_lines(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    print_results(results(70.0))
    assert "|    0 | 70.00 | 98.00 |      75.00 |" in capsys.readouterr().out
