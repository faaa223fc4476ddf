"""The examples train as a float64 loop with the loss written out does."""

from __future__ import annotations

import copy
import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from gift_fast import TopKLabels

EXAMPLES = Path(__file__).parents[1] / "examples"

# What other projects warn of is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def examples_are_importable(monkeypatch):
    """Puts examples/ on the path, and takes off what pytest has put there.

    Else the folder tests/data/datasets is found as Hugging Face's package ``datasets``.
    """
    tests = str(Path(__file__).parent)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if not path.startswith(tests)])
    monkeypatch.syspath_prepend(str(EXAMPLES))


def definition(logits: Tensor, soft_labels: Tensor, target: Tensor) -> Tensor:
    """The loss of every row, (...), written out: gamma and label smoothing are 0.1."""
    num_classes = logits.shape[-1]
    hard = 0.9 * F.one_hot(target, num_classes).to(logits.dtype) + 0.1 / num_classes
    refined = 0.1 * F.normalize(hard, dim=-1) + 0.9 * F.normalize(soft_labels, dim=-1)
    return 1 - F.cosine_similarity(logits, refined, dim=-1)


def trained(
    student: nn.Module, loss_of: Callable[[nn.Module, int], Tensor], steps: int = 3
) -> nn.Module:
    """A copy of the student in float64 after steps of SGD with a learning rate of 0.1."""
    student = copy.deepcopy(student).double()
    for step in range(steps):
        gradients = torch.autograd.grad(loss_of(student, step), list(student.parameters()))
        with torch.no_grad():
            for weight, gradient in zip(student.parameters(), gradients, strict=True):
                weight -= 0.1 * gradient
    return student


def assert_same(actual: dict[str, Tensor], expected: nn.Module, initial: nn.Module) -> None:
    """The weights are the expected ones, up to 1 % of how far training has moved them."""
    for name, weight in expected.state_dict().items():
        moved = (weight - initial.state_dict()[name]).norm()
        error = (actual[name].double() - weight).norm()
        assert moved > 1e-4, name
        assert error < 0.01 * moved, f"{name}: off by {error:.2g}, moved by {moved:.2g}"


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("plain_loop", "torch"),
        ("lightning_module", "lightning"),
        ("accelerate_loop", "accelerate"),
        ("compiled_step", "torch"),
        ("compiled_autograd", "torch"),
        ("activation_checkpointing", "torch"),
    ],
)
def test_trains_as_defined(name, package):
    pytest.importorskip(package)
    tiny, example = importlib.import_module("tiny"), importlib.import_module(name)
    student, teacher = tiny.networks()
    initial, expert = copy.deepcopy(student), copy.deepcopy(teacher).double()
    images, labels = tiny.batch(torch.float64)

    example.train(student, teacher, tiny.loader(), epochs=3)

    expected = trained(initial, lambda x, _: definition(x(images), expert(images), labels).mean())
    assert_same(student.state_dict(), expected, initial)


def mixed_rows(logits: Tensor, soft_labels: Tensor, probabilities: Tensor) -> Tensor:
    """The losses of mixed labels: of every class, weighted by its probability."""
    rows = [
        definition(logits, soft_labels, torch.full((len(logits),), label)) * probabilities[:, label]
        for label in range(logits.shape[1])
    ]
    return torch.stack(rows).sum(0)


def test_mixup_of_timm_trains_as_defined():
    pytest.importorskip("timm")
    import numpy
    import timm_mixup as example
    import tiny
    from timm.data import Mixup

    student, teacher = tiny.networks()
    initial, expert = copy.deepcopy(student), copy.deepcopy(teacher).double()
    numpy.random.seed(0)  # noqa: NPY002  # what timm draws from
    example.train(student, teacher, tiny.loader(), epochs=3)

    numpy.random.seed(0)  # noqa: NPY002
    mixup = Mixup(0.8, cutmix_alpha=1.0, label_smoothing=0.0, num_classes=tiny.CLASSES)
    mixed = [mixup(*tiny.batch()) for _ in range(3)]

    def loss_of(network: nn.Module, step: int) -> Tensor:
        images, probabilities = (x.double() for x in mixed[step])
        return mixed_rows(network(images), expert(images), probabilities).mean()

    assert_same(student.state_dict(), trained(initial, loss_of), initial)


