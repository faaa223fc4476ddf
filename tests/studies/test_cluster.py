"""Studies as tasks of a real Ray cluster on this machine, and of one that is only imitated."""

from __future__ import annotations

import errno
import os
import pickle
import re
import secrets
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from commands import ENDLESS, running

from gift_fast.cli import main
from gift_fast.evaluation.context import RunContext
from gift_fast.evaluation.results import read_run
from gift_fast.files.atomic import NotWritten
from gift_fast.studies import ray_runner, ray_tasks
from gift_fast.studies.board import Board
from gift_fast.studies.cluster import Cluster, ClusterOptions, cluster_of
from gift_fast.studies.failures import RunsFailed
from gift_fast.studies.ray_runner import Batch, RayRunner
from gift_fast.studies.study import Study
from gift_fast.studies.study_files import parse_study

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")

STUDY = """
title: Losses on digits
teacher: {epochs: 1, batch_size: 500}
settings: {epochs: %d, augmentation: none}
sets: [{dataset: digits, method: selected, ipc: 1, network: "convnet3:width=8"}]
losses: [%s]
seeds: [0]
dataset_seeds: [0]
"""

TITLE = "digits selected IPC 1 set 0, convnet3:width=8, %s, AdamW, seed 0"

EPOCHS = 60


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As a task has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def cluster():
    """Two machines of one core each, both this one; nobody else can use them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        patch.setenv("RAY_raylet_start_wait_time_s", "120")  # a busy machine may need it
        patch.setenv("RAY_worker_niceness", "0")  # 15 starves the workers of a busy machine
        patch.setenv("OMP_NUM_THREADS", "1")
        from ray.cluster_utils import Cluster  # Ray reads its settings when it is imported

        head = {"num_cpus": 1, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            cluster.add_node(num_cpus=1)
            assert len(cluster.list_all_nodes()) == 2
            yield cluster
        finally:
            cluster.shutdown()


def command(root: Path, losses: str, *arguments: str, epochs: int, out: str = "runs") -> list[str]:
    path = root / "mine.yaml"
    path.write_text(STUDY % (epochs, losses))
    folders = ["--out", str(root / out), "--teacher-dir", str(root / f"{out}-teachers")]
    return ["study", str(path), *folders, "--device", "cpu", *arguments]


PAUSED = """
import os
import time
from pathlib import Path
from torch.nn import functional as F

HERE = Path(__file__).parent

def paused():
    def loss(logits, soft_labels, target, epoch):
        if epoch == 2:
            time.sleep(0.1)  # the checkpoint after this step is due
        if epoch == 3 and not (HERE / "go").exists():
            (HERE / "paused").write_text(str(os.getpid()))
            time.sleep(3600)
        return F.cross_entropy(logits, target)
    return loss
"""


@needs_ray
def test_a_killed_workers_run_is_resumed_from_its_checkpoint_and_every_result_comes_once(
    cluster, tmp_path, monkeypatch
):
    (tmp_path / "paused_losses.py").write_text(PAUSED)
    losses = "paused_losses.paused, kl, gift"
    arguments = command(tmp_path, losses, "--checkpoint-every", "0.05s", epochs=EPOCHS)
    runs, go, paused = (tmp_path / name for name in ("runs", "go", "paused"))
    with running(tmp_path, [*arguments, "--ray", cluster.address]) as study:
        worker = int(study.wait_for(lambda: paused.exists() and paused.read_text()))
        go.touch()
        os.kill(worker, signal.SIGKILL)
        status = study.wait()
    log = study.printed
    assert status == 0, log

    resumed = re.findall(r"\] (.*): resumed after ([\d.]+) of (\d+) epochs", log)
    assert [(title, epochs) for title, _, epochs in resumed] == [
        (TITLE % "paused_losses.paused", str(EPOCHS))
    ]
    assert 0 < float(resumed[0][1]) < 3  # the last checkpoint depends on how fast epochs were
    outcomes = re.findall(r"\] (.*): top-1", log)
    assert sorted(outcomes) == sorted(
        TITLE % loss for loss in ("paused_losses.paused", "KL", "GIFT")
    )
    assert log.count("| GIFT |") == 1
    assert list(runs.glob("*.ckpt")) == []

    monkeypatch.chdir(tmp_path)
    assert main([*command(tmp_path, losses, "--quiet", epochs=EPOCHS, out="local")]) == 0
    files = sorted(path.name for path in (tmp_path / "local").glob("*-seed0-*.json"))
    assert len(files) == 3
    # The names hold digests of the teacher's weights and of the set: these are the same too.
    assert sorted(path.name for path in runs.glob("*-seed0-*.json")) == files
    for file in files:
        here, there = read_run(tmp_path / "local" / file), read_run(runs / file)
        assert there.checks == here.checks
        assert there.environment == here.environment


WATCHED = """
import os
import time
from pathlib import Path
from torch.nn import functional as F

