from __future__ import annotations

import io
import sys

import pytest

from gift_fast.training.progress import (
    WINDOW,
    PlainProgress,
    RichProgress,
    SilentProgress,
    Stage,
    show_progress,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def never() -> float:
    pytest.fail("has read a loss, for which the host waits")


def follow(progress, clock: Clock) -> None:
    with progress:
        for seed in range(2):
            progress.begin(f"CE, seed {seed}", 3)
            for epoch in range(1, 4):
                clock.now += 1.5
                progress.step(epoch, 1, 1, 10, lambda: 0.5)
                progress.epoch(epoch)
            progress.end("90.0 %")


def test_a_plain_log_without_checks_has_one_line_a_stage():
    stream, clock = io.StringIO(), Clock()
    follow(PlainProgress(2, stream, clock=clock), clock)
    assert stream.getvalue().splitlines() == [
        "[1/2] CE, seed 0: 90.0 % (4.5 s)",
        "[2/2] CE, seed 1: 90.0 % (4.5 s)",
    ]


def test_a_plain_log_has_a_line_at_every_check_but_the_last_which_is_the_outcome():
    stream, clock = io.StringIO(), Clock()
    with PlainProgress(10, stream, clock=clock) as progress:
        progress.begin("GIFT, seed 0", 4)
        for epoch in range(1, 5):
            clock.now += 2
            check = {"loss": 0.5 / epoch, "top1": 40.0 + epoch} if epoch % 2 == 0 else {}
            progress.step(epoch, 1, 1, 5000, never)
            progress.epoch(epoch, **check)
        progress.end("44.0 %")
    assert stream.getvalue().splitlines() == [
        "[ 1/10] GIFT, seed 0: epoch 2/4, top-1 42.0 %, loss 0.25, 2,500 images/s, 0:00:04 left",
        "[ 1/10] GIFT, seed 0: 44.0 % (8.0 s)",
    ]


def test_a_plain_log_has_a_line_after_half_a_minute_without_a_check():
    stream, clock = io.StringIO(), Clock()
    progress = PlainProgress(1, stream, clock=clock)
    progress.begin("KL", 1000)
    for epoch in range(1, 101):
        clock.now += 1
        progress.step(epoch, 1, 1, 100, lambda: 0.25)
        progress.epoch(epoch)
    lines = stream.getvalue().splitlines()
    assert lines == [
        f"[1/1] KL: epoch {epoch}/1000, step 1/1, loss 0.25, 100 images/s, {left} left"
        for epoch, left in ((30, "0:16:10"), (60, "0:15:40"), (90, "0:15:10"))
    ]


def test_a_log_follows_the_steps_of_a_long_epoch_and_reads_the_loss_only_for_its_lines():
    stream, clock, read = io.StringIO(), Clock(), []

    def loss() -> float:
        read.append(clock.now)
        return 2.5

    progress = PlainProgress(1, stream, clock=clock)
    progress.begin("teacher", 40)
    for step in range(1, 782 + 1):
        clock.now += 0.125
        progress.step(1, step, 782, 128, loss)
    assert stream.getvalue().splitlines() == [
        f"[1/1] teacher: epoch 1/40, step {step}/782, loss 2.5, 1,024 images/s, {left} left"
        for step, left in ((240, "1:04:40"), (480, "1:04:10"), (720, "1:03:40"))
    ]
    assert len(read) == 3


def test_epochs_that_take_longer_than_half_a_minute_have_a_line_each():
    stream, clock = io.StringIO(), Clock()
    progress = PlainProgress(1, stream, clock=clock)
    progress.begin("KL", 300)
    for epoch in (1, 2):
        clock.now += 20
        progress.step(epoch, 1, 1, 9000, never)
        clock.now += 70
        progress.epoch(epoch)
    assert stream.getvalue().splitlines() == [
        "[1/1] KL: epoch 1/300, 100 images/s, 7:28:30 left",
        "[1/1] KL: epoch 2/300, 100 images/s, 7:27:00 left",
    ]


def test_a_resumed_stage_says_where_and_does_not_count_what_was_done_as_speed():
    stream, clock = io.StringIO(), Clock()
    progress = PlainProgress(1, stream, clock=clock)
    progress.begin("KL", 1000, done=899.5)
    clock.now += 5
    progress.step(900, 2, 2, 25, never)
    progress.epoch(900, top1=12.0)
    assert stream.getvalue().splitlines() == [
        "[1/1] KL: resumed after 899.50 of 1000 epochs",
        "[1/1] KL: epoch 900/1000, top-1 12.0 %, 5 images/s, 0:16:40 left",
    ]


def test_a_rate_follows_the_last_half_minute_alone():
    clock = Clock()
    stage = Stage("KL", 1000, 0, clock)
    for epoch in range(1, 101):
        clock.now += 1
        stage.step(epoch, 1, 1, images=1000)
    assert stage.images_per_second == pytest.approx(1000)
    for epoch in range(101, 101 + int(WINDOW) // 10):  # ten times slower
        clock.now += 10
        stage.step(epoch, 1, 1, images=1000)
    assert stage.images_per_second == pytest.approx(100)
    assert stage.seconds_left == pytest.approx(10 * (1000 - 103))
    assert len(stage.seen) <= WINDOW + 2


def test_nothing_is_said_of_a_rate_that_is_not_known():
    clock = Clock()
    stage = Stage("KL", 10, 0, clock)
    assert str(stage) == ""
    stage.step(1, 1, 1, images=100)  # in no time at all: the clock has not moved
    assert stage.images_per_second is None
    assert str(Stage("KL", 10, 0, clock)) == ""


def test_an_older_check_says_how_old_it_is():
    clock = Clock()
    stage = Stage("KL", 10, 0, clock)
    stage.epoch(5, top1=41.0)
    clock.now += 6
    stage.epoch(7)
    assert str(stage) == "top-1 41.0 % after epoch 5, 0:00:03 left"


def test_a_loss_that_is_not_a_number_is_shown_as_such():
    stage = Stage("KL", 10, 0, Clock())
    assert stage.epoch(1, loss=float("nan"))
    assert "loss nan" in str(stage)


def test_bars_leave_one_line_a_stage(monkeypatch):
    stream, clock = io.StringIO(), Clock()
    monkeypatch.setattr(sys, "stderr", stream)
    follow(RichProgress(2, clock=clock), clock)
    assert "CE, seed 1               90.0 % (4.5 s)" in stream.getvalue()


def on_screen(progress: RichProgress, width: int = 80) -> list[str]:
    from rich.console import Console

    stream = io.StringIO()
    Console(file=stream, width=width).print(progress.live.renderable)
    return stream.getvalue().splitlines()


def test_bars_show_the_epoch_the_check_the_rate_and_the_time_left(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(sys, "stderr", Terminal())
    progress = RichProgress(2, clock=clock)
    progress.begin("GIFT [seed 0]", 100, done=20)
    clock.now += 4
    progress.step(40, 9, 9, 48_000, lambda: 0.5)
    progress.epoch(40, loss=0.123456, top1=41.26)
    everything, stage, numbers = on_screen(progress)
    assert "all" in everything
    assert "0/2" in everything
    assert "GIFT [seed 0]" in stage
    assert " 40/100" in stage
    assert numbers.rstrip() == ("top-1 41.3 %, loss 0.1235, 12,000 images/s, 0:00:12 left")
    progress.begin("KL", 100)
    assert [line.strip() for line in on_screen(progress)[2:]] == [""]


def test_bars_move_within_an_epoch_and_read_the_loss_about_once_a_second(monkeypatch):
    clock, read = Clock(), []
    monkeypatch.setattr(sys, "stderr", Terminal())
    progress = RichProgress(1, clock=clock)
    progress.begin("teacher", 4)
    for step in range(1, 101):
        clock.now += 0.1
        progress.step(1, step, 200, 10, lambda: read.append(1) or 0.75)
    numbers = on_screen(progress)[1]
    assert 0.4 < progress.bars.tasks[progress.present].completed <= 0.5
    assert numbers.startswith("loss 0.75, 100 images/s, 0:01:1")
    assert 9 <= len(read) <= 10


def test_a_single_stage_has_no_bar_for_all_stages(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    progress = RichProgress(1)
    progress.begin("GIFT", 100)
    assert len(on_screen(progress)) == 2


def test_bars_fit_a_narrow_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    clock = Clock()
    progress = RichProgress(1, clock=clock)
    progress.begin("GIFT, seed 0", 1000)
    clock.now += 4
    progress.step(1, 9, 9, 48_000, lambda: 0.5)
    progress.epoch(1, loss=0.123456, top1=41.26)
    lines = on_screen(progress, width=60)
    assert len(lines) == 2
    assert all(len(line) <= 60 for line in lines)


@pytest.mark.parametrize(
    ("stream", "terminal", "quiet", "kind"),
    [
        (Terminal(), "xterm", False, RichProgress),
        (Terminal(), "dumb", False, PlainProgress),
        (io.StringIO(), "xterm", False, PlainProgress),
        (Terminal(), "xterm", True, SilentProgress),
    ],
)
def test_the_progress_fits_where_it_goes(monkeypatch, stream, terminal, quiet, kind):
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", terminal)
    assert isinstance(show_progress(2, quiet=quiet), kind)


def test_quiet_shows_nothing(capsys):
    follow(show_progress(2, quiet=True), Clock())
    assert capsys.readouterr() == ("", "")
