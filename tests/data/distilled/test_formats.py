from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, RandomSampler
from torchvision.transforms.functional import resize

from gift_fast.data.distilled import (
    FORMATS,
    DistilledSet,
    read_class_map,
    read_distilled,
    write_distilled,
)
from gift_fast.data.distilled.formats import MARKS

IPC, CLASSES, BATCH = 4, 3, 5


def write_images(folder):
    for label in range(CLASSES):
        (folder / f"new{label:03d}").mkdir(parents=True)
        for number in range(IPC):
            name = f"new{label:03d}/class{label:03d}_id{number:03d}.jpg"
            Image.new("RGB", (8, 8), (80 * label, 20 * number, 0)).save(folder / name)
    return folder


def write_fkd(folder, *, epochs=3, logits_class=lambda label: label, listed=False):
    """Six-item FKD files of a teacher that is sure of every image's class, as SRe2L writes them."""
    labels = torch.arange(CLASSES).repeat_interleave(IPC)
    sampler = RandomSampler(labels, generator=torch.Generator().manual_seed(42))
    orders = {}
    for epoch in range(epochs):
        (folder / f"epoch_{epoch}").mkdir(parents=True)
        batches = list(DataLoader(torch.arange(len(labels)), batch_size=BATCH, sampler=sampler))
        orders[epoch] = torch.cat(batches).tolist()
        for number, index in enumerate(batches):
            logits = torch.zeros(len(index), CLASSES)
            for row, image in enumerate(index):
                logits[row, logits_class(int(labels[image]))] = 1 + image  # tells which image it is
            coords = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(len(index), 1)
            flip = torch.zeros(len(index), dtype=torch.bool)
            file = folder / f"epoch_{epoch}" / f"batch_{number}.tar"
            torch.save([coords, flip, None, None, None, logits.half()], file)
    if listed:
        (folder / "sampler_indices_epoch.json").write_text(json.dumps(orders))
    return folder


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images")


@pytest.fixture
def labels(tmp_path):
    return write_fkd(tmp_path / "labels")


def stored_logits(distilled, epoch):
    """Logits of a stored epoch, in the order of the distilled set's images."""
    logits = torch.zeros(len(distilled), CLASSES)
    for batch in distilled.replay.epoch(epoch):
        logits[batch.index] = batch.logits.float()
    return logits


@pytest.mark.parametrize("name", ["sre2l", "cda", "gvbsm", "auto", "lpld:at_random=false"])
def test_stored_labels_come_with_the_images_they_belong_to(images, labels, animals, name):
    distilled = read_distilled(name, images, animals, labels=labels)
    assert distilled.replay.epochs == 3
    assert str(labels) in distilled.source
    for epoch in range(3):
        values, classes = stored_logits(distilled, epoch).max(1)
        assert torch.equal(classes, distilled.labels)
        assert values.tolist() == list(range(1, 13))


def test_the_options_of_a_format_reach_the_stored_labels(images, labels, animals):
    pruned = read_distilled("lpld:keep=2", images, animals, labels=labels)
    assert pruned.replay.epochs is None, "pruned labels are drawn at random"
    assert (
        len({batch.logits.sum().item() for e in range(9) for batch in pruned.replay.epoch(e)}) == 2
    )
    with pytest.raises(ValueError, match="seed 1"):
        read_distilled("sre2l:sampler_seed=1", images, animals, labels=labels)


def test_labels_of_other_images_are_refused_unless_told_not_to_look(tmp_path, images, animals):
    wrong = write_fkd(tmp_path / "wrong", logits_class=lambda label: (label + 1) % CLASSES)
    with pytest.raises(ValueError, match=r"images must be readable as sre2l: .*wrong"):
        read_distilled("sre2l", images, animals, labels=wrong)
    distilled = read_distilled("sre2l", images, animals, labels=wrong, verify=False)
    assert distilled.replay.agreement().hits == 0


def test_a_class_map_renumbers_images_and_stored_labels_together(images, labels, animals):
    distilled = read_distilled("sre2l", images, animals, labels=labels, class_map=[1, 2, 0])
    assert distilled.labels.tolist() == [1] * IPC + [2] * IPC + [0] * IPC
    values, classes = stored_logits(distilled, 1).max(1)
    assert torch.equal(classes, distilled.labels)
    assert values.tolist() == list(range(1, 13))