def watched(*, name="a"):
    def loss(logits, soft_labels, target, epoch):
        with Path(__file__).with_name(f"{name}-{os.getpid()}.epochs").open("a") as stream:
            stream.write(f"{epoch} ")
        time.sleep(0.02)  # leaves the processor to others
        return F.cross_entropy(logits, target)
    return loss
"""


def watched_study(root: Path, names: str, address: str) -> list[str]:
    """The arguments of a study whose runs never end and write down their epochs.

    A checkpoint is due after 5 minutes, the default: one that is there sooner, a signal has saved.
    """
    (root / "watched_losses.py").write_text(WATCHED)
    losses = ", ".join(f"watched_losses.watched:name={name}" for name in names)
    limit = ["--label-limit", "0"]  # the labels of such runs would never end either
    return [*command(root, losses, epochs=ENDLESS), "--ray", address, *limit]


def epochs_of(root: Path, name: str) -> dict[int, list[int]]:
    """The epochs that every process has trained of a run of :func:`watched_study`."""
    return {
        int(path.stem.rpartition("-")[2]): [int(epoch) for epoch in path.read_text().split()]
        for path in root.glob(f"{name}-*.epochs")
    }


@needs_ray
def test_sigterm_of_the_driver_lets_every_running_task_save_its_run(cluster, tmp_path):
    runs = tmp_path / "runs"
    with running(tmp_path, watched_study(tmp_path, "abc", cluster.address)) as study:
        study.wait_for(lambda: len(list(tmp_path.glob("*.epochs"))) == 2)
        study.process.terminate()
        status = study.wait()
    assert status == 143, study.printed
    last = study.printed.splitlines()[-1]
    assert "interrupted by SIGTERM; 2 of 2 running runs saved their state; 0 of 3 runs" in last
    assert "3 left" in last
    saved = [torch.load(path, weights_only=True)["state"] for path in runs.glob("*.ckpt")]
    # Each after the last step that it took, and nothing was trained after that.
    trained = [epochs for name in "abc" for epochs in epochs_of(tmp_path, name).values()]
    assert sorted(state["epoch"] + state["step"] for state in saved) == sorted(map(max, trained))
    assert len(saved) == 2
    assert not list(runs.glob("*-seed0-*.json"))


@needs_ray
def test_sigterm_of_a_worker_saves_its_run_and_another_resumes_it(cluster, tmp_path):
    with running(tmp_path, watched_study(tmp_path, "a", cluster.address)) as study:
        (first,) = study.wait_for(lambda: epochs_of(tmp_path, "a"))
        os.kill(first, signal.SIGTERM)
        study.wait_for(lambda: "resumed after" in study.printed)
        study.wait_for(lambda: len(epochs_of(tmp_path, "a")) == 2)
        study.process.terminate()
        status = study.wait()
    assert status == 143, study.printed
    trained = epochs_of(tmp_path, "a")
    before = trained.pop(first)
    (after,) = trained.values()
    # Nothing is lost and nothing trained twice.
    assert [*before, *after] == list(range(1, len(before) + len(after) + 1))
    assert f"resumed after {len(before)} of {ENDLESS} epochs" in study.printed
    assert "1 of 1 running runs saved their state; 0 of 1 run" in study.printed


HUNGRY = """
from pathlib import Path
from torch.nn import functional as F

def hungry():
    def loss(logits, soft_labels, target, epoch):
        if epoch == 2 and Path(__file__).with_name("full").exists():
            raise LookupError("there is no more")
        return F.cross_entropy(logits, target)
    return loss
