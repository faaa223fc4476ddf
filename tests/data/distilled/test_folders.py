from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor, resize

from gift_fast.data.datasets import load_dataset
from gift_fast.data.datasets.imagenet_classes import IMAGENET_10
from gift_fast.data.distilled import read_distilled
from gift_fast.data.distilled.decode import decode_images


def noise(side, seed, channels=3):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (side, side, channels), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.squeeze(2).numpy())


def write_sre2l(root, ids, *, classes=3, side=8, digits=3, suffix="jpg"):
    """As SRe2L, CDA (five digits) and G-VBSM (png) save their images."""
    for label in range(classes):
        folder = root / f"new{label:0{digits}d}"
        folder.mkdir(parents=True)
        for number in ids:
            name = f"class{label:0{digits}d}_id{number:0{digits}d}.{suffix}"
            noise(side, 10_000 * label + number).save(folder / name)


def write_rded(root, ipc, *, classes=3, side=8):
    for label in range(classes):
        folder = root / "syn_data" / f"{label:05d}"
        folder.mkdir(parents=True)
        for number in range(ipc):
            noise(side, 10_000 * label + number).save(
                folder / f"class{label:05d}_id{number:05d}.jpg"
            )


def image_folder(root):
    """Images and labels as torchvision's ImageFolder gives them, which FKD labels count by."""
    pairs = list(ImageFolder(root))
    return torch.stack([pil_to_tensor(image) for image, _ in pairs]), [label for _, label in pairs]


@pytest.mark.parametrize("name", ["sre2l", "cda", "gvbsm", "lpld", "auto"])
def test_images_labels_and_order_are_those_of_an_image_folder(tmp_path, animals, name):
    write_sre2l(tmp_path, [0, 1, 2, 10, 999, 1000])  # 1000 sorts between 010 and 999
    images, labels = image_folder(tmp_path)
    distilled = read_distilled(name, tmp_path, animals)
    assert distilled.images.dtype == torch.uint8
    assert torch.equal(distilled.images, images)
    assert distilled.labels.tolist() == labels
    assert distilled.soft_labels is None
    assert distilled.replay is None


@pytest.mark.parametrize("name", ["rded", "auto"])
def test_rdeds_folder_is_taken_with_or_without_syn_data(tmp_path, animals, name):
    write_rded(tmp_path, ipc=2)
    images, labels = image_folder(tmp_path / "syn_data")
    for path in (tmp_path, tmp_path / "syn_data"):
        distilled = read_distilled(name, path, animals)
        assert torch.equal(distilled.images, images)
        assert distilled.labels.tolist() == labels


def test_five_digits_and_png_files_are_taken(tmp_path, animals):
    write_sre2l(tmp_path, [0, 1], digits=5, suffix="png")
    distilled = read_distilled("cda", tmp_path, animals)
    original = pil_to_tensor(noise(8, 10_001))  # PNG loses nothing
    assert torch.equal(distilled.images[3], original)
    assert distilled.ipc(3).tolist() == [2, 2, 2]


def test_color_images_turn_grey_for_a_grey_dataset(tmp_path, gray_animals):
    write_sre2l(tmp_path, [0], suffix="png")
    distilled = read_distilled("sre2l", tmp_path, gray_animals)
    assert distilled.images.shape == (3, 1, 8, 8)
    assert torch.equal(distilled.images[0], pil_to_tensor(noise(8, 0).convert("L")))


def test_images_of_another_side_are_resized_as_torchvision_does_and_it_is_said(tmp_path, animals):
    write_sre2l(tmp_path, [0], side=20, suffix="png")
    distilled = read_distilled("sre2l", tmp_path, animals)
    expected = pil_to_tensor(resize(noise(20, 20_000), [8, 8]))
    assert torch.equal(distilled.images[2], expected)
    assert "3 images of 20 x 20 resized to 8 x 8" in distilled.source


def test_files_that_systems_leave_behind_are_passed_over(tmp_path, animals):
    write_sre2l(tmp_path, [0])
    for left in (".DS_Store", "new001/.DS_Store", "new001/Thumbs.db", "README.md"):
        (tmp_path / left).write_text("left behind")
    for left in (".ipynb_checkpoints", "__MACOSX", "@eaDir"):
        (tmp_path / left).mkdir()
    assert len(read_distilled("sre2l", tmp_path, animals)) == 3


