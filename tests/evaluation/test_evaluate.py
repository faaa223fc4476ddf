"""The commands as a user calls them, on digits distilled to a folder like RDED's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from gift_fast.cli.main import main, one_line_warnings
from gift_fast.data.datasets import load_dataset
from gift_fast.data.distilled import DistilledSet
from gift_fast.evaluation import context, inputs, teacher
from gift_fast.evaluation import run as evaluation_run
from gift_fast.files.disk import checkpoint_bytes
from gift_fast.training.batches import RandomBatches
from gift_fast.training.models import new_model

DATASET, NETWORK = "digits", "convnet3:width=8"


@pytest.fixture(scope="module")
def place(tmp_path_factory, distilled: DistilledSet) -> Path:
    """A folder with a distilled set as RDED publishes it, and a teacher."""
    root = tmp_path_factory.mktemp("place")
    for number, (image, label) in enumerate(zip(distilled.images, distilled.labels, strict=True)):
        folder = root / "rded" / "syn_data" / f"{label:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (255 * image[0]).byte().numpy()
        Image.fromarray(pixels).save(folder / f"class{label:05d}_id{number:05d}.jpg", quality=95)
    arguments = ["--epochs", "15", "--learning-rate", "0.05", "--augmentation", "none", "--quiet"]
    assert call(root, "train-teacher", "--model", NETWORK, *arguments) == 0
    return root


def call(root: Path, command: str, *arguments: str) -> int:
    folders = ["--teacher-dir", str(root / "teachers"), "--out", str(root / "runs")]
    return main([command, "--dataset", DATASET, *folders, *arguments])


def evaluate(root: Path, *arguments: str) -> int:
    data = ["--data", str(root / "rded"), "--student", NETWORK, "--teacher", NETWORK]
    return call(root, "evaluate", *data, "--epochs", "2", *arguments)


@pytest.fixture
def fresh(place, tmp_path) -> Path:
    """The same place with no results."""
    for name in ("rded", "teachers"):
        (tmp_path / name).symlink_to(place / name)
    return tmp_path


def written(root: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted((root / "runs").glob("*.json"))]


def test_a_teachers_accuracy_is_printed_and_kept_with_its_weights(place, tmp_path, capsys):
    (tmp_path / "teachers").mkdir()
    arguments = ["--model", NETWORK, "--epochs", "1", "--quiet"]
    assert call(tmp_path, "train-teacher", *arguments) == 0
    path = tmp_path / "teachers" / "digits_convnet3-width=8.pth"
    assert f"{path}: top-1 " in capsys.readouterr().out
    contents = torch.load(path, weights_only=True)
    assert contents["checks"][-1]["top1"] > 0
    assert contents["config"]["epochs"] == 1
    assert call(tmp_path, "train-teacher", *arguments, "--force") == 0


def test_a_downloaded_folder_becomes_a_table(fresh, capsys):
    assert evaluate(fresh, "--seeds", "0", "1") == 0
    printed = capsys.readouterr()
    assert "settings: Training protocol of the GIFT paper (preset paper)" in printed.err
    assert "learning_rate    0.001" in printed.err
    assert "detected format rded" in printed.err
    assert "[2/2] seed 1: top-1 " in printed.err
    assert "top-1 after the last epoch: " in printed.out
    assert "ddof 0" in printed.out
    runs = written(fresh)
    assert sorted(run["config"]["seed"] for run in runs) == [0, 1]
    assert not list((fresh / "runs").glob("*.ckpt"))


def test_a_preset_is_taken_and_options_override_it(fresh, capsys):
    assert evaluate(fresh, "--preset", "official", "--weight-decay", "0.5", "--seeds", "0") == 0
    config = written(fresh)[0]["config"]
    assert config["loss"] == "gift:smoothing=others,blend=added"
    assert config["weight_decay"] == 0.5
    assert config["batch_size"] == 50


def test_json_is_all_that_is_printed_on_request(fresh, capsys):
    assert evaluate(fresh, "--seeds", "3", "--json", "--quiet", "--no-check") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["runs"][0]["config"]["seed"] == 3
    assert printed.err == ""


def test_a_finished_run_is_not_repeated_unless_asked(fresh, monkeypatch, capsys):
    assert evaluate(fresh, "--seeds", "0") == 0
    trained = []
    train_student = evaluation_run.train_student
    monkeypatch.setattr(
        evaluation_run, "train_student", lambda *a, **k: trained.append(1) or train_student(*a, **k)
    )
    assert evaluate(fresh, "--seeds", "0") == 0
    assert trained == []
    assert "from an earlier call" in capsys.readouterr().err
    assert evaluate(fresh, "--seeds", "0", "--force") == 0
    assert trained == [1]


def test_a_diverged_student_is_told_when_it_is_trained_and_when_it_is_read(fresh, capsys):
    settings = ["--seeds", "0", "--learning-rate", "1e30", "--no-check"]
    with pytest.warns(RuntimeWarning, match="diverged"):
        assert evaluate(fresh, *settings) == 0
    for read in (False, True):
        if read:
            assert evaluate(fresh, *settings) == 0
        printed = capsys.readouterr()
        assert "† 1 of 1 run diverged" in printed.out
        assert "lower learning rate" in printed.out
        assert ("diverged by epoch 1, from an earlier call" in printed.err) == read
    assert written(fresh)[0]["diverged"] == 1
    assert main(["table", str(fresh / "runs")]) == 0
    assert "† 1 of 1 run diverged" in capsys.readouterr().out


def test_a_teacher_that_diverges_is_no_teacher(tmp_path, capsys):
    (tmp_path / "teachers").mkdir()
    arguments = ["--model", NETWORK, "--epochs", "1", "--learning-rate", "1e30", "--quiet"]
    with pytest.warns(RuntimeWarning, match="diverged"):
        assert call(tmp_path, "train-teacher", *arguments) == 2
    assert "smaller --learning-rate" in capsys.readouterr().err


def test_a_warning_is_a_line_without_its_place_in_the_code():
    before = warnings.formatwarning
    with one_line_warnings():
        text = warnings.formatwarning("mind this", UserWarning, "train.py", 7, "code")
    assert text == "gift-fast: warning: mind this\n"
    assert warnings.formatwarning is before


def test_losses_and_networks_of_the_users_own_are_named_by_import_path(fresh):
    own = ["--student", "tests.networks.dropout:rate=0.25"]
    own += ["--loss", "tests.networks.huber:delta=2"]
    assert evaluate(fresh, *own, "--seeds", "0") == 0
    assert written(fresh)[0]["config"]["student"] == own[1]


def test_weights_are_kept_on_request(fresh):
    assert evaluate(fresh, "--seeds", "0", "--keep-weights") == 0
    (path,) = (fresh / "runs").glob("*.pth")
    assert torch.load(path, weights_only=True)["top1"] == written(fresh)[0]["last"]["top1"]


def test_where_the_soft_labels_come_from_is_said(fresh, capsys):
    assert evaluate(fresh, "--seeds", "0") == 0
    assert f"soft labels: {NETWORK}, for every batch\n" in capsys.readouterr().err
    assert evaluate(fresh, "--seeds", "0", "--loss", "ce", "--teacher") == 0
    assert "soft labels: not read by the loss ce\n" in capsys.readouterr().err


def test_nothing_is_read_where_nothing_could_be_written(fresh, capsys, monkeypatch):
    (fresh / "runs").write_text("a file, where a folder should be")
    monkeypatch.setattr(evaluation_run, "load_inputs", lambda *a, **k: pytest.fail("has read"))
    assert evaluate(fresh, "--seeds", "0") == 2
    assert str(fresh / "runs") in capsys.readouterr().err


def test_the_student_is_built_before_the_set_is_examined(fresh, capsys, monkeypatch):
    monkeypatch.setattr(evaluation_run, "audit_of", lambda *a, **k: pytest.fail("has examined"))
    assert evaluate(fresh, "--student", "convnet6", "--seeds", "0") == 2
    assert "side must be at least 64 pixels for ConvNet-6, got 8" in capsys.readouterr().err


def test_a_tracker_that_is_not_installed_is_named(fresh, capsys, monkeypatch):
    monkeypatch.setitem(context.TRACKERS, "wandb", ("no_such_package",))
    assert evaluate(fresh, "--trackers", "wandb") == 2
    assert "wandb, which is not: pip install no_such_package" in capsys.readouterr().err


def test_tests_are_reported_to_a_tracker(fresh):
    pytest.importorskip("tensorboard", reason="needs tensorboard")
    assert evaluate(fresh, "--seeds", "0", "--trackers", "tensorboard") == 0
    assert list((fresh / "runs" / "logs").rglob("events.out.tfevents.*"))


KILLED = """
import sys
from gift_fast.cli import main
sys.exit(main(sys.argv[1:]))
"""


def start(fresh, *arguments: str) -> tuple[subprocess.Popen[str], list[str]]:
    """Starts the evaluation of a long run in a process, and gives its arguments."""
    long = ["--seeds", "0", "--epochs", "100", "--checkpoint-every", "0.01s", "--eval-every", "50"]
    long += ["--batch-size", "8", "--keep-weights", "--no-check"]
    folders = ["--teacher-dir", str(fresh / "teachers"), "--out", str(fresh / "runs")]
    data = ["--data", str(fresh / "rded"), "--student", NETWORK, "--teacher", NETWORK]
    command = ["evaluate", "--dataset", DATASET, *folders, *data, *long, *arguments]
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, *command],
        cwd=os.getcwd(),
        # A job in the background is started with SIGINT ignored, and so are its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stderr=subprocess.PIPE,
        text=True,
    )
    return process, command


def wait_for(process: subprocess.Popen[str], what: Callable[[], object]) -> None:
    """Waits until something is there, which the process is to bring about."""
    deadline = time.monotonic() + 240
    while not what() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert what(), process.communicate(timeout=60)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_is_resumed_to_the_result_of_an_unbroken_one(fresh, how):
    process, command = start(fresh)
    wait_for(process, lambda: list((fresh / "runs").glob("*.ckpt")))
    process.send_signal(how)
    _, log = process.communicate(timeout=60)
    (checkpoint,) = (fresh / "runs").glob("*.ckpt")
    assert not written(fresh)
    state = torch.load(checkpoint, weights_only=True)["state"]
    if how == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 128 + how
        last = log.splitlines()[-1]
        assert f"interrupted by {how.name}" in last
        assert f"state saved at step {state['step']} of epoch {state['epoch'] + 1}" in last
        assert "the same command" in last
        assert "Traceback" not in log

    seen = []
    original = RandomBatches.epoch

    def epoch(self, number, start=0, random_state=None):
        seen.append((number, start))
        return original(self, number, start, random_state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RandomBatches, "epoch", epoch)
        assert main(command) == 0
    assert seen[0] == (state["epoch"] + 1, state["step"])

    (resumed,) = (torch.load(p, weights_only=True) for p in (fresh / "runs").glob("*.pth"))
    assert main([*command, "--force"]) == 0
    (unbroken,) = (torch.load(p, weights_only=True) for p in (fresh / "runs").glob("*.pth"))
    for key, value in unbroken["model"].items():
        assert torch.equal(resumed["model"][key], value)


def test_a_signal_outside_of_training_stops_at_once_and_leaves_nothing_behind(fresh):
    slow = "tests.networks.slow_to_build"
    process, _ = start(fresh, "--student", slow)
    assert process.stderr is not None
    wait_for(process, lambda: (fresh / "runs").exists())
    while "building" not in process.stderr.readline():
        assert process.poll() is None
    process.terminate()
    _, log = process.communicate(timeout=60)
    assert process.returncode == 143
    assert log.splitlines()[-1].startswith("interrupted by SIGTERM; run the same command")
    assert list((fresh / "runs").iterdir()) == []


def test_the_audit_says_what_it_sees_and_nothing_is_trained(place, capsys):
    data = ["--data", str(place / "rded"), "--teacher", NETWORK]
    assert call(place, "audit", *data) == 0
    assert "top-1" in capsys.readouterr().out
    assert call(place, "audit", *data, "--json", "--quick") == 0
    assert json.loads(capsys.readouterr().out)


def test_a_permuted_set_is_found_named_and_mended(place, tmp_path, capsys):
    swapped = tmp_path / "rded" / "syn_data"
    swapped.mkdir(parents=True)
    order = [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    for new, old in enumerate(order):
        (swapped / f"{new:05d}").mkdir()
        for number, file in enumerate((place / "rded/syn_data" / f"{old:05d}").iterdir()):
            target = swapped / f"{new:05d}" / f"class{new:05d}_id{number:05d}.jpg"
            target.write_bytes(file.read_bytes())
    data = ["--data", str(tmp_path / "rded"), "--teacher", NETWORK]
    class_map = tmp_path / "map.json"
    call(place, "audit", *data, "--write-class-map", str(class_map))
    assert "the distilled set's classes are permuted" in capsys.readouterr().out
    assert json.loads(class_map.read_text()) == order
    assert call(place, "audit", *data, "--class-map", str(class_map)) == 0

    capsys.readouterr()
    assert evaluate(tmp_path, *["--teacher-dir", str(place / "teachers"), "--seeds", "0"]) == 0
    assert "classes are permuted" in capsys.readouterr().err  # it warned, and the run went on


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--teacher", "convnet4"], "no weights of the teacher convnet4"),
        (["--class-map", "map.json"], "--class-map must be an existing path, got map.json"),
        (["--labels", "fkd"], "--labels must be an existing path, got fkd"),
        (
            ["--format", "rded", "--data", "nowhere"],
            "--data must be the folder or file of a distilled set",
        ),
        (["--student", "convnet6"], "at least 64 pixels for ConvNet-6"),
    ],
)
def test_what_can_be_seen_at_once_is_told_before_the_set_is_read(
    fresh, capsys, monkeypatch, arguments, message
):
    monkeypatch.setattr(inputs, "read_distilled", lambda *_, **__: pytest.fail("the set was read"))
    assert evaluate(fresh, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (fresh / "runs").exists() or not list((fresh / "runs").iterdir())


def test_room_for_checkpoints_is_asked_for_before_the_set_is_read(fresh, capsys, monkeypatch):
    monkeypatch.setattr(inputs, "read_distilled", lambda *_, **__: pytest.fail("the set was read"))
    needed = checkpoint_bytes(new_model(NETWORK, load_dataset("digits"), seed=0))
    for free, arguments in ((needed - 1, []), (needed, ["--ema-decay", "0.9"])):
        usage = type("Usage", (), {"free": free})
        monkeypatch.setattr("shutil.disk_usage", lambda path, usage=usage: usage)
        assert evaluate(fresh, *arguments) == 2
        assert "not enough disk space for checkpoints" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "convnet6"], "at least 64 pixels for ConvNet-6"),
        (["--teacher-dir", __file__], __file__),
    ],
)
def test_a_teacher_that_cannot_be_trained_or_kept_is_told_before_its_images_are_read(
    tmp_path, capsys, monkeypatch, arguments, message
):
    load = teacher.load_dataset

    def tested_alone(*given, train=True):
        return pytest.fail("the training images were read") if train else load(*given, train=False)

    monkeypatch.setattr(teacher, "load_dataset", tested_alone)
    assert call(tmp_path, "train-teacher", *arguments) == 2
    assert message in capsys.readouterr().err


def test_room_for_a_teachers_checkpoints_includes_its_averaged_weights(
    tmp_path, capsys, monkeypatch
):
    needed = checkpoint_bytes(new_model(NETWORK, load_dataset("digits"), seed=0))
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": needed}))
    train = ["--model", NETWORK, "--ema-decay", "0.9"]
    assert call(tmp_path, "train-teacher", *train) == 2
    assert "not enough disk space for checkpoints" in capsys.readouterr().err


def test_an_audit_asks_where_its_class_map_goes_before_it_reads(fresh, capsys, monkeypatch):
    monkeypatch.setattr(inputs, "read_distilled", lambda *_, **__: pytest.fail("the set was read"))
    data = ["--data", str(fresh / "rded"), "--teacher", NETWORK]
    assert call(fresh, "audit", *data, "--write-class-map", f"{__file__}/map.json") == 2
    assert __file__ in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0", "0"], "seeds must be one or more distinct seeds, got [0, 0]"),
        (["--teacher", "convnet4"], "gift-fast train-teacher --dataset digits --model convnet4"),
        (["--teacher", "convnet3"], "teachers contains digits_convnet3-width=8.pth)"),
        (["--format", "datm"], "images_best.pt"),
        (["--format", "zip"], "format must be one of auto, "),
        (["--preset", "best"], "preset must be one of cvdd, datm, "),
        (
            ["--trackers", "paper"],
            "trackers must be any of tensorboard, wandb, mlflow, got 'paper'",
        ),
        (
            ["--checkpoint-every", "0"],
            "--checkpoint-every must be a positive duration",
        ),
        (["--checkpoint-every", "5 epochs"], "number of seconds, got '5 epochs'"),
        (
            ["--dataset", "cifar10"],
            "--data-root must be the folder that contains cifar10, got None",
        ),
        (["--teacher"], "--data must contain soft labels for the loss gift"),
        (["--teacher", "convnet4"], "soft labels stored with the set, if it has any, with `--teac"),
        (
            ["--student", "tests.networks.headless"],
            "must return logits of shape (1, 10), got (1, 64)",
        ),
        (["--loss", "tests.networks.unreduced"], "must return a scalar, got a tensor of sha"),
    ],
)
def test_what_the_user_has_to_mend_is_said_in_one_line(fresh, capsys, arguments, message):
    assert evaluate(fresh, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not written(fresh)


@pytest.mark.parametrize(
    "settings", [(), ("--classes", "seen:steps=5,step=2", "--mixing", "cutmix")], ids=str
)
def test_labels_are_stored_once_and_replayed_without_the_teacher(settings, fresh, tmp_path, capsys):
    data = ["--data", str(fresh / "rded"), "--epochs", "2", "--seeds", "0", "1", *settings]
    folders = ["--teacher-dir", str(fresh / "teachers"), "--out", str(tmp_path / "labels")]
    command = ["label", "--dataset", DATASET, *folders, *data, "--teacher", NETWORK]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert f"labels: all {4 if settings else 10} logits in float32; 2 epochs of" in printed.err
    assert "for each of 2 seeds, of which" in printed.err
    assert f"{tmp_path / 'labels' / 'seed1'}: " in printed.out
    before = (tmp_path / "labels" / "seed0" / "labels-00000.safetensors").stat().st_mtime_ns
    assert main(command) == 0
    assert (tmp_path / "labels/seed0/labels-00000.safetensors").stat().st_mtime_ns == before

    assert evaluate(fresh, "--seeds", "0", "1", *settings) == 0
    online = written(fresh)
    replayed = ["--labels", str(tmp_path / "labels"), "--student", NETWORK, *data]
    (fresh / "runs").rename(fresh / "online")
    none = [*replayed, "--teacher-dir", str(tmp_path / "none")]  # no weights are needed
    command = ["evaluate", "--dataset", DATASET, "--out", str(fresh / "runs"), *none]
    assert main(command) == 0
    assert "replayed: " in capsys.readouterr().err
    assert [(r["config"], r["inputs"], r["checks"]) for r in written(fresh)] == [
        (r["config"], r["inputs"], r["checks"]) for r in online
    ]

    def refused(*arguments: str) -> str:
        assert call(fresh, "evaluate", *replayed, *arguments) == 2
        return capsys.readouterr().err

    assert "labels must include the seed 2" in refused("--seeds", "0", "2")
    assert "epochs must be at most 2" in refused("--epochs", "3")
    assert "augmentation of the run, 'rrc'" in refused("--augmentation", "rrc")
    assert "teachers of the run, ('convnet3',)" in refused("--teacher", "convnet3")


def test_labels_of_other_weights_than_the_teachers_file_are_refused(fresh, tmp_path, capsys):
    data = ["--data", str(fresh / "rded"), "--epochs", "1", "--seeds", "0", "--student", NETWORK]
    folders = ["--teacher-dir", str(fresh / "teachers"), "--out", str(tmp_path / "labels")]
    options = ["--top-k", "2", "--dtype", "float16", "--quiet"]
    command = ["label", "--dataset", DATASET, *folders, *data, "--teacher", NETWORK, *options]
    assert main(command) == 0
    capsys.readouterr()
    labels = ["--labels", str(tmp_path / "labels" / "seed0")]
    assert call(fresh, "evaluate", *data, *labels) == 0
    printed = capsys.readouterr().err
    assert "the 2 largest of 10 logits in float16, logmeanexp at temperature 1" in printed
    assert "labels" in written(fresh)[0]["inputs"]
    other = ["train-teacher", "--dataset", DATASET, "--model", NETWORK, "--epochs", "1"]
    assert main([*other, "--teacher-dir", str(tmp_path / "t"), "--quiet"]) == 0
    again = ["evaluate", "--dataset", DATASET, *data, *labels, "--out", str(tmp_path / "r")]
    assert main([*again, "--teacher-dir", str(tmp_path / "t")]) == 2
    assert "was labeled by another teacher" in capsys.readouterr().err