"""


@needs_ray
def test_a_run_that_raises_stops_no_other_and_alone_is_run_again(
    cluster, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)  # the user's own losses are imported from here, by workers too
    Path("losses_of_mine.py").write_text(HUNGRY)
    Path("full").touch()
    losses = "ce, losses_of_mine.hungry, gift"
    arguments = command(Path(), losses, "--ray", cluster.address, epochs=3)
    assert main(arguments) == 1
    log = capsys.readouterr().err
    failed = TITLE % "losses_of_mine.hungry"
    assert f"{failed}: failed: LookupError: there is no more" in log
    report = log[log.index("1 of 3 runs failed:") :]
    assert 'raise LookupError("there is no more")' in report  # where, in the worker's traceback
    assert f"  {failed}\n" in report
    assert sorted(re.findall(r"\] (.*): top-1", log)) == [TITLE % "CE", TITLE % "GIFT"]

    Path("full").unlink()
    assert main(command(Path(), losses, epochs=3)) == 0  # in this process, for once
    printed = capsys.readouterr()
    assert printed.err.count(", from an earlier call") == 2
    assert r"| losses\_of\_mine.hungry |" in printed.out


def test_without_ray_the_option_names_the_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(command(tmp_path, "ce", "--ray", "local", epochs=1)) == 2
    assert "pip install 'gift-fast[cluster]'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ray", "here"], "--ray must be local, auto, HOST:PORT"),
        (["--ray", "localhost:1"], "--ray localhost:1: cannot connect to a Ray cluster"),
        (["--ray", "local", "--cpus-per-run", "0"], "--cpus-per-run must be at least 1, got 0"),
        (["--ray", "local", "--gpus-per-run", "2"], "--gpus-per-run must be at most 1, got 2.0"),
        (["--ray", "local", "--gpus-per-run", "0"], "--gpus-per-run must be 1e-4 or more, got 0.0"),
        (["--cpus-per-run", "2"], "--cpus-per-run must be used with --ray, got 2"),
    ],
)
@needs_ray
def test_a_bad_argument_is_refused_before_any_work(tmp_path, capsys, arguments, message):
    assert main(command(tmp_path, "ce", *arguments, epochs=1)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@needs_ray
def test_a_run_larger_than_every_machine_is_refused(cluster, tmp_path, capsys):
    arguments = command(tmp_path, "ce", "--ray", cluster.address, epochs=1)
    assert main([*arguments, "--cpus-per-run", "2"]) == 2
    message = (
        "--cpus-per-run must be at most the number of cores of a machine, got 2; the largest "
        "machine has 1"
    )
    assert message in capsys.readouterr().err


# ---- what is asked of Ray, with an imitation that does everything at once ------------------------


class Task:
    """What stands for a result: a value, or the error that came in its place."""

    def __init__(self, function, arguments) -> None:
        self.value, self.error = None, None
        try:
            self.value = function(*map(get, arguments))
        except Exception as error:
            self.error = error


def get(task, timeout=None):
    if not isinstance(task, Task):
        return task
    if task.error is not None:
        raise task.error
    return task.value


class Imitation:
    """Does every task in this process when it is given, and keeps its name."""

    exceptions = SimpleNamespace(RayError=Exception)
    get = staticmethod(get)

    def __init__(self, *machines: dict[str, float]) -> None:
        self.machines = machines
        self.names: list[str] = []

    def nodes(self):
        return [{"Alive": True, "Resources": machine} for machine in self.machines]

    def wait(self, tasks, timeout):
        return tasks[:1], tasks[1:]

    def remote(self, **share):
        def options_of(function):
            def options(name):
                self.names.append(name)
                return SimpleNamespace(remote=lambda *arguments: Task(function, arguments))

            return SimpleNamespace(options=options)

        return options_of


class ImitatedBoard(Board):
    def __getattribute__(self, name):
        value = super().__getattribute__(name)
        if not callable(value):
            return value
        return SimpleNamespace(remote=lambda *arguments: Task(value, arguments))


@pytest.fixture
def ray(monkeypatch) -> Imitation:
    monkeypatch.setattr("gift_fast.studies.ray_runner.board_of", lambda cluster: ImitatedBoard())
    return Imitation({"CPU": 1.0})


def runner_of(ray: Imitation, study: Study, root: Path, **options) -> RayRunner:
    places = {"out": root / "runs", "teacher_dir": root / "teachers", "device": "cpu"}
    place = RunContext(**places, quiet=True, **options)
    return RayRunner(Cluster(ray, cpus=1, gpus=0.0, runs=1), study, place)


def test_what_runs_share_is_made_once_whatever_the_number_of_calls(ray, tmp_path):
    study = parse_study(
        "mine", STUDY.replace("dataset_seeds: [0]", "dataset_seeds: [0, 1]") % (1, "ce, kl")
    )
    experiments = study.experiments(published=False)
    run = runner_of(ray, study, tmp_path)
    finished = run(experiments)
    assert [each.experiment for each in finished] == list(experiments)
    made = Counter(name for name in ray.names if "seed" not in name)
    assert made == {"digits_convnet3-width=8": 1, "digits_selected_ipc1": 2} | {
        "read digits_selected_ipc1": 2
    }
    assert sum(", seed " in name for name in ray.names) == 4
    before = list(ray.names)
    again = run(experiments)  # as the steps of tuning do
    assert [each.result for each in again] == [each.result for each in finished]
    assert set(ray.names[len(before) :]) == {"read digits_selected_ipc1"}


def test_a_run_that_two_experiments_name_is_trained_once(ray, tmp_path):
    text = STUDY % (1, "ce") + (
        "optimizers: [{optimizer: adamw}, {optimizer: adamw, learning_rate: 1.0e-3}]\n"
    )
    study = parse_study("mine", text)
    one, other = runner_of(ray, study, tmp_path)(study.experiments(published=False))
    assert one.experiment != other.experiment
    assert one.result is other.result
    assert ray.names.count(TITLE % "CE") == 1


def test_labels_that_runs_share_are_written_by_one_task_and_removed(ray, tmp_path):
    study = parse_study("mine", STUDY % (1, "kl, gift, ce, mse"))
    experiments = study.experiments(published=False)
    replayed = runner_of(ray, study, tmp_path)(experiments)
    (task,) = (name for name in ray.names if name.startswith("seed0-"))
    assert ray.names.index(task) < ray.names.index(TITLE % "KL")
    assert not [path for path in (tmp_path / "runs" / "labels").iterdir() if path.is_dir()]
    before = len(ray.names)
    shutil.rmtree(tmp_path / "runs")
    online = runner_of(ray, study, tmp_path, label_limit=0.0)(experiments)
    assert not [name for name in ray.names[before:] if name.startswith("seed0-")]
    for one, other in zip(replayed, online, strict=True):
        assert one.result.checks == other.result.checks
        assert (one.result.config, one.result.inputs) == (other.result.config, other.result.inputs)


def test_a_full_disk_ends_the_whole_study(ray, tmp_path, monkeypatch):
    def full(folder, result):
        error = NotWritten(errno.ENOSPC, "a.json could not be written: the disk is full")
        raise TaskError(pickle.loads(pickle.dumps(error)))  # as Ray brings it from a worker

    class TaskError(Exception):
        def __init__(self, cause: Exception) -> None:
            self.cause = cause

    monkeypatch.setattr("gift_fast.evaluation.run.write_run", full)
    study = parse_study("mine", STUDY % (1, "ce, kl"))
    with pytest.raises(OSError, match=r"a\.json could not be written") as raised:
        runner_of(ray, study, tmp_path)(study.experiments(published=False))
    assert raised.value.errno == errno.ENOSPC


def test_force_repeats_a_run_once_and_from_its_start(ray, tmp_path):
    study = parse_study("mine", STUDY % (1, "ce"))
    experiments = study.experiments(published=False)
    (first,) = runner_of(ray, study, tmp_path)(experiments)
    (file,) = (tmp_path / "runs").glob("ce-*.json")
    file.with_suffix(".ckpt").write_text("of a run that was stopped")
    run = runner_of(ray, study, tmp_path, force=True)
    (second,) = run(experiments)
    assert second.result.checks == first.result.checks
    assert ray.names.count(TITLE % "CE") == 2
    run(experiments)
    assert ray.names.count(TITLE % "CE") == 2


def test_machines_that_read_other_files_than_were_looked_over_are_found_out(
    ray, tmp_path, monkeypatch
):
    study = parse_study("mine", STUDY % (1, "ce"))
    plan_set = ray_tasks.plan_set

    def elsewhere(worker, group, place, path):
        value = plan_set(worker, group, place, path)
        ray_tasks.cached_inputs.cache_clear()
        weights = next(place.teacher_dir.glob("*.pth"))
        state = torch.load(weights, weights_only=True)
        state["model"]["classifier.bias"] += 1.0
        torch.save(state, weights)
        return value

    monkeypatch.setattr(ray_runner, "plan_set", elsewhere)
    with pytest.raises(RunsFailed) as failed:
        runner_of(ray, study, tmp_path)(study.experiments(published=False))
    assert "must be the same on all machines" in failed.value.report()


SIGNALLED = """
import os
import signal
from pathlib import Path
from torch.nn import functional as F

