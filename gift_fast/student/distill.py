"""The former name of ``gift_fast.distillation``, kept until version 0.3."""

from typing import Any

from gift_fast.student import moved


def __getattr__(name: str) -> Any:
    return moved(__name__, {"distill": "gift_fast.distillation"}, name)
