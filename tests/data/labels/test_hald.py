"""HALD's files, written as the public code lays them out, from FKD's lists."""

from __future__ import annotations

import math

import pytest
import torch

from gift_fast.data.labels import HaldLabels
from gift_fast.data.labels.replay import replay
from tests.data.labels.test_fkd import CLASSES, SIDE, relabel

ORDER = "sampler_indices_dict.pt"


class SeededAnew:
    """The permutation of seed, of seed + 1, and so on, epoch by epoch: HALD's order."""

    def __init__(self, dataset, generator):
        self.count, self.seed, self.epoch = len(dataset), generator.initial_seed(), 0

    def __len__(self):
        return self.count

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        self.epoch += 1
        return iter(torch.randperm(self.count, generator=generator).tolist())


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
    torch.save(fkd.order, folder / ORDER)
    return folder


@pytest.fixture(scope="module")
def fkd(tmp_path_factory):
    """Three epochs of 50 images, in batches of 16, 16, 16 and 2."""
    return relabel(tmp_path_factory.mktemp("hald") / "fkd")


@pytest.fixture
def folder(fkd, tmp_path):
    return write_hald(tmp_path / "labels", fkd)


def open_labels(folder, fkd, **options):
    return HaldLabels(folder, fkd.labels, CLASSES, **{"at_random": False, **options})


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


def test_batches_of_all_epochs_are_drawn_until_none_is_left(folder, fkd):
    labels = open_labels(folder, fkd, at_random=True)
    stored = {
        tuple(batch.index.tolist()): (epoch, number)
        for epoch in range(3)
        for number, batch in enumerate(open_labels(folder, fkd).epoch(epoch))
    }
    drawn = [[stored[tuple(b.index.tolist())] for b in labels.epoch(e)] for e in range(6)]
    for begin in (0, 3):
        everything = [place for epoch in drawn[begin : begin + 3] for place in epoch]
        generator = torch.Generator().manual_seed(42 + begin // 3)
        numbers = torch.randperm(12, generator=generator).tolist()
        assert everything == [(number // 4, number % 4) for number in numbers]
    assert [stored[tuple(b.index.tolist())] for b in labels.epoch(4, start=1)] == drawn[4][1:]


def test_without_a_file_the_order_is_drawn_with_a_seed_of_every_epochs_own(tmp_path):
    fkd = relabel(tmp_path / "fkd", sampler=SeededAnew)
    folder = write_hald(tmp_path / "labels", fkd)
    (folder / ORDER).unlink()
    for epoch in range(3):
        found = torch.cat([batch.index for batch in open_labels(folder, fkd).epoch(epoch)])
        assert found.tolist() == fkd.order[str(epoch)]
    with pytest.raises(ValueError, match=r"There is no sampler_.* seed 7 plus the epoch"):
        open_labels(folder, fkd, seed=7)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ([1], "must map epochs to lists of images, got list"),
        ({"0": list(range(50))}, r"must map epochs, as strings from 0 to 2, .*KeyError\('1'\)"),
        ({str(e): [0] * 49 for e in range(3)}, r"epoch 0 must be int64 \(50\), got int64 \(49,\)"),
        ({str(e): [50] * 50 for e in range(3)}, r"epoch 0 must be from 0 to 49, got 50 to 50"),
        ({str(e): ["a"] * 50 for e in range(3)}, r"must map epochs, .*, to lists of images: "),
    ],
)
def test_an_order_that_is_none_is_refused(folder, fkd, contents, message):
    torch.save(contents, folder / ORDER)
    with pytest.raises(ValueError, match=f"{ORDER}:? {message}"):
        open_labels(folder, fkd)


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
    backwards = {epoch: order[::-1] for epoch, order in fkd.order.items()}
    torch.save(backwards, folder / ORDER)
    with pytest.raises(ValueError, match=r"in epoch 0 \d+ of 50 do; .* read from sampler"):
        open_labels(folder, fkd)


def test_a_class_map_moves_the_columns(folder, fkd):
    order = torch.tensor([3, 0, 4, 2, 1])
    mapped = open_labels(folder, fkd, class_map=order, verify=False)
    plain = open_labels(folder, fkd)
    for a, b in zip(mapped.epoch(0), plain.epoch(0), strict=True):
        assert torch.equal(a.logits, b.logits[:, order])


def test_a_missing_epoch_is_named(folder, fkd):
    (folder / "epoch_1.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"HALD's epoch_1.tar, because it has epoch_2.tar"):
        open_labels(folder, fkd)
    for file in folder.iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"must .* HALD's epoch_0.tar$"):
        open_labels(folder, fkd)


def changed(item, value):
    def change(batches):
        batches[1][item] = value(batches[1][item])

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b[:3], r"must .* 4 batches of 16 for 50 images, got 3"),
        (lambda b: {"a": b}, r"must .* a list of batches, got dict"),
        (lambda b: [b[0], b[1][:5], *b[2:]], r"every batch must be a list of 6 items, got 5 items"),
        (lambda b: [b[0], b[3], *b[2:]], r"batch 1 must have 16 rows, .* got 2"),
        (changed(0, lambda x: x.float()), r"coords must be float16 \(B, 4\), got float32"),
        (
            changed(5, lambda x: 9 * x.log()),
            r"labels must be probabilities, .* read logits as FKD labels",
        ),
        (changed(5, lambda x: x / 2), r"labels must be probabilities, with rows that sum to 1"),
        (changed(5, lambda x: x[:, :3]), r"probabilities must be floating-point \(16, 5\), got"),
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
    with pytest.raises(ValueError, match=r"epoch_1.tar must be a complete torch.save file"):
        open_labels(folder, fkd)
    path.write_bytes(whole[:99])
    with pytest.raises(ValueError, match=r"epoch_1.tar must have at least 500 bytes, .* got 99"):
        open_labels(folder, fkd)


def test_a_fingerprint_tells_other_labels_and_other_options(folder, fkd):
    prints = [open_labels(folder, fkd).fingerprint()]
    assert open_labels(folder, fkd).fingerprint() == prints[0]
    prints.append(open_labels(folder, fkd, temperature=4.0).fingerprint())
    prints.append(open_labels(folder, fkd, at_random=True).fingerprint())
    rewrite(folder, 1, changed(5, lambda x: x.flip(1)))
    prints.append(open_labels(folder, fkd).fingerprint())
    assert len(set(prints)) == 4
