"""Labels the batches of a complete training run and stores the labels, for use with any loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gift_fast.data.datasets import ImageDataset, TensorSplit
from gift_fast.data.distilled import DistilledSet
from gift_fast.data.labels.label_set import DTYPES, LabelSet, Manifest, StoredEpoch
from gift_fast.data.labels.label_set_writer import LabelSetWriter
from gift_fast.evaluation.config import ResolvedEvaluationConfig
from gift_fast.evaluation.label_sets import of_run
from gift_fast.evaluation.soft_labels import labeler
from gift_fast.files.disk import check_space
from gift_fast.files.fingerprint import fingerprint
from gift_fast.process.memory import keep_freed_memory
from gift_fast.training.augment import Draws, OneOf, Steps, described
from gift_fast.training.batches import Batch, RandomBatches, Source
from gift_fast.training.environment import environment_of
from gift_fast.training.processes import Processes
from gift_fast.training.progress import Progress
from gift_fast.training.train import reset_compiler

if TYPE_CHECKING:
    from accelerate import Accelerator

SHARD_BYTES = 2**24
"""Approximate size of a shard, unless one epoch is larger; an interruption loses one at most."""

SHARD_EPOCHS = 50
"""Maximum epochs per shard; for a small set, the teacher takes a few seconds for them."""


@dataclass(frozen=True, kw_only=True)
class Compression:
    """How labels are stored.

    Attributes:
        dtype: ``float32``, ``float16`` or ``bfloat16``.
        top_k: number of largest logits to store per row; None stores all.
        rest: the value of the other logits: their ``logmeanexp``, ``mean`` or ``min``.
        temperature: of ``logmeanexp``.
    """

    dtype: str = "float32"
    top_k: int | None = None
    rest: str = "logmeanexp"
    temperature: float = 1.0

    def fields(self) -> dict[str, object]:
        """The fields of a manifest that describe the compression."""
        if self.top_k is None:
            return {"dtype": self.dtype}
        temperature = self.temperature if self.rest == "logmeanexp" else None
        return {
            "dtype": self.dtype,
            "top_k": self.top_k,
            "rest": self.rest,
            "temperature": temperature,
        }


@dataclass
class LabelingProgress:
    """Shows the progress of labeling as a stage, which the first call starts.

    Attributes:
        progress: where the stage is shown.
        title: of the stage.
    """

    progress: Progress
    title: str
    begun: bool = False

    def __call__(self, done: int, epochs: int) -> None:
        """Record that ``done`` of the epochs are labeled."""
        if self.begun:
            self.progress.epoch(done)
        else:
            self.progress.begin(self.title, epochs, done)
            self.begun = True


EXACT = Compression()
"""All logits in float32: a replayed run has the same bits as one with teachers."""


@dataclass(frozen=True)
class LabelPlan:
    """A label set before it is written.

    Attributes:
        manifest: of the set.
        label_bytes: total bytes of the labels.
        nbytes: total bytes.
    """

    manifest: Manifest
    label_bytes: int
    nbytes: int


def plan_labels(
    config: ResolvedEvaluationConfig,
    distilled: DistilledSet,
    classes: int,
    *,
    set_digest: str,
    teacher_digest: str,
    compression: Compression = EXACT,
    environment: dict[str, str] | None = None,
) -> LabelPlan:
    """Create the manifest of the label set of a run and compute its size, without labeling.

    Args:
        config: of the run.
        distilled: the set, restricted to the classes of the run.
        classes: columns of a label.
        set_digest: of ``distilled``.
        teacher_digest: of the teachers.
        compression: how labels are stored.
        environment: versions and device, for the record.

    Raises:
        TypeError: mixing is user-defined, so its random numbers cannot be stored.
        ValueError: there is no teacher, or a value of ``compression`` is invalid.
    """
    if not config.teachers:
        raise ValueError("teachers must be one or more networks that label the batches, got none")
    source = Source(config, 1, torch.device("cpu"))
    _ = source.mixing.storable
    images, (_, height, width) = len(distilled), distilled.images.shape[1:]
    manifest = Manifest(
        **{  # type: ignore[arg-type]
            **of_run(config, classes, images, set_digest, teacher_digest),
            **compression.fields(),
            "augmentation_steps": described(source.augmentation.steps),
            "epochs_per_shard": 1,
            "environment": environment or {},
        }
    )
    labels = label_bytes_of(manifest)
    operations = [o for step in prototypes(source.augmentation.steps, height, width) for o in step]
    numbers = sum(x.numel() * bytes_of(x) for parameters in operations for x in parameters)
    per_image = numbers + bytes_for(images)
    per_batch = sum(len(step) > 1 for step in manifest.augmentation_steps)
    if config.mixing != "none":
        per_image += bytes_for(config.batch_size)
        per_batch += 8 + 4 * bytes_for(max(height, width) + 1)
    per_epoch = labels // config.epochs + images * per_image + manifest.steps * per_batch
    per_shard = max(1, min(SHARD_EPOCHS, config.epochs, SHARD_BYTES // per_epoch))
    return LabelPlan(
        replace(manifest, epochs_per_shard=per_shard),
        labels,
        per_epoch * config.epochs,
    )


def label_bytes_of(manifest: Manifest) -> int:
    """Bytes of all labels of a label set, without the random numbers of the batches."""
    value, classes, k = DTYPES[manifest.dtype].itemsize, manifest.num_classes, manifest.top_k
    row = classes * value if k is None else k * (value + bytes_for(classes)) + value
    return row * manifest.images * manifest.epochs


def bytes_for(below: int) -> int:
    """Bytes of an integer in [0, below) in a shard.

    Example:
        >>> bytes_for(256), bytes_for(257), bytes_for(100_000)
        (1, 2, 4)
    """
    return 1 if below <= 2**8 else 2 if below <= 2**15 else 4


def bytes_of(parameter: Tensor) -> int:
    """Bytes per element of a parameter in a shard; integers are positions in an image."""
    plain = parameter.is_floating_point() or parameter.dtype == torch.bool
    return parameter.element_size() if plain else 2


def prototypes(steps: Steps, height: int, width: int) -> list[list[tuple[Tensor, ...]]]:
    """Sample parameters of every operation for one image, which show their types and shapes."""
    draws = Draws(1, torch.Generator())
    return [
        [o.sample(draws, height, width) for o in (s.operations if isinstance(s, OneOf) else [s])]
        for s in steps
    ]


def label_run(
    config: ResolvedEvaluationConfig,
    dataset: ImageDataset,
    distilled: DistilledSet,
    teachers: Sequence[nn.Module],
    folder: Path | str,
    *,
    accelerator: Accelerator,
    compression: Compression = EXACT,
    on_progress: Callable[[int, int], None] = lambda done, epochs: None,
) -> LabelSet:
    """Label exactly the batches that a run with this configuration trains on, and store the labels.

    Labels that are already stored are kept, so the same call resumes an interrupted one.

    Args:
        config: of the run, resolved; the student is not used.
        dataset: restricted to the classes of the run, as are the other arguments; its
            normalization is used.
        distilled: the images.
        teachers: in eval mode; the labels are their logits, averaged.
        folder: for the label set.
        accelerator: device and precision of the teachers; one process.
        compression: how labels are stored.
        on_progress: called with the number of finished epochs and the number of all epochs.

    Returns:
        The label set.

    Raises:
        OSError: there is not enough disk space; shards that are written are kept.
        TypeError: mixing is user-defined, so its random numbers cannot be stored.
        ValueError: the folder contains another label set, or there are several processes.
    """
    if accelerator.num_processes > 1:
        raise ValueError(
            f"a label set must be written by one process, got {accelerator.num_processes}; "
            "run gift-fast label without a launcher"
        )
    digests = set_and_teacher_digests(distilled, teachers)
    plan = plan_labels(
        config,
        distilled,
        dataset.num_classes,
        set_digest=digests[0],
        teacher_digest=digests[1],
        compression=compression,
        environment=environment_of(accelerator),
    )
    manifest = plan.manifest
    writer = LabelSetWriter(folder, manifest)
    left = sum(len(manifest.epochs_of(shard)) for shard in writer.missing())
    check_space(writer.folder, plan.nbytes * left / manifest.epochs, "labels")
    device = accelerator.device
    if device.type == "cpu":
        keep_freed_memory()
    reset_compiler(config)
    dataset, distilled = dataset.to(device), distilled.to(device)
    split = TensorSplit(distilled.images, distilled.labels)
    batches = RandomBatches(split, dataset.normalize, config, Processes())
    label = labeler(teachers, config, accelerator)
    steps = Source(config, 1, torch.device("cpu")).augmentation.steps
    parameters = prototypes(steps, *distilled.images.shape[2:])
    done = manifest.epochs - left
    on_progress(done, manifest.epochs)
    for shard in writer.missing():
        epochs = []
        for epoch in manifest.epochs_of(shard):
            presented, labels = [], []
            for batch in batches.epoch(epoch):
                soft_labels = label(batch)
                assert isinstance(soft_labels, Tensor)  # the teachers'
                labels.append(soft_labels.cpu())
                presented.append(without_images(batch))
            epochs.append(stored_epoch(presented, labels, parameters))
            done += 1
            on_progress(done, manifest.epochs)
        writer.write(shard, epochs)
    return LabelSet(writer.folder)


def set_and_teacher_digests(
    distilled: DistilledSet, teachers: Sequence[nn.Module]
) -> tuple[str, str]:
    """The digests of set and teachers, as in ``gift_fast.evaluation.digests``."""
    weights = (value for teacher in teachers for value in teacher.state_dict().values())
    return distilled.fingerprint(), fingerprint(weights)


def without_images(batch: Batch) -> Batch:
    """Remove the images from a batch, so that an epoch fits into memory."""
    assert batch.drawn is not None
    empty = torch.empty(0)
    mixed = batch.drawn.mixed
    mixed = None if mixed is None else replace(mixed, images=empty)
    return replace(batch, images=empty, drawn=replace(batch.drawn, mixed=mixed))


def stored_epoch(
    batches: Sequence[Batch],
    labels: Sequence[Tensor],
    parameters: Sequence[Sequence[tuple[Tensor, ...]]],
) -> StoredEpoch:
    """Collect the random numbers and labels of an epoch in the form of a label set.

    Args:
        batches: of the epoch.
        labels: of each batch, (B, C).
        parameters: see :func:`prototypes`; zeros of their types are stored for the operations of a
            step that a batch did not use.
    """
    drawn = [batch.drawn for batch in batches if batch.drawn is not None]
    augmentation = []
    for step, operations in enumerate(parameters):
        taken = [each.augmentation[step] for each in drawn]
        columns = []
        for place, prototype in enumerate(operations):
            rows = [
                each.parameters
                if each.choice == place
                else tuple(x.new_zeros((len(whole.index), *x.shape[1:])) for x in prototype)
                for each, whole in zip(taken, drawn, strict=True)
            ]
            columns.append(tuple(torch.cat([x.cpu() for x in c]) for c in zip(*rows, strict=True)))
        augmentation.append((torch.tensor([each.choice for each in taken]), tuple(columns)))
    partner = weight = box = None
    mixed = [each.mixed for each in drawn if each.mixed is not None]
    if mixed:
        partner = torch.cat([each.permutation.cpu() for each in mixed])
        weight = torch.tensor([each.weight for each in mixed], dtype=torch.float64)
        boxes = [each.box for each in mixed if each.box is not None]
        if boxes:
            box = torch.tensor([[b.top, b.bottom, b.left, b.right] for b in boxes])
    return StoredEpoch(
        image=torch.cat([each.index.cpu() for each in drawn]),
        augmentation=tuple(augmentation),
        partner=partner,
        weight=weight,
        box=box,
        labels=torch.cat(list(labels)),
        indices=None,
        rest=None,
    )
