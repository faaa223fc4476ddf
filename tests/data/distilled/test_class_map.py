from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gift_fast.data.distilled import DistilledSet, apply_class_map, read_class_map

NAMES = ("ape", "bee", "cat", "dog")
CLASS_MAP = [2, 0, 3, 1]  # not its own inverse
RENAMED = ("bee", "dog", "ape", "cat")
SET = DistilledSet(
    images=torch.arange(4.0).view(4, 1, 1, 1),
    labels=torch.tensor([0, 1, 2, 3]),
    soft_labels=torch.tensor([[7.0, 2, 1, 0], [3, 9, 1, 0], [0, 1, 8, 2], [4, 3, 2, 6]]),
    class_names=NAMES,
)


def test_every_image_keeps_its_class_by_name():
    mapped = apply_class_map(SET, CLASS_MAP)
    assert mapped.class_names == RENAMED
    assert [RENAMED[label] for label in mapped.labels] == list(NAMES)
    assert torch.equal(mapped.images, SET.images)


def test_every_soft_label_keeps_its_class_by_name():
    mapped = apply_class_map(SET, CLASS_MAP)
    for before, after in zip(SET.soft_labels, mapped.soft_labels, strict=True):
        by_name = dict(zip(NAMES, before.tolist(), strict=True))
        assert dict(zip(RENAMED, after.tolist(), strict=True)) == by_name


def test_a_map_and_its_inverse_change_nothing():
    inverse = torch.tensor(CLASS_MAP).argsort().tolist()
    again = apply_class_map(apply_class_map(SET, CLASS_MAP), inverse)
    assert again.fingerprint() == SET.fingerprint()
    assert apply_class_map(SET, CLASS_MAP).fingerprint() != SET.fingerprint()


@pytest.mark.parametrize(
    "text",
    [
        "[2, 0, 3, 1]",
        "\n [\n2,\n0, 3, 1]\n",
        "0 2\n1 0\n2 3\n3 1",
        "# old new\n\n3 1\n  1\t0\n0 2\n\n2 3\n",
    ],
)
def test_a_class_map_is_read_from_json_or_from_lines(tmp_path, text):
    file = tmp_path / "classes"
    file.write_text(text)
    assert read_class_map(file) == CLASS_MAP


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[0, 1, 1]", "class_map must have every class from 0 to 2 once, 2 is missing"),
        ("[1, 2, 3]", "class_map must have every class from 0 to 2 once, 0 is missing"),
        ("[0, 1.0]", r"class_map must be a list of integers, got \[0, 1\.0\]"),
        ("[false, 1]", "class_map must be a list of integers"),
        ("[0, 1", "must contain a class map: "),
        ("", r"class_map must be a list of integers, got \[\]"),
        ("0 1\n1 0\n0 1\n", "every old class must have one line, 0 has two"),
        ("0 1\n2 0\n", "every old class must have a line, 1 has none"),
        ("0 1\n1 1\n", "class_map must have every class from 0 to 1 once, 0 is missing"),
        ("0 -1\n", "a line must have two classes, old and new, got '0 -1'"),
        ("ape bee\n", "a line must have two classes, old and new, got 'ape bee'"),
        ("0 1 2\n", "a line must have two classes, old and new, got '0 1 2'"),
    ],
)
def test_what_is_no_permutation_is_refused(tmp_path, text, message):
    file = tmp_path / "classes.txt"
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as raised:
        read_class_map(file)
    assert str(raised.value).startswith(f"{file} must contain a class map: ")


@pytest.mark.parametrize(
    ("class_map", "message"),
    [
        ([1, 0, 2], "class_map must have every class of the set, got 3 .* label 3"),
        ([1, 0, 2, 3, 4], r"class_map must have .* soft_labels \(4, 4\), got 5"),
        ([0, 1, 2, 2], "class_map must have every class from 0 to 3 once, 3 is missing"),
        ([0, 1, 2, 4], "class_map must have every class from 0 to 3 once, 3 is missing"),
    ],
)
def test_a_map_of_other_classes_is_refused(class_map, message):
    with pytest.raises(ValueError, match=message):
        apply_class_map(SET, class_map)


@pytest.mark.parametrize("names", [NAMES[:3], (*NAMES, "eel")])
def test_a_map_must_have_as_many_classes_as_there_are_names(names):
    named = replace(SET, soft_labels=None, class_names=names)
    message = f"class_map must have the {len(names)} classes of class_names, got 4"
    with pytest.raises(ValueError, match=message):
        apply_class_map(named, CLASS_MAP)
