"""Runs of a study that share labels: the teacher labels once, and every result is the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from gift_fast.cli import main
from gift_fast.evaluation import labeling, soft_labels
from gift_fast.evaluation import run as evaluation_run
from gift_fast.studies import shared_labels
from gift_fast.studies.shared_labels import Lock, labels_of, remove, shared

GOLDEN = Path(__file__).parents[1] / "data" / "labels" / "golden"

STUDY = """
title: Losses on digits
teacher: {epochs: 1, batch_size: 500}
settings: {epochs: 3, eval_every: 3, augmentation: dsa}
sets: [{dataset: digits, method: selected, ipc: 1, network: "convnet3:width=4"}]
losses: [%s]
seeds: [%s]
dataset_seeds: [0]
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def replays(monkeypatch) -> list[bool]:
    """For every student that is trained, whether its labels are replayed."""
    found = []
    train_student = evaluation_run.train_student

    def noted(*arguments, labels=None, **options):
        found.append(labels is not None)
        return train_student(*arguments, labels=labels, **options)

    monkeypatch.setattr(evaluation_run, "train_student", noted)
    return found


def study(root: Path, losses: str, *arguments: str, seeds: str = "0", runs: str = "runs") -> int:
    path = root / "mine.yaml"
    path.write_text(STUDY % (losses, seeds))
    folders = ["--out", str(root / runs), "--teacher-dir", str(root / "teachers"), "--quiet"]
    return main(["study", str(path), *folders, *arguments])


def results(folder: Path) -> dict[str, dict]:
    """The runs by the names of their files, without what a clock or a machine says."""
    return {
        path.name: {
            name: value
            for name, value in json.loads(path.read_text()).items()
            if name in ("config", "inputs", "checks", "last", "best", "source")
        }
        for path in folder.glob("*-seed*.json")
    }


def test_the_runs_and_their_names_are_those_with_the_teacher_online(tmp_path, replays):
    losses = "ce, gift, 'kl:temperature=4', mse"
    assert study(tmp_path, losses, seeds="0, 1") == 0
    assert sorted(replays) == [False] * 2 + [True] * 6  # cross-entropy reads no soft labels
    replays.clear()
    assert study(tmp_path, losses, "--label-limit", "0", seeds="0, 1", runs="online") == 0
    assert not any(replays)
    assert results(tmp_path / "runs") == results(tmp_path / "online")
    assert len(results(tmp_path / "runs")) == 8


def test_the_teacher_labels_every_batch_once_and_the_labels_are_removed(tmp_path, monkeypatch):
    labeled = []
    labeler = soft_labels.labeler

    def counting(teachers, config, accelerator):
        label = labeler(teachers, config, accelerator)

        def counted(batch):
            labeled.append(len(batch.images))
            return label(batch)

        return counted

    monkeypatch.setattr(labeling, "labeler", counting)
    assert study(tmp_path, "gift, kl, mse") == 0
    assert sum(labeled) == 3 * 10  # epochs and images
    left = [path.name for path in (tmp_path / "runs" / "labels").iterdir() if path.is_dir()]
    assert left == []


def test_a_single_run_has_its_teacher_online(tmp_path, replays):
    assert study(tmp_path, "gift, ce") == 0
    assert replays == [False, False]
    replays.clear()
    assert study(tmp_path, "gift, ce, mse") == 0  # the others have finished
    assert replays == [False]


def test_labels_above_the_limit_are_not_stored(tmp_path, replays):
    assert study(tmp_path, "gift, mse", "--label-limit", "1e-6") == 0
    assert replays == [False, False]


def test_an_interrupted_study_replays_what_it_has_labeled(tmp_path, replays, monkeypatch):
    train_student = evaluation_run.train_student

    def stopped(*arguments, **options):
        if len(replays) == 1:
            raise KeyboardInterrupt
        return train_student(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(evaluation_run, "train_student", stopped)
        assert study(tmp_path, "gift, mse") == 130
    (folder,) = (path for path in (tmp_path / "runs" / "labels").iterdir() if path.is_dir())
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    writes = []
    monkeypatch.setattr(shared_labels, "label_run", lambda *a, **o: writes.append(1))
    assert before
    assert study(tmp_path, "gift, mse") == 0
    assert replays == [True, True]
    assert not writes
    assert not folder.exists()


def test_labels_that_another_study_reads_are_not_removed(tmp_path):
    folder = tmp_path / "labels" / "seed0-0"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    reader = Lock(folder)
    assert reader.acquire(exclusive=False)
    remove(folder)
    assert folder.exists()
    second = Lock(folder)
    assert not second.acquire(exclusive=True, wait=False)
    second.close()
    reader.close()
    remove(folder)
    assert not folder.exists()


def test_runs_read_labels_at_the_same_time(tmp_path):
    """As the workers of a cluster do: none waits for another."""
    folder = Path(shutil.copytree(GOLDEN, tmp_path / "labels" / "seed0-0"))
    unused = {"config": None, "inputs": None, "context": None, "title": ""}
    with labels_of(folder, **unused) as one, labels_of(folder, **unused) as other:
        assert one.fingerprint() == other.fingerprint()
        remove(folder)
        assert folder.exists()
    remove(folder)
    assert not folder.exists()


def test_labels_that_are_being_written_are_waited_for(tmp_path, monkeypatch):
    folder = tmp_path / "labels" / "seed0-0"
    writer = Lock(folder)
    assert writer.acquire(exclusive=True)

    def waited(seconds: float) -> None:
        shutil.copytree(GOLDEN, folder)
        writer.close()

    monkeypatch.setattr(shared_labels.time, "sleep", waited)
    unused = {"config": None, "inputs": None, "context": None, "title": ""}
    with labels_of(folder, **unused) as labels:
        assert labels.manifest.seed == 7


def test_without_locks_on_a_file_system_nothing_is_removed(tmp_path, monkeypatch):
    class NoLocks:
        LOCK_EX = LOCK_SH = LOCK_NB = LOCK_UN = 0

        @staticmethod
        def flock(file, kind):
            raise OSError(37, "No locks available")

    folder = tmp_path / "labels" / "seed0-0"
    folder.mkdir(parents=True)
    monkeypatch.setattr(shared_labels, "fcntl", NoLocks)
    lock = Lock(folder)
    assert not lock.acquire(exclusive=True)
    lock.close()
    remove(folder)
    assert folder.exists()


def test_only_unfinished_runs_are_counted(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    files = [tmp_path / f"{n}.json" for n in range(4)]
    runs = [(one, files[0]), (one, files[1]), (other, files[2]), (None, files[3])]
    assert shared(runs) == {one}
    files[1].write_text("{}")
    assert shared(runs) == set()
