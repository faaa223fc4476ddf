"""Evaluation of distilled sets: students are trained on them and tested on real images.

These functions take loaded objects; :func:`gift_fast.evaluate` takes names and paths.
"""

from gift_fast.evaluation.config import EvaluationConfig, TeacherConfig
from gift_fast.evaluation.results import RunResult, read_run
from gift_fast.evaluation.scores import Scores
from gift_fast.evaluation.student import evaluate
from gift_fast.evaluation.teacher import train_teacher

__all__ = [
    "EvaluationConfig",
    "RunResult",
    "Scores",
    "TeacherConfig",
    "evaluate",
    "read_run",
    "train_teacher",
]