def test_cutmix_and_mixup_of_torchvision_train_as_defined():
    import tiny
    import torchvision_cutmix as example

    student, teacher = tiny.networks()
    initial, expert = copy.deepcopy(student), copy.deepcopy(teacher).double()
    loader = example.mixed_loader(tiny.loader().dataset, tiny.CLASSES)
    torch.manual_seed(0)
    batches = [next(iter(loader)) for _ in range(3)]
    example.train(student, teacher, batches, epochs=1)

    def loss_of(network: nn.Module, step: int) -> Tensor:
        images, labels, other_labels, weight = batches[step]
        probabilities = torch.zeros(len(images), tiny.CLASSES, dtype=torch.float64)
        probabilities.scatter_add_(1, labels[:, None], weight[:, None].double())
        probabilities.scatter_add_(1, other_labels[:, None], 1 - weight[:, None].double())
        images = images.double()
        return mixed_rows(network(images), expert(images), probabilities).mean()

    assert_same(student.state_dict(), trained(initial, loss_of), initial)
    assert any(0.05 < float(batch[3].min()) < 0.95 for batch in batches)  # some were mixed


def test_the_hugging_face_trainer_trains_as_defined():
    pytest.importorskip("transformers")
    import hugging_face_trainer as example
    import tiny

    torch.manual_seed(0)
    student, teacher = example.vit(), example.vit().eval()
    for network in (student, teacher):  # the head's own initial weights are nearly zero
        nn.init.normal_(network.classifier.weight)
    initial, expert = copy.deepcopy(student), copy.deepcopy(teacher).double()
    images, labels = tiny.batch(torch.float64)

    # Two accumulated batches of eight are a step.
    example.train(student, teacher, example.examples(), epochs=3)

    with torch.no_grad():
        soft_labels = expert(images).logits
    expected = trained(
        initial, lambda x, _: definition(x(pixel_values=images).logits, soft_labels, labels).mean()
    )
    moved = {name: p.detach() for name, p in student.named_parameters()}
    start = dict(initial.named_parameters())
    error = sum((moved[n].double() - p).norm() ** 2 for n, p in expected.named_parameters())
    distance = sum((p - start[n]).norm() ** 2 for n, p in expected.named_parameters())
    assert distance > 1e-6
    assert error < 1e-4 * distance


