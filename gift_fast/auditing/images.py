"""Checks the pixels of a distilled set: scale, content and duplicates."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gift_fast.auditing.audit_report import Finding
from gift_fast.data.datasets import ImageDataset
from gift_fast.data.distilled.distilled_set import ROUNDING, DistilledSet
from gift_fast.data.images.splits import LARGEST_BYTE
from gift_fast.files.text_files import first_few

TOPIC = "images"

CHUNK = 1000
"""Images that are examined at a time, to limit memory."""

GRAY = 2.0 / LARGEST_BYTE
"""Two steps of 8 bits: the channels of gray JPEG images differ by up to this."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

OVERSHOOT = 0.5
"""Optimized images that were not clipped exceed [0, 1] by less, normalized ones by more."""

TAILS = 5.0
"""Standard deviations on both sides of 0 that whitened images exceed: patches of scikit-learn's
sample photographs reach 9 to 14 with ZCA's eps from 0.1 to 1e-5. Normalized images, which end at
black and white, are within 3 with the constants of CIFAR and ImageNet."""

ANOTHER_MEAN = 0.2
"""About one std of a pixel; the mean over ten or more images differs much less."""


def examine_images(
    dataset: ImageDataset, distilled: DistilledSet, index: Tensor
) -> tuple[list[Finding], dict[str, Any]]:
    """Examine the images at ``index``, int64 (M).

    Returns:
        Findings, and their measurements.
    """
    numbers = measure_images(distilled.images, index)
    measures = {
        "count": len(distilled),
        "examined": len(index),
        "shape": list(distilled.images.shape[1:]),
        "dtype": str(distilled.images.dtype).removeprefix("torch."),
        **{name: plain(value) for name, value in numbers.items()},
    }
    findings = [
        *shape_findings(dataset, distilled),
        *finite_findings(numbers, len(index)),
        *range_findings(dataset, distilled, numbers),
    ]
    if all(finding.severity != "error" for finding in findings):
        # On a wrong scale, all images may look gray or identical.
        findings += content_findings(dataset, numbers, len(index))
        findings += copy_findings(distilled, index, measures)
    if not findings:
        findings = [Finding("ok", TOPIC, as_expected(distilled, numbers))]
    return findings, measures


def plain(value: Any) -> Any:
    """A measurement as a JSON-compatible value: tensors as lists, infinity and NaN as None."""
    if isinstance(value, Tensor):
        return [plain(number) for number in value.tolist()]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_expected(distilled: DistilledSet, numbers: dict[str, Any]) -> str:
    """Describe images without mistakes."""
    channels, height, width = distilled.images.shape[1:]
    scale = "whitened, " if distilled.whitened else ""
    kind = str(distilled.images.dtype).removeprefix("torch.")
    return (
        f"{len(distilled)} images of {channels} x {height} x {width}, {kind}, {scale}values from "
        f"{numbers['minimum']:.3g} to {numbers['maximum']:.3g}."
    )


def shape_findings(dataset: ImageDataset, distilled: DistilledSet) -> list[Finding]:
    """Findings about shapes that differ from those of the test images."""
    shape, expected = tuple(distilled.images.shape[1:]), tuple(dataset.test.shape)
    if shape == expected:
        return []
    text = f"The images are (C, H, W) = {shape}, the test images {expected}."
    if shape[0] != expected[0] and shape[2] == expected[0]:
        text += " The channels seem to be last."
    return [Finding("error", TOPIC, text)]


def finite_findings(numbers: dict[str, Any], examined: int) -> list[Finding]:
    """Findings about NaN and infinity."""
    count = numbers["not_finite"]
    if count == 0:
        return []
    return [Finding("error", TOPIC, f"{count} of {examined} images contain NaN or infinity.")]


