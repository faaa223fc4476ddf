"""Labels stored once: what is replayed is what the teacher online would have given, bit for bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from gift_fast.data.datasets import TensorSplit, load_dataset
from gift_fast.data.distilled import DistilledSet
from gift_fast.data.labels.label_set import LabelSet, compressed, shard_path
from gift_fast.evaluation import labeling
from gift_fast.evaluation.config import EvaluationConfig, ResolvedEvaluationConfig
from gift_fast.evaluation.digests import inputs_of
from gift_fast.evaluation.labeling import Compression, label_run, plan_labels
from gift_fast.evaluation.results import run_path
from gift_fast.evaluation.student import train_student
from gift_fast.loss import TopKLabels
from gift_fast.process.signals import Interrupted, Interruption
from gift_fast.training.batches import RandomBatches
from gift_fast.training.checkpoint import CheckpointConfig
from gift_fast.training.labeled_batches import LabeledBatches
from gift_fast.training.models import new_model
from gift_fast.training.observer import Observer
from gift_fast.training.processes import Processes, new_accelerator

NETWORK = "convnet3:width=4"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def digits():
    dataset = load_dataset("digits")
    test = TensorSplit(dataset.test.images[:40], dataset.test.labels[:40])
    return replace(dataset, train=None, test=test)


@pytest.fixture(scope="module")
def small() -> DistilledSet:
    generator = torch.Generator().manual_seed(3)
    return DistilledSet(torch.rand(20, 1, 8, 8, generator=generator), torch.arange(20) % 10)


@pytest.fixture(scope="module")
def teacher(digits) -> nn.Module:
    return new_model(NETWORK, digits, seed=7).eval()


def config_of(**changes: object) -> ResolvedEvaluationConfig:
    values = {
        "dataset": "digits",
        "student": NETWORK,
        "teachers": (NETWORK,),
        "epochs": 3,
        "batch_size": 8,
        "learning_rate": 1e-2,
        "eval_every": 3,
        "loss": "gift",
        **changes,
    }
    return EvaluationConfig.from_dict(values).resolved(num_images=20)


def labeled(folder: Path, config, digits, small, teacher, **options: object) -> LabelSet:
    accelerator = new_accelerator(config, device="cpu")
    return label_run(config, digits, small, [teacher], folder, accelerator=accelerator, **options)


def trained(config, digits, small, teachers=(), **options: object):
    accelerator = new_accelerator(config, device="cpu")
    return train_student(config, digits, small, teachers, accelerator=accelerator, **options)


@pytest.mark.parametrize("augmentation", ["none", "dsa", "dsa-one", "crop-flip", "rrc", "rded"])
@pytest.mark.parametrize("mixing", ["none", "mixup", "cutmix"])
def test_the_replayed_batches_have_the_bits_of_those_that_were_labeled(
    augmentation, mixing, tmp_path, digits, small, teacher
):
    config = config_of(augmentation=augmentation, mixing=mixing, epochs=2)
    stored = labeled(tmp_path, config, digits, small, teacher)
    split = TensorSplit(small.images, small.labels)
    online = RandomBatches(split, digits.normalize, config, Processes())
    replayed = LabeledBatches(split, digits.normalize, config, Processes(), stored)
    for epoch in (1, 2):
        pairs = zip(online.epoch(epoch), replayed.epoch(epoch), strict=True)
        for one, other in pairs:
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.target, other.target)
            assert one.weight == other.weight
            if mixing != "none":
                assert torch.equal(one.mixed_target, other.mixed_target)
            with torch.no_grad():
                assert torch.equal(teacher(one.images), other.soft_labels)


@pytest.mark.parametrize("loss", ["gift", "kl:temperature=4", "mse+ce"])
@pytest.mark.parametrize("mixing", ["none", "cutmix"])
def test_a_replayed_run_ends_with_the_bits_of_the_online_teachers(
    loss, mixing, tmp_path, digits, small, teacher
):
    config = config_of(loss=loss, mixing=mixing)
    online, with_teacher = trained(config, digits, small, [teacher])
    labels = labeled(tmp_path, replace(config, loss="ce"), digits, small, teacher)
    replayed, without = trained(config, digits, small, labels=labels)
    for name, value in online.state_dict().items():
        assert torch.equal(value, replayed.state_dict()[name]), name
    assert without.checks == with_teacher.checks
    folder = Path("runs")  # the same run, by the name of its record
    assert run_path(folder, without.config, without.inputs) == run_path(
        folder, with_teacher.config, with_teacher.inputs
    )


@pytest.mark.parametrize("online_first", [True, False])
def test_an_interrupted_run_goes_on_with_labels_or_a_teacher_alike(
    online_first, tmp_path, digits, small, teacher
):
    """Within an epoch: the random numbers of the batches before are drawn and dropped."""
    config = config_of(mixing="mixup")
    labels = labeled(tmp_path / "labels", config, digits, small, teacher)
    whole, _ = trained(config, digits, small, [teacher])
    checkpoint = CheckpointConfig(tmp_path / "run.ckpt", 1e9)
    inputs = inputs_of(digits, small, [teacher])
    ways = [{"teachers": [teacher]}, {"labels": labels}]
    first, second = ways if online_first else reversed(ways)
    interruption = Interruption()

    class Stops(Observer):
        def step(self, epoch, step, steps, images, loss):
            if (epoch, step) == (2, 2):
                interruption.receive(15)

    with pytest.raises(Interrupted):
        trained(
            config,
            digits,
            small,
            **first,
            checkpoint=checkpoint,
            interruption=interruption,
            observer=Stops(),
            inputs=inputs,
        )
    ended, _ = trained(config, digits, small, **second, checkpoint=checkpoint, inputs=inputs)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, ended.state_dict()[name]), name


def test_the_processes_of_a_run_take_parts_of_the_stored_batches(tmp_path, digits, small, teacher):
    config = config_of(mixing="cutmix", augmentation="dsa-one", epochs=1)
    stored = labeled(tmp_path, config, digits, small, teacher)
    split = TensorSplit(small.images, small.labels)

    def batches(processes: Processes):
        return list(LabeledBatches(split, digits.normalize, config, processes, stored).epoch(1))

    for whole, *parts in zip(
        batches(Processes()), *(batches(Processes(i, 2)) for i in range(2)), strict=True
    ):
        for name in ("images", "target", "soft_labels", "mixed_target"):
            joined = torch.cat([getattr(part, name) for part in parts])
            torch.testing.assert_close(joined, getattr(whole, name), atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("rest", ["logmeanexp", "mean", "min"])
def test_what_stands_for_the_rest_is_as_defined(rest):
    logits = torch.randn(5, 12, generator=torch.Generator().manual_seed(0)).double()
    values, indices, left = compressed(logits, 3, rest, 2.0 if rest == "logmeanexp" else None)
    for row in range(5):
        order = logits[row].sort(descending=True)
        assert indices[row].tolist() == order.indices[:3].tolist()
        others = order.values[3:]
        expected = {
            "mean": others.mean(),
            "min": others.min(),
            "logmeanexp": 2.0 * (others / 2.0).exp().mean().log(),
        }[rest]
        torch.testing.assert_close(left[row].double(), expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(values[row].double(), order.values[:3], rtol=1e-6, atol=1e-6)
    if rest == "logmeanexp":  # the mass of the others at the temperature is kept
        dense = left.unsqueeze(1).repeat(1, 12).scatter(1, indices, values)
        mass = lambda x: (x / 2.0).softmax(1).gather(1, indices)  # noqa: E731
        torch.testing.assert_close(mass(dense.double()), mass(logits), rtol=1e-5, atol=1e-6)


def test_top_k_labels_are_replayed_and_are_a_run_of_their_own(tmp_path, digits, small, teacher):
    config = config_of()
    stored = Compression(top_k=3, dtype="float16", rest="mean")
    labels = labeled(tmp_path / "k", config, digits, small, teacher, compression=stored)
    dense = labeled(tmp_path / "all", config, digits, small, teacher)
    split = TensorSplit(small.images, small.labels)
    few, full = (
        LabeledBatches(split, digits.normalize, config, Processes(), each).epoch(1)
        for each in (labels, dense)
    )
    for one, other in zip(few, full, strict=True):
        top = other.soft_labels.topk(3)
        values, indices, rest = one.soft_labels
        assert torch.equal(indices.long(), top.indices)
        assert torch.equal(values, top.values.half().float())
        left = other.soft_labels.scatter(1, top.indices, 0.0).sum(1) / 7
        torch.testing.assert_close(rest, left, atol=2e-3, rtol=2e-3)
    _, result = trained(config, digits, small, labels=labels)
    _, exact = trained(config, digits, small, labels=dense)
    assert result.inputs == {**exact.inputs, "labels": labels.fingerprint()}


@pytest.mark.parametrize("loss", ["gift", "kl+ce:temperature=4", "mse", "dkd"])
@pytest.mark.parametrize("mixing", ["none", "mixup", "cutmix"])
def test_top_k_labels_train_as_the_dense_labels_they_stand_for(
    tmp_path, digits, small, teacher, monkeypatch, loss, mixing
):
    config = config_of(loss=loss, mixing=mixing, optimizer="sgd")
    labels = labeled(
        tmp_path, config, digits, small, teacher, compression=Compression(top_k=3, dtype="float16")
    )
    as_stored = LabeledBatches.labels_of

    def dense(self, number, index, rows):
        values, indices, rest = as_stored(self, number, index, rows)
        full = rest.unsqueeze(1).repeat(1, 10)
        return full.scatter(1, indices.long(), values)

    with monkeypatch.context() as patched:
        patched.setattr(LabeledBatches, "labels_of", dense)
        expected, _ = trained(config, digits, small, labels=labels)
    monkeypatch.setattr(TopKLabels, "dense", lambda *_: pytest.fail("a dense label was built"))
    student, _ = trained(config, digits, small, labels=labels)
    for one, other in zip(student.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-4)


def test_the_size_is_known_before(tmp_path, digits, small, teacher):
    for number, compression in enumerate(
        [Compression(), Compression(top_k=2, dtype="bfloat16", rest="min")]
    ):
        config = config_of(mixing="cutmix")
        labels = labeled(
            tmp_path / str(number), config, digits, small, teacher, compression=compression
        )
        plan = plan_labels(
            config, small, 10, set_digest="", teacher_digest="", compression=compression
        )
        header = 4096  # of safetensors, for the names
        assert labels.nbytes - header <= plan.nbytes <= 1.2 * labels.nbytes
        assert plan.label_bytes < plan.nbytes


def test_labeling_resumes_and_leaves_whole_shards_alone(
    tmp_path, digits, small, teacher, monkeypatch
):
    monkeypatch.setattr(labeling, "SHARD_EPOCHS", 1)
    config = config_of()
    whole = labeled(tmp_path / "whole", config, digits, small, teacher)
    calls = []

    def stops(done: int, epochs: int) -> None:
        calls.append(done)
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        labeled(tmp_path / "parts", config, digits, small, teacher, on_progress=stops)
    assert [shard_path(tmp_path / "parts", s).exists() for s in range(3)] == [True, False, False]
    with pytest.raises(FileNotFoundError, match=r"labels-00001\.safetensors is missing"):
        LabelSet(tmp_path / "parts")
    first = shard_path(tmp_path / "parts", 0).stat().st_mtime_ns
    done = []
    labeled(
        tmp_path / "parts", config, digits, small, teacher, on_progress=lambda d, e: done.append(d)
    )
    assert done == [1, 2, 3]
    assert shard_path(tmp_path / "parts", 0).stat().st_mtime_ns == first
    for shard in range(3):
        names = (shard_path(whole.folder, shard), shard_path(tmp_path / "parts", shard))
        assert names[0].read_bytes() == names[1].read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, r"seed of the run, 1, .* 0: every seed"),
        ({"epochs": 4}, "epochs must be at most 3, .* got 4"),
        ({"batch_size": 5}, r"batch_size of the run, 5, .* 8"),
        ({"augmentation": "rrc"}, r"augmentation of the run, 'rrc', .* 'dsa'"),
        ({"mixing": "mixup"}, r"mixing of the run, 'mixup', .* 'none'"),
        ({"mixed_precision": "bf16"}, r"mixed_precision of the run, 'bf16', .* 'no'"),
        ({"teachers": ("convnet3",)}, "teachers .*convnet3'.*width=4"),
    ],
)
def test_labels_of_another_run_are_refused(changes, message, tmp_path, digits, small, teacher):
    labels = labeled(tmp_path, config_of(), digits, small, teacher)
    with pytest.raises(ValueError, match=message):
        trained(config_of(**changes), digits, small, labels=labels)


def test_labels_of_other_images_or_another_teacher_are_refused(tmp_path, digits, small, teacher):
    labels = labeled(tmp_path, config_of(), digits, small, teacher)
    with pytest.raises(ValueError, match=r"set_digest .* for other images"):
        trained(config_of(), digits, replace(small, images=small.images / 2), labels=labels)
    other = new_model(NETWORK, digits, seed=8).eval()
    with pytest.raises(ValueError, match=r"teacher_digest .* another teacher"):
        trained(config_of(), digits, small, [other], labels=labels)


def test_another_label_set_in_the_folder_is_an_error(tmp_path, digits, small, teacher):
    labeled(tmp_path, config_of(), digits, small, teacher)
    with pytest.raises(ValueError, match="epochs 2, got one with 3"):
        labeled(tmp_path, config_of(epochs=2), digits, small, teacher)


def test_fewer_epochs_may_be_replayed(tmp_path, digits, small, teacher):
    labels = labeled(tmp_path, config_of(), digits, small, teacher)
    config = config_of(epochs=2)
    online, _ = trained(config, digits, small, [teacher])
    replayed, _ = trained(config, digits, small, labels=labels)
    for name, value in online.state_dict().items():
        assert torch.equal(value, replayed.state_dict()[name]), name


def test_a_mixing_of_the_users_own_cannot_be_stored(tmp_path, digits, small, teacher, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_mix.py").write_text(
        "def swap():\n    return lambda images, permutation, choices: (images[permutation], 0.5)\n"
    )
    with pytest.raises(TypeError, match="mixing must be one of none, mixup, cutmix"):
        labeled(tmp_path / "l", config_of(mixing="own_mix.swap"), digits, small, teacher)


def test_a_disk_that_is_too_full_is_an_error_before_anything_is_labeled(
    tmp_path, digits, small, teacher, monkeypatch
):
    monkeypatch.setattr("gift_fast.files.disk.shutil.disk_usage", lambda path: Usage())
    with pytest.raises(OSError, match="not enough disk space for labels"):
        labeled(tmp_path, config_of(), digits, small, teacher)


class Usage:
    free = 10


def test_the_manifest_says_what_the_labels_are(tmp_path, digits, small, teacher):
    labeled(tmp_path, config_of(), digits, small, teacher)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    inputs = inputs_of(digits, small, [teacher])
    assert manifest["set_digest"] == inputs["distilled"]
    assert manifest["teacher_digest"] == inputs["teachers"]
    assert manifest["environment"]["torch"] == torch.__version__
    operations = [[o["operation"] for o in step] for step in manifest["augmentation_steps"]]
    assert operations == [["flip"], ["color"], ["crop", "scale", "rotate"], ["cutout"]]
