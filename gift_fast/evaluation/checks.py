"""Checks that a configuration and the inputs of a run agree."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from gift_fast.data.classes import number_seen
from gift_fast.data.datasets import DATASETS, ImageDataset
from gift_fast.data.distilled import DistilledSet
from gift_fast.data.labels import StoredLabels
from gift_fast.evaluation.config import EvaluationConfig
from gift_fast.files import spec
from gift_fast.training.last_batch import check_last_batch
from gift_fast.training.models import new_model
from gift_fast.training.objectives import READABLE, build_objective
from gift_fast.training.predict import Transform


def check_inputs(
    config: EvaluationConfig,
    dataset: ImageDataset,
    distilled: DistilledSet,
    teachers: Sequence[nn.Module],
    whiten: Transform | None,
    *,
    labeled: bool = False,
) -> None:
    """Raise ValueError if the configuration and the inputs of a run disagree.

    With ``labeled``, a label set replaces the teachers, which can be omitted.
    """
    if dataset.name in DATASETS and dataset.name != spec.split_spec(config.dataset)[0]:
        raise ValueError(f"dataset must be that of config, {config.dataset}, got {dataset.name}")
    if dataset.classes != config.classes:
        raise ValueError(
            f"dataset must have the classes of config, {config.classes}, got {dataset.classes}"
        )
    classes = number_seen(dataset)
    if config.ipc is not None and len(distilled) != config.ipc * classes:
        raise ValueError(
            f"distilled must contain {config.ipc * classes} images, {config.ipc} for each "
            f"of {classes} classes, got {len(distilled)}"
        )
    if distilled.images.shape[1:] != dataset.test.shape:
        raise ValueError(
            f"distilled must contain images of shape {dataset.test.shape}, "
            f"got {tuple(distilled.images.shape[1:])}"
        )
    distilled.check_against(dataset)
    if len(teachers) != len(config.teachers) and not (labeled and not teachers):
        raise ValueError(
            f"teachers must be the {len(config.teachers)} networks that config.teachers names "
            f"({', '.join(config.teachers) or 'none'}), got {len(teachers)}"
        )
    stored = distilled.soft_labels is not None or distilled.replay is not None
    if not (teachers or labeled or stored) and build_objective(config.loss).reads_soft_labels:
        raise ValueError(
            f"distilled must contain soft labels for the loss {config.loss}, because there is no "
            "teacher; got none"
        )
    per_image = (
        not config.teachers and distilled.replay is None and distilled.soft_labels is not None
    )
    if per_image and config.mixing != "none" and build_objective(config.loss).reads_soft_labels:
        raise ValueError(
            "mixing must be none if one soft label per image is stored, because mixed images have "
            f"no stored labels; got {config.mixing!r}"
        )
    replay = None if config.teachers else distilled.replay
    if replay is not None:
        check_loss(config.loss, replay)
    epochs = config.epochs or 0
    if replay is not None and replay.epochs is not None and epochs > replay.epochs:
        raise ValueError(
            f"epochs must be at most {replay.epochs}, the number of epochs with stored labels, "
            f"got {epochs}"
        )
    if distilled.whitened and whiten is None:
        raise ValueError("whiten must be given, because distilled images are whitened; got None")
    if whiten is not None and not distilled.whitened:
        raise ValueError("whiten must be None, because distilled images are not whitened")
    as_stored = replay is not None and replay.batch_size is not None
    if not as_stored and config.batch_size is not None:
        check_last_batch(
            lambda: new_model(config.student, dataset, config.seed),
            (dataset.channels, dataset.side, dataset.side),
            images=len(distilled),
            batch_size=config.batch_size,
            network=config.student,
        )


def check_loss(loss: str, replay: StoredLabels) -> None:
    """Raise ValueError if a loss does not support the kind of labels that are stored."""
    objective = build_objective(loss)
    if not objective.reads_soft_labels or replay.kind in READABLE[objective.reads]:
        return
    reads = {
        "vector": "values for all classes (or use gift with soft_label_temperature)",
        "logits": "the teacher's logits",
    }[objective.reads]
    raise ValueError(
        f"loss must read a softmax of the soft labels, as kl, softce and kd do, because "
        f"{replay.folder} contains {replay.kind} ({replay.form}); {loss} needs {reads}"
    )
