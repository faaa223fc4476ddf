from __future__ import annotations

import importlib
import json
from dataclasses import replace

import pytest
import torch
from made import (
    CLASSES,
    IN_ORDER,
    SHIFTED,
    SIDE,
    SWAPPED,
    Knowing,
    distilled_set,
    views,
    world,
)
from torch import nn

from gift_fast.auditing import AuditReport, audit
from gift_fast.data.datasets import TensorSplit
from gift_fast.data.distilled.class_map import apply_class_map, read_class_map
from gift_fast.data.labels.fkd import FkdLabels


def said(report: AuditReport, topic: str = "class order") -> str:
    return " ".join(finding.text for finding in report.findings if finding.topic == topic)


def severity(report: AuditReport, topic: str = "class order") -> str:
    (finding,) = (finding for finding in report.findings if finding.topic == topic)
    return finding.severity


def test_a_set_without_fault_is_found_to_be_without_fault():
    report = audit(world(), distilled_set(soft_order=IN_ORDER), [Knowing()])
    assert report.severity == "ok"
    assert said(report) == (
        "The teacher, the test set and the distilled set agree, and so do the stored soft labels."
    )
    assert report.class_map is None
    assert said(report, "images") == (
        "120 images of 3 x 8 x 8, float32, values from 0.0911 to 0.99."
    )
    assert said(report, "labels") == "10 images for each of 12 classes."
    assert said(report, "teacher").startswith(
        "The teacher on 240 test images: top-1 100.0 %, top-5 100.0 % (by chance 8.3 % top-1)."
    )


@pytest.mark.parametrize("soft", [False, True])
def test_a_permuted_distilled_set_is_told_and_the_class_map_mends_it(tmp_path, soft):
    distilled = distilled_set(SHIFTED, SHIFTED if soft else None)
    report = audit(world(), distilled, [Knowing()])
    assert severity(report) == "error"
    assert said(report).startswith(
        "The teacher and the test set agree; the distilled set's classes are permuted: 12 of 12 "
        "classes are moved, label 0 is their class 11 (lion), label 1 is their class 0 (ant)"
    )
    assert "--class-map fixes it; `gift-fast audit --write-class-map FILE` writes" in said(report)
    report.write_class_map(tmp_path / "classes.json")
    class_map = read_class_map(tmp_path / "classes.json")
    assert class_map == [SHIFTED.index(label) for label in range(CLASSES)]
    assert audit(world(), apply_class_map(distilled, class_map), [Knowing()]).severity == "ok"


def test_two_classes_of_a_distilled_set_that_are_swapped_are_named():
    report = audit(world(), distilled_set(SWAPPED), [Knowing()])
    assert (
        "2 of 12 classes are moved, label 3 is their class 7 (hen), label 7 is their class 3 (dog)."
    ) in said(report)
    assert report.class_map == SWAPPED


def test_a_permuted_teacher_is_told_and_no_class_map_offered():
    report = audit(world(), distilled_set(), [Knowing(SHIFTED)])
    assert severity(report) == "error"
    assert said(report).startswith(
        "The test set and the distilled set agree; the outputs of the teacher are permuted: 12 of "
        "12 classes are moved, class 0 (ant) is output 1 of the teacher, class 1 (bee) is output 2"
    )
    assert report.class_map is None


def test_a_class_that_the_teacher_never_names_does_not_hide_that_its_outputs_are_permuted():
    class Silent(Knowing):
        def forward(self, images):
            logits = super().forward(images)
            logits[:, 4] = logits.min() - 1
            return logits

    report = audit(world(images=40), distilled_set(ipc=40), [Silent(SHIFTED)])
    assert said(report).startswith("The test set and the distilled set agree; the outputs")
    assert "Determined by elimination, so check them: 3" in said(report)


def test_a_permuted_test_set_is_told():
    report = audit(world(SHIFTED), distilled_set(), [Knowing()])
    assert said(report).startswith(
        "The teacher and the distilled set agree; the test set's classes are permuted: 12 of 12"
    )
    assert report.class_map is None  # the teacher would stay in the other order


