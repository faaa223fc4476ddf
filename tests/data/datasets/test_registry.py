from __future__ import annotations

import inspect
import re

import pytest

from gift_fast.data.datasets import DATASETS, load_dataset
from gift_fast.data.datasets.normalization import NORMALIZATIONS
from gift_fast.data.images.file_split import resize_for

ON_DISK = sorted(set(DATASETS) - {"digits", "fashion-mnist", "imagenet-subset"})


@pytest.mark.parametrize("name", ON_DISK)
def test_without_a_root_the_error_says_what_is_needed(name):
    with pytest.raises(ValueError, match=f"root must be .* {name}, got None\n"):
        load_dataset(name)


@pytest.mark.parametrize("name", ON_DISK)
def test_an_empty_root_is_an_error_that_says_what_was_looked_for_where_and_how_to_get_it(
    tmp_path, name
):
    message = f"root must .* {name}: looked for .* in {re.escape(str(tmp_path))}.*\n.+"
    with pytest.raises(FileNotFoundError, match=message) as raised:
        load_dataset(name, tmp_path)
    if name != "folder":
        assert "https://" in str(raised.value) or "http://" in str(raised.value)


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_every_dataset_takes_a_root_and_whether_to_train_and_typed_options(name):
    parameters = list(inspect.signature(DATASETS[name]).parameters.values())
    assert [p.name for p in parameters[:2]] == ["root", "train"]
    for option in parameters[2:]:
        assert option.kind is option.KEYWORD_ONLY
        assert isinstance(option.default, bool | int | float | str)


def own_dataset(root, train, *, shade: float = 0.5):
    return root, train, shade


def test_a_users_own_function_is_called_with_root_and_train(tmp_path, monkeypatch):
    monkeypatch.setitem(DATASETS, "own", own_dataset)
    assert load_dataset("own:shade=0.25", tmp_path, train=False) == (tmp_path, False, 0.25)
    assert load_dataset("own", "~")[0].is_absolute()


def test_the_crop_follows_the_validation_rules_of_the_evaluation_code():
    assert {side: resize_for(side) for side in (224, 128, 64)} == {224: 256, 128: 146, 64: 73}


def test_the_normalization_constants_are_those_of_the_evaluation_code():
    assert NORMALIZATIONS["cifar"] == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    assert NORMALIZATIONS["imagenet"] == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert NORMALIZATIONS["fashion-mnist"] == ((0.2861,), (0.3530,))
