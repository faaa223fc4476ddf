"""Evaluating a distilled set: students trained on it, tested on real images."""

from gift_fast.evaluation.config import EvaluationConfig, TeacherConfig
from gift_fast.evaluation.student import evaluate
from gift_fast.evaluation.teacher import train_teacher

__all__ = ["EvaluationConfig", "TeacherConfig", "evaluate", "train_teacher"]
