"""The benchmarks of label sets run, and count what they say."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks is no part of the package

import gift_fast
from benchmarks import label_bytes, label_reuse


def test_a_study_is_timed_in_both_ways(monkeypatch, capsys):
    monkeypatch.setattr(label_reuse, "LOSSES", ("gift", "mse"))
    small = ["--student", "convnet3:width=4", "--teacher", "convnet3:width=8", "--ipc", "1"]
    assert label_reuse.main([*small, "--epochs", "2", "--device", "cpu"]) == 0
    printed = capsys.readouterr()
    assert "| convnet3:width=8 |" in printed.out
    assert "2 runs per label set" in printed.out
    assert "round 1: online" in printed.err
    assert "round 1: replayed" in printed.err


def test_accuracy_stands_beside_the_bytes(tmp_path, capsys):
    network = "convnet3:width=4"
    gift_fast.train_teacher("digits", network, epochs=1, teacher_dir=tmp_path, quiet=True)
    images = {"data": torch.rand(10, 1, 8, 8), "label": torch.arange(10)}
    torch.save({"dataset": "digits", **images}, tmp_path / "set.pt")
    arguments = ["--data", str(tmp_path / "set.pt"), "--dataset", "digits", "--k", "2"]
    folders = ["--teacher-dir", str(tmp_path), "--out", str(tmp_path / "out")]
    networks = ["--teacher", network, "--student", network, "--losses", "gift"]
    short = ["--epochs", "2", "--seeds", "0", "1"]
    assert label_bytes.main([*arguments, *folders, *networks, *short]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    names = [row.split("|")[1].strip() for row in rows]
    assert names[2:] == ["all, float32", "all, float16", "k = 2"]
    sizes = json.loads((tmp_path / "out" / "label_bytes.json").read_text())["sizes"]
    # Two epochs of ten images: ten values of 4 and of 2 bytes; two values, two classes, the rest.
    assert [size[1] for size in sizes.values()] == [800, 400, 20 * (2 * (2 + 1) + 2)]
    assert all(size[0] > size[1] for size in sizes.values())


@pytest.mark.parametrize(
    ("differences", "expected"), [([0.5], "+0.50"), ([1.0, 2.0, 3.0], "+2.00 ± 2.48")]
)
def test_the_interval_is_students(differences, expected):
    assert label_bytes.interval(differences) == expected  # t(0.975, 2) / sqrt(3) = 2.484
