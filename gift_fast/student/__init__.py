"""The evaluation of students trained on distilled datasets."""

from gift_fast.student.config import EvaluationConfig, TeacherConfig
from gift_fast.student.train import evaluate, train_teacher

__all__ = ["EvaluationConfig", "TeacherConfig", "evaluate", "train_teacher"]
