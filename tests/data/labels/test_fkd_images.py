"""FKD's own labels, one file per image, written as the public code lays them out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gift_fast.data.labels import FkdImageLabels

CLASSES, IPC, CROPS, K = 5, 4, 6, 3
LABELS = torch.arange(CLASSES).repeat_interleave(IPC)


def probabilities():
    """A teacher's (N, CROPS, CLASSES), which names the class of the image in most crops."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(len(LABELS), CROPS, CLASSES, generator=generator, dtype=torch.float64)
    logits[torch.arange(len(LABELS)), :, LABELS] += 4.0
    return logits.softmax(2)


def stored_form(form, p):
    """One image's labels (CROPS, CLASSES) in one of FKD's forms."""
    values, indices = p.topk(K if form in ("MS", "MR") else 1)
    if form == "hard":
        return indices.squeeze(1)
    if form == "smoothing":
        return torch.cat([indices.double(), values], 1)
    return torch.stack([indices.double(), values], 1)  # MR's files are those of MS


def expected_label(form, p):
    """The dense label that a form stands for, in Python's own numbers."""
    row = p.tolist()
    kept = sorted(range(CLASSES), key=lambda c: -row[c])[: K if form in ("MS", "MR") else 1]
    if form == "hard":
        return [float(c in kept) for c in range(CLASSES)]
    mass = sum(row[c] for c in kept)
    if form == "MR":
        return [row[c] / mass if c in kept else 0.0 for c in range(CLASSES)]
    return [row[c] if c in kept else (1 - mass) / (CLASSES - len(kept)) for c in range(CLASSES)]


def coords():
    generator = torch.Generator().manual_seed(1)
    corner = 0.5 * torch.rand(len(LABELS), CROPS, 2, generator=generator)
    return torch.cat([corner, torch.full_like(corner, 0.5)], 2)


def write_labels(folder, form, dtype=torch.float32):
    p, boxes = probabilities(), coords()
    for image, label in enumerate(LABELS.tolist()):
        path = folder / f"new{label:03d}" / f"class{label:03d}_id{image % IPC:03d}.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
        labels = stored_form(form, p[image])
        labels = labels if form == "hard" and dtype == torch.float32 else labels.to(dtype)
        flip = torch.arange(CROPS) % 2 == image % 2
        torch.save([boxes[image].to(dtype).numpy(), flip.numpy(), labels.numpy()], path)
    return folder


