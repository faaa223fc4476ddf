from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from accelerate import Accelerator
from sklearn.metrics import log_loss, top_k_accuracy_score
from torch import nn

from gift_fast.data.datasets import ImageDataset, TensorSplit
from gift_fast.training import predict as subject
from gift_fast.training.predict import Accuracy, count_correct, predict, second_half


def dataset_of(images: torch.Tensor, labels: torch.Tensor, classes: int) -> ImageDataset:
    split = TensorSplit(images, labels)
    names = tuple(map(str, range(classes)))
    channels = images.shape[1]
    return ImageDataset("made", None, split, (0.5,) * channels, (0.25,) * channels, names)


@pytest.fixture
def logits_as_images() -> ImageDataset:
    """Images of one pixel and a channel for every class, which are their own logits."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(203, 8, 1, 1, generator=generator)
    return dataset_of(images, torch.randint(8, (203,), generator=generator), 8)


def untouched(images: torch.Tensor) -> torch.Tensor:
    return images


def test_accuracies_and_loss_are_those_of_scikit_learn(logits_as_images):
    split = logits_as_images.test
    logits, labels = split.images.flatten(1).double().numpy(), split.labels.numpy()
    found = subject.measure_accuracy(
        nn.Flatten(), logits_as_images, transform=untouched, batch_size=50
    )
    assert found.top1 == pytest.approx(100 * top_k_accuracy_score(labels, logits, k=1))
    assert found.top5 == pytest.approx(100 * top_k_accuracy_score(labels, logits, k=5))
    probabilities = torch.tensor(logits).softmax(1).numpy()
    assert found.loss == pytest.approx(log_loss(labels, probabilities), rel=1e-6)


def test_images_are_normalized_unless_a_transform_takes_its_place(logits_as_images):
    seen = []

    class Remember(nn.Flatten):
        def forward(self, images):
            seen.append(images)
            return super().forward(images)

    subject.measure_accuracy(Remember(), logits_as_images)
    subject.measure_accuracy(Remember(), logits_as_images, transform=lambda images: 2 * images)
    images = logits_as_images.test.images
    torch.testing.assert_close(seen[0], (images - 0.5) / 0.25)
    torch.testing.assert_close(seen[1], 2 * images)


def test_another_split_may_be_named(logits_as_images):
    first = TensorSplit(torch.eye(8).view(8, 8, 1, 1), torch.arange(8))
    assert subject.measure_accuracy(nn.Flatten(), logits_as_images, first).top1 == 100


def test_counts_of_parts_add_up_to_those_of_the_whole(logits_as_images):
    def count(start, stop):
        return count_correct(nn.Flatten(), logits_as_images, batch_size=30, start=start, stop=stop)

    whole = count(0, None)
    parts = [count(0, 70), count(70, 70), count(70, 150), count(150, None)]
    assert whole[:, 0].sum() == 203
    torch.testing.assert_close(sum(parts), whole)
    assert not parts[1].any()


def test_with_fewer_than_five_classes_the_top_five_hold_every_label():
    dataset = dataset_of(torch.rand(9, 3, 1, 1), torch.arange(9) % 3, 3)
    assert subject.measure_accuracy(nn.Flatten(), dataset).top5 == 100


def test_a_network_that_says_the_same_of_every_class_is_right_by_chance():
    dataset = dataset_of(torch.full((100, 10, 1, 1), 0.5), torch.arange(100) % 10, 10)
    found = subject.measure_accuracy(nn.Flatten(), dataset)
    loss = pytest.approx(torch.tensor(10.0).log().item())
    assert found == Accuracy(top1=10, top5=50, loss=loss, halves=(10, 10))


def test_the_halves_have_equal_shares_of_every_class_and_their_own_accuracy(logits_as_images):
    labels = logits_as_images.test.labels
    half = second_half(labels)
    for label in range(10):
        shares = [(half[labels == label] == part).sum().item() for part in (False, True)]
        assert shares[0] - shares[1] in (0, 1)
    right = predict(nn.Flatten(), logits_as_images.test, logits_as_images.normalize).argmax(1)
    hits = (right == labels).double()
    expected = [100 * hits[half == part].mean().item() for part in (False, True)]
    found = subject.measure_accuracy(nn.Flatten(), logits_as_images, batch_size=30)
    assert found.halves == pytest.approx(expected)
    assert found.halves[0] != found.halves[1]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.5), nn.Linear(144, 10)
    )


@pytest.fixture
def photographs() -> ImageDataset:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (30, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return dataset_of(images, torch.arange(30) % 10, 10)


def test_a_network_runs_in_eval_mode_and_is_left_as_it_was(photographs):
    model = network()
    model[1].eval()  # frozen, as fine-tuning does
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = (predict(model, photographs.test, photographs.normalize) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert [module.training for module in model] == [True, False, True, True, True]
    assert model.training
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


def test_a_network_that_fails_is_left_as_it_was(photographs):
    model = nn.Sequential(nn.Dropout(), nn.Linear(5, 5))
    with pytest.raises(RuntimeError):
        subject.measure_accuracy(model, photographs)
    assert all(module.training for module in model.modules())
    assert not torch.is_inference_mode_enabled()


def test_a_test_of_a_student_prints_lines_to_a_log_while_it_runs(photographs, monkeypatch):
    titles = []

    @contextmanager
    def recorded(title):
        titles.append(title)
        yield

    monkeypatch.setattr(subject, "log_lines", recorded)
    accuracy = subject.test_on_all(network(), photographs, None, Accelerator(cpu=True))
    assert accuracy.top1 == subject.measure_accuracy(network(), photographs).top1
    assert titles == [f"testing on {len(photographs.test)} images"]


def test_logits_come_in_the_order_of_the_split_whatever_the_batch_size(photographs):
    model = network().eval()
    with torch.no_grad():
        expected = model(photographs.normalize(photographs.test.images.float() / 255))
    for batch_size in (7, 1000):
        found = predict(model, photographs.test, photographs.normalize, batch_size=batch_size)
        torch.testing.assert_close(found, expected)


def test_logits_can_be_learned_from(photographs):
    logits = predict(network(), photographs.test, photographs.normalize)
    student = torch.zeros(30, 10, requires_grad=True)
    torch.autograd.backward((student * logits).sum())
    torch.testing.assert_close(student.grad, logits)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_network_runs_in_its_own_dtype(photographs, dtype):
    model = network().to(dtype)
    found = predict(model, photographs.test, photographs.normalize)
    assert found.dtype == torch.float32
    expected = predict(network(), photographs.test, photographs.normalize)
    tolerance = 1e-5 if dtype == torch.float64 else 0.1
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
