"""Distilled sets in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gift_fast.files.fingerprint import fingerprint

if TYPE_CHECKING:
    from gift_fast.data.datasets import ImageDataset
    from gift_fast.data.labels.stored_labels import StoredLabels

ROUNDING = 1e-3
"""Tolerance for floating-point images outside of [0, 1]; float16 resolves 5e-4 there."""

OVERSHOOT = 2.0
"""Tolerance for images that were optimized without clipping. Bytes stored as floats exceed [0, 1]
by 254, and images normalized with ImageNet's constants by about 2."""

CHANNELS = (1, 3, 4)
"""Possible numbers of channels, to detect images with the channels last."""


@dataclass(frozen=True)
class DistilledSet:
    """A distilled set: its images in memory, and the soft labels stored with it.

    Attributes:
        images: (N, C, S, S): uint8 in [0, 255], float32 in [0, 1], or float32 already whitened.
            Neither they nor the labels require a gradient.
        labels: (N) int64 hard labels.
        soft_labels: (N, C) stored with the set, or None if a teacher computes them during training.
        replay: soft labels stored in batches with their augmentation, or None.
        whitened: whether the images are ZCA-whitened, as in DATM; then test images must be too.
        clipped: whether floating-point images are in [0, 1]; False for images on that scale that
            were optimized without clipping.
        learning_rate: the student's learning rate, if the method learned it (``lr_best.pt``).
        class_names: names in the order of the labels; empty if the set has none.
        source: a description of where the set is from.
        dataset: name of the dataset that the set was made for; empty if the set does not say.

    Raises:
        ValueError: the tensors disagree about N; there are no images, or they are not square; or
            the learning rate is not positive and finite.

    Example:
        >>> DistilledSet(torch.zeros(4, 3, 8, 8), torch.tensor([0, 0, 1, 1])).ipc(3)
        tensor([2, 2, 0])
    """

    images: Tensor
    labels: Tensor
    soft_labels: Tensor | None = None
    replay: StoredLabels | None = None
    whitened: bool = False
    clipped: bool = True
    learning_rate: float | None = None
    class_names: tuple[str, ...] = ()
    source: str = ""
    dataset: str = ""

    def __post_init__(self) -> None:
        shape = tuple(self.images.shape)
        n = shape[0] if shape else 0
        if len(shape) != 4 or n == 0 or shape[2] != shape[3]:
            last = len(shape) == 4 and shape[1] == shape[2] and shape[3] in CHANNELS
            hint = "; the channels are last, store images.permute(0, 3, 1, 2)" if last else ""
            raise ValueError(f"images must be (N, C, S, S), N >= 1, got {shape}{hint}")
        if self.labels.shape != (n,):
            raise ValueError(f"labels must have shape ({n},), got {tuple(self.labels.shape)}")
        if self.soft_labels is not None and self.soft_labels.shape[:1] != (n,):
            shape = tuple(self.soft_labels.shape)
            raise ValueError(f"soft_labels must have {n} rows, one per image, got {shape}")
        if self.learning_rate is not None and not 0.0 < self.learning_rate < torch.inf:
            raise ValueError(f"learning_rate must be positive and finite, got {self.learning_rate}")
        for name in ("images", "labels", "soft_labels"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, value.detach())

    def __len__(self) -> int:
        return len(self.images)

    @property
    def side(self) -> int:
        """Side of the square images, in pixels."""
        return self.images.shape[2]

    def ipc(self, num_classes: int) -> Tensor:
        """Images per class, (num_classes) int64, on the device of the labels."""
        return self.labels.bincount(minlength=num_classes)

    def check_against(self, dataset: ImageDataset) -> None:
        """Check that a student can learn the classes of ``dataset`` from this set.

        Raises:
            ValueError: images, labels or soft labels have another dtype, range or number of
                channels or classes; or the class names are not those of ``dataset``, in its order.
        """
        images, labels, soft_labels = self.images, self.labels, self.soft_labels
        name, classes = dataset.name, dataset.num_classes
        if images.dtype not in (torch.uint8, torch.float32):
            raise ValueError(f"images must be uint8 or float32, got {images.dtype}")
        if images.shape[1] != dataset.channels:
            raise ValueError(
                f"images must have the {dataset.channels} channels of {name}, got {images.shape[1]}"
            )
        if images.dtype == torch.float32:
            low, high = (value.item() for value in images.aminmax())
            # NaN fails every comparison, so the conditions state what is allowed.
            if not (-torch.inf < low and high < torch.inf):
                raise ValueError("images must be finite, got NaN or infinity")
            margin = ROUNDING if self.clipped else OVERSHOOT
            if not (self.whitened or (low >= -margin and high <= 1.0 + margin)):
                raise ValueError(
                    f"images must be in [0, 1], got {low:.3g} to {high:.3g}: {self.scale_hint(low)}"
                )
        if labels.dtype != torch.int64 or not 0 <= labels.min() <= labels.max() < classes:
            raise ValueError(
                f"labels must be int64 from 0 to {classes - 1}, the classes of {name}, "
                f"got {labels.dtype} from {labels.min()} to {labels.max()}"
            )
        if soft_labels is not None:
            if not soft_labels.is_floating_point() or soft_labels.shape[1:] != (classes,):
                raise ValueError(
                    f"soft_labels must be floating-point ({len(self)}, {classes}), one column per "
                    f"class of {name}, got {soft_labels.dtype} {tuple(soft_labels.shape)}"
                )
            if not soft_labels.isfinite().all():
                raise ValueError("soft_labels must be finite, got NaN or infinity")
        if self.class_names and self.class_names != dataset.class_names:
            raise ValueError(names_differ(self.class_names, dataset))

    def scale_hint(self, low: float) -> str:
        """A guess at what images outside [0, 1] are, from their smallest value ``low``."""
        if not self.clipped:
            return "normalized images would not exceed it so far; are they whitened?"
        if low >= -ROUNDING:
            return "bytes that were converted to floats must be divided by 255"
        return "normalized images must be converted back to [0, 1] first"

    def fingerprint(self) -> str:
        """A digest of images, labels and soft labels."""
        return fingerprint(
            [
                self.images,
                self.labels,
                "" if self.soft_labels is None else self.soft_labels,
                "" if self.replay is None else self.replay.fingerprint(),
                "whitened" if self.whitened else "",
            ]
        )

    def to(self, device: torch.device | str) -> DistilledSet:
        """The same set with its tensors on ``device``; stored batches stay in their files."""
        soft_labels = None if self.soft_labels is None else self.soft_labels.to(device)
        return replace(
            self,
            images=self.images.to(device),
            labels=self.labels.to(device),
            soft_labels=soft_labels,
        )


def names_differ(names: tuple[str, ...], dataset: ImageDataset) -> str:
    """An error message about how the class names of a set and a dataset differ, and what to do."""
    expected = dataset.class_names
    message = f"class_names must be those of {dataset.name} in its order"
    if sorted(names) != sorted(expected):
        strange = [name for name in names if name not in expected]
        missing = [name for name in expected if name not in names]
        return f"{message}; unexpected: {strange[:5]}, missing: {missing[:5]}"
    if len(set(names)) < len(names):
        return f"{message}; several classes have the same name, so no class map is proposed"
    places = {name: label for label, name in enumerate(expected)}
    first = next(
        label for label, pair in enumerate(zip(names, expected, strict=True)) if len(set(pair)) > 1
    )
    return (
        f"{message}; label {first} is {names[first]!r} in the set and {expected[first]!r} in the "
        "dataset. If only the order differs, pass this list, in a JSON file, as the class map: "
        f"{[places[name] for name in names]}"
    )
