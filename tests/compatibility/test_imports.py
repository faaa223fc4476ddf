"""Import paths that README and docs of version 0.1 named still work, with a DeprecationWarning."""

from __future__ import annotations

from importlib import import_module

import pytest

FORMER = {
    "gift_fast.student.DistilledSet": "gift_fast.data.DistilledSet",
    "gift_fast.student.EvaluationConfig": "gift_fast.evaluation.EvaluationConfig",
    "gift_fast.student.evaluate": "gift_fast.evaluation.evaluate",
    "gift_fast.student.load_dataset": "gift_fast.data.load_dataset",
    "gift_fast.student.read_distilled": "gift_fast.data.read_distilled",
    "gift_fast.student.train_teacher": "gift_fast.evaluation.train_teacher",
    "gift_fast.student.job.load_teacher": "gift_fast.evaluation.teacher_weights.load_teacher",
    "gift_fast.student.distill.distill": "gift_fast.distillation.distill",
}


def value_of(path: str) -> object:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


@pytest.mark.parametrize("former", FORMER)
def test_a_former_name_is_the_present_one_and_warns(former):
    with pytest.warns(DeprecationWarning, match=former):
        found = value_of(former)
    assert found is value_of(FORMER[former])


@pytest.mark.parametrize("path", ["gift_fast.student.missing", "gift_fast.student.job.missing"])
def test_another_name_is_an_attribute_error(path):
    with pytest.raises(AttributeError, match="missing"):
        value_of(path)
