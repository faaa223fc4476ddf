from __future__ import annotations

import re

import pytest
import torch
from layouts import write_folders
from torchvision.datasets import ImageFolder

from gift_fast.data.datasets import TensorSplit, load_dataset

CLASSES = ["beta", "Alpha", "gamma"]


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("GIFT_FAST_CACHE", str(tmp_path / "cache"))
    write_folders(tmp_path / "data" / "train", CLASSES, images=3)
    write_folders(tmp_path / "data" / "val", CLASSES, images=2)
    return tmp_path / "data"


def test_labels_files_and_names_are_those_of_torchvisions_image_folder(root):
    dataset = load_dataset("folder:side=14", root)
    for split, name in ((dataset.train, "train"), (dataset.test, "val")):
        expected = ImageFolder(str(root / name))
        assert [str(root / name / file) for file in split.names] == [p for p, _ in expected.samples]
        assert split.labels.tolist() == expected.targets
        assert dataset.class_names == tuple(expected.classes)
    assert dataset.test.shape == (3, 14, 14)
    assert dataset.test.resize == 16
    assert dataset.mean == (0.485, 0.456, 0.406)


def test_the_test_split_may_be_called_test(root):
    (root / "val").rename(root / "test")
    assert len(load_dataset("folder", root).test) == 6


def test_a_student_is_tested_without_the_training_images(root):
    assert load_dataset("folder", root, train=False).train is None
    (root / "train").rename(root / "elsewhere")
    assert len(load_dataset("folder", root, train=False).test) == 6
    with pytest.raises(FileNotFoundError, match=r"train must .* a folder for each class"):
        load_dataset("folder", root)


def test_options_set_the_crop_and_the_constants(root):
    dataset = load_dataset("folder:side=8,shorter_side=16,normalization=cifar", root)
    assert (dataset.test.side, dataset.test.resize) == (8, 16)
    assert dataset.std == (0.2023, 0.1994, 0.2010)


def test_in_memory_holds_the_same_pixels(root):
    files = load_dataset("folder:side=8", root)
    memory = load_dataset("folder:side=8,in_memory=true", root)
    everything = [torch.arange(9)]
    assert isinstance(memory.train, TensorSplit)
    assert torch.equal(
        next(memory.train.batches(everything))[0], next(files.train.batches(everything))[0]
    )


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("train/delta", "only the training split has delta"),
        ("val/delta", "only the test split has delta"),
    ],
)
def test_splits_of_different_classes_are_refused(root, extra, message, train):
    (root / extra).mkdir()
    with pytest.raises(ValueError, match=message):
        load_dataset("folder", root, train=train)


def test_a_class_without_an_image_is_refused(root):
    (root / "train" / "delta").mkdir()
    (root / "val" / "delta").mkdir()
    with pytest.raises(FileNotFoundError, match=r"must .* images of every class, .* delta"):
        load_dataset("folder", root)


def test_a_folder_without_a_test_split_is_refused(root):
    (root / "val").rename(root / "valid")
    message = f"folder: looked for val in {re.escape(str(root))}\nIt must .* train/<class>"
    with pytest.raises(FileNotFoundError, match=message):
        load_dataset("folder", root)


def test_numbered_classes_are_in_the_order_of_their_numbers(tmp_path):
    for part in ("train", "val"):
        write_folders(tmp_path / part, ["10", "9"])
    dataset = load_dataset("folder:side=8", tmp_path)
    assert dataset.class_names == dataset.class_folders == ("9", "10")
    folders = [name.partition("/")[0] for name in dataset.test.names]
    labels = dict(zip(folders, dataset.test.labels.tolist(), strict=True))
    assert labels == {"9": 0, "10": 1}
    assert load_dataset("folder:side=8,order=name", tmp_path).class_names == ("10", "9")


def test_what_tools_leave_behind_does_not_change_the_labels(root):
    before = load_dataset("folder:side=8", root)
    for part in ("train", "val"):
        write_folders(root / part, [".ipynb_checkpoints", "__MACOSX"])
        (root / part / "gamma" / "._gamma_0.JPEG").write_bytes(b"Mac OS X")
    after = load_dataset("folder:side=8", root)
    assert after.class_names == before.class_names
    assert after.test.fingerprint() == before.test.fingerprint()


def test_a_folder_of_one_class_is_refused(tmp_path):
    write_folders(tmp_path / "val" / "images", ["ant", "bee"])
    with pytest.raises(ValueError, match=r"two classes, got only images"):
        load_dataset("folder", tmp_path, train=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("side=0", "side must be at least 1, got 0"),
        ("side=64,shorter_side=32", "shorter_side must be 0 or at least side, 64, got 32"),
        ("normalization=gray", "normalization must be one of cifar, .*, got 'gray'"),
    ],
)
def test_options_out_of_range_are_refused(root, options, message):
    with pytest.raises(ValueError, match=message):
        load_dataset(f"folder:{options}", root)
