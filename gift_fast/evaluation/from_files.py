"""Evaluations, audits and teachers from names and paths: the functions that ``gift_fast`` exports.

They give the same results as the commands ``gift-fast evaluate``, ``label``, ``audit`` and
``train-teacher``. The functions of :mod:`gift_fast.evaluation` take loaded objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from gift_fast.data import distilled as formats
from gift_fast.data.datasets import load_dataset
from gift_fast.data.distilled import DistilledSet
from gift_fast.data.labels.label_set import LabelSet
from gift_fast.evaluation.audit import run_audit
from gift_fast.evaluation.config import EvaluationConfig, TeacherConfig
from gift_fast.evaluation.context import RunContext
from gift_fast.evaluation.job import EvaluationJob, job_of_preset
from gift_fast.evaluation.label_job import run_label_job
from gift_fast.evaluation.labeling import Compression
from gift_fast.evaluation.results import run_path
from gift_fast.evaluation.rules import paper_dataset
from gift_fast.evaluation.run import run_job
from gift_fast.evaluation.scores import Scores
from gift_fast.evaluation.teacher import run_teacher
from gift_fast.evaluation.teacher_weights import advice_for, teacher_path
from gift_fast.evaluation.teacher_weights import load_teacher as load_weights_of
from gift_fast.training.eval_result import EvalResult

if TYPE_CHECKING:
    from gift_fast.auditing import AuditReport


def evaluate(
    data: Path | str,
    *,
    dataset: str,
    data_root: Path | str | None = None,
    student: str | None = None,
    teacher: str | Sequence[str] | None = None,
    loss: str | None = None,
    seeds: int | Sequence[int] = 3,
    preset: str = "paper",
    format: str = "auto",  # noqa: A002
    labels: Path | str | None = None,
    class_map: Path | str | None = None,
    teacher_weights: Sequence[Path | str] = (),
    teacher_dir: Path | str = "teachers",
    out: Path | str = "runs",
    device: str = "auto",
    check_set: bool = True,
    quiet: bool = False,
    force: bool = False,
    **settings: Any,
) -> Scores:
    """Train students on a distilled set and measure their accuracy on real test images.

    The result of every finished student is stored in ``out`` and read by the next call; an
    interrupted student resumes from its checkpoint. The command ``gift-fast evaluate`` gives the
    same numbers.

    Args:
        data: folder or file of the distilled set.
        dataset: the real dataset: ``cifar10``, ``cifar100``, ``imagenet-1k``, ``digits``, ...
        data_root: folder with the real dataset.
        student: network to train; by default that of the preset.
        teacher: one or more networks, whose logits are the soft labels of every batch. By default,
            the soft labels stored with the set are used or, if there are none, the teacher of the
            preset. An empty list always uses the stored ones.
        loss: ``gift``, ``kl``, ``mse+ce``, ..., with options: ``kl:temperature=4``; by default
            that of the preset.
        seeds: number of students, with the seeds 0, 1, ...; or their seeds.
        preset: named settings, which the arguments override: ``paper``, ``official``, ..., or a
            YAML file.
        format: format of the set; ``auto`` detects it.
        labels: folder of stored soft labels: published ones, or the label sets of :func:`label`.
        class_map: file with a permutation that puts the set's classes in the dataset's order.
        teacher_weights: one file per teacher; by default those in ``teacher_dir``.
        teacher_dir: folder with the teachers' weights.
        out: folder for results and checkpoints.
        device: ``auto`` or ``cpu``.
        check_set: audit the set first and print warnings.
        quiet: hide settings and progress.
        force: repeat finished runs.
        settings: other fields of :class:`~gift_fast.evaluation.EvaluationConfig`: ``epochs``,
            ``optimizer``, ``learning_rate``, ``batch_size``, ...

    Returns:
        The students' accuracies; printing them shows a table.

    Raises:
        OSError: a file is missing; the message says which one and how to get it.
        TypeError: a value of the wrong type.
        ValueError: an unknown name, or a value out of range.

    Example:
        >>> import tempfile, torch, gift_fast
        >>> folder, network = Path(tempfile.mkdtemp()), "convnet3:width=4"
        >>> _ = gift_fast.train_teacher("digits", network, epochs=1, teacher_dir=folder, quiet=True)
        >>> images = {"data": torch.rand(10, 1, 8, 8), "label": torch.arange(10)}
        >>> torch.save({"dataset": "digits", **images}, folder / "set.pt")
        >>> scores = gift_fast.evaluate(
        ...     folder / "set.pt", dataset="digits", student=network, teacher=network, seeds=2,
        ...     epochs=1, teacher_dir=folder, out=folder / "runs", check_set=False, quiet=True,
        ... )
        >>> len(scores.runs), 0 <= scores.mean <= 100
        (2, True)
    """
    context = RunContext(
        out=Path(out),
        data_root=path_or_none(data_root),
        teacher_dir=Path(teacher_dir),
        device=device,
        quiet=quiet,
        force=force,
    )
    given: dict[str, Any] = {"student": student, "loss": loss}
    settings = {**settings, **{name: value for name, value in given.items() if value is not None}}
    inputs = {
        "format": format,
        "labels": path_or_none(labels),
        "class_map": path_or_none(class_map),
        "teacher_weights": tuple(map(Path, teacher_weights)),
    }
    if teacher is None and not teacher_weights:
        plain = job_of_preset(data, dataset, preset, {**settings, "teachers": ()}, **inputs)
        if stores_soft_labels(plain, context):
            teacher = ()
    if teacher is not None:
        settings["teachers"] = names_of(teacher)
    job = job_of_preset(
        data,
        dataset,
        preset,
        settings,
        seeds=tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds),
        check_set=check_set,
        **inputs,
    )
    runs = tuple(run_job(job, context))
    return Scores(runs, tuple(run_path(context.out, run.config, run.inputs) for run in runs))


def stores_soft_labels(job: EvaluationJob, context: RunContext) -> bool:
    """Whether the distilled set of a job has stored soft labels."""
    if job.labels is not None:
        return True
    dataset = load_dataset(job.config.dataset, context.data_root, train=False)
    distilled = formats.read_distilled(job.format, job.data, dataset, class_map=job.class_map)
    return distilled.soft_labels is not None or distilled.replay is not None


def label(
    data: Path | str,
    *,
    dataset: str,
    teacher: str | Sequence[str],
    out: Path | str,
    data_root: Path | str | None = None,
    student: str | None = None,
    seeds: int | Sequence[int] = 3,
    top_k: int | None = None,
    dtype: str = "float32",
    rest: str = "logmeanexp",
    temperature: float = 1.0,
    preset: str = "paper",
    format: str = "auto",  # noqa: A002
    class_map: Path | str | None = None,
    teacher_weights: Sequence[Path | str] = (),
    teacher_dir: Path | str = "teachers",
    device: str = "auto",
    quiet: bool = False,
    **settings: Any,
) -> list[LabelSet]:
    """Store the soft labels of complete training runs, for replay with any loss.

    The batches are exactly those of :func:`evaluate` with the same settings and seeds;
    ``evaluate(..., labels=out)`` replays them. With the default storage options, the students have
    the same bits as with the teacher. The same call resumes an interrupted one. ``docs/labels.md``
    describes the files.

    Args:
        data: folder or file of the distilled set.
        dataset: the real dataset.
        teacher: one or more networks; the labels are their logits, averaged.
        out: folder for the label sets, with one subfolder per seed.
        data_root: folder with the real dataset.
        student: network that will be trained; the settings of some presets depend on it.
        seeds: number of runs, with the seeds 0, 1, ...; or their seeds.
        top_k: number of largest logits to store per image; None stores all.
        dtype: of the stored logits: ``float32``, ``float16`` or ``bfloat16``.
        rest: the value of the other logits: their ``logmeanexp``, ``mean`` or ``min``.
        temperature: of ``logmeanexp``.
        preset: named settings, which the arguments override, or a YAML file.
        format: format of the set; ``auto`` detects it.
        class_map: file with a permutation that puts the set's classes in the dataset's order.
        teacher_weights: one file per teacher; by default those in ``teacher_dir``.
        teacher_dir: folder with the teachers' weights.
        device: ``auto`` or ``cpu``.
        quiet: hide settings and progress.
        settings: other fields of :class:`~gift_fast.evaluation.EvaluationConfig`: ``epochs``,
            ``batch_size``, ``augmentation``, ``mixing``, ...

    Returns:
        The label sets, in the order of the seeds.

    Raises:
        OSError: a file is missing, or there is not enough disk space.
        TypeError: a value of the wrong type.
        ValueError: an unknown name, a value out of range, or a folder with another label set.

    Example:
        >>> import tempfile, torch, gift_fast
        >>> folder, network = Path(tempfile.mkdtemp()), "convnet3:width=4"
        >>> _ = gift_fast.train_teacher("digits", network, epochs=1, teacher_dir=folder, quiet=True)
        >>> images = {"data": torch.rand(10, 1, 8, 8), "label": torch.arange(10)}
        >>> torch.save({"dataset": "digits", **images}, folder / "set.pt")
        >>> (labels,) = gift_fast.label(
        ...     folder / "set.pt", dataset="digits", teacher=network, out=folder / "labels",
        ...     seeds=1, top_k=3, dtype="float16", epochs=2, teacher_dir=folder, quiet=True,
        ... )
        >>> labels.epoch(1).labels.shape
        torch.Size([10, 3])
    """
    context = RunContext(
        out=Path(out),
        data_root=path_or_none(data_root),
        teacher_dir=Path(teacher_dir),
        device=device,
        quiet=quiet,
    )
    job = job_of_preset(
        data,
        dataset,
        preset,
        {
            **settings,
            **({} if student is None else {"student": student}),
            "teachers": names_of(teacher),
        },
        seeds=tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds),
        format=format,
        class_map=path_or_none(class_map),
        teacher_weights=tuple(map(Path, teacher_weights)),
    )
    compression = Compression(dtype=dtype, top_k=top_k, rest=rest, temperature=temperature)
    return run_label_job(job, context, compression)


def audit(
    data: Path | str,
    *,
    dataset: str,
    data_root: Path | str | None = None,
    teacher: str | Sequence[str] = (),
    format: str = "auto",  # noqa: A002
    labels: Path | str | None = None,
    class_map: Path | str | None = None,
    teacher_weights: Sequence[Path | str] = (),
    teacher_dir: Path | str = "teachers",
    device: str = "auto",
    quick: bool = False,
) -> AuditReport:
    """Find errors in a distilled set, its labels and its teacher that training would not reveal.

    Args:
        data: folder or file of the distilled set.
        dataset: the real dataset.
        data_root: folder with the real dataset.
        teacher: one or more networks that will label the set. Without one, class orders are
            compared as far as stored soft labels allow.
        format: format of the set; ``auto`` detects it.
        labels: folder of stored soft labels, of any kind.
        class_map: file with a permutation that puts the set's classes in the dataset's order.
        teacher_weights: one file per teacher; by default those in ``teacher_dir``.
        teacher_dir: folder with the teachers' weights.
        device: ``auto`` or ``cpu``.
        quick: examine a sample of the images.

    Returns:
        The findings as texts, with their measurements.

    Raises:
        OSError: a file is missing; the message says which one and how to get it.
        ValueError: an unknown name, or files that are not such a set.

    Example:
        >>> import tempfile, torch, gift_fast
        >>> path = Path(tempfile.mkdtemp()) / "set.pt"
        >>> images = {"data": torch.rand(10, 1, 8, 8), "label": torch.arange(10)}
        >>> torch.save({"dataset": "digits", **images}, path)
        >>> gift_fast.audit(path, dataset="digits").severity in ("ok", "note", "warning", "error")
        True
    """
    teachers = names_of(teacher)
    sized = paper_dataset(dataset, teachers[0]) if teachers else dataset
    job = EvaluationJob(
        config=EvaluationConfig(dataset=sized, teachers=teachers),
        data=Path(data),
        format=format,
        labels=path_or_none(labels),
        class_map=path_or_none(class_map),
        teacher_weights=tuple(map(Path, teacher_weights)),
    )
    context = RunContext(
        data_root=path_or_none(data_root), teacher_dir=Path(teacher_dir), device=device
    )
    return run_audit(job, context, quick=quick)


def train_teacher(
    dataset: str,
    model: str = "convnet3",
    *,
    data_root: Path | str | None = None,
    teacher_dir: Path | str = "teachers",
    device: str = "auto",
    quiet: bool = False,
    force: bool = False,
    **settings: Any,
) -> tuple[nn.Module, EvalResult]:
    """Train a network on the real training images, or load one that has been trained.

    Args:
        dataset: the real dataset.
        model: network to train.
        data_root: folder with the dataset.
        teacher_dir: folder for its weights.
        device: ``auto`` or ``cpu``.
        quiet: hide settings and progress.
        force: train a finished network again.
        settings: other fields of :class:`~gift_fast.evaluation.TeacherConfig`: ``epochs``,
            ``optimizer``, ``learning_rate``, ``batch_size``, ...

    Returns:
        The network in eval mode, on the CPU, and its last test.

    Raises:
        OSError: a file is missing or cannot be written.
        TypeError: a value of the wrong type.
        ValueError: an unknown name, a value out of range, or the file has other weights.

    Example:
        >>> import tempfile, gift_fast
        >>> folder = Path(tempfile.mkdtemp())
        >>> teacher, accuracy = gift_fast.train_teacher(
        ...     "digits", "convnet3:width=4", epochs=1, teacher_dir=folder, quiet=True
        ... )
        >>> teacher.training, 0 <= accuracy.top1 <= 100
        (False, True)
    """
    context = RunContext(
        data_root=path_or_none(data_root),
        teacher_dir=Path(teacher_dir),
        device=device,
        quiet=quiet,
        force=force,
    )
    config = TeacherConfig.from_dict(
        {**settings, "dataset": paper_dataset(dataset, model), "model": model}
    )
    path, result = run_teacher(config, context)
    return load_teacher(model, dataset=dataset, data_root=data_root, weights=path), result


def load_teacher(
    model: str,
    *,
    dataset: str,
    data_root: Path | str | None = None,
    weights: Path | str | None = None,
    teacher_dir: Path | str = "teachers",
) -> nn.Module:
    """Load a network with its weights from a file.

    Args:
        model: the network: ``convnet3``, ``resnet18_modified``, ..., with options.
        dataset: the real dataset, which determines the image size and the classes.
        data_root: folder with the dataset.
        weights: file with the weights; by default that of :func:`train_teacher` in ``teacher_dir``.
        teacher_dir: folder with the teachers' weights.

    Returns:
        The network in eval mode, on the CPU. It maps normalized images (B, C, S, S) to logits
        (B, classes).

    Raises:
        OSError: a file is missing; the message says which one and how to get it.
        ValueError: an unknown name, or weights of another network.

    Example:
        >>> import tempfile, torch, gift_fast
        >>> folder, network = Path(tempfile.mkdtemp()), "convnet3:width=4"
        >>> _ = gift_fast.train_teacher("digits", network, epochs=1, teacher_dir=folder, quiet=True)
        >>> teacher = gift_fast.load_teacher(network, dataset="digits", teacher_dir=folder)
        >>> teacher(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    sized = paper_dataset(dataset, model)
    context = RunContext(teacher_dir=Path(teacher_dir))
    path = teacher_path(context, sized, model) if weights is None else Path(weights)
    loaded = load_dataset(sized, path_or_none(data_root), train=False)
    return load_weights_of(model, path, loaded, advice=advice_for(sized, model))[0]


def read_distilled(
    data: Path | str,
    *,
    dataset: str,
    data_root: Path | str | None = None,
    format: str = "auto",  # noqa: A002
    labels: Path | str | None = None,
    class_map: Path | str | None = None,
) -> DistilledSet:
    """Read a distilled set in the format of its authors.

    Args:
        data: folder or file of the set.
        dataset: the real dataset that it replaces.
        data_root: folder with the dataset.
        format: format of the set; ``auto`` detects it.
        labels: folder of stored soft labels, of any kind.
        class_map: file with a permutation that puts the set's classes in the dataset's order.

    Returns:
        The set: images (N, C, S, S), hard labels (N) and, if stored, soft labels.

    Raises:
        OSError: a file is missing or cannot be opened.
        ValueError: an unknown name, or the files are not such a set.

    Example:
        >>> import tempfile, torch, gift_fast
        >>> path = Path(tempfile.mkdtemp()) / "set.pt"
        >>> images = {"data": torch.rand(10, 1, 8, 8), "label": torch.arange(10)}
        >>> torch.save({"dataset": "digits", **images}, path)
        >>> gift_fast.read_distilled(path, dataset="digits").images.shape
        torch.Size([10, 1, 8, 8])
    """
    loaded = load_dataset(dataset, path_or_none(data_root), train=False)
    return formats.read_distilled(format, data, loaded, labels=labels, class_map=class_map)


def names_of(teacher: str | Sequence[str]) -> tuple[str, ...]:
    """One or more teachers as a tuple."""
    return (teacher,) if isinstance(teacher, str) else tuple(teacher)


def path_or_none(path: Path | str | None) -> Path | None:
    """Convert to a path, unless None."""
    return None if path is None else Path(path)