def test_a_permuted_test_set_is_mended_by_a_class_map_where_labels_are_stored():
    distilled = distilled_set(soft_order=IN_ORDER)
    report = audit(world(SHIFTED), distilled, [Knowing()])
    assert "If the stored soft labels replace the teacher, --class-map fixes it" in said(report)
    mended = apply_class_map(distilled, list(report.class_map))
    assert audit(world(SHIFTED), mended, [Knowing(SHIFTED)]).severity == "ok"


def test_three_orders_are_told_apart():
    third = tuple(SHIFTED[label] for label in SHIFTED)
    report = audit(world(), distilled_set(third), [Knowing(SHIFTED)])
    assert "The teacher, the test set and the distilled set have three orders" in said(report)
    assert "to the test set's order (0 -> 10, 1 -> 11, 2 -> 0, 3 -> 1, 4 -> 2 and 7" in said(report)
    mended = apply_class_map(distilled_set(third), list(report.class_map))
    assert audit(world(), mended, [Knowing()]).severity == "ok"


def test_permuted_hard_labels_are_told_from_a_permuted_set():
    report = audit(world(), distilled_set(SHIFTED, soft_order=IN_ORDER), [Knowing()])
    assert "The stored soft labels are in the test set's order: only the hard labels" in said(
        report
    )
    assert report.class_map is None


def test_permuted_soft_labels_are_told():
    report = audit(world(), distilled_set(soft_order=SHIFTED), [Knowing()])
    assert "the stored soft labels have their classes in another order" in said(report)
    assert "label 0 is class 1 (bee) of the soft labels" in said(report)
    assert "the soft labels were computed in another order" in said(report)
    assert report.class_map is None


@pytest.mark.parametrize(
    ("soft_order", "severe", "text"),
    [
        (IN_ORDER, "ok", "Hard and stored soft labels agree. Only a teacher that"),
        (SHIFTED, "error", "The hard labels and the stored soft labels have their classes in diff"),
    ],
)
def test_without_a_teacher_stored_labels_are_compared_alone(soft_order, severe, text):
    report = audit(world(), distilled_set(soft_order=soft_order))
    assert severity(report) == severe
    assert said(report).startswith(text)
    assert report.class_map is None


def test_without_teacher_and_stored_labels_nothing_is_said_of_class_orders():
    report = audit(world(), distilled_set())
    assert report.severity == "ok"
    assert said(report) == ""


def test_labels_of_other_images_are_told():
    distilled = distilled_set(soft_order=IN_ORDER)
    order = torch.randperm(len(distilled), generator=torch.Generator().manual_seed(0))
    shuffled = replace(distilled, soft_labels=distilled.soft_labels[order])
    report = audit(world(), shuffled, [Knowing()])
    assert "They belong to other images" in said(report, "soft labels")
    assert report.severity == "error"
    assert report.class_map is None


def test_a_teacher_of_few_classes_agrees_as_far_as_it_goes():
    teacher = Knowing()
    with torch.no_grad():
        teacher.linear.bias[4:] = -1e4
    report = audit(world(), distilled_set(), [teacher])
    assert said(report) == (
        "The teacher, the test set and the distilled set agree, but the teacher knows only 4 of "
        "12 classes."
    )
    assert severity(report) == "note"
    assert report.severity == "warning"  # that it is weak


@pytest.mark.parametrize("ipc", [2, 5])
def test_two_swapped_classes_of_few_images_are_not_called_agreement(ipc):
    report = audit(world(), distilled_set(SWAPPED, ipc=ipc), [Knowing()])
    assert severity(report) == "warning"
    text = said(report)
    assert "agree overall. But most distilled images of label 3 are predicted as 7 (" in text
    assert "label 7 are predicted as 3 (" in text
    assert report.class_map is None


def test_a_teacher_that_takes_one_class_for_another_everywhere_is_no_other_order():
    order = list(IN_ORDER)
    mistaken = Knowing()
    with torch.no_grad():  # what is 3 is called 7; what is 7 too
        mistaken.linear.bias[3] = -1e4
        mistaken.linear.weight[7] = mistaken.linear.weight[3]
        mistaken.linear.bias[7] = Knowing().linear.bias[3]
    report = audit(world(order), distilled_set(ipc=5), [mistaken])
    assert "agree." in said(report)


