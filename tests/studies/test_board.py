from __future__ import annotations

import io
import sys

import pytest

from gift_fast.studies.board import (
    Board,
    Overview,
    PlainOverview,
    Reporter,
    RichOverview,
    RunProgress,
    Snapshot,
    show_overview,
)


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Handle:
    """Calls a board as Ray's handle of an actor would, and counts the calls."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.calls = 0

    def __getattr__(self, name: str):
        method = getattr(self.board, name)

        class Remote:
            @staticmethod
            def remote(*arguments: object) -> None:
                self.calls += 1
                method(*arguments)

        return Remote


def test_a_reporter_tells_of_a_run_once_a_second_and_of_every_image():
    board, clock = Board(), Clock()
    handle = Handle(board)
    reporter = Reporter(handle, "a.json", clock=clock)
    reporter.begin("CE, seed 0", 100)
    for epoch in range(1, 101):
        for step in (1, 2):
            clock.now += 0.05
            reporter.step(epoch, step, 2, 25, lambda: pytest.fail("has read a loss"))
            assert board.read().runs["a.json"].done >= epoch - 1 + step / 2 - 10
        reporter.epoch(epoch)
    reporter.end("top-1 40.0 %")
    assert board.read() == Snapshot({}, images=5000, messages=[])
    assert handle.calls < 100 / 9 + 3


def test_a_run_that_is_resumed_is_news_and_one_that_has_finished_is_none():
    board = Board()
    board.begin("a", "CE, seed 0", 100, done=0)
    board.begin("b", "CE, seed 1", 100, done=100)
    assert board.read().messages == []
    board.begin("a", "CE, seed 0", 100, done=40)  # after its worker was lost
    assert board.read().messages == ["CE, seed 0: resumed after 40 of 100 epochs"]


def test_a_late_message_of_a_run_that_has_ended_does_not_bring_it_back():
    board = Board()
    board.begin("a", "CE, seed 0", 100, done=0)
    board.end("a")
    board.update("a", 7.5, images=70)
    assert board.read() == Snapshot({}, images=70, messages=[])


def test_the_time_left_is_what_all_runs_still_train_at_their_common_rate():
    clock = Clock()
    overview = Overview(3, clock=clock)
    left = {"a": (100, 10), "b": (100, 10)}
    overview.update(Snapshot({}), left, known=True)
    clock.now += 10
    runs = {"a": RunProgress(100, 30), "b": RunProgress(100, 20)}
    overview.count(failed=1)
    overview.update(Snapshot(runs, images=500), left, known=True)
    # 500 of 2000 images in 10 s: the other 1500 take 30 s.
    expected = "0 of 3 runs done, 2 running, 1 failed, 50 images/s, 0:00:30 left"
    assert str(overview) == expected
    overview.update(Snapshot(runs, images=500), left, known=False)
    assert str(overview) == expected.removesuffix(", 0:00:30 left")


def test_epochs_from_an_earlier_call_count_for_no_rate():
    clock = Clock()
    overview = Overview(1, clock=clock)
    overview.update(Snapshot(), {"a": (100, 10)}, known=True)
    clock.now += 10
    overview.update(Snapshot({"a": RunProgress(100, 60)}, images=100), {"a": (100, 10)}, known=True)
    # From 50 to 60: the 40 epochs left take four times these 10 s.
    assert str(overview) == "0 of 1 runs done, 1 running, 10 images/s, 0:00:40 left"


def test_a_log_has_a_line_for_every_outcome_and_the_counts_twice_a_minute():
    stream, clock = io.StringIO(), Clock()
    with PlainOverview(10, stream, clock=clock) as overview:
        overview.count(done=1, line="CE, seed 0: top-1 40.0 %")
        for _ in range(130):
            clock.now += 1
            overview.update(Snapshot(), {}, known=True)
        overview.update(
            Snapshot(messages=["CE, seed 1: resumed after 5 of 10 epochs"]), {}, known=True
        )
    assert stream.getvalue().splitlines() == [
        "[ 1/10] CE, seed 0: top-1 40.0 %",
        *["[ 1/10] 1 of 10 runs done, 0 running"] * 4,
        "[ 1/10] CE, seed 1: resumed after 5 of 10 epochs",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "term", "quiet", "kind"),
    [
        (Terminal(), "xterm", False, RichOverview),
        (Terminal(), "dumb", False, PlainOverview),
        (io.StringIO(), "xterm", False, PlainOverview),
        (Terminal(), "xterm", True, Overview),
    ],
)
def test_the_overview_fits_where_the_standard_error_goes(monkeypatch, stream, term, quiet, kind):
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", term)
    overview = show_overview(2, quiet=quiet)
    assert type(overview) is kind
    with overview:
        overview.count(done=1, line="[bold]CE[/bold], seed 0: top-1 40.0 %")
        overview.update(Snapshot(), {}, known=True)
    assert ("[bold]CE[/bold], seed 0: top-1 40.0 %" in stream.getvalue()) == (not quiet)
