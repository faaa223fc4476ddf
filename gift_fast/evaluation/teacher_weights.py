"""The files of teachers' weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from gift_fast.data.datasets import ImageDataset
from gift_fast.evaluation.context import RunContext
from gift_fast.training.models import new_model
from gift_fast.training.weights import checkpoint_name, load_weights


def advice_for(dataset: str, teacher: str) -> str:
    """What to do where there are no weights of a teacher."""
    return (
        f"train it with `gift-fast train-teacher --dataset {dataset} --model {teacher}`, name a "
        "file with --teacher-weights, or read the soft labels stored with the set, if it has any, "
        "with `--teacher` and no name"
    )


def check_weights(teacher: str, path: Path, dataset: str, advice: str) -> None:
    """Raises FileNotFoundError where there is no file of a teacher's weights."""
    if not path.exists():
        others = sorted(other.name for other in path.parent.glob("*.pth"))
        there = f" ({path.parent} holds {', '.join(others)})" if others else ""
        raise FileNotFoundError(
            f"{path}: no weights of the teacher {teacher} for {dataset}{there}; {advice}"
        )


def load_teacher(
    teacher: str, path: Path, dataset: ImageDataset, *, advice: str = ""
) -> tuple[nn.Module, dict[str, Any]]:
    """A teacher with the weights of a file, in eval mode, and what the file says of it.

    Args:
        teacher: a name in ``MODELS``.
        path: a checkpoint: see :func:`~gift_fast.training.weights.load_weights`.
        dataset: whose images and classes it takes.
        advice: ends the error where there is no such file.
    """
    check_weights(teacher, path, dataset.name, advice)
    model = new_model(teacher, dataset, seed=0)
    record = load_weights(path, model)
    return model.eval(), record


def teacher_path(context: RunContext, dataset: str, model: str) -> Path:
    """Where a teacher's weights are kept."""
    return context.teacher_dir / checkpoint_name(dataset, model)
