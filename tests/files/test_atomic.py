from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from gift_fast.files import atomic
from gift_fast.files.atomic import replacing


def test_a_finished_write_stands_alone_under_its_name(tmp_path):
    path = tmp_path / "folder" / "file.txt"
    with replacing(path) as temporary:
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_reader_of_the_old_file_never_sees_the_new_one_grow(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with path.open() as reader:
        with replacing(path) as temporary:
            temporary.write_text("new")
        assert reader.read() == "old"
    assert path.read_text() == "new"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write_half() -> None:
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise ValueError("halfway")

    with pytest.raises(ValueError, match="halfway"):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


KILLED_WHILE_WRITING = """
import importlib.util, os, pathlib, signal, sys
spec = importlib.util.spec_from_file_location("atomic", sys.argv[1])
atomic = importlib.util.module_from_spec(spec)
spec.loader.exec_module(atomic)
with atomic.replacing(pathlib.Path(sys.argv[2])) as temporary:
    temporary.write_text("ha")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
@pytest.mark.parametrize("old", [None, "old"])
def test_a_killed_write_leaves_no_half_file(tmp_path, old):
    path = tmp_path / "file.txt"
    if old is not None:
        path.write_text(old)
    command = [sys.executable, "-c", KILLED_WHILE_WRITING, atomic.__file__, str(path)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert (path.read_text() if path.exists() else None) == old


def write_text(temporary):
    with temporary.open("w") as file:
        file.write("too long")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a disk that is full is Linux's")
@pytest.mark.parametrize(
    "write", [write_text, lambda temporary: torch.save(torch.zeros(10), temporary)]
)
def test_a_full_disk_is_an_os_error_that_names_the_file(tmp_path, write):
    path = tmp_path / "file.pt"

    def write_to_a_full_disk() -> None:
        with replacing(path) as temporary:
            temporary.symlink_to("/dev/full")
            write(temporary)

    with pytest.raises(OSError, match=r"file\.pt could not be written: .*(space|disk full)"):
        write_to_a_full_disk()
    assert not list(tmp_path.iterdir())


def test_what_torch_raises_on_a_full_disk_is_an_os_error_too(tmp_path):
    with (
        pytest.raises(OSError, match=r"file\.pt could not be written: PytorchStreamWriter failed"),
        replacing(tmp_path / "file.pt"),
    ):
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")


@pytest.mark.parametrize("writer", ["torch", "the system"])
def test_a_full_disk_keeps_its_errno_and_says_what_to_do(tmp_path, monkeypatch, writer):
    monkeypatch.setattr(atomic, "errno_of_test_write", lambda folder: errno.ENOSPC)
    error = OSError(errno.ENOSPC, "No space left on device")
    if writer == "torch":
        error = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 7 vs 5")
    with (
        pytest.raises(OSError, match=r"file\.pt could not be written: the disk is full") as raised,
        replacing(tmp_path / "file.pt"),
    ):
        raise error
    assert raised.value.errno == errno.ENOSPC
    assert "Free some space" in str(raised.value)


def test_an_error_that_is_not_the_writers_stays_as_it_is(tmp_path):
    with pytest.raises(RuntimeError, match="shapes differ"), replacing(tmp_path / "file.pt"):
        raise RuntimeError("shapes differ")
    assert not list(tmp_path.iterdir())


def test_what_killed_processes_left_is_removed_by_the_next_write_to_the_same_path(tmp_path):
    path = tmp_path / "a[1].pt"  # a pattern, were it not escaped
    for name, age in (("a[1].pt.7", 7200), ("a[1].pt.8", 60), ("a1.pt.7", 7200), ("b.pt.7", 7200)):
        file = tmp_path / f".{name}.tmp"
        file.write_text("half")
        os.utime(file, (time.time() - age,) * 2)
    with replacing(path) as temporary:
        temporary.write_text("whole")
    left = {file.name for file in tmp_path.iterdir()}
    assert left == {"a[1].pt", ".a[1].pt.8.tmp", ".a1.pt.7.tmp", ".b.pt.7.tmp"}