FIRST = "new001/class001_id000.jpg"


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


BROKEN = {
    "class missing": (
        lambda root: shutil.rmtree(root / "new001"),
        r"a folder for each of the 3 classes of animals, new000 to new002; new001 is missing",
    ),
    "class too many": (
        lambda root: shutil.copytree(root / "new001", root / "new003"),
        r"new000 to new002; new003 is one too many",
    ),
    "folder of another name": (
        lambda root: (root / "old001").mkdir(),
        r"old001 must be named after its class, like new000",
    ),
    "numbers of two lengths": (
        lambda root: (root / "new001").rename(root / "new01"),
        r"numbers must .* the same length",
    ),
    "class twice": (
        lambda root: shutil.copytree(root / "new001", root / "new0001"),
        r"numbers must be unique",
    ),
    "file of another name": (
        lambda root: (root / FIRST).rename(root / "new001/image.jpg"),
        r"new001/image\.jpg must be an image of class 1, named like class001_id000\.jpg",
    ),
    "file of another class": (
        lambda root: (root / FIRST).rename(root / "new001/class002_id000.jpg"),
        r"new001/class002_id000\.jpg must be an image of class 1",
    ),
    "folder without images": (
        lambda root: (root / FIRST).unlink(),
        r"new001 must .* images like class001_id000\.jpg, it is empty",
    ),
    "truncated image": (
        lambda root: cut(root / FIRST),
        r"new001/class001_id000\.jpg must be an image, but it cannot be decoded",
    ),
    "no image": (
        lambda root: (root / "new000/class000_id000.jpg").write_text("404"),
        r"new000/class000_id000\.jpg must be an image, but it cannot be decoded",
    ),
    "another size": (
        lambda root: noise(9, 0).save(root / FIRST),
        r"class001_id000\.jpg must have the size of .*class000_id000\.jpg, 8 x 8, got 9 x 9",
    ),
    "not square": (
        lambda root: noise(8, 0).crop((0, 0, 8, 6)).save(root / "new000/class000_id000.jpg"),
        r"new000/class000_id000\.jpg must be square, got 8 x 6",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_does_not_fit_is_named(tmp_path, animals, case):
    write_sre2l(tmp_path, [0])
    damage, message = BROKEN[case]
    damage(tmp_path)
    with pytest.raises(ValueError, match=message):
        read_distilled("sre2l", tmp_path, animals)


def test_a_missing_folder_is_named(tmp_path, animals):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_distilled("sre2l", tmp_path / "nowhere", animals)


def test_all_bad_images_are_told_at_once_ten_by_name(tmp_path):
    write_sre2l(tmp_path, range(20), classes=1)
    files = sorted((tmp_path / "new000").iterdir())
    for file in files[3:14]:
        file.write_text("404")
    noise(9, 0).save(files[15])
    with pytest.raises(ValueError, match="12 of 20 images") as raised:
        decode_images(files, channels=3, side=8)
    told = [file.name in str(raised.value) for file in files]
    assert [k for k, yes in enumerate(told) if yes] == list(range(3, 13))


def test_16_bit_images_keep_their_contrast(tmp_path, gray_animals):
    write_images(tmp_path, ["a", "b", "c"], count=1)
    ramp = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "a" / "0.png")
    images = read_distilled("folder", tmp_path, gray_animals).images
    assert torch.equal(images[0, 0], torch.from_numpy(np.round(ramp / 257.0).astype(np.uint8)))


# ---- a folder of any names -----------------------------------------------------------------------


def write_images(root, names, count=2):
    for k, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for number in range(count):
            noise(8, 100 * k + number).save(root / name / f"{number}.png")


def test_folders_of_any_names_are_taken_in_the_order_of_an_image_folder(tmp_path, animals):
    write_images(tmp_path, ["n03", "n01", "n02"])
    images, labels = image_folder(tmp_path)
    distilled = read_distilled("folder", tmp_path, animals)
    assert torch.equal(distilled.images, images)
    assert distilled.labels.tolist() == labels == [0, 0, 1, 1, 2, 2]
    assert "in the order of the folders' names" in distilled.source


def test_folders_named_as_the_classes_are_hold_those(tmp_path, animals):
    backwards = replace(animals, class_names=("cat", "bee", "ape"))
    write_images(tmp_path, ["ape", "bee", "cat"])
    images, _ = image_folder(tmp_path)
    distilled = read_distilled("folder", tmp_path, backwards)
    assert torch.equal(distilled.images, images)  # stored labels count by this order
    assert distilled.labels.tolist() == [2, 2, 1, 1, 0, 0]
    assert "folders named by class" in distilled.source


def test_names_may_differ_from_the_classes_in_case_and_punctuation(tmp_path, animals):
    named = replace(animals, class_names=("Great Ape", "zebra/horse", "Cat"))
    write_images(tmp_path, ["cat", "great_ape", "Zebra-Horse"], count=1)
    distilled = read_distilled("folder", tmp_path, named)
    assert distilled.labels.tolist() == [1, 2, 0]  # "Zebra" sorts before "cat"
    assert "folders named by class" in distilled.source


def test_folders_named_as_those_of_the_real_images_hold_their_classes(tmp_path, animals):
    listed = replace(animals, class_folders=("n03", "n01", "n02"))
    write_images(tmp_path, ["n01", "n02", "n03"], count=1)
    distilled = read_distilled("folder", tmp_path, listed)
    assert distilled.labels.tolist() == [1, 2, 0]
    assert "folders named as in animals" in distilled.source


def test_a_set_in_wnid_folders_has_the_labels_of_a_listed_subset(tmp_path):
    dataset = load_imagenet_10(tmp_path / "data")
    write_images(tmp_path / "set", sorted(IMAGENET_10), count=1)
    labels = read_distilled("folder", tmp_path / "set", dataset).labels
    assert [list(IMAGENET_10)[label] for label in labels] == sorted(IMAGENET_10)
    assert labels.tolist() != sorted(labels.tolist())


def load_imagenet_10(root):
    for wnid in IMAGENET_10:
        (root / "val" / wnid).mkdir(parents=True)
        noise(8, 0).save(root / "val" / wnid / "0.png")
    return load_dataset("imagenet-10:side=7", root, train=False)


@pytest.mark.parametrize("first", [0, 1])
def test_numbered_folders_are_taken_by_number(tmp_path, animals, first):
    many = replace(animals, class_names=tuple(f"c{k:02d}" for k in range(12)))
    write_images(tmp_path, [str(k + first) for k in range(12)], count=1)
    images, _ = image_folder(tmp_path)
    distilled = read_distilled("folder", tmp_path, many)
    assert torch.equal(distilled.images, images)  # stored labels count by this order
    order = sorted(range(12), key=lambda k: str(k + first))
    assert distilled.labels.tolist() == order
    by_name = read_distilled("folder:order=name", tmp_path, many)
    assert by_name.labels.tolist() == list(range(12))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["0", "1"], "got 2 with numbers, which must be 0 to 2; missing: 2"),
        (["0", "1", "3"], "missing: 2; unexpected: 3"),
        (["ape", "bee"], "2 have the name of a class, but there is no folder for cat"),
        (["ape", "bee", "dog"], "no folder for cat and there is no class dog"),
    ],
)
def test_missing_classes_are_named(tmp_path, animals, names, message):
    write_images(tmp_path, names)
    with pytest.raises(ValueError, match=message):
        read_distilled("folder", tmp_path, animals)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: shutil.rmtree(root / "b"), "a folder for each of the 3 classes.*got 2"),
        (lambda root: (root / "b" / "0.gif").touch(), r"must .* images.*b/0\.gif"),
        (
            lambda root: [f.unlink() for f in (root / "b").iterdir()],
            r"must .* images of every class, .* none of b",
        ),
    ],
)
def test_a_folder_that_is_no_set_is_refused(tmp_path, animals, damage, message):
    write_images(tmp_path, ["a", "b", "c"])
    damage(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_distilled("folder", tmp_path, animals)


def test_texts_and_tools_folders_beside_the_images_are_passed_over(tmp_path, animals):
    write_images(tmp_path, ["a", "b", "c", ".ipynb_checkpoints", "__MACOSX"])
    (tmp_path / "b" / "notes.txt").touch()
    (tmp_path / "b" / "._0.png").write_bytes(b"Mac OS X")
    assert read_distilled("folder", tmp_path, animals).ipc(3).tolist() == [2, 2, 2]
