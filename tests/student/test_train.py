from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from gift_fast.student import EvaluationConfig, evaluate
from gift_fast.student.config import TeacherConfig
from gift_fast.student.train import fit, new_model, top1_accuracy, train_teacher

CONFIG = EvaluationConfig(
    dataset="digits",
    ipc=2,
    student="convnet3:width=16",
    teacher="convnet3:width=16",
    epochs=4,
    augmentation="crop_scale_rotate",
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


def test_a_run_is_the_same_bit_for_bit_from_its_seed(dataset, distilled, teacher):
    first = evaluate(CONFIG, dataset, distilled, teacher)
    torch.manual_seed(123)
    again = evaluate(CONFIG, dataset, distilled, teacher)
    other = evaluate(replace(CONFIG, seed=1), dataset, distilled, teacher)
    assert first.checks == again.checks
    assert first.inputs == again.inputs
    assert [c.loss for c in other.checks] != [c.loss for c in first.checks]


def test_a_teacher_is_the_same_bit_for_bit_from_its_seed(dataset):
    config = TeacherConfig(
        dataset="digits", model="convnet3:width=8", epochs=1, augmentation="crop_scale_rotate"
    )
    first, again = (train_teacher(config, dataset).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_checks_come_when_the_configuration_says(dataset, distilled, teacher):
    epochs = []
    config = replace(CONFIG, epochs=5, eval_every=2)
    result = evaluate(config, dataset, distilled, teacher, on_epoch=epochs.append)
    assert [check.epoch for check in result.checks] == [2, 4, 5]
    assert epochs == [1, 2, 3, 4, 5]
    assert result.last_top1 == result.checks[-1].top1
    assert result.best_top1 == max(check.top1 for check in result.checks)


@pytest.mark.parametrize("loss", ["ce", "cosine", "gift", "kl:scale_t2=true", "mse", "softce"])
def test_a_student_learns_under_every_loss(dataset, distilled, teacher, loss):
    config = replace(CONFIG, loss=loss, epochs=25, augmentation="none")
    assert evaluate(config, dataset, distilled, teacher).last_top1 > 35.0  # chance is 10


def test_the_teacher_labels_the_augmented_batch_in_eval_and_inference_mode(
    dataset, distilled, teacher
):
    recorder = Recorder(teacher).train()
    evaluate(CONFIG, dataset, distilled, recorder)
    assert len(recorder.calls) == 4 * 3  # epochs of 8 + 8 + 4 images
    originals = {tuple(i.flatten().tolist()) for i in dataset.normalize(distilled.images)}
    for training, inference, images in recorder.calls:
        assert not training
        assert inference
        assert sum(tuple(i.flatten().tolist()) in originals for i in images) < len(images)


def test_the_teacher_is_not_trained(dataset, distilled, teacher):
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    evaluate(CONFIG, dataset, distilled, teacher)
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())


def test_stored_soft_labels_do_what_the_teacher_would_on_unchanged_images(
    dataset, distilled, teacher
):
    config = replace(CONFIG, augmentation="none")
    online = evaluate(config, dataset, distilled, teacher)
    with torch.no_grad():
        labels = teacher(dataset.normalize(distilled.images))
    labelled = replace(distilled, soft_labels=labels)
    stored = evaluate(replace(config, teacher=None), dataset, labelled)
    losses = [[check.loss for check in result.checks] for result in (online, stored)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_an_epoch_takes_every_image_once_in_an_order_of_its_own():
    images = torch.zeros(20, 1, 8, 8)
    model = nn.Linear(1, 1)
    orders: dict[int, list[int]] = {}
    sizes = []

    def batch_loss(batch: torch.Tensor, index: torch.Tensor, epoch: int) -> torch.Tensor:
        orders.setdefault(epoch, []).extend(index.tolist())
        sizes.append(len(batch))
        return model.weight.sum()

    fit(model, images, replace(CONFIG, epochs=2), batch_loss, lambda epoch, loss: None)
    assert sizes == [8, 8, 4] * 2
    assert sorted(orders[1]) == sorted(orders[2]) == list(range(20))
    assert orders[1] != orders[2]


def test_the_seed_sets_the_initial_weights(dataset):
    def weights(seed: int) -> torch.Tensor:
        return new_model("convnet3:width=8", dataset, seed).classifier.weight

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_the_order_does_not_depend_on_the_augmentation():
    def order(augmentation: str) -> list[int]:
        model = nn.Linear(1, 1)
        seen: list[int] = []

        def batch_loss(batch: torch.Tensor, index: torch.Tensor, epoch: int) -> torch.Tensor:
            seen.extend(index.tolist())
            return model.weight.sum()

        config = replace(CONFIG, augmentation=augmentation, epochs=2)
        fit(model, torch.zeros(20, 1, 8, 8), config, batch_loss, lambda epoch, loss: None)
        return seen

    assert order("none") == order("crop_scale_rotate")


def test_the_reported_loss_is_the_mean_over_images():
    model = nn.Linear(1, 1)
    losses = []

    def batch_loss(batch: torch.Tensor, index: torch.Tensor, epoch: int) -> torch.Tensor:
        return 0.0 * model.weight.sum() + index.float().mean()

    config = replace(CONFIG, epochs=1)
    fit(model, torch.zeros(20, 1, 8, 8), config, batch_loss, lambda e, loss: losses.append(loss))
    assert losses[0].item() == pytest.approx(9.5)


def test_accuracy_is_the_percentage_of_right_answers(dataset):
    class Constant(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.eye(10)[3].expand(len(images), -1)

    threes = (dataset.test_labels == 3).sum().item()
    assert top1_accuracy(Constant(), dataset) == pytest.approx(100 * threes / 500)


@pytest.mark.parametrize(
    ("changes", "has_teacher", "message"),
    [
        ({"ipc": 3}, True, "distilled must hold 30 images, 3 for each of 10 classes, got 20"),
        ({}, False, "teacher must be a network, config.teacher is 'convnet3:width=16'"),
        ({"teacher": None}, True, "teacher must be None, as config.teacher is; got a network"),
        ({"teacher": None}, False, "distilled must hold soft_labels where there is no teacher"),
    ],
)
def test_arguments_that_disagree_are_refused(
    dataset, distilled, teacher, changes, has_teacher, message
):
    with pytest.raises(ValueError, match=message):
        evaluate(replace(CONFIG, **changes), dataset, distilled, teacher if has_teacher else None)


def test_images_of_another_size_are_refused(dataset, distilled, teacher):
    larger = replace(distilled, images=torch.zeros(20, 1, 16, 16))
    with pytest.raises(ValueError, match=r"images of shape \(1, 8, 8\), got \(1, 16, 16\)"):
        evaluate(CONFIG, dataset, larger, teacher)
