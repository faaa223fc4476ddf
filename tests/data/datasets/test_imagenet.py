from __future__ import annotations

import pytest
from layouts import write_folders, write_image

from gift_fast.data.datasets import load_dataset
from gift_fast.data.datasets.imagenet_classes import IMAGENET_10, IMAGENET_100, NETTE, WOOF

NUMBERS = [f"{i:05d}" for i in range(1000)]


@pytest.fixture(scope="module")
def thousand(tmp_path_factory):
    """A validation split of 1,000 classes, all with the same image."""
    root = tmp_path_factory.mktemp("imagenet")
    image = write_image(root / "image.JPEG", 20, 16)
    for name in reversed(NUMBERS):
        (root / "val" / name).mkdir(parents=True)
        (root / "val" / name / f"ILSVRC2012_val_{name}.JPEG").symlink_to(image)
    return root


def write_subset(root, classes, images=1):
    for split in ("train", "val"):
        write_folders(root / split, list(classes), images)


def test_imagenet_1k_is_tested_on_its_sorted_validation_folders(thousand):
    dataset = load_dataset("imagenet-1k:side=14", thousand, train=False)
    assert dataset.test.labels.tolist() == list(range(1000))
    assert dataset.test.names[7] == "00007/ILSVRC2012_val_00007.JPEG"
    assert (dataset.num_classes, dataset.side, dataset.train) == (1000, 14, None)
    names = dataset.class_names
    assert (names[0], names[1], names[207], names[999]) == (
        "tench",
        "goldfish",
        "golden retriever",
        "toilet tissue",
    )
    assert dataset.std == (0.229, 0.224, 0.225)


def test_imagenet_1k_trains_on_its_training_folders(thousand, tmp_path):
    for split in ("train", "val"):
        (tmp_path / "imagenet-1k").mkdir(exist_ok=True)
        (tmp_path / "imagenet-1k" / split).symlink_to(thousand / "val")
    dataset = load_dataset("imagenet-1k", tmp_path)
    assert len(dataset.training_split) == 1000
    assert (dataset.test.side, dataset.test.resize) == (224, 256)


def numbered(root, names):
    """A validation split with folders of these names, all with the same image."""
    image = write_image(root / "image.JPEG", 20, 16)
    for name in names:
        (root / "val" / name).mkdir(parents=True)
        (root / "val" / name / "image.JPEG").symlink_to(image)


def test_folders_named_by_labels_have_those_labels(tmp_path):
    numbered(tmp_path, map(str, range(1000)))
    test = load_dataset("imagenet-1k:side=14", tmp_path, train=False).test
    assert [int(name.partition("/")[0]) for name in test.names] == test.labels.tolist()


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ([str(i) for i in range(1, 1001)], "1, 10, 100"),
        ([f"class {i:04d}" for i in range(1, 1001)], "class 0001"),
        ([f"n{i:08d}" for i in range(999)] + ["tench"], "tench"),
    ],
)
def test_folders_named_otherwise_are_refused(tmp_path, names, shown):
    numbered(tmp_path, names)
    with pytest.raises(ValueError, match=f"wnids .* or by the labels 0 to 999, got {shown}"):
        load_dataset("imagenet-1k:side=14", tmp_path, train=False)


@pytest.mark.parametrize("flat", [True, False])
def test_validation_images_that_are_not_in_1000_folders_are_refused(tmp_path, flat):
    if flat:
        write_image(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG")
    else:
        write_folders(tmp_path / "val", NUMBERS[:2])
    count = 0 if flat else 2
    message = f"val must .* 1000 class folders, got {count}\nTo get it: download ILSVRC2012_dev"
    with pytest.raises(ValueError, match=message):
        load_dataset("imagenet-1k", tmp_path, train=False)


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("imagenet-nette", NETTE),
        ("imagenet-woof", WOOF),
        ("imagenet-10", IMAGENET_10),
        ("imagenet-100", IMAGENET_100),
    ],
)
def test_a_subset_is_taken_from_imagenets_folders_in_the_order_of_its_list(tmp_path, name, classes):
    write_subset(tmp_path, [*classes, "n00000001", "n99999999"])
    dataset = load_dataset(f"{name}:side=128", tmp_path)
    wnids = list(classes)
    for split in (dataset.train, dataset.test):
        assert len(split) == len(classes)
        for file, label in zip(split.names, split.labels.tolist(), strict=True):
            assert file.startswith(wnids[label])
    assert dataset.class_names == tuple(classes.values())
    assert (dataset.test.side, dataset.test.resize) == (128, 146)
    assert load_dataset(name, tmp_path, train=False).train is None


