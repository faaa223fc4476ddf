"""Runs that are interrupted and resumed, at any step, in this process."""

from __future__ import annotations

import contextlib
import itertools
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gift_fast.data.distilled import DistilledSet
from gift_fast.data.labels.fkd import FkdLabels
from gift_fast.evaluation import EvaluationConfig
from gift_fast.evaluation.config import TeacherConfig
from gift_fast.evaluation.student import train_student
from gift_fast.evaluation.teacher import train_teacher
from gift_fast.process.signals import Interrupted, Interruption
from gift_fast.training import checkpoint as resume
from gift_fast.training.checkpoint import (
    FORMAT,
    CheckpointConfig,
    Checkpointer,
    DamagedCheckpoint,
    read_state,
    write_state,
)
from gift_fast.training.observer import Observer
from gift_fast.training.predict import count_correct
from gift_fast.training.processes import new_accelerator

CONFIG = EvaluationConfig(
    dataset="digits",
    ipc=2,
    student="convnet3:width=16",
    teachers=("convnet3:width=16",),
    epochs=4,
    eval_every=2,
    augmentation="dsa",
    batch_size=8,  # 8, 8 and 4 images
)


class Watched(Observer):
    """Notes the steps of a run, and sends it a signal after one of them."""

    def __init__(self, interruption: Interruption, stop: tuple[int, int] | None = None) -> None:
        self.interruption = interruption
        self.stop = stop
        self.steps: list[tuple[int, int]] = []
        self.done = 0.0

    def start(self, epochs: int, done: float) -> None:
        self.done = done

    def step(
        self, epoch: int, step: int, steps: int, images: int, loss: Callable[[], float]
    ) -> None:
        self.steps.append((epoch, step))
        if self.steps[-1] == self.stop:
            self.interruption.receive(signal.SIGTERM)


def run(checkpoint: Path, stop: tuple[int, int] | None, train, *arguments, **options):
    """Trains with a checkpoint and is interrupted after a step; gives what came and the steps."""
    interruption = Interruption()
    observer = Watched(interruption, stop)
    config = CheckpointConfig(checkpoint)
    watched = {"checkpoint": config, "interruption": interruption, "observer": observer}
    if stop is None:
        return train(*arguments, **watched, **options), observer
    with pytest.raises(Interrupted) as stopped:
        train(*arguments, **watched, **options)
    return stopped.value, observer


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([value.flatten().float() for value in model.state_dict().values()])


def check_resumes_with_the_same_bits(path: Path, stop: tuple[int, int], *arguments, **options):
    unbroken, result = train_student(*arguments, **options)
    run(path, stop, train_student, *arguments, **options)
    (resumed, again), observer = run(path, None, train_student, *arguments, **options)
    assert (stop[0], stop[1] + 1) in observer.steps or (stop[0] + 1, 1) in observer.steps
    assert stop not in observer.steps  # nothing is done twice
    assert torch.equal(weights(resumed), weights(unbroken))
    assert again.checks == result.checks


@pytest.mark.parametrize("stop", [(1, 1), (1, 3), (2, 2)])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "sgd", "schedule": "cosine"},
        {"mixing": "mixup"},
        {"mixing": "cutmix", "augmentation": "rrc"},
        {"augmentation": "dsa-one"},
        {"forward_twice": True, "mixing": "cutmix"},
        {"student": "tests.networks.normalized_dropout"},
        {"student": "tests.networks.normalized_dropout", "ema_decay": 0.9},
        {"loss": "annealed-kl"},
        {"hard_loss": "ce:label_smoothing=0.8", "hard_stop": 0.5, "mixing": "cutmix"},
        {"mixed_precision": "bf16"},
    ],
    ids=lambda changes: " ".join(f"{k}={v}" for k, v in changes.items()) or "plain",
)
def test_a_run_interrupted_at_any_step_ends_with_the_bits_of_an_unbroken_one(
    dataset, distilled, teacher, tmp_path, stop, changes
):
    config = replace(CONFIG, **changes)
    arguments = (config, dataset, distilled, [teacher])
    check_resumes_with_the_same_bits(tmp_path / "run.ckpt", stop, *arguments)