FORMS = ["hard", "smoothing", "MS", "MR"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("form", FORMS)
def test_a_crop_comes_with_the_label_that_its_form_stands_for(tmp_path, form, dtype):
    rest = "zero" if form == "MR" else "auto"
    labels = FkdImageLabels(write_labels(tmp_path, form, dtype), LABELS, CLASSES, rest=rest)
    p, boxes, seen = probabilities(), coords().to(dtype).float(), set()
    tolerance = 1e-6 if dtype == torch.float32 else 2e-3
    for epoch in range(12):
        for batch in labels.in_batches(8).epoch(epoch):
            dense = batch.soft_labels().dense(CLASSES)
            for row, image in enumerate(batch.index.tolist()):
                same = (boxes[image] == batch.coords[row]).all(1).nonzero()
                crop = int(same[0])
                seen.add((image, crop))
                assert bool(batch.flip[row]) == (crop % 2 == image % 2)
                expected = expected_label(form, p[image, crop])
                assert dense[row].tolist() == pytest.approx(expected, abs=tolerance)
    assert len(seen) > 0.8 * len(LABELS) * CROPS
    assert labels.temperature == 1.0
    assert labels.kind == "probabilities"


@pytest.mark.parametrize(
    ("form", "rest", "words"),
    [
        ("hard", "zero", "FKD, 1 of 5 probabilities of each crop, nothing elsewhere"),
        ("MS", "uniform", "FKD, 3 of 5 probabilities of each crop, the remaining mass evenly else"),
        ("smoothing", "uniform", "FKD, 1 of 5 probabilities of each crop, the remaining mass"),
    ],
)
def test_what_stands_for_the_rest_is_recognized_and_said(tmp_path, form, rest, words):
    labels = FkdImageLabels(write_labels(tmp_path, form), LABELS, CLASSES)
    assert labels.rest == rest
    assert labels.form.startswith(words)
    assert FkdImageLabels(tmp_path, LABELS, CLASSES, rest="zero").rest == "zero"
    with pytest.raises(ValueError, match="rest must be one of auto, uniform, zero, got 'none'"):
        FkdImageLabels(tmp_path, LABELS, CLASSES, rest="none")


def test_the_rest_may_be_set(tmp_path):
    folder = write_labels(tmp_path, "MS")
    for batch in FkdImageLabels(folder, LABELS, CLASSES, rest="zero").epoch(0):
        dense = batch.soft_labels().dense(CLASSES)
        assert ((dense == 0).sum(1) == CLASSES - K).all()
        torch.testing.assert_close(dense.sum(1), torch.ones(len(dense)))


def test_probabilities_that_happen_to_sum_to_one_are_no_sign_of_mr(tmp_path):
    folder = write_labels(tmp_path, "MS")
    first = folder / "new000" / "class000_id000.tar"
    boxes, flip, labels = torch.load(first, weights_only=False)
    labels[:, 1] = [0.9989, 0.0006, 0.0004]  # as the five largest of a sure teacher's
    torch.save([boxes, flip, labels], first)
    assert FkdImageLabels(folder, LABELS, CLASSES).rest == "uniform"
    folder = write_labels(tmp_path / "smoothing", "smoothing", torch.float16)
    first = folder / "new000" / "class000_id000.tar"
    boxes, flip, labels = torch.load(first, weights_only=False)
    labels[:, 1] = 1.0  # rounded
    torch.save([boxes, flip, labels], first)
    assert FkdImageLabels(folder, LABELS, CLASSES).rest == "uniform"


def test_files_of_tensors_are_read_too(tmp_path):
    folder = write_labels(tmp_path, "MS")
    before = next(iter(FkdImageLabels(folder, LABELS, CLASSES).epoch(0)))
    for path in folder.rglob("*.tar"):
        torch.save(stored(path), path)
    after = next(iter(FkdImageLabels(folder, LABELS, CLASSES).epoch(0)))
    assert torch.equal(before.logits.values, after.logits.values)
    assert torch.equal(before.coords, after.coords)


def test_an_array_of_objects_is_refused(tmp_path):
    folder = write_labels(tmp_path, "MS")
    path = folder / "new001" / "class001_id000.tar"
    boxes, flip, _ = torch.load(path, weights_only=False)
    torch.save([boxes, flip, np.array([None] * CROPS, dtype=object)], path)
    with pytest.raises(ValueError, match=r"class001_id000\.tar"):
        FkdImageLabels(folder, LABELS, CLASSES)


def test_every_image_comes_once_an_epoch_in_batches_of_the_chosen_size(tmp_path):
    labels = FkdImageLabels(write_labels(tmp_path, "MS"), LABELS, CLASSES).in_batches(6)
    assert (labels.batches, labels.images, labels.epochs) == (4, 20, None)
    batches = [batch.index.tolist() for batch in labels.epoch(3, seed=1)]
    assert [len(index) for index in batches] == [6, 6, 6, 2]
    assert sorted(image for index in batches for image in index) == list(range(20))
    assert [b.index.tolist() for b in labels.epoch(3, seed=1, start=2)] == batches[2:]
    assert [b.index.tolist() for b in labels.epoch(3, seed=2)] != batches


def test_a_class_map_renumbers_the_classes(tmp_path):
    order = torch.tensor([3, 0, 4, 2, 1])
    folder = write_labels(tmp_path, "MS")
    plain = FkdImageLabels(folder, LABELS, CLASSES)
    mapped = FkdImageLabels(folder, LABELS, CLASSES, class_map=order, verify=False)
    for a, b in zip(mapped.epoch(0), plain.epoch(0), strict=True):
        torch.testing.assert_close(a.logits.dense(CLASSES), b.logits.dense(CLASSES)[:, order])


def test_labels_of_other_images_are_refused(tmp_path):
    folder = write_labels(tmp_path, "MS")
    for label in range(CLASSES):
        (folder / f"new{label:03d}").rename(folder / f"a{(label + 2) % CLASSES}")
    with pytest.raises(
        ValueError, match="must predict the classes of their images, but in the first"
    ):
        FkdImageLabels(folder, LABELS, CLASSES)


def test_files_must_be_as_many_as_images_of_every_class(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"one folder per class with one .tar file per image"
    ):
        FkdImageLabels(tmp_path, LABELS, CLASSES)
    folder = write_labels(tmp_path, "MS")
    file = folder / "new001" / "class001_id000.tar"
    contents = file.read_bytes()
    file.unlink()
    with pytest.raises(ValueError, match=r"must .* one file for each of 20 images, got 19"):
        FkdImageLabels(folder, LABELS, CLASSES)
    (folder / "new003" / "class003_id009.tar").write_bytes(contents)
    with pytest.raises(ValueError, match=r"one file per image in .* class .* new002 would be"):
        FkdImageLabels(folder, LABELS, CLASSES)


def stored(path):
    """The arrays of a file, as tensors."""
    return [torch.from_numpy(array) for array in torch.load(path, weights_only=False)]


def replaced(item, value):
    def change(items):
        items[item] = value(items[item])
        return items

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: i[:2], r"must .* a list of coords, flip and labels, got 2 items"),
        (replaced(0, lambda x: x + 1), r"coords must be boxes within \[0, 1\]"),
        (replaced(1, lambda x: x.float()), r"flip must be bool \(6\), got float32 \(6,\)"),
        (replaced(2, lambda x: x[:4]), r"labels must be \(6\), hard; \(6, 2\), smoothing; or"),
        (replaced(2, lambda x: x + 0.5), r"classes must be whole numbers from 0 to 4"),
        (replaced(2, lambda x: x + 5), r"classes must be whole numbers from 0 to 4"),
        (replaced(2, lambda x: x[:, :, [0, 0]]), r"the classes of a crop must be unique"),
        (replaced(2, lambda x: x * torch.tensor([[1.0], [3.0]])), r"probabilities must be 0 or mo"),
        (replaced(2, lambda x: x * torch.tensor([[1.0], [-1.0]])), r"probabilities must be 0 or m"),
        (replaced(2, lambda x: x[:, :, :2]), r"must .* 3 probabilities per crop"),
    ],
)
def test_a_file_with_something_else_in_it(tmp_path, change, message):
    labels = FkdImageLabels(write_labels(tmp_path, "MS"), LABELS, CLASSES)
    path = tmp_path / "new004" / "class004_id003.tar"
    torch.save(change(stored(path)), path)
    with pytest.raises(ValueError, match=rf"class004_id003.tar:? {message}"):
        list(labels.epoch(0))


