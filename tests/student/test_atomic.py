from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from gift_fast.student import atomic
from gift_fast.student.atomic import replacing


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
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
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
