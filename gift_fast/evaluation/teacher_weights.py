"""Files with the weights of teachers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from gift_fast.data.datasets import ImageDataset
from gift_fast.evaluation.context import RunContext
from gift_fast.training.models import new_model
from gift_fast.training.weights import checkpoint_name, load_weights


def advice_for(dataset: str, teacher: str) -> str:
    """Advice for the case that a teacher has no weights."""
    return (
        f"train it with `gift-fast train-teacher --dataset {dataset} --model {teacher}`, give a "
        "file with --teacher-weights, or use the soft labels stored with the set, if it has any, "
        "with `--teacher` without a name"
    )


def check_weights(teacher: str, path: Path, dataset: str, advice: str) -> None:
    """Raise FileNotFoundError if the file of a teacher's weights is missing."""
    if not path.exists():
        others = sorted(other.name for other in path.parent.glob("*.pth"))
        there = f" ({path.parent} contains {', '.join(others)})" if others else ""
        raise FileNotFoundError(
            f"{path}: no weights of the teacher {teacher} for {dataset}{there}; {advice}"
        )


def load_teacher(
    teacher: str, path: Path, dataset: ImageDataset, *, advice: str = ""
) -> tuple[nn.Module, dict[str, Any]]:
    """Load a teacher with its weights; return it in eval mode with the other values in the file.

    Args:
        teacher: a name in ``MODELS``.
        path: see :func:`~gift_fast.training.weights.load_weights`.
        dataset: determines the image size and the classes.
        advice: added to the error message if the file is missing.
    """
    check_weights(teacher, path, dataset.name, advice)
    model = new_model(teacher, dataset, seed=0)
    record = load_weights(path, model)
    return model.eval(), record


def teacher_path(context: RunContext, dataset: str, model: str) -> Path:
    """The default file of a teacher's weights."""
    return context.teacher_dir / checkpoint_name(dataset, model)
