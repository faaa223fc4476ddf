from __future__ import annotations

import logging

import pytest
from layouts import write_image
from torchvision.datasets import ImageFolder

from gift_fast.data.images.class_folders import (
    check_same_classes,
    class_folders,
    images_of_classes,
    in_class_order,
    left_behind,
)

LEFT_FOLDERS = [".ipynb_checkpoints", "__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", ".git"]
LEFT_FILES = ["._0.png", ".DS_Store", "Thumbs.db", "desktop.ini", ".0.png.swp"]


def make(root, names, files=("0.png",)):
    for name in names:
        for file in files:
            write_image(root / name / file, 4, 4)


def test_what_systems_and_tools_leave_behind_is_no_class(tmp_path):
    make(tmp_path, ["bee", "ant", *LEFT_FOLDERS])
    (tmp_path / "readme.txt").touch()
    assert class_folders(tmp_path) == ["ant", "bee"]


def test_what_systems_and_tools_leave_behind_is_no_image(tmp_path, caplog):
    make(tmp_path, ["ant", "bee"])
    for file in LEFT_FILES:
        (tmp_path / "ant" / file).write_bytes(b"\0\5\x16\7")
    make(tmp_path / "ant", LEFT_FOLDERS)
    names, labels = images_of_classes(tmp_path, ["ant", "bee"])
    assert (names, labels) == (["ant/0.png", "bee/0.png"], [0, 1])
    assert caplog.text == ""


@pytest.mark.parametrize("name", ["ant", "0", "a.b", "MACOSX", "database"])
def test_other_names_are_kept(name):
    assert not left_behind(name)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["b", "a", "C"], ["C", "a", "b"]),
        (["10", "9", "2"], ["2", "9", "10"]),
        (["class10", "class9"], ["class9", "class10"]),
        (["00010", "00009"], ["00009", "00010"]),
        (["n02102040", "n01440764"], ["n01440764", "n02102040"]),
        (["10", "9", "other"], ["10", "9", "other"]),
        (["a10", "b9"], ["a10", "b9"]),
    ],
)
def test_numbers_are_sorted_as_numbers_and_all_else_as_text(tmp_path, names, expected):
    assert in_class_order(names, tmp_path) == expected


@pytest.mark.parametrize(("names", "told"), [(["10", "9"], True), (["09", "10"], False)])
def test_an_order_that_is_not_image_folders_is_told(tmp_path, caplog, names, told):
    with caplog.at_level(logging.WARNING):
        in_class_order(names, tmp_path)
    assert (str(tmp_path) in caplog.text and "order=name" in caplog.text) == told


def test_folders_that_differ_only_in_case_are_told(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert in_class_order(["b", "a", "B"], tmp_path) == ["B", "a", "b"]
    assert "'B' and 'b'" in caplog.text
    assert "case" in caplog.text
    caplog.clear()
    in_class_order(["b", "a", "C"], tmp_path)
    assert caplog.text == ""


def test_the_order_can_be_asked_for(tmp_path, caplog):
    names = ["10_pear", "2_fig", "1_apple"]
    assert in_class_order(names, tmp_path, "number") == ["1_apple", "2_fig", "10_pear"]
    assert in_class_order(names, tmp_path, "name") == ["10_pear", "1_apple", "2_fig"]
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("names", "order", "message"),
    [
        (["10_pear", "2_fig"], "auto", "order=number.*order=name"),
        (["1", "01"], "auto", "01, 1 for 1"),
        (["ant", "2"], "number", "order=number"),
        (["ant"], "size", "order must be auto, number, name, got 'size'"),
    ],
)
def test_an_order_that_is_ambiguous_is_refused(tmp_path, names, order, message):
    with pytest.raises(ValueError, match=message):
        in_class_order(names, tmp_path, order)


def test_images_lie_in_the_order_of_image_folder_whatever_the_labels(tmp_path):
    make(tmp_path, ["10", "9", "9/inner"], ["1.png", "0.JPEG", "2.webp"])
    names, labels = images_of_classes(tmp_path, ["9", "10"])
    assert [str(tmp_path / name) for name in names] == [p for p, _ in ImageFolder(tmp_path).samples]
    assert labels == [1] * 3 + [0] * 6


def test_empty_classes_are_named_with_what_they_hold(tmp_path):
    make(tmp_path, ["ant", "bee"])
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "picture").touch()
    with pytest.raises(FileNotFoundError, match=r"none of cat; .* cat/picture"):
        images_of_classes(tmp_path, ["ant", "bee", "cat"])


def test_images_of_kinds_that_image_folder_passes_over_are_refused(tmp_path):
    make(tmp_path, ["ant"])
    (tmp_path / "ant" / "1.gif").touch()
    with pytest.raises(ValueError, match=r"1 of other types: ant/1\.gif"):
        images_of_classes(tmp_path, ["ant"])


def test_texts_beside_images_are_passed_over_and_other_files_told(tmp_path, caplog):
    make(tmp_path, ["ant"])
    (tmp_path / "ant" / "boxes.txt").touch()
    images_of_classes(tmp_path, ["ant"])
    assert caplog.text == ""
    (tmp_path / "ant" / "1.jpg.part").touch()
    images_of_classes(tmp_path, ["ant"])
    assert "ant/1.jpg.part" in caplog.text


@pytest.mark.parametrize("twins", [("Ant", "ant"), ("caf\u00e9", "cafe\u0301")])
def test_classes_that_differ_in_spelling_alone_are_named_together(tmp_path, twins):
    with pytest.raises(ValueError, match=rf"{twins[0]!r} and {twins[1]!r} may be the same"):
        check_same_classes([twins[0]], [twins[1]], tmp_path)
