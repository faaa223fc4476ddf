from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from made import CLASSES, IN_ORDER, distilled_set, world

from gift_fast.auditing.labels import examine_labels, examine_soft_labels
from gift_fast.data.distilled import DistilledSet


def with_labels(labels: torch.Tensor) -> DistilledSet:
    return DistilledSet(torch.rand(len(labels), 3, 8, 8), labels)


def test_missing_classes_are_named():
    labels = torch.tensor([label for label in range(CLASSES) if label not in (2, 5)])
    (finding,), measures = examine_labels(world(), with_labels(labels))
    assert finding.severity == "warning"
    assert finding.text == "2 of 12 classes have no images: 2 (cat), 5 (fox)."
    assert measures["missing"] == [2, 5]


def test_classes_of_different_sizes_are_a_note():
    labels = torch.cat([torch.arange(CLASSES), torch.tensor([3, 3])])
    (finding,), measures = examine_labels(world(), with_labels(labels))
    assert (finding.severity, finding.text) == ("note", "Classes differ in size: 1 to 3 images.")
    assert (measures["fewest_per_class"], measures["most_per_class"]) == (1, 3)


def test_labels_that_count_from_one_are_recognized():
    (finding,), _ = examine_labels(world(), with_labels(torch.arange(CLASSES) + 1))
    assert finding.severity == "error"
    assert finding.text == (
        "Labels are 1 to 12, but the classes of patterns are 0 to 11. They seem to start at 1."
    )


def test_labels_out_of_range_are_an_error():
    (finding,), _ = examine_labels(world(), with_labels(torch.tensor([0, 40, -1])))
    assert finding.text == "Labels are -1 to 40, but the classes of patterns are 0 to 11."


def examine_soft(soft_labels: torch.Tensor | None):
    distilled = distilled_set(ipc=1)
    found, measures = examine_soft_labels(
        world(), replace(distilled, soft_labels=soft_labels), image_bytes=1000
    )
    (finding,) = found
    return finding, measures


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_logits_are_measured_in_bytes(dtype):
    logits = distilled_set(soft_order=IN_ORDER, ipc=1).soft_labels.to(dtype)
    finding, measures = examine_soft(logits)
    size = 12 * 12 * (4 if dtype == torch.float32 else 2)
    assert finding.severity == "ok"
    assert finding.text == f"Logits in {size} B, {size / 1000:.2g} times the images in memory."
    assert measures["bytes"] == size


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_probabilities_are_told_from_logits(dtype):
    logits = distilled_set(soft_order=IN_ORDER, ipc=1).soft_labels / 4
    finding, measures = examine_soft(logits.softmax(1).to(dtype))
    assert measures["kind"] == "probabilities"
    assert finding.severity == "note"
    assert "probabilities nearly uniform" in finding.text
    assert examine_soft(torch.eye(12).to(dtype))[1]["kind"] == "one-hot labels"


def test_soft_labels_of_another_number_of_classes_are_an_error():
    finding, _ = examine_soft(torch.zeros(12, 10))
    assert finding.severity == "error"
    assert finding.text == (
        "They have the shape (12, 10), but patterns with 12 classes needs (12, 12)."
    )


def test_soft_labels_that_are_not_finite_are_an_error():
    soft_labels = torch.zeros(12, 12)
    soft_labels[3, 3] = torch.nan
    assert examine_soft(soft_labels)[0].text == "1 of 12 rows contain NaN or infinity."


def test_a_set_without_soft_labels_needs_a_teacher():
    finding, measures = examine_soft(None)
    assert (finding.severity, measures) == ("ok", None)
    assert "a teacher must compute them" in finding.text
