"""Checks a distilled set, its teacher and the test set for mistakes that raise no error.

With another class order, another image scale, missing classes or labels of other images, training
runs normally and the accuracy is at chance. An audit detects these mistakes and reports them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gift_fast.auditing.audit_report import AuditReport, Finding
from gift_fast.auditing.class_order import ClassOrder, compare_classes
from gift_fast.auditing.diagnosis import TOPIC as CLASS_ORDER
from gift_fast.auditing.diagnosis import Diagnosis, capital, diagnose
from gift_fast.auditing.images import examine_images
from gift_fast.auditing.labels import examine_labels, examine_soft_labels, stored_predictions
from gift_fast.data.datasets import ImageDataset, Split, TensorSplit
from gift_fast.data.distilled import DistilledSet
from gift_fast.training.predict import TOP, Accuracy, Transform, predict

TEACHER, SOFT = "teacher", "soft labels"

QUICK_IMAGES, QUICK_PER_CLASS = 1000, 5
"""Images that a quick audit examines: in total, or per class if that is more. With 5 per class, a
permutation of 1,000 classes is found even if the teacher's accuracy is only 44 %."""

SAMPLE_SEED = 0


def audit(
    dataset: ImageDataset,
    distilled: DistilledSet,
    teachers: Sequence[nn.Module] = (),
    *,
    quick: bool = False,
    whiten: Transform | None = None,
) -> AuditReport:
    """Examine a distilled set together with the test set and the teachers it will be used with.

    Args:
        dataset: its test split, normalization and class names are used.
        distilled: on the CPU or a device; mistakes are reported and raise no errors.
        teachers: map normalized images (B, C, S, S) to logits (B, classes), each on its own
            device. Without teachers, only hard and stored soft labels are compared.
        quick: examines a sample of the images of both sets, which includes every class.
        whiten: maps test images in [0, 1] to the inputs of the teachers, instead of the
            dataset's normalization, for a whitened set.

    Returns:
        The findings, the measurements behind them, and a class map if one would help.

    Example:
        >>> from gift_fast.data.datasets import load_dataset
        >>> digits = load_dataset("digits")
        >>> images, labels = digits.test.images[:100], digits.test.labels[:100]
        >>> report = audit(digits, DistilledSet(images, labels.roll(1)))
        >>> report.severity
        'note'
        >>> report.findings[1].text
        'Classes differ in size: 6 to 17 images.'
    """
    per_class = max(QUICK_IMAGES // dataset.num_classes, QUICK_PER_CLASS) if quick else None
    examined = stratified(distilled.labels, per_class)
    findings, images = examine_images(dataset, distilled, examined)
    found, labels = examine_labels(dataset, distilled)
    findings += found
    size = distilled.images.numel() * distilled.images.element_size()
    found, soft_labels = examine_soft_labels(dataset, distilled, size)
    findings += found
    measures: dict[str, Any] = {
        "quick": quick,
        "dataset": dataset.name,
        "source": distilled.source,
        "images": images,
        "labels": labels,
        "soft_labels": soft_labels,
        "teachers": [],
    }

    # Class orders can be compared if labels and logits have the classes of the dataset.
    comparable = all(
        finding.severity != "error" for finding in findings if finding.topic != "images"
    )
    stored = compare_stored(dataset, distilled, quick=quick) if comparable else None
    if stored is not None:
        findings.append(agreement_finding(stored))
        assert soft_labels is not None
        soft_labels["agreement"] = summary_of(stored)

    test = dataset.test.subset(stratified(dataset.test.labels, per_class)) if teachers else None
    diagnoses = []
    for number, teacher in enumerate(teachers, 1):
        assert test is not None
        name = "the teacher" if len(teachers) == 1 else f"teacher {number}"
        orders: dict[str, ClassOrder | None] = {}
        entry: dict[str, Any] = {}
        for place, split, transform in (
            ("test", test, whiten or dataset.normalize),
            ("distilled", usable(distilled, examined) if comparable else None, dataset.normalize),
        ):
            order, accuracy, found = examine_teacher(
                teacher, split, transform, dataset.num_classes, name, place
            )
            orders[place] = order
            findings += found
            if order is not None and accuracy is not None:
                measured = asdict(accuracy)
                del measured["halves"]  # used by reports only; a sample may leave one half empty
                entry[place] = {**measured, **summary_of(order)}
        measures["teachers"].append(entry)
        diagnoses.append(
            diagnose(orders["test"], orders["distilled"], stored, dataset.class_names, name)
        )
    if not teachers:
        diagnoses.append(diagnose(None, None, stored, dataset.class_names))
    report = with_diagnoses(findings, measures, diagnoses)
    whole = len(examined) == len(distilled) and (test is None or len(test) == len(dataset.test))
    return report if whole else in_sample(report)


def stratified(labels: Tensor, per_class: int | None) -> Tensor:
    """Indices (M) int64 of up to ``per_class`` random images of every class; None selects all."""
    labels = labels.cpu()
    if per_class is None:
        return torch.arange(len(labels))
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SAMPLE_SEED))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    _, counts = labels.unique(return_counts=True)
    rank = torch.cat([torch.arange(count) for count in counts.tolist()])
    return by_class[rank < per_class].sort().values


def usable(distilled: DistilledSet, examined: Tensor) -> Split | None:
    """The examined images that are finite; None if there are none."""
    images = distilled.images[examined.to(distilled.images.device)]
    finite = images.isfinite().flatten(1).all(1)
    if not finite.any():
        return None
    labels = distilled.labels[examined.to(distilled.labels.device)]
    return TensorSplit(images[finite], labels[finite.to(labels.device)])