def test_a_class_map_for_the_labels_alone_mends_a_teachers_own_order(tmp_path, images, animals):
    other = [1, 2, 0]  # the teacher's number of every class
    wrong = write_fkd(tmp_path / "wrong", logits_class=lambda label: other[label])
    back = [other.index(label) for label in range(CLASSES)]
    distilled = read_distilled("sre2l", images, animals, labels=wrong, labels_class_map=back)
    assert distilled.labels.tolist() == [0] * IPC + [1] * IPC + [2] * IPC
    assert torch.equal(stored_logits(distilled, 0).argmax(1), distilled.labels)

    swapped = read_distilled(
        "sre2l", images, animals, labels=wrong, labels_class_map=back, class_map=[1, 0, 2]
    )
    assert swapped.labels.tolist() == [1] * IPC + [0] * IPC + [2] * IPC
    assert torch.equal(stored_logits(swapped, 0).argmax(1), swapped.labels)
    with pytest.raises(ValueError, match=r"class_map must have the 3 classes of .*wrong, got 2"):
        read_distilled("sre2l", images, animals, labels=wrong, labels_class_map=[1, 0])


@pytest.mark.parametrize("class_map", [[1, 0], [1, 2, 0, 3]])
def test_a_class_map_of_another_number_of_classes_is_refused(images, animals, class_map):
    message = f"class_map must have the 3 classes of animals, got {len(class_map)}"
    with pytest.raises(ValueError, match=message):
        read_distilled("sre2l", images, animals, class_map=class_map)


def test_paths_may_be_texts(tmp_path, images, labels, animals):
    file = tmp_path / "classes.json"
    file.write_text("[1, 2, 0]")
    sets = [
        read_distilled(
            "sre2l", kind(images), animals, labels=kind(labels), class_map=kind(file), verify=False
        )
        for kind in (Path, str)
    ]
    assert sets[0].fingerprint() == sets[1].fingerprint()
    write_distilled(str(tmp_path / "set"), sets[0], animals)
    assert read_distilled("auto", str(tmp_path / "set"), animals).source
    assert read_class_map(str(file)) == [1, 2, 0]


@pytest.mark.parametrize(("name", "warned"), [("animals", 0), ("Ani-Mals", 0), ("plants", 1)])
def test_a_set_for_another_dataset_is_read_with_a_warning(tmp_path, animals, caplog, name, warned):
    pixels, label = torch.rand(3, 3, 8, 8), torch.arange(3)
    torch.save({"dataset": name, "data": pixels, "label": label}, tmp_path / "data.pt")
    distilled = read_distilled("gift", tmp_path, animals)
    write_distilled(tmp_path / "native", distilled, replace(animals, name=name))
    read_distilled("gift-fast", tmp_path / "native", animals)
    assert len(caplog.messages) == 2 * warned
    assert all("was made for plants and is read for animals" in text for text in caplog.messages)


def test_a_class_map_for_labels_without_labels_is_refused(images, animals):
    with pytest.raises(ValueError, match="labels_class_map must be None if labels is None"):
        read_distilled("sre2l", images, animals, labels_class_map=[0, 1, 2])


def test_any_set_without_soft_labels_may_have_an_fkd_folder(tmp_path, images, labels, animals):
    write_distilled(tmp_path / "set", read_distilled("sre2l", images, animals), animals)
    distilled = read_distilled("gift-fast", tmp_path / "set", animals, labels=labels)
    assert torch.equal(stored_logits(distilled, 0).argmax(1), distilled.labels)


def test_a_set_with_soft_labels_takes_no_fkd_folder(tmp_path, labels, animals):
    soft = DistilledSet(torch.zeros(3, 3, 8, 8), torch.arange(3), soft_labels=torch.eye(3))
    write_distilled(tmp_path / "set", soft, animals)
    with pytest.raises(ValueError, match="labels must be None for a set that stores soft labels"):
        read_distilled("gift-fast", tmp_path / "set", animals, labels=labels)


