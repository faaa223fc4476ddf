"""HALD's files, written from the description of the format out of FKD's lists."""

from __future__ import annotations

import math

import pytest
import torch

from gift_fast.data.labels import HaldLabels
from gift_fast.data.labels.replay import replay
from tests.data.labels.test_fkd import CLASSES, SIDE, relabel


def write_hald(folder, fkd, temperature=20.0):
    """One file per epoch, a list of batches with float16 probabilities."""
    folder.mkdir(parents=True)
    for epoch in sorted({epoch for epoch, _ in fkd.seen}):
        batches = []
        for number in sorted(number for e, number in fkd.seen if e == epoch):
            items = torch.load(fkd.path(epoch, number), weights_only=False)
            items[0] = items[0].half()
            items[5] = (items[5].float() / temperature).softmax(1).half()
            batches.append(items)
        torch.save(batches, folder / f"epoch_{epoch}.tar")
    return folder


@pytest.fixture(scope="module")
def fkd(tmp_path_factory):
    """Three epochs of 50 images, in batches of 16, 16, 16 and 2."""
    return relabel(tmp_path_factory.mktemp("hald") / "fkd")


@pytest.fixture
def folder(fkd, tmp_path):
    return write_hald(tmp_path / "labels", fkd)


def open_labels(folder, fkd, **options):
    return HaldLabels(folder, fkd.labels, CLASSES, **options)


def rewrite(folder, epoch, change):
    path = folder / f"epoch_{epoch}.tar"
    batches = torch.load(path, weights_only=False)
    torch.save(change(batches) or batches, path)


@pytest.mark.parametrize("mixing", ["none", "mixup", "cutmix"])
def test_batches_are_replayed_with_their_probabilities(tmp_path, mixing):
    fkd = relabel(tmp_path / "fkd", mixing=mixing, half=False)
    labels = open_labels(write_hald(tmp_path / "labels", fkd, 4.0), fkd, temperature=4.0)
    assert (labels.batches, labels.images, labels.batch_size) == (4, 50, 16)
    for epoch in range(3):
        for number, batch in enumerate(labels.epoch(epoch)):
            order = fkd.order[str(epoch)][16 * number :][:16]
            assert batch.index.tolist() == order
            seen = replay(fkd.images[batch.index], batch, SIDE)
            torch.testing.assert_close(seen, fkd.seen[epoch, number], rtol=0, atol=2.001 / 255)
            assert batch.temperature == 4.0
            logits = torch.load(fkd.path(epoch, number), weights_only=False)[5]
            for row, expected in zip(batch.logits.tolist(), logits.tolist(), strict=True):
                powers = [math.exp(x / 4) for x in expected]
                assert row == pytest.approx([p / sum(powers) for p in powers], rel=1e-3, abs=1e-7)


def test_epochs_begin_again_after_the_last(folder, fkd):
    labels = open_labels(folder, fkd)
    assert labels.epochs is None
    for epoch, stored in [(3, 0), (7, 1)]:
        pairs = zip(labels.epoch(epoch), labels.epoch(stored), strict=True)
        for a, b in pairs:
            assert torch.equal(a.logits, b.logits)
            assert torch.equal(a.index, b.index)


def test_an_epoch_resumes_within_itself(folder, fkd):
    labels = open_labels(folder, fkd)
    whole = [batch.index.tolist() for batch in labels.epoch(1)]
    assert [batch.index.tolist() for batch in labels.epoch(1, start=2)] == whole[2:]


def test_the_description_names_the_temperature(folder, fkd):
    assert open_labels(folder, fkd).form == (
        "HALD, probabilities of all 5 classes at temperature 20"
    )
    with pytest.raises(ValueError, match="temperature must be positive and finite, got 0"):
        open_labels(folder, fkd, temperature=0)


def test_labels_of_another_order_are_refused(folder, fkd):
    with pytest.raises(ValueError, match=r"in epoch 0 \d+ of 50 do; .* with seed 7 over 50 images"):
        open_labels(folder, fkd, seed=7)


def test_a_class_map_moves_the_columns(folder, fkd):
    order = torch.tensor([3, 0, 4, 2, 1])
    mapped = open_labels(folder, fkd, class_map=order, verify=False)
    plain = open_labels(folder, fkd)
    for a, b in zip(mapped.epoch(0), plain.epoch(0), strict=True):
        assert torch.equal(a.logits, b.logits[:, order])


def test_a_missing_epoch_is_named(folder, fkd):
    (folder / "epoch_1.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"HALD's epoch_1.tar, as it holds epoch_2.tar"):
        open_labels(folder, fkd)
    for file in folder.iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"must hold HALD's epoch_0.tar$"):
        open_labels(folder, fkd)


def changed(item, value):
    def change(batches):
        batches[1][item] = value(batches[1][item])

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b[:3], r"must hold 4 batches of 16, for 50 images, got 3"),
        (lambda b: {"a": b}, r"must hold a list of batches, got dict"),
        (lambda b: [b[0], b[1][:5], *b[2:]], r"every batch must be a list of 6 items, got 5 items"),
        (lambda b: [b[0], b[3], *b[2:]], r"batch 1 must have 16 rows, .* got 2"),
        (changed(0, lambda x: x.float()), r"coords must be float16 \(B, 4\), got float32"),
        (changed(5, lambda x: 9 * x.log()), r"labels must be probabilities, .* logits are FKD's"),
        (changed(5, lambda x: x / 2), r"labels must be probabilities, with rows that sum to 1"),
        (changed(5, lambda x: x[:, :3]), r"probabilities must be floating \(16, 5\), got"),
        (changed(5, lambda x: x * torch.nan), r"probabilities must be finite, 16 of 16 rows"),
        (changed(2, lambda x: x + 16), r"mix_index must be from 0 to 15, got 16 to 31"),
    ],
)
def test_a_file_with_something_else_in_it(folder, fkd, change, message):
    labels = open_labels(folder, fkd)
    rewrite(folder, 2, change)
    with pytest.raises(ValueError, match=rf"epoch_2.tar:? {message}"):
        list(labels.epoch(2))


def test_a_file_that_was_cut_off_is_refused(folder, fkd):
    path = folder / "epoch_1.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=r"epoch_1.tar must be a whole file of torch.save"):
        open_labels(folder, fkd)
    path.write_bytes(whole[:99])
    with pytest.raises(ValueError, match=r"epoch_1.tar must have at least 500 bytes, .* got 99"):
        open_labels(folder, fkd)


def test_a_fingerprint_tells_other_labels_and_other_options(folder, fkd):
    prints = [open_labels(folder, fkd).fingerprint()]
    assert open_labels(folder, fkd).fingerprint() == prints[0]
    prints.append(open_labels(folder, fkd, temperature=4.0).fingerprint())
    rewrite(folder, 1, changed(5, lambda x: x.flip(1)))
    prints.append(open_labels(folder, fkd).fingerprint())
    assert len(set(prints)) == 3