def range_findings(
    dataset: ImageDataset, distilled: DistilledSet, numbers: dict[str, Any]
) -> list[Finding]:
    """Findings about values outside of [0, 255] for uint8 or [0, 1] for floats."""
    low, high = numbers["minimum"], numbers["maximum"]
    seen = f"Values are in [{low:.3g}, {high:.3g}]"
    if low > high:  # no image is finite
        return []
    if distilled.images.dtype == torch.uint8:
        if high > 1:
            return mean_findings(dataset, numbers, LARGEST_BYTE)
        text = (
            f"{seen} in uint8: images in [0, 1] were converted to bytes, and their content is lost."
        )
        return [Finding("error", TOPIC, text)]
    if distilled.whitened:
        if low < 0:
            return []
        text = f"{seen}, but the set is read as whitened, which makes half of the values negative."
        return [Finding("warning", TOPIC, text)]
    if not distilled.clipped:
        return mean_findings(dataset, numbers, 1.0)
    if low >= -ROUNDING and high <= 1.0 + ROUNDING:
        if high > 1.01 / LARGEST_BYTE:
            return mean_findings(dataset, numbers, 1.0)
        text = f"{seen}: the images were divided by 255 twice, or are black."
        return [Finding("error", TOPIC, text)]
    if numbers["outside"] < 0.25 and low > -OVERSHOOT and high < 1.0 + OVERSHOOT:
        text = f"{seen}, {numbers['outside']:.1%} of them outside of [0, 1]: they were not clipped."
        return [Finding("warning", TOPIC, text)]
    return [Finding("error", TOPIC, f"{seen}, not in [0, 1]: {scale_of(dataset, numbers)}.")]


def scale_of(dataset: ImageDataset, numbers: dict[str, Any]) -> str:
    """Describe the scale of values outside of [0, 1]."""
    low, high = numbers["minimum"], numbers["maximum"]
    if low >= -ROUNDING:
        byte = high <= LARGEST_BYTE + ROUNDING
        return (
            "they are bytes stored as floats; divide by 255" if byte else "their scale is unknown"
        )
    tails = min(-low, high) / max(numbers["std"])
    if tails > TAILS:
        return (
            f"they reach {tails:.1f} standard deviations on both sides of 0, which is typical of "
            "whitened images; read the set as whitened"
        )
    if low >= -1.0 - ROUNDING and high <= 1.0 + ROUNDING:
        return "they are in [-1, 1]; convert them with (x + 1) / 2"
    for owner, mean, std in (
        (dataset.name, dataset.mean, dataset.std),
        ("ImageNet", IMAGENET_MEAN, IMAGENET_STD),
    ):
        if len(mean) == len(numbers["channel_low"]):
            lows = numbers["channel_low"] * torch.tensor(std) + torch.tensor(mean)
            highs = numbers["channel_high"] * torch.tensor(std) + torch.tensor(mean)
            # Dividing by the std amplifies rounding.
            if lows.min() > -10 * ROUNDING and highs.max() < 1.0 + 10 * ROUNDING:
                return (
                    f"they were normalized with the constants of {owner}, and would be normalized "
                    "again; convert them with x * std + mean"
                )
    return "they may have been normalized with unknown constants"


def mean_findings(dataset: ImageDataset, numbers: dict[str, Any], scale: float) -> list[Finding]:
    """Findings about a mean far from that of the dataset, which the normalization assumes."""
    means = [mean / scale for mean in numbers["mean"]]
    if len(means) != len(dataset.mean):
        return []
    away = max(abs(a - b) for a, b in zip(means, dataset.mean, strict=True))
    if away <= ANOTHER_MEAN:
        return []
    here, there = (", ".join(f"{m:.2f}" for m in values) for values in (means, dataset.mean))
    text = f"The means of the channels are {here}, those of {dataset.name} are {there}."
    return [Finding("note", TOPIC, text)]


def content_findings(
    dataset: ImageDataset, numbers: dict[str, Any], examined: int
) -> list[Finding]:
    """Findings about images of one color, and about gray images if the test images are not gray."""
    findings = []
    constant, gray = numbers["constant"], numbers["grey"]
    if constant:
        severity = "error" if constant == examined else "warning"
        text = f"{constant} of {examined} images have a single color."
        findings.append(Finding(severity, TOPIC, text))
    elif dataset.channels == 3 and gray > 0.9 * examined:
        index = torch.arange(min(CHUNK, len(dataset.test)))
        tested = next(iter(dataset.test.batches([index])))[0]
        if is_gray(tested, 1.0).float().mean() < 0.5:
            text = f"{gray} of {examined} images are gray, but most test images are not."
            findings.append(Finding("warning", TOPIC, text))
    return findings


