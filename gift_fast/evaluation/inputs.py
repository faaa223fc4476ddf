"""The inputs of an evaluation: the test images, the distilled set and the teachers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from gift_fast.data.classes import ALL, narrow
from gift_fast.data.datasets import ImageDataset, load_dataset
from gift_fast.data.datasets.resize import split_resize
from gift_fast.data.distilled import DistilledSet, read_distilled
from gift_fast.data.distilled.native import is_pair
from gift_fast.data.labels.label_set import LabelSet
from gift_fast.evaluation.checks import check_inputs
from gift_fast.evaluation.config import EvaluationConfig, ResolvedEvaluationConfig
from gift_fast.evaluation.context import RunContext
from gift_fast.evaluation.digests import code_of, inputs_of
from gift_fast.evaluation.job import EvaluationJob
from gift_fast.evaluation.label_sets import (
    LabelSets,
    check_labels,
    check_weights_of,
    digests_with,
    read_label_sets,
)
from gift_fast.evaluation.teacher_weights import (
    advice_for,
    check_weights,
    load_teacher,
    teacher_path,
)
from gift_fast.files import spec
from gift_fast.training.predict import Transform


@dataclass(frozen=True)
class Inputs:
    """The loaded inputs of a job.

    Attributes:
        dataset: the real dataset with its test split.
        distilled: the distilled set.
        teachers: in eval mode; empty if there are label sets.
        whiten: maps test images to the space of a whitened set; None if it is not whitened.
        label_sets: replace the teachers; None if there are none.
    """

    dataset: ImageDataset
    distilled: DistilledSet
    teachers: tuple[nn.Module, ...] = ()
    whiten: Transform | None = None
    label_sets: LabelSets | None = None

    @cached_property
    def digests(self) -> dict[str, str]:
        """The digests of the inputs, which are part of the identity of a run."""
        return inputs_of(self.dataset, self.distilled, self.teachers, self.whiten)

    @cached_property
    def _narrowed(self) -> dict[str, Inputs]:
        return {}

    def narrowed(self, classes: str) -> Inputs:
        """The inputs restricted to some classes, see :func:`gift_fast.data.classes.narrow`."""
        if classes == ALL:
            return self
        if classes not in self._narrowed:
            parts = narrow(classes, self.dataset, self.distilled, self.teachers)
            self._narrowed[classes] = Inputs(*parts, self.whiten, self.label_sets)
        return self._narrowed[classes]

    def resolve(self, config: EvaluationConfig) -> ResolvedEvaluationConfig:
        """Resolve a configuration for these inputs; raises ValueError if they disagree."""
        read = self.narrowed(config.classes)
        resolved = resolve_on(config, read.distilled)
        labeled = self.label_sets is not None
        models = (read.dataset, read.distilled, read.teachers, read.whiten)
        check_inputs(resolved, *models, labeled=labeled)
        return resolved

    def labels_of(self, config: ResolvedEvaluationConfig) -> LabelSet | None:
        """The label set of a run; None if teachers label its batches.

        Raises:
            ValueError: there are label sets, but none for this run.
        """
        if self.label_sets is None:
            return None
        read = self.narrowed(config.classes)
        labels = self.label_sets.of_seed(config.seed)
        check_labels(labels, config, read.dataset.num_classes, len(read.distilled), read.digests)
        return labels

    def digests_of(self, config: EvaluationConfig) -> dict[str, str]:
        """Digests of the inputs of a run and of the user-defined code that it calls."""
        digests = {**self.narrowed(config.classes).digests, **code_of(config)}
        if self.label_sets is None:
            return digests
        return digests_with(self.label_sets.of_seed(config.seed), digests)


def load_inputs(
    job: EvaluationJob,
    context: RunContext,
    device: torch.device,
    *,
    verify: bool = True,
    dataset: ImageDataset | None = None,
) -> Inputs:
    """Load the test images, the distilled set and the teachers.

    Args:
        job: names the inputs.
        context: has the folders of the real images and the teachers.
        device: of the whitening, if there is any; everything else is on the CPU.
        verify: whether to raise an error if stored soft labels are not those of the images; an
            audit reports them instead.
        dataset: the test images, if they are already loaded.

    Raises:
        OSError: a file is missing; the message says which one and how to get it.
        ValueError: a file does not contain what was expected.
    """
    config = job.config
    check_files(job, context)
    if dataset is None:
        dataset = load_tested(config, context.data_root)
    label_sets = read_label_sets(job.labels)
    if label_sets is None:
        teachers = tuple(load_teacher(*each, dataset)[0] for each in weights_of(job, context))
    else:
        check_weights_of(label_sets, weights_of(job, context), dataset, job.config.classes)
        teachers = ()
    distilled = read_distilled(
        job.format,
        job.data,
        dataset,
        labels=job.labels if label_sets is None else None,
        class_map=job.class_map,
        labels_class_map=job.labels_class_map,
        verify=verify,
    )
    if distilled.replay is not None and not config.teachers and split_resize(config.dataset)[1]:
        raise ValueError(
            "dataset must have its original size if stored batches are replayed, because their "
            f"crops are in its pixels; got {config.dataset!r}. Use a teacher for resized images"
        )
    whiten = None
    if distilled.whitened:
        from gift_fast.data.zca import fit_zca

        training = load_dataset(config.dataset, context.data_root).training_split
        whiten = fit_zca(training, context.out / "zca").to(device)
    return Inputs(dataset, distilled, teachers, whiten, label_sets)


def weights_of(job: EvaluationJob, context: RunContext) -> list[tuple[str, Path]]:
    """The teachers of a job with their files."""
    teachers = job.config.teachers
    paths = job.teacher_weights or tuple(
        teacher_path(context, job.config.dataset, teacher) for teacher in teachers
    )
    return list(zip(teachers, paths, strict=True))


def check_files(job: EvaluationJob, context: RunContext) -> None:
    """Raise FileNotFoundError if a file of a job is missing, before any file is read."""
    if "." not in spec.split_spec(job.format)[0] and not (job.data.exists() or is_pair(job.data)):
        raise FileNotFoundError(
            f"data must be the folder or file of a distilled set, got {job.data}, which is missing"
        )
    for name in ("labels", "labels_class_map", "class_map"):
        path = getattr(job, name)
        if path is not None and not path.exists():
            raise FileNotFoundError(f"{name} must be an existing path, got {path}")
    if read_label_sets(job.labels) is not None:  # their teachers are not needed
        return
    weights = weights_of(job, context)
    if context.data_root is None and not all(path.exists() for _, path in weights):
        load_tested(job.config, None)  # raises an error that asks for data_root
    for teacher, path in weights:
        check_weights(teacher, path, job.config.dataset, advice_for(job.config.dataset, teacher))


def load_tested(config: EvaluationConfig, data_root: Path | None) -> ImageDataset:
    """Load the dataset of a run, with the split that is tested on as its test split."""
    if config.tested_on == "test":
        return load_dataset(config.dataset, data_root, train=False)
    dataset = load_dataset(config.dataset, data_root)
    assert dataset.validation is not None
    return replace(dataset, train=None, test=dataset.validation, validation=None)


def resolve_on(config: EvaluationConfig, distilled: DistilledSet) -> ResolvedEvaluationConfig:
    """Resolve a configuration for a distilled set.

    Fields that are None get the protocol's values. If stored batches are replayed, the batch size,
    augmentation and mixing are those of the files.
    """
    counts = distilled.labels.unique(return_counts=True)[1]
    ipc = int(counts[0]) if (counts == counts[0]).all() else None
    resolved = config.resolved(len(distilled), distilled.learning_rate, ipc)
    if config.teachers or distilled.replay is None:
        return resolved
    size = distilled.replay.batch_size or resolved.batch_size
    if resolved.hard_loss != "none":  # augmentation and mixing apply to the epochs of hard_loss
        return replace(resolved, batch_size=size)
    return replace(resolved, batch_size=size, augmentation="none", mixing="none")
