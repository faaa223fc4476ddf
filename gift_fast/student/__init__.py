"""The evaluation of students trained on distilled datasets."""

from gift_fast.student.config import EvaluationConfig, TeacherConfig
from gift_fast.student.datasets import ImageDataset, load_dataset
from gift_fast.student.distilled import DistilledSet, read_distilled
from gift_fast.student.train import evaluate, train_teacher

__all__ = [
    "DistilledSet",
    "EvaluationConfig",
    "ImageDataset",
    "TeacherConfig",
    "evaluate",
    "load_dataset",
    "read_distilled",
    "train_teacher",
]
