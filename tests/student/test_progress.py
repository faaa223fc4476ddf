from __future__ import annotations

import io
import re
import sys

import pytest

from gift_fast.student.progress import (
    PlainProgress,
    RichProgress,
    SilentProgress,
    show_progress,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def follow(progress) -> None:
    with progress:
        for seed in range(2):
            progress.begin(f"CE, seed {seed}", 3)
            for epoch in range(1, 4):
                progress.epoch(epoch)
            progress.end("90.0 %")


def test_a_plain_log_has_one_line_a_stage():
    stream = io.StringIO()
    follow(PlainProgress(2, stream))
    first, second = stream.getvalue().splitlines()
    assert re.fullmatch(r"\[1/2\] CE, seed 0: 90\.0 % \(\d+\.\d s\)", first)
    assert second.startswith("[2/2] CE, seed 1: ")


def test_bars_leave_one_line_a_stage(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    follow(RichProgress(2))
    assert "CE, seed 1               90.0 %" in stream.getvalue()


@pytest.mark.parametrize(
    ("stream", "quiet", "kind"),
    [
        (Terminal(), False, RichProgress),
        (io.StringIO(), False, PlainProgress),
        (Terminal(), True, SilentProgress),
    ],
)
def test_the_progress_fits_where_it_goes(monkeypatch, stream, quiet, kind):
    monkeypatch.setattr(sys, "stderr", stream)
    assert isinstance(show_progress(2, quiet=quiet), kind)