def copy_findings(
    distilled: DistilledSet, index: Tensor, measures: dict[str, Any]
) -> list[Finding]:
    """Findings about duplicate images; adds their numbers to ``measures``."""
    first: dict[bytes, int] = {}
    copies, conflicts = [], []
    labels = distilled.labels.tolist()
    for image in index.tolist():
        digest = hashlib.sha256(distilled.images[image].cpu().numpy().tobytes()).digest()
        original = first.setdefault(digest, image)
        if original != image:
            copies.append(f"{image} = {original}")
            if labels[original] != labels[image]:
                conflicts.append(
                    f"{image} = {original} (labels {labels[image]} and {labels[original]})"
                )
    measures["copies"], measures["copies_of_another_class"] = len(copies), len(conflicts)
    if conflicts:
        text = (
            f"{len(conflicts)} images are duplicates of images of another class: "
            f"{first_few(conflicts)}."
        )
        return [Finding("error", TOPIC, text)]
    if copies:
        text = f"{len(copies)} of {len(index)} images are duplicates: {first_few(copies)}."
        return [Finding("warning", TOPIC, text)]
    return []


def measure_images(images: Tensor, index: Tensor) -> dict[str, Any]:
    """Measure the images at ``index``, on their original scale.

    Returns:
        minimum, maximum, mean and std (lists, one value per channel), outside (the fraction of
        values outside of [0, 1]), channel_low and channel_high (tensors), and the numbers of images
        that are not_finite, constant and ``grey``. Images that are not finite are only counted.
    """
    channels = images.shape[1]
    low, high = torch.full((channels,), torch.inf), torch.full((channels,), -torch.inf)
    total, squares = torch.zeros(channels).double(), torch.zeros(channels).double()
    pixels = outside = not_finite = constant = gray = 0
    scale = LARGEST_BYTE if images.dtype == torch.uint8 else 1.0
    for chunk in chunks(images, index):
        finite = chunk.isfinite().flatten(1).all(1)
        not_finite += int((~finite).sum())
        chunk = chunk[finite]
        if len(chunk) == 0:
            continue
        low = torch.minimum(low, chunk.amin((0, 2, 3)))
        high = torch.maximum(high, chunk.amax((0, 2, 3)))
        total += chunk.double().sum((0, 2, 3))
        squares += chunk.double().square().sum((0, 2, 3))
        pixels += chunk[:, 0].numel()
        outside += int(((chunk < -ROUNDING) | (chunk > 1.0 + ROUNDING)).sum())
        constant += int((chunk.amax((2, 3)) == chunk.amin((2, 3))).all(1).sum())
        gray += int(is_gray(chunk, scale).sum())
    count = max(pixels, 1)
    mean = total / count
    return {
        "minimum": low.min().item(),
        "maximum": high.max().item(),
        "mean": mean.tolist(),
        "std": (squares / count - mean.square()).clamp_min(0).sqrt().tolist(),
        "outside": outside / (count * channels),
        "channel_low": low,
        "channel_high": high,
        "not_finite": not_finite,
        "constant": constant,
        "grey": gray,
    }


def chunks(images: Tensor, index: Tensor) -> Iterator[Tensor]:
    """The images at ``index`` in chunks, float32 on the CPU."""
    for part in index.split(CHUNK):
        yield images[part.to(images.device)].cpu().float()


def is_gray(images: Tensor, scale: float) -> Tensor:
    """Whether images (N, C, H, W) in [0, scale] have equal channels, bool (N)."""
    spread = (images.amax(1) - images.amin(1)).flatten(1).amax(1)
    return spread <= GRAY * scale