@pytest.mark.parametrize("name", ["data_parallel", "fsdp2", "tensor_parallel"])
def test_two_processes_train_as_defined(name, tmp_path):
    import tiny

    student, teacher = tiny.networks()
    expert = teacher.double()
    images, labels = tiny.batch(torch.float64)
    path = tmp_path / "weights.pt"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run(
        [*launch, str(EXAMPLES / f"{name}.py"), str(path)],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    expected = trained(student, lambda x, _: definition(x(images), expert(images), labels).mean())
    assert_same(torch.load(path), expected, student)


def test_per_sample_gradients_are_those_of_the_definition():
    import per_sample_gradients as example
    import tiny

    student, teacher = tiny.networks()
    images, labels = tiny.batch()
    actual = example.per_sample_gradients(student, images, teacher(images), labels)

    student, teacher, images = student.double(), teacher.double(), images.double()
    rows = definition(student(images), teacher(images), labels)
    for i, row in enumerate(rows):
        gradients = torch.autograd.grad(row, list(student.parameters()), retain_graph=True)
        for name, expected in zip(actual, gradients, strict=True):
            torch.testing.assert_close(actual[name][i].double(), expected, rtol=1e-3, atol=1e-6)


def test_learned_labels_follow_the_definition():
    import learned_labels
    import tiny

    student, _ = tiny.networks()
    images, labels = tiny.batch()
    actual = learned_labels.learn(student, images, labels, steps=3)

    logits = student(images).detach().double()
    expected = logits.sign().requires_grad_()
    for _ in range(3):
        loss = definition(logits, expected, labels).mean()
        (gradient,) = torch.autograd.grad(loss, expected)
        expected = (expected - 10.0 * gradient).detach().requires_grad_()
    torch.testing.assert_close(actual.double(), expected.detach(), rtol=1e-4, atol=1e-4)
    assert (actual - logits.sign()).abs().max() > 0.1


def test_unrolled_distillation_has_the_gradient_of_the_definition():
    import tiny
    import unrolled_distillation as example

    student, teacher = tiny.networks()
    images, labels = tiny.batch()

    def gradients(dtype: torch.dtype, loss: Callable[[nn.Module, Tensor, Tensor], Tensor]):
        network = copy.deepcopy(student).to(dtype)
        distilled = images[:4].to(dtype).requires_grad_()
        soft_labels = copy.deepcopy(teacher).to(dtype)(images[:4].to(dtype)).requires_grad_()
        return torch.autograd.grad(loss(network, distilled, soft_labels), [distilled, soft_labels])

    def unrolled(network: nn.Module, distilled: Tensor, soft_labels: Tensor) -> Tensor:
        return example.outer_loss(network, (distilled, soft_labels, labels[:4]), (images, labels))

    def defined(network: nn.Module, distilled: Tensor, soft_labels: Tensor) -> Tensor:
        weights = dict(network.named_parameters())
        for _ in range(2):
            rows = definition(functional_call(network, weights, distilled), soft_labels, labels[:4])
            steps = torch.autograd.grad(rows.mean(), [*weights.values()], create_graph=True)
            weights = {n: w - g for (n, w), g in zip(weights.items(), steps, strict=True)}
        return F.cross_entropy(functional_call(network, weights, images.double()), labels)

    pairs = zip(gradients(torch.float32, unrolled), gradients(torch.float64, defined), strict=True)
    for actual, expected in pairs:
        assert expected.abs().max() > 1e-4
        assert (actual.double() - expected).norm() < 1e-3 * expected.norm()


def kl(logits: Tensor, teacher_logits: Tensor, target: Tensor) -> Tensor:
    """The KL divergence of every row, written out."""
    student, teacher = logits.softmax(-1), teacher_logits.softmax(-1)
    return (teacher * (teacher / student).log()).sum(-1)


@pytest.mark.parametrize("num_items", [None, 29])
@pytest.mark.parametrize("name", ["gift", "kl", "top-k labels"])
def test_language_model_shifts_ignores_and_chunks(name, num_items):
    import language_model as example

    torch.manual_seed(0)
    hidden, teacher_hidden = torch.randn(2, 8, 16), torch.randn(2, 8, 24)
    head, teacher_head = nn.Linear(16, 50), nn.Linear(24, 50)
    labels = torch.randint(50, (2, 8))
    labels[0, :3] = labels[1, 6:] = -100

    soft_labels = teacher_head(teacher_hidden).detach().double()
    teacher, soft_labels_of = [teacher_hidden], teacher_head
    if name == "top-k labels":
        teacher = TopKLabels.from_dense(soft_labels.softmax(-1).float(), k=5)
        soft_labels_of, soft_labels = TopKLabels, teacher.dense(50).double()
    x = hidden.clone().requires_grad_()
    actual = example.distillation_loss(
        *(x, head, teacher, soft_labels_of, labels),
        loss=example.kl if name == "kl" else example.gift,
        num_items_in_batch=num_items,
    )
    gradients = torch.autograd.grad(actual, [x, head.weight])

    head, x = head.double(), hidden.double().requires_grad_()
    rows_of = kl if name == "kl" else definition
    rows = [
        rows_of(head(x[b, t]), soft_labels[b, t], labels[b, t + 1])
        for b in range(2)
        for t in range(7)
        if labels[b, t + 1] != -100
    ]
    expected = torch.stack(rows).sum() / (num_items or len(rows))
    wanted = expected, *torch.autograd.grad(expected, [x, head.weight])
    for one, other in zip((actual, *gradients), wanted, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-6)


def test_the_exported_loss_is_the_definition(tmp_path):
    import exported_loss as example
    import tiny

    student, teacher = tiny.networks()
    images, labels = tiny.batch()
    path = tmp_path / "loss.pt2"
    example.export(student, images, teacher(images), labels, path)
    few = images[:5]
    actual = example.load(path)(few, teacher(few), labels[:5])
    expected = definition(
        student.double()(few.double()), teacher.double()(few.double()), labels[:5]
    ).mean()
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_every_example_is_documented(path):
    if path.stem != "tiny":
        page = (EXAMPLES.parent / "docs/training-stacks.md").read_text(encoding="utf-8")
        assert f"examples/{path.name}" in page
