from __future__ import annotations

import io
import os

import pytest
import torch
from PIL import Image

from gift_fast.cli import main
from gift_fast.data.images import decoded_cache
from gift_fast.data.images.decoded_cache import decoded_once
from gift_fast.data.images.decoding_progress import followed
from gift_fast.data.images.file_split import FileSplit
from gift_fast.process.log_lines import is_shown, showing


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class FileProxy(Terminal):
    """What rich puts in the place of the standard error while a bar of its own is shown."""


def seconds(*times: float):
    left = iter(times)
    return lambda: next(left)


def test_nothing_is_shown_unless_it_is_asked_for(capsys):
    parts = range(3)
    clock = seconds(*range(0, 600, 60))
    assert list(followed(parts, "decoding here", 3, clock=clock)) == [0, 1, 2]
    with showing(False):
        assert list(followed(parts, "decoding here", 3, clock=clock)) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_a_log_gets_a_line_at_least_every_half_minute():
    log = io.StringIO()
    clock = seconds(*(5.0 * k for k in range(15)))
    with showing():
        assert len(list(followed(range(12), "decoding here", 12, stream=log, clock=clock))) == 12
    lines = log.getvalue().splitlines()
    assert lines[0] == "decoding here: 1 of 12, 0/s, 55 s left"
    assert [line.split()[2] for line in lines[:-1]] == ["1", "5", "9"]
    assert lines[-1].startswith("decoding here: done in ")


def test_what_takes_a_moment_leaves_no_line():
    log = io.StringIO()
    with showing():
        list(followed(range(2), "decoding here", 2, stream=log, clock=seconds(0.0, 0.1, 0.2)))
    assert log.getvalue() == ""


def test_a_terminal_has_a_bar():
    terminal = Terminal()
    with showing():
        assert list(followed(range(2), "decoding here", 2, stream=terminal)) == [0, 1]
    assert "decoding here" in terminal.getvalue()


def test_beside_a_bar_of_the_training_there_are_lines():
    terminal = FileProxy()
    with showing():
        list(followed(range(2), "decoding here", 2, stream=terminal, clock=seconds(0, 5, 60, 61)))
    assert terminal.getvalue().startswith("decoding here: 1 of 2, ")
    assert "\x1b" not in terminal.getvalue()


def images_in(folder, count: int = 3) -> FileSplit:
    folder.mkdir(parents=True)
    names = [f"{k}.png" for k in range(count)]
    for name in names:
        Image.new("RGB", (4, 4)).save(folder / name)
    return FileSplit(folder, tuple(names), torch.zeros(count, dtype=torch.long), side=4)


def test_caching_a_split_is_followed(tmp_path, monkeypatch, capsys):
    clock = seconds(*range(0, 600, 60))
    follow = followed
    monkeypatch.setattr(decoded_cache, "followed", lambda *given: follow(*given, clock=clock))
    split = images_in(tmp_path / "images")
    with showing():
        decoded_once(split, "images", tmp_path / "cache")
        assert f"decoding {tmp_path / 'images'}, once: 3 of 3" in capsys.readouterr().err
        decoded_once(split, "images", tmp_path / "cache")  # from the cache
    assert capsys.readouterr().err == ""


def test_a_disk_without_room_for_the_cache_is_told_before_anything_is_decoded(
    tmp_path, monkeypatch
):
    split = images_in(tmp_path / "images")
    monkeypatch.setattr(FileSplit, "decoded", lambda *_: pytest.fail("decoded"))
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"space for decoded images: .*cache needs 0\.0 MB"):
        decoded_once(split, "images", tmp_path / "cache")


@pytest.mark.parametrize(
    ("arguments", "rank", "shown"),
    [([], None, True), ([], "0", True), ([], "1", False), (["--quiet"], None, False)],
)
def test_commands_show_it_but_for_quiet_and_other_processes(monkeypatch, arguments, rank, shown):
    seen = []
    monkeypatch.setattr(
        "gift_fast.cli.demo.experiment.run_demo",
        lambda config: seen.append(is_shown()),
    )
    monkeypatch.delitem(os.environ, "RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    assert main(["demo", *arguments]) == 0
    assert seen == [shown]