def test_a_class_that_is_called_another_one_way_alone_is_a_note():
    distilled = distilled_set(ipc=5)
    distilled.images[distilled.labels == 3] = distilled.images[distilled.labels == 7]
    report = audit(world(), distilled, [Knowing()])
    assert severity(report) == "note"
    assert "most distilled images of label 3 are predicted as 7" in said(report)


@pytest.mark.parametrize("ipc", [1, 10])
def test_an_untrained_teacher_is_told_and_not_called_permuted(ipc):
    for seed in range(10):
        torch.manual_seed(seed)
        untrained = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, CLASSES))
        report = audit(world(), distilled_set(ipc=ipc), [untrained])
        text = said(report, "teacher")  # it may be lucky with two or three classes
        assert "That is no better than chance: it is untrained" in text or "It is weak: " in text
        assert report.severity in ("warning", "error")
        assert "permuted" not in said(report)
        assert report.class_map is None


def test_distilled_images_that_the_teacher_does_not_know_are_told():
    distilled = distilled_set()
    noise = torch.rand(distilled.images.shape, generator=torch.Generator().manual_seed(0))
    report = audit(world(), replace(distilled, images=noise), [Knowing()])
    assert severity(report) == "warning"
    assert "the images have another scale, or they differ from the training images" in said(report)
    assert report.class_map is None


def test_a_few_unknown_images_are_a_note():
    distilled = distilled_set(ipc=1)
    index = torch.arange(CLASSES)
    mistaken = replace(distilled, images=views(index // 4, seed=5))
    report = audit(world(), replace(mistaken, labels=index.roll(1)), [Knowing()])
    assert "permuted" not in said(report)
    assert report.class_map is None


def test_test_images_that_the_teacher_does_not_know_are_told():
    dataset = world()
    noise = torch.rand(dataset.test.images.shape, generator=torch.Generator().manual_seed(0))
    unknown = replace(dataset, test=TensorSplit(noise, dataset.test.labels))
    report = audit(unknown, distilled_set(), [Knowing()])
    assert "recognizes the distilled images (100.0 %), but not the test images" in said(report)


def test_with_one_image_a_class_the_report_says_what_it_rests_on():
    report = audit(world(), distilled_set(SHIFTED, ipc=1), [Knowing()])
    assert severity(report) == "warning"  # 12 images cannot make it certain
    assert "With one image per class, this cannot be cross-validated" in said(report)
    assert report.class_map is not None


def test_two_teachers_are_named_and_must_agree_on_the_class_map():
    report = audit(world(), distilled_set(SHIFTED), [Knowing(), Knowing()])
    assert "Teacher 2 and the test set agree" in said(report)
    assert report.class_map is not None
    third = tuple(SHIFTED[label] for label in SHIFTED)
    report = audit(world(), distilled_set(third), [Knowing(SHIFTED), Knowing(SWAPPED)])
    assert report.severity == "error"
    assert len(report.measures["teachers"]) == 2


def test_the_quick_form_reads_a_sample_with_every_class_and_comes_to_the_same(monkeypatch):
    module = importlib.import_module("gift_fast.auditing.audit")  # `audit` is the function too
    monkeypatch.setattr(module, "QUICK_IMAGES", 5 * CLASSES)
    report = audit(world(), distilled_set(SHIFTED), [Knowing()], quick=True)
    entry = report.measures["teachers"][0]
    assert entry["test"]["images"] == 5 * CLASSES
    assert entry["distilled"]["images"] == 5 * CLASSES
    assert entry["test"]["images_per_class"] == 5
    assert report.class_map == audit(world(), distilled_set(SHIFTED), [Knowing()]).class_map
    assert said(report).endswith("Only a sample was examined; gift-fast audit examines all images.")
    monkeypatch.undo()  # the whole of both sets is no sample
    report = audit(world(), distilled_set(SHIFTED), [Knowing()], quick=True)
    assert "sample" not in said(report)


def test_whitening_takes_the_place_of_the_normalization_for_test_images_alone():
    inputs = []

    class Watching(Knowing):
        def forward(self, images):
            inputs.append(images)
            return super().forward(images)

    dataset, distilled = world(), distilled_set()
    audit(dataset, distilled, [Watching()], whiten=lambda images: 3 * images)
    torch.testing.assert_close(inputs[0], 3 * dataset.test.images)
    torch.testing.assert_close(inputs[1], dataset.normalize(distilled.images))


@pytest.mark.parametrize(
    ("teacher", "text"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), "returns (5,) logits for 12 classes"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(7, 5)),
            "cannot process the test images of shape (3, 8, 8)",
        ),
    ],
)
def test_a_teacher_of_other_data_is_told_and_does_not_end_the_audit(teacher, text):
    report = audit(world(), distilled_set(), [teacher])
    assert text in said(report, "teacher")
    assert report.severity == "error"


