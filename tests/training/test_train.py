from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from gift_fast.data.distilled import DistilledSet
from gift_fast.data.labels.fkd import FkdLabels
from gift_fast.evaluation import EvaluationConfig, evaluate
from gift_fast.evaluation.config import TeacherConfig
from gift_fast.evaluation.soft_labels import average_of
from gift_fast.evaluation.student import train_student
from gift_fast.evaluation.teacher import train_teacher
from gift_fast.training.eval_result import EvalResult
from gift_fast.training.models import new_model
from gift_fast.training.observer import Observer
from gift_fast.training.predict import measure_accuracy
from gift_fast.training.processes import new_accelerator

CONFIG = EvaluationConfig(
    dataset="digits",
    ipc=2,
    student="convnet3:width=16",
    teachers=("convnet3:width=16",),
    epochs=4,
    augmentation="dsa:strategy=crop_scale_rotate",
    batch_size=8,
)


class Recorder(nn.Module):
    """A teacher that notes how it was called."""

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self.teacher = teacher
        self.calls: list[tuple[bool, bool, torch.Tensor]] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls.append((self.training, torch.is_inference_mode_enabled(), images))
        return self.teacher(images)


class Recording(Observer):
    """Notes the epochs and the steps of a run."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.steps: list[tuple[int, int, int, int]] = []
        self.losses: list[float] = []

    def step(
        self, epoch: int, step: int, steps: int, images: int, loss: Callable[[], float]
    ) -> None:
        self.steps.append((epoch, step, steps, images))
        self.losses.append(loss())

    def epoch(self, number: int, images: int, check: EvalResult | None) -> None:
        self.seen.append(number)


def weights(student: nn.Module) -> torch.Tensor:
    return torch.cat([value.flatten().float() for value in student.state_dict().values()])


# ---- what a run is -------------------------------------------------------------------------------


def test_a_run_is_the_same_bit_for_bit_from_its_seed(dataset, distilled, teacher):
    first = train_student(CONFIG, dataset, distilled, [teacher])
    torch.manual_seed(123)
    again = train_student(CONFIG, dataset, distilled, [teacher])
    other = evaluate(replace(CONFIG, seed=1), dataset, distilled, [teacher])
    assert torch.equal(weights(first[0]), weights(again[0]))
    assert first[1].checks == again[1].checks
    assert first[1].inputs == again[1].inputs
    assert [c.loss for c in other.checks] != [c.loss for c in first[1].checks]


def test_a_run_leaves_the_global_random_numbers_as_they_were(dataset, distilled, teacher):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    evaluate(replace(CONFIG, epochs=1), dataset, distilled, [teacher])
    assert torch.equal(torch.rand(3), expected)


def test_dropout_too_is_the_same_from_the_seed(dataset, distilled, teacher):
    config = replace(CONFIG, student="tests.networks.dropout", epochs=2)
    first, again = (train_student(config, dataset, distilled, [teacher])[0] for _ in range(2))
    other = train_student(replace(config, seed=1), dataset, distilled, [teacher])[0]
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))


def test_checks_come_when_the_configuration_says(dataset, distilled, teacher):
    config = replace(CONFIG, epochs=5, eval_every=2)
    observer = Recording()
    result = evaluate(config, dataset, distilled, [teacher], observer=observer)
    assert [check.epoch for check in result.checks] == [2, 4, 5]
    assert observer.seen == [1, 2, 3, 4, 5]
    assert observer.steps[:4] == [(1, 1, 3, 8), (1, 2, 3, 8), (1, 3, 3, 4), (2, 1, 3, 8)]
    last_steps = observer.losses[2::3]
    assert [last_steps[epoch - 1] for epoch in (2, 4, 5)] == [c.loss for c in result.checks]
    assert result.last == result.checks[-1]
    assert result.best.top1 == max(check.top1 for check in result.checks)


def test_a_check_is_the_accuracy_of_the_student_on_the_test_split(dataset, distilled, teacher):
    student, result = train_student(CONFIG, dataset, distilled, [teacher])
    found = measure_accuracy(student, dataset)
    assert (result.last.top1, result.last.top5) == (found.top1, found.top5)
    assert result.last.test_loss == pytest.approx(found.loss)
    assert result.last.top5 > result.last.top1


def test_a_result_records_what_it_was_made_with(dataset, distilled, teacher):
    result = evaluate(CONFIG, dataset, distilled, [teacher])
    assert result.config.learning_rate == 1e-3  # settled
    assert result.images_per_second > 0
    assert result.seconds > 0
    assert result.peak_memory > 2**20
    assert result.source == distilled.source
    assert {"gift_fast", "torch", "device", "backend", "processes", "threads"} <= set(
        result.environment
    )


@pytest.mark.parametrize("loss", ["ce", "gift", "kl:scale_t2=true", "mse+ce", "refine+softce"])
def test_a_student_learns_under_every_kind_of_loss(dataset, distilled, teacher, loss):
    config = replace(CONFIG, loss=loss, epochs=25, augmentation="none")
    assert evaluate(config, dataset, distilled, [teacher]).last.top1 > 35.0  # chance is 10


# ---- labels --------------------------------------------------------------------------------------


def test_the_teacher_labels_the_augmented_batch_in_eval_and_inference_mode(
    dataset, distilled, teacher
):
    recorder = Recorder(teacher).train()
    evaluate(CONFIG, dataset, distilled, [recorder])
    assert len(recorder.calls) == 4 * 3  # epochs of 8 + 8 + 4 images
    originals = {tuple(i.flatten().tolist()) for i in dataset.normalize(distilled.images)}
    for training, inference, images in recorder.calls:
        assert not training
        assert inference
        assert sum(tuple(i.flatten().tolist()) in originals for i in images) < len(images)


def test_the_teacher_is_not_trained(dataset, distilled, teacher):
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    evaluate(CONFIG, dataset, distilled, [teacher])
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())


def test_a_loss_that_reads_no_soft_label_asks_no_teacher(dataset, distilled, teacher):
    recorder = Recorder(teacher)
    evaluate(replace(CONFIG, loss="ce"), dataset, distilled, [recorder])
    assert recorder.calls == []


def test_stored_soft_labels_do_what_the_teacher_would_on_unchanged_images(
    dataset, distilled, teacher
):
    config = replace(CONFIG, augmentation="none")
    online = evaluate(config, dataset, distilled, [teacher])
    with torch.no_grad():
        labels = teacher(dataset.normalize(distilled.images))
    labeled = replace(distilled, soft_labels=labels)
    stored = evaluate(replace(config, teachers=()), dataset, labeled)
    losses = [[check.loss for check in result.checks] for result in (online, stored)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_several_teachers_are_averaged_at_their_mean_norm():
    torch.manual_seed(0)
    logits = torch.randn(3, 5, 7, dtype=torch.float64) * torch.tensor([1.0, 10.0, 100.0]).view(
        -1, 1, 1
    )
    expected = torch.zeros(5, 7, dtype=torch.float64)
    for row in range(5):
        norms = [logits[k, row].square().sum().sqrt() for k in range(3)]
        for k in range(3):
            expected[row] += logits[k, row] / norms[k] * sum(norms) / 3 / 3
    torch.testing.assert_close(average_of(logits), expected)
    assert average_of(torch.zeros(2, 1, 3)).isfinite().all()


def test_two_equal_teachers_are_as_good_as_one(dataset, distilled, teacher):
    one = evaluate(CONFIG, dataset, distilled, [teacher])
    two = evaluate(replace(CONFIG, teachers=CONFIG.teachers * 2), dataset, distilled, [teacher] * 2)
    assert two.last.loss == pytest.approx(one.last.loss, rel=1e-4)


def test_mixed_batches_take_both_hard_labels_unless_told_otherwise(dataset, distilled):
    config = replace(CONFIG, teachers=(), loss="ce", mixing="mixup", augmentation="none")
    both, own = (
        evaluate(replace(config, mixed_targets=flag), dataset, distilled) for flag in (True, False)
    )
    assert both.last.loss != own.last.loss


def test_stored_labels_of_single_images_are_not_mixed(dataset, distilled):
    labeled = replace(distilled, soft_labels=torch.zeros(20, 10))
    config = replace(CONFIG, teachers=(), mixing="mixup")
    with pytest.raises(ValueError, match="mixing must be none if one soft label per image"):
        evaluate(config, dataset, labeled)
    evaluate(replace(config, loss="ce", epochs=1), dataset, labeled)  # reads no soft label


@pytest.fixture
def replayed(distilled, teacher, dataset, tmp_path) -> DistilledSet:
    """The distilled set with labels of three epochs, as G-VBSM stores them, on whole images."""
    with torch.no_grad():
        logits = teacher(dataset.normalize(distilled.images))
    for epoch in range(3):
        (tmp_path / f"epoch_{epoch}").mkdir()
        for number, index in enumerate(torch.randperm(20).split(5)):
            coords = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(len(index), 1)
            flip = torch.zeros(len(index), dtype=torch.bool)
            items = [coords, flip, None, None, None, logits[index], index]
            torch.save(items, tmp_path / f"epoch_{epoch}" / f"batch_{number}.tar")
    return replace(distilled, replay=FkdLabels(tmp_path, distilled.labels, 10))


def test_a_student_is_trained_on_stored_batches_and_records_their_settings(
    dataset, replayed, teacher
):
    config = replace(CONFIG, teachers=(), epochs=3, eval_every=1, batch_size=7)
    result = evaluate(config, dataset, replayed)
    settings = result.config
    assert (settings.batch_size, settings.augmentation, settings.mixing) == (5, "none", "none")

    with pytest.raises(ValueError, match="epochs must be at most 3, "):
        evaluate(replace(config, epochs=4), dataset, replayed)
    online = evaluate(replace(CONFIG, epochs=1), dataset, replayed, [teacher])
    assert online.config.batch_size == 8  # a teacher labels the images as any others


# ---- precision and layout ------------------------------------------------------------------------


@contextlib.contextmanager
def recorded_convolutions():
    """A list of (module, input, output) of every convolution of several channels that runs.

    A tensor of one channel is laid out in both formats at once.
    """
    seen: list[tuple[nn.Conv2d, torch.Tensor, torch.Tensor]] = []

    def record(module, inputs, output):
        if isinstance(module, nn.Conv2d) and module.in_channels > 1:
            seen.append((module, inputs[0], output))

    handle = nn.modules.module.register_module_forward_hook(record)
    try:
        yield seen
    finally:
        handle.remove()


@pytest.mark.parametrize("channels_last", [True, False])
def test_networks_run_in_the_memory_format_of_the_configuration(
    dataset, distilled, teacher, channels_last
):
    config = replace(CONFIG, epochs=1, channels_last=channels_last)
    wanted = torch.channels_last if channels_last else torch.contiguous_format
    teacher = copy.deepcopy(teacher).to(memory_format=torch.contiguous_format)
    with recorded_convolutions() as seen:
        evaluate(config, dataset, distilled, [teacher])
    assert len({module for module, _, _ in seen}) == 4  # two in the student, two in the teacher
    for module, activations, _ in seen:
        assert module.weight.is_contiguous(memory_format=wanted)
        assert activations.is_contiguous(memory_format=wanted)


@pytest.mark.parametrize(("precision", "dtype"), [("no", torch.float32), ("bf16", torch.bfloat16)])
def test_networks_run_in_the_precision_of_the_configuration(
    dataset, distilled, teacher, precision, dtype
):
    config = replace(CONFIG, epochs=1, mixed_precision=precision)
    with recorded_convolutions() as seen:
        evaluate(config, dataset, distilled, [teacher])
    assert {output.dtype for _, _, output in seen} == {dtype}
    assert {module.weight.dtype for module, _, _ in seen} == {torch.float32}


# Whether a single bit differs is up to the kernels that PyTorch picks for the processor.
@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [({"channels_last": False}, 1e-4), ({"mixed_precision": "bf16"}, 2e-2)],
)
def test_layout_and_precision_change_the_rounding_alone(
    dataset, distilled, teacher, changes, tolerance
):
    config = replace(CONFIG, epochs=1)
    plain = evaluate(config, dataset, distilled, [teacher]).last.loss
    changed = evaluate(replace(config, **changes), dataset, distilled, [teacher]).last.loss
    assert changed == pytest.approx(plain, rel=tolerance)


def test_a_compiled_run_agrees_with_an_eager_one(dataset, distilled, teacher):
    config = replace(CONFIG, epochs=1)
    eager = evaluate(config, dataset, distilled, [teacher]).last.loss
    compiled = evaluate(replace(config, compile=True), dataset, distilled, [teacher]).last.loss
    assert compiled == pytest.approx(eager, rel=1e-4)


def test_a_device_that_is_neither_auto_nor_cpu_is_refused():
    with pytest.raises(ValueError, match=r"device must be auto or cpu .*, got 'abacus'"):
        new_accelerator(CONFIG, device="abacus")


def test_the_gradient_scaler_starts_afresh_in_every_run(dataset, distilled, teacher):
    accelerator = new_accelerator(CONFIG)
    accelerator.scaler = torch.amp.GradScaler("cpu", growth_interval=5)
    scales = []
    for _ in range(2):
        evaluate(CONFIG, dataset, distilled, [teacher], accelerator=accelerator)
        scales.append(accelerator.scaler.get_scale())
    assert scales[0] > 2.0**16  # twelve steps have let it grow
    assert scales[0] == scales[1]


# ---- RDED's second forward pass ------------------------------------------------------------------


def running_means(student: nn.Module) -> torch.Tensor:
    buffers = [b for name, b in student.named_buffers() if name.endswith("running_mean")]
    return torch.cat(buffers).cpu()


def test_forward_twice_moves_the_running_statistics_twice_and_nothing_else(
    dataset, distilled, teacher
):
    config = replace(CONFIG, epochs=1, batch_size=20)  # a single step
    once, _ = train_student(config, dataset, distilled, [teacher])
    twice, result = train_student(
        replace(config, forward_twice=True), dataset, distilled, [teacher]
    )
    for (name, ours), theirs in zip(once.named_parameters(), twice.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)
    # From 0 with momentum m: m x after one pass, m x + (1 - m) m x after two.
    torch.testing.assert_close(running_means(twice), 1.9 * running_means(once))
    counts = [b for n, b in twice.named_buffers() if n.endswith("num_batches_tracked")]
    assert counts
    assert all(count == 2 for count in counts)
    assert result.config.forward_twice


@pytest.mark.parametrize("changes", [{"mixed_precision": "bf16"}, {"mixing": "cutmix"}])
def test_forward_twice_passes_the_augmented_and_mixed_batch(dataset, distilled, teacher, changes):
    calls = []

    class Student(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = new_model("convnet3:width=16", dataset, 0)

        def forward(self, images):
            if self.training:
                calls.append((torch.is_grad_enabled(), images.clone()))
            return self.network(images)

    from gift_fast.evaluation import student

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(student, "new_model", lambda *arguments: Student())
        config = replace(CONFIG, epochs=1, forward_twice=True, **changes)
        evaluate(config, dataset, distilled, [teacher])
    assert [grad for grad, _ in calls] == [False, True] * 3
    for (_, first), (_, second) in zip(calls[::2], calls[1::2], strict=True):
        assert torch.equal(first, second)


# ---- teachers ------------------------------------------------------------------------------------


TEACHER = TeacherConfig(dataset="digits", model="convnet3:width=8", epochs=2, batch_size=100)


def test_a_teacher_is_the_same_bit_for_bit_from_its_seed(dataset):
    first, again = (train_teacher(TEACHER, dataset)[0] for _ in range(2))
    assert torch.equal(weights(first), weights(again))


def test_a_teacher_is_tested_and_records_its_accuracy(dataset):
    teacher, checks = train_teacher(TEACHER, dataset)
    assert [check.epoch for check in checks] == [1, 2]
    assert checks[-1].top1 == measure_accuracy(teacher, dataset).top1
    assert not teacher.training


def test_the_seed_sets_the_initial_weights(dataset):
    def initial(seed: int) -> torch.Tensor:
        return new_model("convnet3:width=8", dataset, seed).classifier.weight

    assert torch.equal(initial(0), initial(0))
    assert not torch.equal(initial(0), initial(1))


# ---- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "count", "message"),
    [
        ({"ipc": 3}, 1, "distilled must .* 30 images, 3 for each of 10 classes, got 20"),
        ({}, 0, "teachers must be the 1 networks that config.teachers names .*, got 0"),
        ({"teachers": ()}, 1, r"config.teachers names \(none\), got 1"),
        ({"teachers": ()}, 0, "distilled must .* soft labels for the loss gift"),
    ],
)
def test_arguments_that_disagree_are_refused(dataset, distilled, teacher, changes, count, message):
    with pytest.raises(ValueError, match=message):
        evaluate(replace(CONFIG, **changes), dataset, distilled, [teacher] * count)


def test_a_dataset_or_a_precision_other_than_the_configurations_is_refused(
    dataset, distilled, teacher
):
    with pytest.raises(ValueError, match="dataset must be that of config, cifar10, got digits"):
        evaluate(replace(CONFIG, dataset="cifar10"), dataset, distilled, [teacher])
    accelerator = new_accelerator(replace(CONFIG, mixed_precision="bf16"))
    with pytest.raises(ValueError, match="mixed_precision of config, 'no', got 'bf16'"):
        evaluate(CONFIG, dataset, distilled, [teacher], accelerator=accelerator)


def test_a_student_that_diverges_is_reported_once_and_goes_on(dataset, distilled, teacher):
    config = replace(CONFIG, optimizer="sgd", learning_rate=1e30, loss="mse", eval_every=1)
    with pytest.warns(
        RuntimeWarning, match=r"the training loss of epoch \d is (nan|inf)"
    ) as warned:
        result = evaluate(config, dataset, distilled, [teacher])
    assert len(warned) == 1
    assert [check.epoch for check in result.checks] == [1, 2, 3, 4]


def test_images_of_another_size_are_refused(dataset, distilled, teacher):
    larger = replace(distilled, images=torch.zeros(20, 1, 16, 16))
    with pytest.raises(ValueError, match=r"images of shape \(1, 8, 8\), got \(1, 16, 16\)"):
        evaluate(CONFIG, dataset, larger, [teacher])


def test_whitened_images_and_whitened_tests_go_together(dataset, distilled, teacher):
    whitened = replace(distilled, whitened=True)
    with pytest.raises(ValueError, match="whiten must be given"):
        evaluate(CONFIG, dataset, whitened, [teacher])
    with pytest.raises(ValueError, match="whiten must be None"):
        evaluate(CONFIG, dataset, distilled, [teacher], whiten=lambda images: images)


def test_the_test_images_of_a_whitened_set_are_whitened_and_not_normalized(dataset, distilled):
    fed = []

    def whiten(images: torch.Tensor) -> torch.Tensor:
        fed.append(images)
        return images - 0.5

    config = replace(CONFIG, epochs=1, loss="ce", teachers=())
    whitened = replace(distilled, whitened=True)
    student, result = train_student(config, dataset, whitened, whiten=whiten)
    assert torch.equal(torch.cat(fed), dataset.test.images)
    found = measure_accuracy(student, dataset, transform=lambda images: images - 0.5)
    assert result.last.top1 == found.top1
