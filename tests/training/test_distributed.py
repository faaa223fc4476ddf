"""Several processes train as one would: real processes, over gloo."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gift_fast.data.distilled import write_distilled
from gift_fast.training.weights import checkpoint_name, save_weights

SCRIPT = Path(__file__).with_name("two_processes.py")


LAUNCHER = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone")


def train(out: Path, model: str, *more: object, launcher: tuple[str, ...] = ()) -> str:
    command = [sys.executable, *launcher, str(SCRIPT), str(out), model, *map(str, more)]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def trained(out: Path, model: str, *more: object, launcher: tuple[str, ...] = ()) -> dict:
    train(out, model, *more, launcher=launcher)
    return torch.load(out, weights_only=True)


def test_two_processes_end_with_the_weights_of_one(tmp_path):
    model = "convnet3:width=8,norm=instance"
    one = trained(tmp_path / "one.pt", model)
    two = trained(tmp_path / "two.pt", model, launcher=LAUNCHER)
    # The network is in float64, but images are augmented in float32: on some processors their
    # rounding depends on the number of images.
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-6)
    for key, weight in one["weights"].items():
        torch.testing.assert_close(two["weights"][key], weight, rtol=1e-5, atol=1e-6)
    assert two["test_loss"] == pytest.approx(one["test_loss"], rel=1e-6)


def test_what_two_processes_test_together_is_the_network_that_is_saved(tmp_path):
    two = trained(tmp_path / "two.pt", "convnet3:width=8,norm=batch", launcher=LAUNCHER)
    assert two["test_loss"] == pytest.approx(two["test_loss of the saved network"], rel=1e-6)


def test_two_processes_stop_at_one_step_and_resume_with_the_same_bits(tmp_path):
    model = "tests.networks.normalized_dropout"
    unbroken = trained(tmp_path / "unbroken.pt", model, launcher=LAUNCHER)
    out, checkpoint = tmp_path / "resumed.pt", tmp_path / "run.ckpt"
    log = train(out, model, checkpoint, 2, launcher=LAUNCHER)
    for process in (0, 1):  # one of them received the signal
        assert f"process {process}: interrupted by SIGTERM; state saved at step 2 of epoch 2" in log
    assert not out.exists()
    resumed = trained(out, model, checkpoint, launcher=LAUNCHER)
    for name in ("loss", "test_loss"):
        assert resumed[name] == unbroken[name]
    for key, weight in unbroken["weights"].items():
        assert torch.equal(resumed["weights"][key], weight)


def test_a_whole_evaluation_by_two_processes_is_as_good_as_by_one_and_reported_once(
    dataset, distilled, teacher, tmp_path
):
    write_distilled(tmp_path / "digits", distilled, dataset)
    network = "convnet3:width=16"
    save_weights(tmp_path / "teachers" / checkpoint_name("digits", network), teacher)
    arguments = ["evaluate", "--data", "digits.safetensors", "--dataset", "digits", "--json"]
    arguments += ["--student", network, "--teacher", network, "--quiet", "--no-check"]
    arguments += ["--epochs", "40", "--augmentation", "none", "--seeds", "0", "1", "2"]

    def run(out: str, *launcher: str) -> dict:
        command = [sys.executable, *launcher, "-m", "gift_fast.cli", *arguments, "--out", out]
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    one, two = run("one"), run("two", *LAUNCHER)
    assert {run["environment"]["processes"] for run in two["runs"]} == {"2"}
    assert {run["environment"]["processes"] for run in one["runs"]} == {"1"}
    assert len(list((tmp_path / "two").glob("*.json"))) == 3
    # Batch norm sees half batches, so the runs differ, by less than seeds of one process do.
    spread = 3 * max(one["last"]["sample_std"], two["last"]["sample_std"], 1.0)
    assert abs(one["last"]["mean"] - two["last"]["mean"]) < spread
    assert two["last"]["mean"] > 25  # chance is 10