def test_so_does_a_compiled_run(dataset, distilled, tmp_path):
    # After two steps the first batch that the resumed run sees is the small one.
    config = replace(CONFIG, compile=True, loss="ce", teachers=())
    check_resumes_with_the_same_bits(tmp_path / "run.ckpt", (2, 2), config, dataset, distilled)


@pytest.fixture
def replayed(distilled, teacher, dataset, tmp_path) -> DistilledSet:
    """The distilled set with stored labels of two epochs, of which batches are drawn at random."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        logits = teacher(dataset.normalize(distilled.images))
    for epoch in range(2):
        (tmp_path / f"epoch_{epoch}").mkdir()
        for number, index in enumerate(torch.randperm(20, generator=generator).split(5)):
            coords = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(len(index), 1)
            flip = torch.rand(len(index), generator=generator) < 0.5
            items = [coords, flip, None, None, None, logits[index], index]
            torch.save(items, tmp_path / f"epoch_{epoch}" / f"batch_{number}.tar")
    labels = FkdLabels(tmp_path, distilled.labels, 10, at_random=True)
    return replace(distilled, replay=labels)


def test_so_does_a_run_on_stored_batches(dataset, replayed, tmp_path):
    config = replace(CONFIG, teachers=(), student="tests.networks.dropout")
    arguments = (config, dataset, replayed)
    check_resumes_with_the_same_bits(tmp_path / "run.ckpt", (2, 3), *arguments)


def test_so_does_a_teacher_interrupted_again_and_again(dataset, tmp_path):
    config = TeacherConfig(dataset="digits", model="convnet3:width=8", epochs=2, batch_size=500)
    unbroken, checks = train_teacher(config, dataset)
    steps = []
    for stop in ((1, 1), (1, 2), (2, 2)):
        stopped, observer = run(tmp_path / "run.ckpt", stop, train_teacher, config, dataset)
        steps += observer.steps
        assert str(stopped) == (
            f"interrupted by SIGTERM; state saved at step {stop[1]} of epoch {stop[0]}"
        )
    (resumed, again), observer = run(tmp_path / "run.ckpt", None, train_teacher, config, dataset)
    assert steps + observer.steps == [(epoch, step) for epoch in (1, 2) for step in (1, 2, 3)]
    assert observer.done == pytest.approx(1 + 2 / 3)
    assert torch.equal(weights(resumed), weights(unbroken))
    assert again == checks


def with_scaler(growth_interval: int = 5):
    """An accelerator for the CPU that scales its gradients, as one for float16 does on a GPU."""
    accelerator = new_accelerator(CONFIG)
    accelerator.scaler = torch.amp.GradScaler("cpu", growth_interval=growth_interval)
    return accelerator


def test_the_gradient_scaler_goes_on_in_the_middle_of_an_epoch(
    dataset, distilled, teacher, tmp_path
):
    arguments = (CONFIG, dataset, distilled, [teacher])
    unbroken = with_scaler()
    student, _ = train_student(*arguments, accelerator=unbroken)
    assert unbroken.scaler.get_scale() > 2.0**16  # twelve steps have let it grow
    path = tmp_path / "run.ckpt"
    run(path, (2, 2), train_student, *arguments, accelerator=with_scaler())
    resumed = with_scaler()
    (again, _), _ = run(path, None, train_student, *arguments, accelerator=resumed)
    assert resumed.scaler.state_dict() == unbroken.scaler.state_dict()
    assert torch.equal(weights(again), weights(student))


def test_a_signal_during_a_test_saves_the_state_before_it_and_does_not_wait(
    dataset, distilled, teacher, tmp_path, monkeypatch
):
    arguments = (CONFIG, dataset, distilled, [teacher])
    student, result = train_student(*arguments)
    interruption = Interruption()
    tested = []

    def interrupted(*arguments, **options):
        interruption.receive(signal.SIGINT)
        tested.append(1)
        return count_correct(*arguments, **options)

    options = {"checkpoint": CheckpointConfig(tmp_path / "run.ckpt")}
    with monkeypatch.context() as patch:
        patch.setattr("gift_fast.training.predict.count_correct", interrupted)
        with pytest.raises(Interrupted, match="SIGINT; state saved at step 3 of epoch 2"):
            train_student(*arguments, interruption=interruption, **options)
    assert tested == []
    again, resumed = train_student(*arguments, **options)
    assert torch.equal(weights(again), weights(student))
    assert resumed.checks == result.checks


def test_a_second_signal_stops_at_once(dataset, distilled, teacher, tmp_path, monkeypatch):
    monkeypatch.setattr("gift_fast.process.signals.ECHO", 0.0)
    interruption = Interruption()

    class Impatient(Observer):
        def step(self, *_: object) -> None:
            interruption.receive(signal.SIGTERM)
            interruption.receive(signal.SIGTERM)

    options = {"interruption": interruption, "observer": Impatient()}
    with pytest.raises(Interrupted) as stopped:
        train_student(
            *(CONFIG, dataset, distilled, [teacher]),
            checkpoint=CheckpointConfig(tmp_path / "run.ckpt"),
            **options,
        )
    assert str(stopped.value) == "interrupted by SIGTERM"
    assert list(tmp_path.iterdir()) == []


# ---- when a checkpoint is written ----------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def checkpointer(path: Path, clock: Clock, every: float) -> Checkpointer:
    config = CheckpointConfig(path, every)
    return Checkpointer(config, Interruption(), {}, new_accelerator(CONFIG), clock)


def test_checkpoints_come_by_time(tmp_path):
    clock, path = Clock(), tmp_path / "run.ckpt"
    saver = checkpointer(path, clock, every=300)
    saved = []
    for step in range(1000):
        clock.now += 1
        saver.after_step(lambda: saved.append(clock.now) or {"epoch": 0, "step": step})  # noqa: B023
    assert saved == [1300.0, 1600.0, 1900.0]
    assert read_state(path, {}) == {"epoch": 0, "step": 899}


def test_a_slow_write_makes_checkpoints_rarer_so_that_they_cost_a_hundredth(tmp_path, monkeypatch):
    clock = Clock()

    def slow(*_: object) -> None:
        clock.now += 12

    monkeypatch.setattr(resume, "write_state", slow)
    saver = checkpointer(tmp_path / "run.ckpt", clock, every=300)
    saved = []
    for _ in range(3000):
        clock.now += 1
        saver.after_step(lambda: saved.append(clock.now) or {})
    assert saved[0] == 1300.0
    assert {later - earlier for earlier, later in itertools.pairwise(saved)} == {1212.0}


@pytest.mark.parametrize("every", [0, -1.0, float("nan"), float("inf")])
def test_an_impossible_time_between_checkpoints_is_refused(every):
    with pytest.raises(ValueError, match="every must be a positive number of seconds"):
        CheckpointConfig(Path("run.ckpt"), every=every)


# ---- what is read --------------------------------------------------------------------------------


def test_a_checkpoint_of_another_run_is_refused(dataset, distilled, teacher, tmp_path):
    path = tmp_path / "run.ckpt"
    run(path, (1, 1), train_student, CONFIG, dataset, distilled, [teacher])
    with pytest.raises(ValueError, match=r"run\.ckpt must be a checkpoint of the same config"):
        run(path, None, train_student, replace(CONFIG, epochs=3), dataset, distilled, [teacher])


@pytest.mark.parametrize("contents", [b"", b"no checkpoint", "half"])
def test_a_damaged_checkpoint_is_set_aside_and_the_run_starts_again(
    dataset, distilled, teacher, tmp_path, contents
):
    path = tmp_path / "run.ckpt"
    arguments = (CONFIG, dataset, distilled, [teacher])
    unbroken = train_student(*arguments)
    run(path, (2, 1), train_student, *arguments)
    damaged = path.read_bytes()[:5000] if contents == "half" else contents
    path.write_bytes(damaged)
    with pytest.warns(UserWarning, match=r"run\.ckpt must be .* checkpoint"):
        again, observer = run(path, None, train_student, *arguments)
    assert observer.steps[0] == (1, 1)
    assert torch.equal(weights(again[0]), weights(unbroken[0]))
    assert path.with_name("run.ckpt.damaged").read_bytes() == damaged


@pytest.mark.parametrize("name", ["format", "identity"])
def test_a_checkpoint_with_a_tensor_in_place_of_a_value_is_damaged(tmp_path, name):
    path = tmp_path / "run.ckpt"
    values = {"format": torch.zeros(2), "identity": {"seed": torch.zeros(2)}}
    whole = {"format": FORMAT, "identity": {"seed": 1}, "state": {}}
    torch.save({**whole, name: values[name]}, path)
    with pytest.raises(DamagedCheckpoint, match=r"run\.ckpt must be .* checkpoint"):
        read_state(path, {"seed": 1})


def test_a_checkpoint_that_may_not_be_read_is_not_taken_for_damaged(
    dataset, distilled, teacher, tmp_path
):
    path = tmp_path / "run.ckpt"
    path.mkdir()  # as root, nothing else is refused
    with pytest.raises(OSError, match=r"run\.ckpt"):
        run(path, None, train_student, CONFIG, dataset, distilled, [teacher])
    assert path.is_dir()


def test_checkpoints_of_format_1_which_lie_between_epochs_are_read(
    dataset, distilled, teacher, tmp_path
):
    path = tmp_path / "run.ckpt"
    arguments = (CONFIG, dataset, distilled, [teacher])
    student, result = train_student(*arguments)
    at_the_end = {}

    class Ended(Observer):
        def epoch(self, number: int, images: int, check: object) -> None:
            if number == 2:
                raise KeyboardInterrupt

    original = Checkpointer.unchanged

    @contextlib.contextmanager
    def noting(self, snapshot):
        with original(self, snapshot):
            yield
        at_the_end["snapshot"] = snapshot

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpointer, "unchanged", noting)
        with pytest.raises(KeyboardInterrupt):
            train_student(
                *arguments, observer=Ended(), checkpoint=CheckpointConfig(tmp_path / "not.ckpt")
            )
    entries = ("model", "optimizer", "schedule", "scaler", "checks", "seconds", "training_seconds")
    snapshot = at_the_end["snapshot"]()
    state = {**{name: snapshot[name] for name in entries}, "epoch": 2}
    torch.save({"format": 1, "identity": identity_of(arguments, tmp_path), "state": state}, path)
    (resumed, again), observer = run(path, None, train_student, *arguments)
    assert observer.steps[0] == (3, 1)
    assert torch.equal(weights(resumed), weights(student))
    assert again.checks == result.checks


def identity_of(arguments, tmp_path) -> dict:
    path = tmp_path / "other.ckpt"
    run(path, (1, 1), train_student, *arguments)
    return torch.load(path, weights_only=True)["identity"]


def test_a_checkpoint_of_a_later_format_is_refused(tmp_path):
    path = tmp_path / "run.ckpt"
    write_state(path, {}, {"epoch": 1, "step": 0})
    contents = torch.load(path, weights_only=True)
    torch.save({**contents, "format": FORMAT + 1}, path)
    with pytest.raises(ValueError, match=r"run\.ckpt must be"):
        read_state(path, {})


@pytest.mark.parametrize("change", ["processes", "device"])
def test_a_state_from_within_an_epoch_is_for_as_many_processes_on_the_same_kind_of_device(
    dataset, distilled, teacher, tmp_path, change
):
    path = tmp_path / "run.ckpt"
    arguments = (CONFIG, dataset, distilled, [teacher])
    run(path, (2, 1), train_student, *arguments)
    contents = torch.load(path, weights_only=True)
    if change == "processes":
        contents["state"]["processes"] *= 2
    else:
        contents["state"]["processes"][0]["device"] = "cuda"
    torch.save(contents, path)
    with pytest.raises(ValueError, match=r"run\.ckpt was saved within epoch 2 by . process"):
        run(path, None, train_student, *arguments)
