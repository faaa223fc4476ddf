from __future__ import annotations

import pytest
import torch
from layouts import write_folders, write_image
from PIL import Image
from torchvision.transforms import functional

from gift_fast.data.datasets import load_dataset

WNIDS = [f"n{10_000_000 + 37 * i}" for i in range(200)]
LINES = [WNIDS[(73 * i) % 200] for i in range(200)]
"""The lines of wnids.txt, in another order than the sorted one."""


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The folder as the zip file unpacks, with an image a class."""
    root = tmp_path_factory.mktemp("published") / "tiny-imagenet-200"
    for i, wnid in enumerate(LINES):
        write_image(root / "train" / wnid / "images" / f"{wnid}_0.JPEG", seed=i)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t9\t9\n")
        write_image(root / "val" / "images" / f"val_{i}.JPEG", seed=1000 + i)
    (root / "wnids.txt").write_text("\n".join(LINES) + "\n")
    (root / "words.txt").write_text(
        "".join(f"{wnid}\tname {wnid}, synonym\n" for wnid in [*WNIDS[1:], "n00000001"])
    )
    (root / "val" / "val_annotations.txt").write_text(
        "".join(f"val_{i}.JPEG\t{wnid}\t0\t32\t44\t62\n" for i, wnid in enumerate(LINES))
    )
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GIFT_FAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pixels(path) -> torch.Tensor:
    return functional.pil_to_tensor(Image.open(path))


def test_labels_follow_the_sorted_wnids_and_not_the_lines_of_wnids_txt(published):
    dataset = load_dataset("tinyimagenet", published.parent)
    assert sorted(LINES) == WNIDS != LINES
    for i in (0, 1, 77, 199):
        label = WNIDS.index(LINES[i])
        (row,) = (dataset.train.labels == label).nonzero().flatten().tolist()
        path = published / "train" / LINES[i] / "images" / f"{LINES[i]}_0.JPEG"
        assert torch.equal(dataset.train.images[row], pixels(path))
        assert dataset.test.labels[i] == label
        path = published / "val" / "images" / f"val_{i}.JPEG"
        assert torch.equal(dataset.test.images[i], pixels(path))
    assert dataset.class_names[1] == f"name {WNIDS[1]}"
    assert dataset.class_names[0] == WNIDS[0]
    assert dataset.train.images.shape == (200, 3, 64, 64)


@pytest.mark.parametrize("within", ["", "images"])
def test_validation_images_may_be_sorted_into_folders(published, tmp_path, within):
    root = tmp_path / "sorted"
    root.mkdir()
    (root / "train").symlink_to(published / "train")
    write_folders(root / "val" / within, WNIDS, side=64)
    dataset = load_dataset("tinyimagenet", root, train=False)
    assert dataset.train is None
    assert dataset.test.labels.tolist() == list(range(200))
    path = root / "val" / within / WNIDS[5] / f"{WNIDS[5]}_0.JPEG"
    assert torch.equal(dataset.test.images[5], pixels(path))
    assert dataset.class_names == tuple(WNIDS)


def test_a_student_is_tested_without_decoding_the_training_images(published, cache):
    load_dataset("tinyimagenet", published, train=False)
    assert [path.name.rpartition("-")[0] for path in cache.iterdir()] == ["tinyimagenet-val"]


def copied(published, root):
    """The published folder, its images linked and the rest to be changed."""
    (root / "val").mkdir(parents=True)
    (root / "train").symlink_to(published / "train")
    (root / "val" / "images").symlink_to(published / "val" / "images")
    annotations = (published / "val" / "val_annotations.txt").read_text()
    (root / "val" / "val_annotations.txt").write_text(annotations)
    return root


def test_an_annotation_of_an_unknown_class_is_an_error_that_names_the_line(published, tmp_path):
    root = copied(published, tmp_path / "copy")
    with (root / "val" / "val_annotations.txt").open("a") as file:
        file.write("val_7.JPEG\tn1\t0\t0\t1\t1\n")
    with pytest.raises(ValueError, match=r"val_annotations\.txt, line 201, must .*, got 'val_7"):
        load_dataset("tinyimagenet", root)


def test_a_file_that_the_annotations_name_in_vain_is_an_error(published, tmp_path):
    root = copied(published, tmp_path / "copy")
    with (root / "val" / "val_annotations.txt").open("a") as file:
        file.write(f"val_200.JPEG\t{WNIDS[0]}\t0\t0\t1\t1\n")
    with pytest.raises(FileNotFoundError, match=r"val_200\.JPEG"):
        load_dataset("tinyimagenet", root)


@pytest.mark.parametrize("name", ["../../../secret.JPEG", "/secret.JPEG", ".."])
def test_an_annotation_leads_to_no_other_folder(published, tmp_path, name):
    root = copied(published, tmp_path / "copy")
    with (root / "val" / "val_annotations.txt").open("a") as file:
        file.write(f"{name}\t{WNIDS[0]}\t0\t0\t62\t62\n")
    with pytest.raises(ValueError, match=r"val_annotations\.txt, line 201, must .* a file"):
        load_dataset("tinyimagenet", root)


def test_validation_images_without_annotations_are_refused(published, tmp_path):
    root = copied(published, tmp_path / "copy")
    (root / "val" / "val_annotations.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"must .* val_annotations\.txt or a folder for"):
        load_dataset("tinyimagenet", root)


def test_a_half_unpacked_folder_is_refused(tmp_path):
    write_folders(tmp_path / "train", WNIDS[:3])
    (tmp_path / "val").mkdir()
    with pytest.raises(ValueError, match=r"train must .* 200 class folders, got 3\nTo get it"):
        load_dataset("tinyimagenet", tmp_path)