def test_a_set_with_every_fault_is_reported_and_not_raised():
    distilled = distilled_set(soft_order=IN_ORDER)
    images, labels = distilled.images.clone(), distilled.labels.clone()
    images[::2] = torch.nan
    labels[0] = 12
    report = audit(world(), replace(distilled, images=images, labels=labels), [Knowing()])
    assert said(report, "images") == "60 of 120 images contain NaN or infinity."
    assert said(report, "labels").startswith("Labels are 0 to 12")
    assert "test" in report.measures["teachers"][0]
    assert "distilled" not in report.measures["teachers"][0]
    json.dumps(report.to_dict(), allow_nan=False)


def test_images_that_are_not_finite_are_kept_from_the_teacher():
    distilled = distilled_set()
    images = distilled.images.clone()
    images[5] = torch.nan
    report = audit(world(), replace(distilled, images=images), [Knowing()])
    assert report.measures["teachers"][0]["distilled"]["images"] == 119
    images[:] = torch.inf
    report = audit(world(), replace(distilled, images=images), [Knowing()])
    assert "distilled" not in report.measures["teachers"][0]
    json.dumps(report.to_dict(), allow_nan=False)


def test_a_report_is_plain_json():
    report = audit(world(), distilled_set(SHIFTED, SHIFTED), [Knowing()])
    values = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert values["severity"] == "error"
    assert values["class_map"] == list(report.class_map)
    assert values["teachers"][0]["distilled"]["moved"] == list(range(12))
    assert values["teachers"][0]["test"]["top1"] == 100
    assert values["soft_labels"]["bytes"] == 120 * 12 * 4


def test_a_report_without_a_class_map_writes_none(tmp_path):
    report = audit(world(), distilled_set(), [Knowing()])
    with pytest.raises(ValueError, match="class_map must not be None"):
        report.write_class_map(tmp_path / "classes.json")
    assert not list(tmp_path.iterdir())


def write_fkd(folder, soft_labels: torch.Tensor, labels: torch.Tensor, mixed: bool) -> None:
    """One epoch of G-VBSM's lists, which say which images they hold: batches of 40."""
    for number, index in enumerate(torch.arange(len(labels)).flip(0).split(40)):
        b = len(index)
        mix_index = torch.arange(b).roll(7)
        logits = soft_labels[index]
        if mixed:  # the partner has more weight
            logits = 0.2 * logits + 0.8 * logits[mix_index]
        items = [
            torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(b, 1),
            torch.zeros(b, dtype=torch.bool),
            mix_index if mixed else None,
            0.2 if mixed else None,
            None,
            logits.half(),
            index,
        ]
        file = folder / "epoch_0" / f"batch_{number}.tar"
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(items, file)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("order", [IN_ORDER, SHIFTED])
def test_labels_stored_by_batch_are_compared_too(tmp_path, order, mixed):
    distilled = distilled_set(soft_order=order)
    write_fkd(tmp_path, distilled.soft_labels, distilled.labels, mixed)
    replay = FkdLabels(tmp_path, distilled.labels, CLASSES, verify=False)
    report = audit(
        world(), replace(distilled, soft_labels=None, replay=replay), [Knowing()], quick=True
    )
    size = sum(file.stat().st_size for file in tmp_path.rglob("*.tar"))
    assert report.measures["soft_labels"]["bytes"] == size
    assert report.measures["soft_labels"]["agreement"]["images"] == 80
    if order == IN_ORDER:
        assert report.severity == "ok"
        assert report.measures["soft_labels"]["agreement"]["agreement"] > 95
    else:
        assert "the stored soft labels have their classes in another order" in said(report)
