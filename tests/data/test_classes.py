"""Students of some of the classes, on digits with networks of width 8."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from gift_fast.data.classes import (
    Seen,
    TeacherOfSeen,
    build_classes,
    canonical_classes,
    narrow,
)
from gift_fast.data.datasets import ImageDataset, TensorSplit
from gift_fast.data.distilled import DistilledSet
from gift_fast.data.labels.fkd import FkdLabels
from gift_fast.evaluation import EvaluationConfig, evaluate
from gift_fast.evaluation.digests import inputs_of
from gift_fast.evaluation.results import run_path
from gift_fast.evaluation.student import train_student

CONFIG = EvaluationConfig(
    dataset="digits",
    ipc=2,
    student="convnet3:width=8",
    teachers=("convnet3:width=16",),
    epochs=3,
    augmentation="dsa:strategy=crop_scale_rotate",
)


def narrowed_by_hand(
    dataset: ImageDataset, distilled: DistilledSet, classes: list[int]
) -> tuple[ImageDataset, DistilledSet]:
    """The images of some classes, which are numbered as they are listed; an image at a time."""

    def some(images, labels):
        pairs = [
            (image, classes.index(label))
            for image, label in zip(images, labels.tolist(), strict=True)
            if label in classes
        ]
        kept, numbers = zip(*pairs, strict=True)
        return torch.stack(kept), torch.tensor(numbers)

    return (
        replace(
            dataset,
            train=None,
            test=TensorSplit(*some(dataset.test.images, dataset.test.labels)),
            class_names=tuple(dataset.class_names[label] for label in classes),
        ),
        DistilledSet(*some(distilled.images, distilled.labels)),
    )


class Sliced(nn.Module):
    """A teacher that is cut by slicing its logits."""

    def __init__(self, teacher: nn.Module, classes: list[int]) -> None:
        super().__init__()
        self.teacher, self.classes = teacher, classes

    def forward(self, images):
        return torch.stack([self.teacher(images)[:, label] for label in self.classes], 1)


def checks_of(result):
    return [check.to_dict() for check in result.checks]


# ---- which classes -------------------------------------------------------------------------------


def test_classes_come_in_steps_of_equal_size():
    counts = [Seen(steps=5, step=step).count(200) for step in range(1, 6)]
    assert counts == [40, 80, 120, 160, 200]


@pytest.mark.parametrize(("classes", "steps"), [(10, 3), (25, 10), (7, 7)])
def test_steps_that_do_not_divide_the_classes_differ_by_one_at_most(classes, steps):
    counts = [0, *(Seen(steps=steps, step=step).count(classes) for step in range(1, steps + 1))]
    sizes = [later - earlier for earlier, later in pairwise(counts)]
    assert sum(sizes) == classes
    assert max(sizes) - min(sizes) <= 1


def test_every_step_keeps_the_classes_of_the_one_before():
    for order in ("dataset", "3"):
        seen = [set(Seen(steps=4, step=s, order=order).labels(10).tolist()) for s in (1, 2, 3, 4)]
        assert seen[0] < seen[1] < seen[2] < seen[3] == set(range(10))


def test_the_order_is_that_of_the_dataset_or_a_permutation_by_its_seed():
    assert Seen(steps=10, step=4).labels(10).tolist() == [0, 1, 2, 3]
    permutation = torch.randperm(10, generator=torch.Generator().manual_seed(7))
    assert Seen(steps=10, step=4, order="7").labels(10).tolist() == sorted(permutation[:4].tolist())


def test_what_has_been_seen_is_written_in_one_way():
    texts = ["seen:steps=10,step=6", "seen:step=3,steps=5,order=dataset,head=seen", "seen:step=3"]
    assert {canonical_classes(text) for text in texts} == {"seen:steps=5,step=3"}
    for order in ("dataset", "0"):
        assert canonical_classes(f"seen:steps=7,step=7,order={order},head=all") == "all"
    for classes in (10, 25):
        for step in range(1, 10):
            seen = Seen(steps=10, step=step, order="1")
            if seen.step * classes >= 10:
                again = build_classes(canonical_classes(f"seen:steps=10,step={step},order=1"))
                assert torch.equal(again.labels(classes), seen.labels(classes))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("sean", "classes must be one of all, seen, or the import path .*; got 'sean'"),
        ("seen:step=0", "classes: step must be from 1 to 5, got 0"),
        ("seen:steps=3,step=4", "classes: step must be from 1 to 3, got 4"),
        ("seen:steps=0", "classes: steps must be at least 1, got 0"),
        ("seen:steps=two", "classes 'seen': steps must be of type int, got 'two'"),
        ("seen:order=random", "classes: order must be dataset or a seed, got 'random'"),
        ("seen:order=-1", "classes: order must be dataset or a seed, got '-1'"),
        ("seen:head=both", "classes: head must be one of seen, all, got 'both'"),
        ("all:step=1", "classes 'all' has the options: none; got 'step'"),
    ],
)
def test_classes_that_cannot_be_are_refused_with_the_configuration(classes, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, classes=classes)


def test_a_step_without_a_class_is_refused(dataset, distilled):
    with pytest.raises(
        ValueError, match="step must be one with at least one class, got 1 of 11 steps"
    ):
        narrow("seen:steps=11,step=1", dataset, distilled)


# ---- what a student of them is -------------------------------------------------------------------


def test_with_every_class_seen_it_is_the_plain_student_bit_for_bit(dataset, distilled, teacher):
    plain, expected = train_student(CONFIG, dataset, distilled, [teacher])
    for order in ("dataset", "5"):
        config = replace(CONFIG, classes=f"seen:steps=5,step=5,order={order}")
        student, result = train_student(
            config, *narrow(config.classes, dataset, distilled, [teacher])
        )
        assert checks_of(result) == checks_of(expected)
        for name, value in plain.state_dict().items():
            assert torch.equal(student.state_dict()[name], value), name


@pytest.mark.parametrize("loss", ["gift", "kl", "ce"])
def test_it_is_the_student_of_a_dataset_narrowed_by_hand(loss, dataset, distilled, teacher):
    config = replace(CONFIG, loss=loss, classes="seen:steps=5,step=2,order=0")
    result = evaluate(config, dataset, distilled, [teacher])

    permutation = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    classes = sorted(permutation[:4].tolist())
    hand = narrowed_by_hand(dataset, distilled, classes)
    expected = evaluate(replace(config, classes="all"), *hand, [Sliced(teacher, classes)])
    assert checks_of(result) == checks_of(expected)
    assert result.config.batch_size == 10  # the paper's for 8 images; 50 for all 20


def test_with_a_head_for_all_classes_it_may_take_an_image_for_one_it_has_not_seen(
    dataset, distilled, teacher
):
    # A linear student, hardly trained: it gives every class to some image.
    config = replace(
        CONFIG,
        student="tests.networks.dropout",
        epochs=1,
        learning_rate=1e-8,
        classes="seen:steps=5,step=2,head=all",
    )
    student, result = train_student(config, *narrow(config.classes, dataset, distilled, [teacher]))
    seen = dataset.test.labels < 4
    with torch.inference_mode():
        logits = student(dataset.normalize(dataset.test.images[seen]))
    assert logits.shape == (int(seen.sum()), 10)
    right = logits.argmax(1) == dataset.test.labels[seen]
    among_seen = logits[:, :4].argmax(1) == dataset.test.labels[seen]
    assert result.last.top1 == pytest.approx(100 * right.double().mean().item())
    assert among_seen.sum() > right.sum()


def test_stored_soft_labels_lose_the_columns_of_the_other_classes(dataset, distilled, teacher):
    with torch.inference_mode():
        logits = teacher(dataset.normalize(distilled.images)).clone()
    stored = replace(distilled, soft_labels=logits, class_names=dataset.class_names)
    classes = "seen:steps=2,step=1,order=3"
    labels = Seen(steps=2, step=1, order="3").labels(10).tolist()
    small_dataset, small, _ = narrow(classes, dataset, stored)
    rows = [row for row, label in enumerate(distilled.labels.tolist()) if label in labels]
    assert torch.equal(small.soft_labels, logits[rows][:, labels])
    assert small.class_names == small_dataset.class_names == tuple(map(str, labels))
    config = replace(CONFIG, teachers=(), classes=classes)
    hand, hand_set = narrowed_by_hand(dataset, distilled, labels)
    hand_set = replace(hand_set, soft_labels=logits[rows][:, labels])
    expected = evaluate(replace(config, classes="all"), hand, hand_set)
    assert checks_of(evaluate(config, dataset, stored)) == checks_of(expected)
    whole = narrow(f"{classes},head=all", dataset, stored)[1]
    assert torch.equal(whole.soft_labels, logits[rows])


def test_stored_batches_cannot_be_replayed_for_some_classes(dataset, distilled, teacher):
    replayed = replace(distilled, replay=FkdLabels.__new__(FkdLabels))
    with pytest.raises(ValueError, match="stored batches are replayed, because they contain"):
        narrow("seen:step=2", dataset, replayed)
    assert narrow("seen:step=2", dataset, replayed, [teacher])[1].replay is None


def test_one_class_is_all_right_whatever_the_loss(dataset, distilled, teacher):
    for loss in ("gift", "kl", "ce", "mse+ce"):
        config = replace(CONFIG, loss=loss, epochs=1, classes="seen:steps=10,step=1")
        assert evaluate(config, dataset, distilled, [teacher]).last.top1 == 100.0


# ---- what tells one run from another -------------------------------------------------------------


def test_every_step_and_order_has_a_result_of_its_own(tmp_path, dataset, distilled, teacher):
    digests, paths = [], set()
    for classes in ("all", "seen:step=2", "seen:step=2,head=all", "seen:step=2,order=0"):
        inputs = inputs_of(*narrow(classes, dataset, distilled, [teacher]))
        paths.add(run_path(tmp_path, replace(CONFIG, classes=classes), inputs))
        digests.append(inputs)
    assert len(paths) == 4
    whole, first, with_full_head, other = digests
    assert all(whole[name] != first[name] != other[name] for name in whole)
    assert first["test"] == with_full_head["test"]  # the first classes keep their numbers
    assert with_full_head["teachers"] == whole["teachers"]


def test_the_digest_of_a_narrowed_teacher_is_that_of_its_weights_and_classes(teacher):
    def state(labels):
        values = TeacherOfSeen(teacher, torch.tensor(labels)).state_dict().values()
        return [value.tolist() for value in values]

    assert state([0, 1]) != state([0, 2])
    assert len(state([0, 1])) == len(teacher.state_dict()) + 1


def test_data_of_other_classes_than_the_configurations_is_refused(dataset, distilled, teacher):
    config = replace(CONFIG, classes="seen:step=2")
    with pytest.raises(ValueError, match="dataset must have the classes of config"):
        train_student(config, dataset, distilled, [teacher])
    narrowed = narrow("seen:step=3", dataset, distilled, [teacher])
    with pytest.raises(ValueError, match="got seen:steps=5,step=3"):
        train_student(config, *narrowed)
    with pytest.raises(ValueError, match="dataset must have all classes, got seen:steps=5,step=3"):
        narrow("seen:step=2", *narrowed)


def test_the_images_per_class_are_counted_in_the_classes_seen(dataset, distilled, teacher):
    for head in ("seen", "all"):
        config = replace(CONFIG, ipc=3, classes=f"seen:step=2,head={head}")
        with pytest.raises(ValueError, match="contain 12 images, 3 for each of 4 classes, got 8"):
            evaluate(config, dataset, distilled, [teacher])