def test_auto_says_what_it_took(tmp_path, images, animals):
    assert "detected format sre2l" in read_distilled("auto", images, animals).source
    listed = write_fkd(tmp_path / "listed", listed=True)
    assert "detected format lpld" in read_distilled("auto", images, animals, labels=listed).source


def test_auto_lists_what_every_format_needs_when_none_fits(tmp_path, animals):
    with pytest.raises(ValueError, match="fits none:") as raised:
        read_distilled("auto", tmp_path, animals)
    for name, needed in (
        ("sre2l", "new000"),
        ("rded", "syn_data"),
        ("datm", r"images_best.pt"),
        ("gift", "data.pt"),
        ("gift-fast", "NAME.safetensors"),
    ):
        assert f"\n  {name}: " in str(raised.value)
        assert needed in str(raised.value)
    with pytest.raises(ValueError, match=r"nowhere does not exist"):
        read_distilled("auto", tmp_path / "nowhere", animals)


def test_auto_does_not_choose_between_two_formats(images, animals):
    torch.save({}, images / "data.pt")
    with pytest.raises(ValueError, match="fits sre2l and gift:"):
        read_distilled("auto", images, animals)


def test_every_format_is_recognized_or_of_the_same_layout_as_one_that_is():
    others = {"auto", "folder"}  # what holds anything is not recognized
    assert set(FORMATS) - set(MARKS) == {*others, "cda", "gvbsm", "lpld", "lpqld", "hald", "fkd"}


def test_an_unknown_format_is_refused(tmp_path, animals):
    with pytest.raises(ValueError, match=r"format must be one of auto, cda, .*; got 'mtt'"):
        read_distilled("mtt", tmp_path, animals)


def flat_images(path, dataset, labels, *, brightness=0, classes=3):
    images = torch.full((classes, 3, 8, 8), brightness, dtype=torch.uint8)
    return DistilledSet(images, torch.arange(classes))


def test_a_users_own_reader_is_called_and_its_set_is_checked(tmp_path, animals):
    own = f"{__name__}.flat_images"
    distilled = read_distilled(f"{own}:brightness=7", tmp_path, animals)
    assert distilled.images.unique().tolist() == [7]
    with pytest.raises(ValueError, match=r"labels must be int64 from 0 to 2, .* from 0 to 3"):
        read_distilled(f"{own}:classes=4", tmp_path, animals)


def test_images_in_tensors_are_resized_as_torchvision_does(tmp_path, animals):
    pixels = torch.rand(3, 3, 20, 20)
    torch.save({"dataset": "", "data": pixels, "label": torch.arange(3)}, tmp_path / "data.pt")
    distilled = read_distilled("gift", tmp_path, animals)
    torch.testing.assert_close(distilled.images, resize(pixels, [8, 8], antialias=True))
    assert "resized from 20 x 20 to 8 x 8" in distilled.source


SET = DistilledSet(
    images=torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1),
    labels=torch.tensor([0, 2, 2, 0]),
    soft_labels=torch.eye(4),
)


@pytest.mark.parametrize(
    "change",
    [
        {"images": SET.images + 1},
        {"images": SET.images.float()},
        {"labels": SET.labels.flip(0) + 1},
        {"soft_labels": None},
        {"soft_labels": 2 * SET.soft_labels},
        {"whitened": True},
    ],
)
def test_the_fingerprint_tells_sets_apart(change):
    assert replace(SET, **change).fingerprint() != SET.fingerprint()


def test_the_fingerprint_tells_stored_labels_apart(tmp_path, images, labels, animals):
    shifted = write_fkd(tmp_path / "shifted", logits_class=lambda label: (label + 1) % CLASSES)
    sets = [
        read_distilled("sre2l", images, animals, labels=folder, verify=False)
        for folder in (None, labels, shifted)
    ]
    assert len({distilled.fingerprint() for distilled in sets}) == 3


def test_the_fingerprint_follows_neither_the_folder_nor_the_words():
    assert replace(SET, source="elsewhere").fingerprint() == SET.fingerprint()


def test_ipc_counts_the_images_of_every_class_and_of_those_without():
    assert SET.ipc(4).tolist() == [2, 0, 2, 0]
