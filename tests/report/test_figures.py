"""The figures of a report: what is drawn is what was measured."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from recorded import HERE, RDED, RecordedStudy

from gift_fast.data.datasets import load_dataset
from gift_fast.data.distilled import DistilledSet, write_distilled
from gift_fast.report.charts import (
    bars_figure,
    curves_figure,
    gamma_figure,
    scatter_figure,
    shares_figure,
    tuning_figure,
)
from gift_fast.report.image_grid import image_grid_of
from gift_fast.report.panels import Panel, panels_of
from gift_fast.report.reading import read_folder
from gift_fast.report.svg import Scale, Series, line_chart, nice_step, percent_scale


def panel_of(study: RecordedStudy) -> Panel:
    (record,) = read_folder(study.write()).studies
    (panel,) = panels_of(record)
    return panel


def titles_of(figure) -> list[str]:
    pictures = [ElementTree.fromstring(chart.picture) for chart in figure.charts]
    return [title.text for picture in pictures for title in picture.iter("title")]


def test_bars_are_as_long_as_their_means(tmp_path):
    study = RecordedStudy(tmp_path)
    for loss, mean in (("kl", 20.0), ("mse", 40.0), ("gift", 80.0)):
        study.over_sets(loss, [mean - 1.0, mean + 1.0])
    picture = ElementTree.fromstring(bars_figure(panel_of(study)).charts[0].picture)
    widths = [float(bar.get("width")) for bar in picture.iter("rect")]
    assert widths == pytest.approx([widths[2] / 4, widths[2] / 2, widths[2]], abs=0.1)
    assert len(list(picture.iter("circle"))) == 3 * 2


def test_a_line_goes_through_its_points():
    points = ((0.01, 20.0), (0.1, 40.0), (1.0, 60.0))
    picture = line_chart([Series(0, points)], label="", x_label="", y_label="", logarithmic=True)
    line = ElementTree.fromstring(picture).find(".//polyline").get("points")
    (x0, y0), (x1, y1), (x2, y2) = ([float(v) for v in p.split(",")] for p in line.split())
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.1)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.1)
    assert y0 > y1  # up is more


@pytest.mark.parametrize("span", [0.3, 1.0, 3.7, 12.0, 88.0, 100.0])
def test_ticks_are_round_and_few(span):
    step = nice_step(span)
    assert span / step <= 6.0
    assert f"{step:e}"[0] in "125"
    assert len(Scale(0.0, span, 0.0, 1.0).ticks()) <= 7


@pytest.mark.parametrize("values", [(0.0, 0.0), (100.0, 100.0), (9.8, 10.1), (0.0, 100.0)])
def test_a_scale_of_percent_holds_its_values_and_stays_between_0_and_100(values):
    scale = percent_scale(values, 0.0, 1.0)
    assert 0.0 <= scale.low <= min(values)
    assert max(values) <= scale.high
    assert scale.low < scale.high
    assert all(0.0 <= tick <= 100.0 for tick in scale.ticks())


def test_training_curves_are_the_mean_of_all_runs_at_every_check(tmp_path):
    study = RecordedStudy(tmp_path)
    study.add("gift", 60.0, seed=0, best=70.0, epochs=10)
    study.add("gift", 62.0, seed=1, best=74.0, epochs=10)
    assert titles_of(curves_figure(panel_of(study))) == [
        *("GIFT, epoch 5: 72.0 %", "GIFT, epoch 10: 61.0 %")
    ]


def test_tuning_has_a_picture_a_weight_decay_and_rings_what_was_chosen(tmp_path):
    study = RecordedStudy(
        tmp_path, tuning={"weight_decays": [0.0, 5e-4], "seeds": [1], "set_seeds": [1]}
    )
    source = dataclasses.replace(HERE, dataset="digits:heldout=100")
    for rate in (0.01, 0.1, 1.0):
        for weight_decay in (0.0, 5e-4):
            settings = {"learning_rate": rate, "weight_decay": weight_decay, "source": source}
            study.add("kl", 10.0, purpose="trial", tested_on="heldout", **settings)
    study.add("kl", 70.0, source=source, purpose="tuned", learning_rate=0.1, weight_decay=5e-4)
    figure = tuning_figure(panel_of(study))
    assert [chart.title for chart in figure.charts] == ["Weight decay 0", "Weight decay 0.0005"]
    assert ["ring" in chart.picture for chart in figure.charts] == [False, True]
    assert len(titles_of(figure)) == 6


def test_tuned_runs_at_a_setting_that_is_no_longer_chosen_are_left_out(tmp_path):
    study = RecordedStudy(tmp_path)
    study.over_sets("kl", [70.0, 71.0], purpose="tuned", learning_rate=10.0)
    study.over_sets("kl", [16.0, 17.0], purpose="tuned", learning_rate=0.001)
    (cell,) = panel_of(study).cells.values()
    assert (cell.replicates, cell.config.learning_rate) == ((70.0, 71.0), 10.0)


def test_gamma_and_the_share_of_the_classes_are_axes(tmp_path):
    study = RecordedStudy(tmp_path / "gamma")
    for loss, score in (("gift", 60.0), ("gift:gamma=0.5", 70.0), ("gift:gamma=1.0", 50.0)):
        study.add(loss, score)
    assert titles_of(gamma_figure(panel_of(study))) == [
        *("gamma 0.1: 60.0 %", "gamma 0.5: 70.0 %", "gamma 1: 50.0 %")
    ]
    study = RecordedStudy(tmp_path / "continual")
    for classes, score in (("seen:steps=5,step=2", 80.0), ("all", 60.0)):
        study.add("gift", score, classes=classes)
    panel = panel_of(study)
    assert titles_of(shares_figure(panel)) == [
        *("GIFT, 40 % of the classes: 80.0 %", "GIFT, 100 % of the classes: 60.0 %")
    ]
    assert gamma_figure(panel) is None


def test_a_loss_that_lacks_the_last_step_is_not_compared_there(tmp_path):
    study = RecordedStudy(tmp_path)
    study.over_sets("gift", [60.0, 61.0])
    study.over_sets("gift", [80.0, 81.0], classes="seen:steps=5,step=2")
    study.over_sets("kl", [82.0, 83.0], classes="seen:steps=5,step=2")
    panel = panel_of(study)
    assert [loss for _, loss in panel.cells] == ["gift"]
    assert panel.comparisons == {}


def test_the_scatter_has_a_point_for_every_published_number(tmp_path):
    from gift_fast.report.published_comparison import compare_with_published

    study = RecordedStudy(tmp_path, teachers={"cifar100_convnet3.pth": 61.3})
    for seed in range(3):
        study.add("gift", 50.6 + 0.1 * seed, source=RDED, seed=seed)
        study.add("kl", 40.0 + 0.1 * seed, source=RDED, seed=seed)
    (record,) = read_folder(study.write()).studies
    compared = [compare_with_published(cell, record) for cell in panel_of(study).cells.values()]
    found = [each for each in compared if each is not None]
    figure = scatter_figure(found)
    assert titles_of(figure) == [
        "cifar100, RDED, IPC 10, GIFT: published 50.6, measured 50.7",
        "cifar100, RDED, IPC 10, KL: published 47.5, measured 40.1",
    ]
    assert [name for _, name, _ in figure.legend] == ["reproduced", "not reproduced"]
    assert scatter_figure([]) is None


def test_sample_images_are_those_of_the_set_class_by_class(tmp_path):
    from PIL import Image

    digits = load_dataset("digits", train=False)
    labels = torch.arange(10).repeat(2)
    images = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    distilled = DistilledSet(images, labels, source="made up")
    (tmp_path / "sets").mkdir()
    write_distilled(tmp_path / "sets" / f"{HERE.name}_seed0-abc", distilled, digits)
    study = RecordedStudy(tmp_path)
    study.add("gift", 60.0)
    panel = panel_of(study)
    assert image_grid_of(panel, tmp_path) is None  # the run was on another set
    for run in panel.cells[panel.settings[0], "gift"].runs:
        run.result.inputs["distilled"] = distilled.fingerprint()
    image_grid = image_grid_of(panel, tmp_path)
    assert (image_grid.shown, image_grid.of, image_grid.classes) == (20, 20, digits.class_names)
    data = base64.b64decode(re.sub("^data:image/png;base64,", "", image_grid.uri))
    picture = torch.from_numpy(np.array(Image.open(io.BytesIO(data))))
    expected = (255.0 * images[13, 0]).round()  # the second image of class 3
    assert torch.equal(picture[27:35, 9:17], expected.to(torch.uint8))
