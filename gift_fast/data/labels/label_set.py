"""Label sets: the soft labels of a complete training run, with the random numbers of its batches.

A label set is a folder with ``manifest.json`` and safetensors files, its shards; ``docs/labels.md``
describes the format for other programs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from gift_fast.files.checks import check_bool, check_integer
from gift_fast.files.fingerprint import fingerprint
from gift_fast.files.text_files import read_json
from gift_fast.loss import TopKLabels

if TYPE_CHECKING:
    from gift_fast.loss.top_k_checks import Rest

FORMAT = "gift-fast-labels"

VERSION = 1
"""Version of the format, raised when the meaning of a field changes. Others raise an error."""

MANIFEST = "manifest.json"

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""Types of stored labels."""

RESTS = ("logmeanexp", "mean", "min")
"""Ways to compute the value of the logits that are not stored, see :func:`compressed`."""

SAMPLED = 5
"""Number of shards whose contents a fingerprint covers."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The description of a label set.

    Attributes:
        dataset: the real dataset, with options.
        classes: the classes of the student: ``all``, or a name with options.
        num_classes: C, the columns of a dense label.
        set_digest: digest of the distilled images and hard labels.
        teachers: the networks whose logits, averaged, are the labels.
        teacher_digest: digest of their weights.
        images: N, the number of images per epoch.
        batch_size: global batch size; the last batch of an epoch may be smaller.
        epochs: of the run.
        seed: of order, augmentation and mixing.
        augmentation: with options.
        augmentation_steps: for each step, the operations that it chooses from, with the names of
            their parameters and their options.
        mixing: with options.
        mixed_precision: of the teachers.
        channels_last: memory format of the teachers.
        compiled: whether the teachers were compiled with ``torch.compile``.
        dtype: a name in ``DTYPES``.
        top_k: number of stored logits per row; None for all.
        rest: how the value of the others is computed, a name in ``RESTS``; None if all are stored.
        temperature: of ``logmeanexp``; None for other rests.
        epochs_per_shard: the last shard may have fewer.
        environment: versions and device.
    """

    dataset: str
    classes: str
    num_classes: int
    set_digest: str
    teachers: tuple[str, ...]
    teacher_digest: str
    images: int
    batch_size: int
    epochs: int
    seed: int
    augmentation: str
    augmentation_steps: tuple[tuple[Mapping[str, Any], ...], ...]
    mixing: str
    mixed_precision: str
    channels_last: bool
    compiled: bool
    dtype: str
    top_k: int | None = None
    rest: str | None = None
    temperature: float | None = None
    epochs_per_shard: int
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        for name in ("num_classes", "images", "batch_size", "epochs", "epochs_per_shard"):
            check_integer(name, getattr(self, name), 1)
        check_integer("seed", self.seed, 0)
        for name in ("channels_last", "compiled"):
            check_bool(name, getattr(self, name))
        for name in ("dataset", "classes", "set_digest", "teacher_digest", "augmentation"):
            check_text(name, getattr(self, name))
        for name in ("mixing", "mixed_precision", "dtype"):
            check_text(name, getattr(self, name))
        object.__setattr__(self, "teachers", tuple(self.teachers))
        for teacher in self.teachers:
            check_text("teachers", teacher)
        steps = tuple(tuple(map(as_operation, step)) for step in self.augmentation_steps)
        object.__setattr__(self, "augmentation_steps", steps)
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if self.top_k is None:
            if self.rest is not None or self.temperature is not None:
                raise ValueError("rest and temperature must be null if top_k is null")
            return
        check_integer("top_k", self.top_k, 1)
        if self.top_k >= self.num_classes:
            raise ValueError(
                f"top_k must be less than the number of classes, {self.num_classes}, got "
                f"{self.top_k}; omit it to store all logits"
            )
        if self.rest not in RESTS:
            raise ValueError(f"rest must be one of {', '.join(RESTS)}, got {self.rest!r}")
        if (self.rest == "logmeanexp") != (self.temperature is not None):
            raise ValueError(
                "temperature must be a number if rest is logmeanexp, and null otherwise; got "
                f"{self.temperature!r}"
            )
        if self.temperature is not None and not 0.0 < self.temperature < float("inf"):
            raise ValueError(f"temperature must be positive, got {self.temperature}")

    @property
    def exact(self) -> bool:
        """Whether a replayed run has the same bits as one with teachers."""
        return self.top_k is None and self.dtype == "float32"

    @property
    def steps(self) -> int:
        """Batches per epoch."""
        return -(-self.images // self.batch_size)

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.epochs // self.epochs_per_shard)

    def epochs_of(self, shard: int) -> range:
        """The epochs of a shard, counted from 1."""
        first = shard * self.epochs_per_shard
        return range(first + 1, min(first + self.epochs_per_shard, self.epochs) + 1)

    def to_dict(self) -> dict[str, Any]:
        """The contents of ``manifest.json``."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {"format": FORMAT, "version": VERSION, **values}

    @classmethod
    def from_dict(cls, values: Any) -> Manifest:
        """The manifest with the values of ``to_dict``.

        Raises:
            TypeError: a value has the wrong type.
            ValueError: another format or version, a missing or unknown field, or an invalid value.
        """
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise ValueError(f"it must contain an object with format {FORMAT!r}")
        if values.get("version") != VERSION:
            raise ValueError(f"version must be {VERSION}, got {values.get('version')!r}")
        names = {field.name for field in dataclasses.fields(cls)}
        given = {name: value for name, value in values.items() if name not in ("format", "version")}
        if names != set(given):
            missing, unknown = sorted(names - set(given)), sorted(set(given) - names)
            raise ValueError(f"fields missing: {missing}, unknown: {unknown}")
        if not isinstance(given["environment"], dict):
            raise ValueError(f"environment must be an object, got {given['environment']!r}")
        return cls(**given)


def check_text(name: str, value: object) -> None:
    """Raise TypeError unless a value is a string."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {value!r}")