def compare_stored(
    dataset: ImageDataset, distilled: DistilledSet, *, quick: bool
) -> ClassOrder | None:
    """Compare the class order of stored soft labels and hard labels; None without soft labels."""
    pair = stored_predictions(distilled, dataset.num_classes, quick=quick)
    return None if pair is None else compare_classes(*pair, dataset.num_classes)


def agreement_finding(stored: ClassOrder) -> Finding:
    """How often the largest stored soft label is the hard label."""
    text = (
        f"{stored.agreement:.1f} % of {stored.images} stored labels predict the class of their "
        f"image (by chance {stored.chance:.1f} %)."
    )
    if stored.permuted:  # another finding reports it
        return Finding("note", SOFT, text)
    if stored.same:
        return Finding("ok", SOFT, text)
    text += (
        " They belong to other images or to images in a different order, or are not informative."
    )
    enough = stored.images * (1 - stored.chance / 100) >= 20
    return Finding("error" if enough else "note", SOFT, text)


def examine_teacher(
    teacher: nn.Module,
    split: Split | None,
    transform: Transform,
    num_classes: int,
    name: str,
    place: str,
) -> tuple[ClassOrder | None, Accuracy | None, list[Finding]]:
    """Measure a teacher on the images of one split.

    Args:
        teacher: see :func:`audit`.
        split: the images; without them, nothing is measured.
        transform: maps images to the teacher's inputs.
        num_classes: number of classes that the teacher should have.
        name: name of the teacher in the findings.
        place: ``test`` or ``distilled``, the set that the images belong to.
    """
    if split is None:
        return None, None, []
    images = f"{place} images"
    try:
        logits = predict(teacher, split, transform)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        text = (
            f"{capital(name)} cannot process the {images} of shape {tuple(split.shape)}: {reason}"
        )
        return None, None, [Finding("error", TEACHER, text)]
    if logits.shape[1:] != (num_classes,):
        text = (
            f"{capital(name)} returns {tuple(logits.shape[1:])} logits for {num_classes} classes."
        )
        return None, None, [Finding("error", TEACHER, text)]
    if not logits.isfinite().all():
        text = f"{capital(name)} returns NaN or infinity on {images}."
        return None, None, [Finding("error", TEACHER, text)]
    labels = split.labels.to(logits.device)
    order = compare_classes(labels, logits.argmax(1), num_classes)
    accuracy = accuracy_of(logits, labels)
    text = (
        f"{capital(name)} on {len(labels)} {images}: top-1 {accuracy.top1:.1f} %, top-{TOP} "
        f"{accuracy.top5:.1f} % (by chance {order.chance:.1f} % top-1)."
    )
    if order.permuted or (place == "distilled" and not order.same):  # the diagnosis explains it
        return order, accuracy, [Finding("note", TEACHER, text)]
    if place == "distilled" or (order.same and order.strong):
        return order, accuracy, [Finding("ok", TEACHER, text)]
    if order.same:
        text += (
            f" It is weak: its most frequent prediction is correct for only {order.at_home} of "
            f"{order.classes} classes."
        )
        return order, accuracy, [Finding("warning", TEACHER, text)]
    text += (
        " That is no better than chance: it is untrained, its weights belong to other data, or the "
        "images have another scale."
    )
    if order.rearranged is not None and order.rearranged > 2 * order.chance:
        text += (
            f" With rearranged classes, {order.rearranged:.1f} % would be correct: a different "
            "class order may be part of the cause, but too few classes stand out to determine it."
        )
    return order, accuracy, [Finding("error", TEACHER, text)]


def accuracy_of(logits: Tensor, labels: Tensor) -> Accuracy:
    """Top-1, top-5 and cross-entropy of logits (N, C)."""
    hits = logits.topk(min(TOP, logits.shape[1])).indices == labels.unsqueeze(1)
    return Accuracy(
        top1=100.0 * hits[:, 0].double().mean().item(),
        top5=100.0 * hits.any(1).double().mean().item(),
        loss=F.cross_entropy(logits, labels).item(),
    )


def summary_of(order: ClassOrder) -> dict[str, Any]:
    """A comparison as JSON-compatible values, without the class map if no class is moved."""
    values = asdict(order)
    if not order.permuted:
        for name in ("class_map", "moved", "guessed"):
            del values[name]
    return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}


def with_diagnoses(
    findings: list[Finding], measures: dict[str, Any], diagnoses: Sequence[Diagnosis]
) -> AuditReport:
    """The report; it has a class map only if all teachers that need one need the same."""
    findings = findings + [found for diagnosis in diagnoses for found in diagnosis.findings]
    maps = {diagnosis.class_map for diagnosis in diagnoses} - {None}
    if len(maps) > 1:
        text = "The teachers have different class orders; it is unknown which of them is right."
        findings.append(Finding("error", CLASS_ORDER, text))
    return AuditReport(tuple(findings), measures, class_map=maps.pop() if len(maps) == 1 else None)


def in_sample(report: AuditReport) -> AuditReport:
    """Add a note to the findings on class orders that only a sample was examined."""
    text = " Only a sample was examined; gift-fast audit examines all images."
    findings = tuple(
        replace(found, text=found.text + text)
        if found.topic == CLASS_ORDER and found.severity != "ok"
        else found
        for found in report.findings
    )
    return replace(report, findings=findings)