def signalled():
    def loss(logits, soft_labels, target, epoch):
        if epoch == 2 and Path(__file__).with_name("signal").exists():
            os.kill(os.getpid(), signal.SIGTERM)
        return F.cross_entropy(logits, target)
    return loss
"""


def test_a_task_that_receives_sigterm_saves_its_run_and_ends_its_process(
    ray, tmp_path, monkeypatch
):
    class Ended(BaseException):
        pass

    def end(status):
        raise Ended(status)

    monkeypatch.setattr("gift_fast.studies.ray_tasks.os._exit", end)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    Path("signalled_losses.py").write_text(SIGNALLED)
    study = parse_study("mine", STUDY % (4, "signalled_losses.signalled"))
    experiments = study.experiments(published=False)
    (undisturbed,) = runner_of(ray, study, tmp_path)(experiments)

    Path("signal").touch()
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Ended, match="143"):
        runner_of(ray, study, tmp_path, force=True)(experiments)
    assert signal.getsignal(signal.SIGTERM) == handler
    (checkpoint,) = (tmp_path / "runs").glob("*.ckpt")
    state = torch.load(checkpoint, weights_only=True)["state"]
    assert (state["epoch"], state["step"]) == (1, 1)
    assert not checkpoint.with_suffix(".json").exists()

    (resumed,) = runner_of(ray, study, tmp_path)(experiments)  # epoch 2 has been trained
    assert resumed.result.checks == undisturbed.result.checks


class Silent:
    """A board that does not answer."""

    read = SimpleNamespace(remote=lambda: Task(lambda: 1 / 0, ()))


@pytest.mark.parametrize(
    ("board", "expected"),
    [
        (ImitatedBoard, "1 of 2 running runs saved their state"),
        (Silent, "2 of 3 tasks have stopped"),
    ],
)
def test_a_cancelled_batch_says_what_was_saved_also_where_the_board_is_gone(
    ray, monkeypatch, board, expected
):
    """Of three runs one has saved, one has not within the grace, and one had not begun."""
    batch = object.__new__(Batch)
    board = board()
    cluster, worker = SimpleNamespace(ray=ray), SimpleNamespace(board=board)
    batch.runner = SimpleNamespace(cluster=cluster, worker=worker)
    batch.groups = {}
    batch.runs = {"saves": "a", "hangs": "b", "waits": "c"}
    batch.files = {name: f"{name}.json" for name in "abc"}
    if hasattr(board, "begin"):
        for name in "ab":
            board.begin.remote(f"{name}.json", name, 10, 0)
    cancelled = []

    def wait(tasks, num_returns, timeout):
        assert cancelled == tasks
        assert 0 < timeout <= 60
        return ["saves", "waits"], ["hangs"]

    monkeypatch.setattr(ray, "cancel", cancelled.append, raising=False)
    monkeypatch.setattr(ray, "wait", wait)
    assert batch.cancel().startswith(expected)


@pytest.mark.parametrize(
    ("machines", "share", "device", "expected"),
    [
        ([{"CPU": 16.0, "GPU": 8.0}], {}, "auto", (1.0, 8)),
        ([{"CPU": 16.0, "GPU": 8.0}], {"gpus_per_run": 0.25}, "auto", (0.25, 16)),
        ([{"CPU": 16.0, "GPU": 2.0}], {"gpus_per_run": 0.3, "cpus_per_run": 2}, "auto", (0.3, 6)),
        ([{"CPU": 16.0, "GPU": 8.0}], {"cpus_per_run": 4}, "cpu", (0.0, 4)),
        ([{"CPU": 4.0}, {"CPU": 8.0, "GPU": 1.0}], {}, "auto", (1.0, 1)),
        ([{"CPU": 4.0}, {"CPU": 3.0}], {"cpus_per_run": 2}, "auto", (0.0, 3)),
    ],
)
def test_runs_share_a_cluster(machines, share, device, expected):
    options = ClusterOptions(address="auto", **share)
    found = cluster_of(Imitation(*machines), options, device)
    assert (found.gpus, found.runs) == expected


def test_gpus_are_not_to_be_asked_for_where_there_are_none():
    options = ClusterOptions(address="auto", gpus_per_run=0.5)
    with pytest.raises(ValueError, match="gpus_per_run must not be set without GPUs"):
        cluster_of(Imitation({"CPU": 2.0}), options, "auto")
