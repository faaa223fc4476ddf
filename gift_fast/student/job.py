"""The former name of ``gift_fast.evaluation.teacher_weights``, kept until version 0.3."""

from typing import Any

from gift_fast.student import moved


def __getattr__(name: str) -> Any:
    return moved(__name__, {"load_teacher": "gift_fast.evaluation.teacher_weights"}, name)
