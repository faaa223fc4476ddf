"""Checks of a study before its first run, which take a few seconds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from gift_fast.data.classes import build_classes
from gift_fast.data.datasets import ImageDataset, load_dataset
from gift_fast.data.datasets.sizes import check_validation_fits
from gift_fast.data.distilled.formats import recognize
from gift_fast.distillation.selection import check_ipc
from gift_fast.evaluation.config import TeacherConfig
from gift_fast.evaluation.context import RunContext
from gift_fast.evaluation.teacher_weights import load_teacher, teacher_path
from gift_fast.files.disk import check_can_write, check_space, checkpoint_bytes
from gift_fast.studies.sets import SetSource
from gift_fast.studies.study import Experiment, Study
from gift_fast.training.last_batch import check_last_batch
from gift_fast.training.models import new_model


def check_study(
    study: Study, experiments: Sequence[Experiment], context: RunContext, sets: Path | None
) -> None:
    """Raise if a study cannot run to completion.

    Checks that the datasets exist and are large enough, that networks can be built for their
    images, that published sets have a known format, that existing teachers match, and that results
    can be written. Slow checks are left to the runs: published sets are not decoded.

    Args:
        study: the study.
        experiments: its experiments, whose sets exist or can be generated.
        context: the folders and the device.
        sets: folder of the published sets; None if all sets are generated.

    Raises:
        ImportError: a network needs a package that is not installed.
        OSError: a file is missing, or a folder is not writable.
        ValueError: the study has no runs, or its settings do not match its data.
    """
    if not experiments:
        raise ValueError(f"the study {study.name} must have at least one run, got none")
    sources = list(dict.fromkeys(experiment.source for experiment in experiments))
    for source in sources:
        if source.generated:
            check_validation_fits(source.sized_dataset, context.data_root)
        else:
            assert sets is not None
            recognize(sets / source.name)
    check_can_write(context.out)
    if missing_teachers(study, sources, context):
        check_can_write(context.teacher_dir)
    datasets = {
        name: load_dataset(name, context.data_root, train=trains)
        for name, trains in datasets_of(study, sources, context).items()
    }
    largest = 0
    for source in sources:
        dataset = datasets[source.sized_dataset]
        if source.generated:
            check_ipc(dataset, source.ipc)
        for teacher in study.teachers_of(source):
            path = teacher_path(context, source.sized_dataset, teacher)
            if path.exists():
                load_teacher(teacher, path, dataset)
            else:
                network = new_model(teacher, dataset, seed=0)
                averaged = study.teacher.get("ema_decay", 0.0) > 0
                largest = max(largest, checkpoint_bytes(network, averaged=averaged))
    kinds = {
        (e.config.student, e.source.sized_dataset, e.config.ema_decay > 0): None
        for e in experiments
    }
    for student, name, averaged in kinds:
        network = new_model(student, datasets[name], seed=0)
        largest = max(largest, checkpoint_bytes(network, averaged=averaged))
    for experiment in experiments:
        check_batches(experiment, datasets[experiment.source.sized_dataset])
    check_space(context.out, largest, "checkpoints")


def check_batches(experiment: Experiment, dataset: ImageDataset) -> None:
    """Raise ValueError if batch norm cannot train on the last batch of an epoch."""
    images = experiment.source.ipc * build_classes(experiment.config.classes).count(
        dataset.num_classes
    )
    config = experiment.config.resolved(images)
    assert config.batch_size is not None
    check_last_batch(
        lambda: new_model(config.student, dataset, seed=0),
        (dataset.channels, dataset.side, dataset.side),
        images=images,
        batch_size=config.batch_size,
        network=config.student,
    )


def missing_teachers(
    study: Study, sources: Iterable[SetSource], context: RunContext
) -> list[tuple[str, str]]:
    """The datasets and networks of teachers that have to be trained; checks their settings."""
    found: dict[tuple[str, str], None] = {}
    for source in sources:
        for teacher in study.teachers_of(source):
            if not teacher_path(context, source.sized_dataset, teacher).exists():
                found[source.sized_dataset, teacher] = None
    for dataset, teacher in found:
        TeacherConfig.from_dict({**study.teacher, "dataset": dataset, "model": teacher})
    return list(found)


def datasets_of(study: Study, sources: Sequence[SetSource], context: RunContext) -> dict[str, bool]:
    """The datasets of the sets, and whether their training images are needed."""
    trained = {dataset for dataset, _ in missing_teachers(study, sources, context)}
    needed: dict[str, bool] = {}
    for source in sources:
        name = source.sized_dataset
        needed[name] = needed.get(name, False) or source.generated or name in trained
    return needed