def test_the_lists_are_those_of_the_literature():
    assert len(IMAGENET_100) == 100
    # "poke bonnet, green mamba, langur, Doberman pinscher, gyromitra, gazelle hound, vacuum
    # cleaner, window screen, cocktail shaker, and garden spider" (IDC)
    assert list(IMAGENET_10.values()) == [
        "bonnet",
        "green mamba",
        "langur",
        "Doberman",
        "gyromitra",
        "Saluki",
        "vacuum",
        "window screen",
        "cocktail shaker",
        "garden spider",
    ]
    from torchvision.datasets import Imagenette

    assert list(NETTE) == sorted(Imagenette._WNID_TO_CLASS)
    assert list(WOOF) == sorted(WOOF)
    assert set(WOOF) & set(NETTE) == set()
    assert {"beagle", "dingo", "Samoyed", "golden retriever"} < set(WOOF.values())


def test_the_order_may_be_that_of_the_sorted_folders(tmp_path):
    write_subset(tmp_path, IMAGENET_10)
    dataset = load_dataset("imagenet-10:order=sorted", tmp_path)
    assert [name[:9] for name in dataset.test.names] == sorted(IMAGENET_10)
    assert dataset.test.labels.tolist() == list(range(10))
    assert dataset.class_names == tuple(IMAGENET_10[wnid] for wnid in sorted(IMAGENET_10))
    with pytest.raises(ValueError, match="order must be list or sorted, got 'random'"):
        load_dataset("imagenet-10:order=random", tmp_path)


@pytest.mark.parametrize("folder", ["", "imagenette2", "imagenette2-320", "imagenette2-160"])
def test_the_published_folders_of_imagenette_are_read(tmp_path, folder):
    write_subset(tmp_path / folder, NETTE)
    assert len(load_dataset("imagenet-nette", tmp_path).training_split) == 10


def test_the_error_for_a_missing_subset_names_both_ways_to_get_it(tmp_path):
    message = r"image-net\.org(.|\n)*imagewoof2\.tgz there"
    with pytest.raises(FileNotFoundError, match=message):
        load_dataset("imagenet-woof", tmp_path)


def test_a_missing_class_folder_is_named(tmp_path):
    write_subset(tmp_path, list(NETTE)[:-1])
    with pytest.raises(FileNotFoundError, match="each of 10 classes, missing: n03888257"):
        load_dataset("imagenet-nette", tmp_path)


def test_a_users_own_list_sets_classes_names_and_their_order(tmp_path):
    write_subset(tmp_path, ["n1", "n2", "n3"])
    (tmp_path / "list.txt").write_text("# fruit\nn3 red apple # the best\n\nn1\n")
    dataset = load_dataset(f"imagenet-subset:classes={tmp_path}/list.txt", tmp_path)
    assert dataset.class_names == ("red apple", "n1")
    folders = [name.partition("/")[0] for name in dataset.test.names]
    labels = dict(zip(folders, dataset.test.labels.tolist(), strict=True))
    assert labels == {"n3": 0, "n1": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n1\nn2\nn1\n", r"list\.txt must .* every class once, line 3 repeats n1"),
        ("\n# nothing\n", r"list\.txt must .* one wnid per line, got no line"),
    ],
)
def test_a_list_that_cannot_be_is_refused(tmp_path, text, message):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_dataset(f"imagenet-subset:classes={tmp_path}/list.txt", tmp_path)
    with pytest.raises(ValueError, match=r"classes must be a file .*, got none"):
        load_dataset("imagenet-subset", tmp_path)
