"""Studies as tasks of a real Ray cluster on this machine, and of one that is only imitated."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from gift_fast.cli import main
from gift_fast.student.results import read_run

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")

STUDY = """
title: Losses on digits
teacher: {epochs: 1, batch_size: 500}
settings: {epochs: %d, augmentation: none}
sets: [{dataset: digits, method: selected, ipc: 1, network: "convnet3:width=8"}]
losses: [%s]
seeds: [0]
set_seeds: [0]
"""

EPOCHS, EVERY = 200, 10


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
        patch.setenv("OMP_NUM_THREADS", "1")
        from ray.cluster_utils import Cluster  # Ray reads its settings when it is imported

        cluster = Cluster(head_node_args={"num_cpus": 1, "include_dashboard": False})
        cluster.add_node(num_cpus=1)
        yield cluster
        cluster.shutdown()


def command(root: Path, losses: str, *arguments: str, epochs: int, out: str = "runs") -> list[str]:
    path = root / "mine.yaml"
    path.write_text(STUDY % (epochs, losses))
    folders = ["--out", str(root / out), "--teacher-dir", str(root / f"{out}-teachers")]
    return ["study", str(path), *folders, "--device", "cpu", *arguments]


def wait_for(what, process: subprocess.Popen[str], seconds: float = 120.0):
    """The first thing that ``what()`` gives; the process must not have ended before."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if found := what():
            return found
        time.sleep(0.01)
    pytest.fail(f"waited in vain; {process.args} has given {process.poll()}")


def workers_of(cluster, title: str) -> list[int]:
    """The processes of this cluster that are busy with a task of this name."""
    raylets = {
        info.process.pid
        for node in cluster.list_all_nodes()
        for info in node.all_processes["raylet"]
    }
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent in raylets and title in (folder / "cmdline").read_text():
                found.append(int(folder.name))
        except OSError:  # it has ended
            pass
    return found


def test_a_killed_workers_run_goes_on_from_its_checkpoint_and_every_result_comes_once(
    cluster, tmp_path
):
    losses = "ce, kl, gift"
    arguments = command(tmp_path, losses, "--checkpoint-every", str(EVERY), epochs=EPOCHS)
    arguments += ["--ray", cluster.address]
    process = subprocess.Popen(
        [sys.executable, "-m", "gift_fast.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    runs = tmp_path / "runs"
    wait_for(lambda: list(runs.glob("ce-*.ckpt")), process)
    (worker,) = wait_for(lambda: workers_of(cluster, "CE, AdamW, seed 0"), process)
    os.kill(worker, signal.SIGKILL)
    printed, log = process.communicate(timeout=120)
    assert process.returncode == 0, log

    title = "digits selected IPC 1 set 0, convnet3:width=8, %s, AdamW, seed 0"
    resumed = re.findall(r"\] (.*): goes on after epoch (\d+)/(\d+)", log)
    assert [run for run, _, _ in resumed] == [title % "CE"]
    done = int(resumed[0][1])
    assert done >= EVERY
    assert done % EVERY == 0
    outcomes = re.findall(r"\] (.*): top-1", log)
    assert sorted(outcomes) == sorted(title % loss for loss in ("CE", "KL", "GIFT"))
    assert printed.count("| GIFT |") == 1
    assert list(runs.glob("*.ckpt")) == []

    assert main([*command(tmp_path, losses, "--quiet", epochs=EPOCHS, out="local")]) == 0
    files = sorted(path.name for path in (tmp_path / "local").glob("*-seed0-*.json"))
    assert len(files) == 3
    # The names hold digests of the teacher's weights and of the set: these are the same too.
    assert sorted(path.name for path in runs.glob("*-seed0-*.json")) == files
    for file in files:
        here, there = read_run(tmp_path / "local" / file), read_run(runs / file)
        assert there.checks == here.checks
        assert there.environment == here.environment