def as_operation(value: Any) -> dict[str, Any]:
    """Check an operation in a manifest and return a copy; raise ValueError if it is invalid."""
    if not isinstance(value, Mapping) or set(value) != {"operation", "parameters", "options"}:
        raise ValueError(
            f"augmentation_steps must have operation, parameters and options, got {value!r}"
        )
    check_text("operation", value["operation"])
    for name in value["parameters"]:
        check_text("parameters", name)
    return {**value, "parameters": list(value["parameters"])}


def shard_path(folder: Path, shard: int) -> Path:
    """The file of a shard, counted from 0."""
    return folder / f"labels-{shard:05d}.safetensors"


def is_label_set(folder: Path | None) -> bool:
    """Whether a folder contains a label set."""
    return folder is not None and (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a label set.

    Raises:
        OSError: the file is missing.
        ValueError: it is not a manifest of this format and version; the message names the file.
    """
    path = folder / MANIFEST
    values = read_json(path)
    try:
        return Manifest.from_dict(values)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} must be the manifest of a label set: {error}") from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a manifest atomically."""
    from gift_fast.files.atomic import replacing

    with replacing(folder / MANIFEST) as temporary:
        text = json.dumps(manifest.to_dict(), indent=2, allow_nan=False) + "\n"
        temporary.write_text(text, encoding="utf-8")


def compressed(
    logits: Tensor, k: int, rest: str, temperature: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Select the k largest logits of every row, and compute one value for all others.

    Args:
        logits: (B, C) floating-point.
        k: below C.
        rest: ``mean`` of the others, which minimizes the squared error; ``min``, the smallest;
            ``logmeanexp``, T log mean exp(z / T), which preserves their mass in softmax(z / T).
        temperature: T, for ``logmeanexp``.

    Returns:
        Values (B, k) in descending order, indices (B, k) int64, and rest (B), float32.

    Example:
        >>> values, indices, rest = compressed(torch.tensor([[1.0, 4.0, 3.0]]), 1, "mean", None)
        >>> values, indices, rest
        (tensor([[4.]]), tensor([[1]]), tensor([2.]))
    """
    logits = logits.float()
    form = cast("Rest", "zero" if rest == "mean" else rest)
    labels = TopKLabels.from_dense(logits, k, rest=form, temperature=temperature)
    indices, left = labels.indices.long(), labels.rest
    if rest == "mean":
        left = logits.scatter(-1, indices, 0.0).sum(-1) / (logits.shape[-1] - k)
    assert left is not None
    return labels.values, indices, left


@dataclass(frozen=True)
class StoredEpoch:
    """An epoch of a label set, on the CPU.

    Attributes:
        image: (N) int64, the images in the order of training.
        augmentation: for each step, the choice of every batch, int64 (batches), and the parameters
            of each operation, tensors of N rows.
        partner: (N) int64, the row of the same batch that is mixed in; None without mixing.
        weight: (batches) float64, of the image itself against its partner; None without mixing.
        box: (batches, 4) int64, top, bottom, left and right of cutmix's box; or None.
        labels: (N, C) dense, or (N, k) the largest logits.
        indices: (N, k) int64, their classes; None for dense labels.
        rest: (N), the value of all others; None for dense labels.
    """

    image: Tensor
    augmentation: tuple[tuple[Tensor, tuple[tuple[Tensor, ...], ...]], ...]
    partner: Tensor | None
    weight: Tensor | None
    box: Tensor | None
    labels: Tensor
    indices: Tensor | None
    rest: Tensor | None


class LabelSet:
    """A label set in a folder, which is read epoch by epoch.

    Args:
        folder: contains ``manifest.json``.

    Raises:
        OSError: a file is missing; the message says what to do.
        ValueError: the manifest does not have this format and version.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        shards = range(self.manifest.shards)
        missing = next((s for s in shards if not self.path(s).is_file()), None)
        if missing is not None:
            raise FileNotFoundError(
                f"{self.folder} must contain {self.manifest.shards} shards, but "
                f"{self.path(missing).name} is missing; repeat the command that wrote it, which "
                "resumes, or copy it again"
            )

    def __repr__(self) -> str:
        return f"LabelSet({str(self.folder)!r})"

    def path(self, shard: int) -> Path:
        """The file of a shard."""
        return shard_path(self.folder, shard)

    @property
    def nbytes(self) -> int:
        """Bytes of all shards."""
        return sum(self.path(shard).stat().st_size for shard in range(self.manifest.shards))

    def fingerprint(self) -> str:
        """A digest of the manifest, the sizes of all shards, and the contents of a few."""
        manifest, count = self.manifest, self.manifest.shards
        values = {k: v for k, v in manifest.to_dict().items() if k != "environment"}
        sizes = [self.path(shard).stat().st_size for shard in range(count)]
        spread = sorted({round(i * (count - 1) / (SAMPLED - 1)) for i in range(SAMPLED)})
        contents = [hashlib.sha256(self.path(s).read_bytes()).hexdigest() for s in spread]
        return fingerprint([json.dumps(values, sort_keys=True), str(sizes), *contents])

    def epoch(self, epoch: int) -> StoredEpoch:
        """Read an epoch, counted from 1.

        Raises:
            IndexError: there is no such epoch.
            OSError: its shard cannot be read.
            ValueError: its shard is damaged or does not belong to this set.
        """
        manifest = self.manifest
        if not 1 <= epoch <= manifest.epochs:
            raise IndexError(f"epoch must be from 1 to {manifest.epochs}, got {epoch}")
        shard, row = divmod(epoch - 1, manifest.epochs_per_shard)
        path = self.path(shard)
        tensors = read_row(path, row, len(manifest.epochs_of(shard)))
        try:
            return as_epoch(manifest, tensors)
        except (KeyError, ValueError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(
                f"{path} must be a shard of {self.folder / MANIFEST}: epoch {epoch}: {reason}; "
                "delete it and run gift-fast label again, or copy it again"
            ) from None


def read_row(path: Path, row: int, rows: int) -> dict[str, Tensor]:
    """Read one epoch of a shard, which must have ``rows`` epochs."""
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118, not a dictionary
                part = file.get_slice(name)
                shape = part.get_shape()
                if not shape or shape[0] != rows:
                    raise ValueError(
                        f"{path}: {name} must have {rows} epochs, got the shape {tuple(shape)}"
                    )
                tensors[name] = part[row]
    except FileNotFoundError:
        raise
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{path} must be a complete safetensors file, got: {error}; delete it and run "
            "gift-fast label again, or copy it again"
        ) from error
    return tensors


CHOICE = "augmentation.{step}.choice"
PARAMETER = re.compile(r"augmentation\.(\d+)\.(\d+)\.(\w+)")


def parameter_name(step: int, operation: int, name: str) -> str:
    """The name of the tensor of a parameter of an operation."""
    return f"augmentation.{step}.{operation}.{name}"


def as_epoch(manifest: Manifest, tensors: Mapping[str, Tensor]) -> StoredEpoch:
    """Check the tensors of an epoch and convert them."""
    images, batches, classes = manifest.images, manifest.steps, manifest.num_classes
    image = integers(tensors, "image", (images,), None)
    augmentation = []
    for step, operations in enumerate(manifest.augmentation_steps):
        choice = torch.zeros(batches, dtype=torch.int64)
        if len(operations) > 1:
            name = CHOICE.format(step=step)
            choice = integers(tensors, name, (batches,), len(operations))
        parameters = []
        for place, operation in enumerate(operations):
            found = []
            for name in operation["parameters"]:
                value = tensors[parameter_name(step, place, name)]
                if value.shape[:1] != (images,):
                    raise ValueError(f"{name} must have {images} rows, got {tuple(value.shape)}")
                found.append(value.long() if is_integer(value) else value)
            parameters.append(tuple(found))
        augmentation.append((choice, tuple(parameters)))
    partner = weight = box = None
    if manifest.mixing != "none":
        partner = integers(tensors, "partner", (images,), None)
        rows = torch.full_like(partner, manifest.batch_size)
        rows[(batches - 1) * manifest.batch_size :] = images - (batches - 1) * manifest.batch_size
        if bool((partner >= rows).any()):
            raise ValueError("partner must be a row of the same batch, got a larger index")
        weight = floating(tensors, "weight", (batches,)).double()
        if "box" in tensors:
            box = integers(tensors, "box", (batches, 4), None)
    k = manifest.top_k
    if k is None:
        labels = floating(tensors, "labels", (images, classes))
        return StoredEpoch(image, tuple(augmentation), partner, weight, box, labels, None, None)
    values = floating(tensors, "values", (images, k))
    indices = integers(tensors, "indices", (images, k), classes)
    rest = floating(tensors, "rest", (images,))
    return StoredEpoch(image, tuple(augmentation), partner, weight, box, values, indices, rest)


def integers(
    tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...], below: int | None
) -> Tensor:
    """Check a tensor of a shard with integers in [0, below) and convert it to int64."""
    value = tensors[name]
    if not is_integer(value) or value.shape != shape:
        raise ValueError(f"{name} must be integers {shape}, got {value.dtype} {tuple(value.shape)}")
    value = value.long()
    if int(value.min()) < 0 or (below is not None and int(value.max()) >= below):
        raise ValueError(
            f"{name} must be 0 or more{'' if below is None else f' and less than {below}'}, got "
            f"{int(value.min())} to {int(value.max())}"
        )
    return value


def is_integer(value: Tensor) -> bool:
    """Whether a tensor has an integer type."""
    return not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)


def floating(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """Check a floating-point tensor of a shard."""
    value = tensors[name]
    if not value.is_floating_point() or value.shape != shape:
        raise ValueError(
            f"{name} must be floating-point {shape}, got {value.dtype} {tuple(value.shape)}"
        )
    return value