def test_a_file_that_was_cut_off_is_refused(tmp_path):
    labels = FkdImageLabels(write_labels(tmp_path, "MS"), LABELS, CLASSES)
    path = tmp_path / "new004" / "class004_id003.tar"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"class004_id003.tar must be a complete torch.save file"):
        list(labels.epoch(0))


def test_class_numbers_that_float16_rounds_are_refused(tmp_path):
    path = tmp_path / "a" / "0.tar"
    path.parent.mkdir()
    box = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    label = torch.tensor([[[7.0], [0.5]]]).half()
    torch.save([box, torch.tensor([False]), label], path)
    one = torch.tensor([7])
    assert FkdImageLabels(tmp_path, one, 2049).k == 1
    with pytest.raises(ValueError, match=r"must not be float16 with 2050 classes, .* up to 2048"):
        FkdImageLabels(tmp_path, one, 2050)


def test_a_fingerprint_tells_other_labels_and_other_options(tmp_path):
    folder = write_labels(tmp_path, "MS")
    prints = [FkdImageLabels(folder, LABELS, CLASSES).fingerprint()]
    assert FkdImageLabels(folder, LABELS, CLASSES).fingerprint() == prints[0]
    prints.append(FkdImageLabels(folder, LABELS, CLASSES, rest="zero").fingerprint())
    path = folder / "new000" / "class000_id000.tar"
    torch.save(replaced(0, lambda x: x / 2)(stored(path)), path)
    prints.append(FkdImageLabels(folder, LABELS, CLASSES).fingerprint())
    assert len(set(prints)) == 3
