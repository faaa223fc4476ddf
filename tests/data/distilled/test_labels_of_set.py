from __future__ import annotations

import json

import pytest
import torch

from gift_fast.data.distilled import read_distilled
from gift_fast.data.distilled.formats import recognize
from gift_fast.data.distilled.labels_of_set import layout_of
from gift_fast.data.labels import FkdImageLabels, HaldLabels, LpqldLabels
from tests.data.distilled.test_formats import CLASSES, IPC, write_images

LABELS = torch.arange(CLASSES).repeat_interleave(IPC)
WHOLE = torch.tensor([[0.0, 0.0, 1.0, 1.0]])


@pytest.mark.parametrize(
    ("files", "name"),
    [
        (["epoch_0/batch_0.tar"], "sre2l"),
        (["epoch_0/batch_0.tar", "sampler_indices_epoch.json"], "lpld"),
        (["batch_0.tar", "sampler_indices_batch.json"], "lpqld"),
        (["epoch_0.tar", "epoch_1.tar"], "hald"),
        (["new000/class000_id000.tar"], "fkd"),
        (["epoch_0/batch_1.tar"], "sre2l"),  # whose reader names the missing file
        ([], "sre2l"),
    ],
)
def test_the_kind_of_labels_is_recognized_by_the_names_of_the_files(tmp_path, files, name):
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    assert layout_of(tmp_path) == name


def logits():
    return 9.0 * torch.nn.functional.one_hot(LABELS, CLASSES).float()


def write_lpqld(folder):
    folder.mkdir()
    kept = logits().topk(2)
    flip = torch.zeros(len(LABELS), dtype=torch.bool)
    items = [WHOLE.repeat(len(LABELS), 1).half(), flip, None, None, None]
    items += [kept.values.half(), kept.indices.short()]
    torch.save(items, folder / "batch_0.tar")
    listed = json.dumps({"0": list(range(len(LABELS)))})
    (folder / "sampler_indices_batch.json").write_text(listed)


def write_hald(folder):
    folder.mkdir()
    generator = torch.Generator().manual_seed(42)
    order = list(torch.utils.data.RandomSampler(range(len(LABELS)), generator=generator))
    flip = torch.zeros(len(LABELS), dtype=torch.bool)
    items = [WHOLE.repeat(len(LABELS), 1).half(), flip, None, None, None]
    torch.save([[*items, logits()[order].softmax(1).half()]], folder / "epoch_0.tar")


def write_fkd_images(folder):
    for image, label in enumerate(LABELS.tolist()):
        path = folder / f"new{label:03d}" / f"class{label:03d}_id{image % IPC:03d}.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = logits()[image].softmax(0).topk(2)
        crop = torch.stack([kept.indices.float(), kept.values]).unsqueeze(0)
        torch.save([WHOLE, torch.tensor([False]), crop], path)


WRITERS = {
    "lpqld": (write_lpqld, LpqldLabels),
    "hald": (write_hald, HaldLabels),
    "fkd": (write_fkd_images, FkdImageLabels),
}


@pytest.mark.parametrize("by", ["its name", "auto", "folder", "sre2l"])
@pytest.mark.parametrize("kind", WRITERS)
def test_labels_come_with_the_images_whatever_their_format(tmp_path, animals, kind, by):
    images = write_images(tmp_path / "images")
    write, reader = WRITERS[kind]
    write(tmp_path / "labels")
    if by == "auto":
        assert recognize(images, tmp_path / "labels") == kind
    name = kind if by == "its name" else by
    distilled = read_distilled(name, images, animals, labels=tmp_path / "labels")
    assert type(distilled.replay) is reader
    for batch in distilled.replay.epoch(0):
        assert torch.equal(batch.named(), distilled.labels[batch.index])


@pytest.mark.parametrize("kind", WRITERS)
def test_a_class_map_renumbers_images_and_compressed_labels_together(tmp_path, animals, kind):
    images = write_images(tmp_path / "images")
    write, _ = WRITERS[kind]
    write(tmp_path / "labels")
    folder = tmp_path / "labels"
    distilled = read_distilled(kind, images, animals, labels=folder, class_map=[1, 2, 0])
    assert distilled.labels.tolist() == [1] * IPC + [2] * IPC + [0] * IPC
    for batch in distilled.replay.epoch(0):
        assert torch.equal(batch.named(), distilled.labels[batch.index])


def test_options_of_a_format_reach_its_reader(tmp_path, animals):
    images = write_images(tmp_path / "images")
    for kind, (write, _) in WRITERS.items():
        write(tmp_path / kind)
    for name, attribute, value in [
        ("lpqld:rest=min", "rest", "min"),
        ("lpqld:at_random=false,keep=1", "epochs", 1),
        ("hald:temperature=4", "temperature", 4),
        ("fkd:rest=uniform", "rest", "uniform"),
    ]:
        folder = tmp_path / name.partition(":")[0]
        distilled = read_distilled(name, images, animals, labels=folder)
        assert getattr(distilled.replay, attribute) == value
