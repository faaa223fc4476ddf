"""LPQLD's files, written from the description of the format out of FKD's lists."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from gift_fast.data.labels import LpqldLabels
from gift_fast.data.labels.replay import replay
from tests.data.labels.test_fkd import CLASSES, SIDE, Relabeling, relabel

K = 2


@dataclass
class Quantized:
    """What was written, with the FKD lists that it was made of, by the number of the batch."""

    folder: Path
    fkd: Relabeling
    lists: list[list]
    order: dict[str, list[int]]
    places: list[tuple[int, int]]

    def open(self, **options):
        return LpqldLabels(self.folder, self.fkd.labels, CLASSES, **options)

    def rewrite(self, number, change):
        path = self.folder / f"batch_{number}.tar"
        items = torch.load(path, weights_only=False)
        torch.save(change(items) or items, path)


def quantize(folder, written, k=K):
    """Writes LPQLD's files: the k largest logits of every row, batches numbered over all epochs."""
    folder.mkdir(parents=True)
    result = Quantized(folder, written, [], {}, [])
    for place in sorted(written.seen):
        items = torch.load(written.path(*place), weights_only=False)
        coords, flip, mix_index, lam, bbox, logits = items[:6]
        number, rows = len(result.lists), len(coords)
        start = place[1] * 16
        result.order[str(number)] = written.order[str(place[0])][start : start + rows]
        result.lists.append(items)
        result.places.append(place)
        values, indices = logits.topk(k)
        mixing = [None, None, None]
        if mix_index is not None:
            box = None if bbox is None else [torch.tensor(int(x), dtype=torch.uint8) for x in bbox]
            mixing = [mix_index.to(torch.uint8), lam, box]
        contents = [coords.half(), flip, *mixing, values.half(), indices.to(torch.int16)]
        torch.save(contents, folder / f"batch_{number}.tar")
    (folder / "sampler_indices_batch.json").write_text(json.dumps(result.order))
    return result


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """Eight full batches of 16, of three epochs."""
    folder = tmp_path_factory.mktemp("lpqld")
    return quantize(folder / "labels", relabel(folder / "fkd", epochs=3, pruned_to=8))


@pytest.fixture
def damaged(tmp_path):
    return quantize(tmp_path / "labels", relabel(tmp_path / "fkd", epochs=3, pruned_to=8))


def kept_softmax(logits, k, temperature):
    """LPQLD's MR in Python's own numbers: a softmax of the k largest logits, zero elsewhere."""
    rows = []
    for row in logits.double():
        largest = sorted(range(CLASSES), key=lambda c: -row[c].item())[:k]
        powers = {c: float(torch.exp(row[c] / temperature)) for c in largest}
        rows.append([powers.get(c, 0.0) / sum(powers.values()) for c in range(CLASSES)])
    return torch.tensor(rows)


@pytest.mark.parametrize("mixing", ["none", "mixup", "cutmix"])
def test_batches_are_replayed_with_the_softmax_of_the_kept_logits(tmp_path, mixing):
    written = quantize(
        tmp_path / "labels",
        relabel(tmp_path / "fkd", epochs=2, pruned_to=6, mixing=mixing, half=False),
    )
    labels = written.open(at_random=False)
    assert (labels.epochs, labels.batches, labels.images, labels.batch_size) == (2, 3, 48, 16)
    for epoch in range(2):
        for number, batch in enumerate(labels.epoch(epoch), 3 * epoch):
            assert batch.index.tolist() == written.order[str(number)]
            seen = replay(written.fkd.images[batch.index], batch, SIDE)
            expected = written.fkd.seen[written.places[number]]
            torch.testing.assert_close(seen, expected, rtol=0, atol=2.001 / 255)
            logits = written.lists[number][5].half()
            soft = batch.soft_labels()
            found = (soft.dense(CLASSES).double() / 4).softmax(1)
            torch.testing.assert_close(found.float(), kept_softmax(logits, K, 4.0))
            assert torch.equal(batch.named(), logits.argmax(1))


def test_the_least_kept_logit_may_stand_for_the_rest(pruned):
    batch = next(iter(pruned.open(rest="min", at_random=False).epoch(0)))
    kept = pruned.lists[0][5].topk(K).values
    assert torch.equal(batch.logits.rest, kept[:, -1].half())
    assert pruned.open(rest="min").kind == "logits"
    assert pruned.open().kind == "logits without rest"


def test_the_description_says_what_is_kept_and_what_stands_for_the_rest(pruned):
    assert pruned.open().form == (
        "LPQLD, 2 of 5 logits in float16, no mass elsewhere (MR: a softmax of the kept logits "
        "alone)"
    )
    assert pruned.open(rest="min").form.endswith("the least kept logit elsewhere")


def test_epochs_are_drawn_from_the_pool_of_full_batches(tmp_path):
    written = quantize(tmp_path / "labels", relabel(tmp_path / "fkd", epochs=2))
    labels = written.open()
    assert (labels.epochs, labels.batches, labels.images) == (None, 3, 48)
    epochs = [[tuple(b.index.tolist()) for b in labels.epoch(epoch)] for epoch in range(30)]
    full = {tuple(order) for order in written.order.values() if len(order) == 16}
    assert set().union(*epochs) == full
    assert all(len(set(drawn)) == 3 for drawn in epochs)  # without replacement
    assert len({frozenset(drawn) for drawn in epochs}) > 10
    again = [b.index.tolist() for b in labels.epoch(3, seed=5)]
    assert again == [b.index.tolist() for b in labels.epoch(3, seed=5)]
    assert again != [b.index.tolist() for b in labels.epoch(3, seed=6)]


def test_a_pool_is_pruned_further_by_keeping_its_first_batches(pruned):
    labels = pruned.open(keep=2)
    both = {tuple(pruned.order["0"]), tuple(pruned.order["1"])}
    for epoch in range(20):
        drawn = [tuple(b.index.tolist()) for b in labels.epoch(epoch)]
        assert len(drawn) == 3  # more than are stored: both, then one of them again
        assert set(drawn[:2]) == both
    with pytest.raises(ValueError, match="keep must be from 1 to 8, all stored batches, got 9"):
        pruned.open(keep=9)
    with pytest.raises(ValueError, match=r"at_random must be True, .* 2 batches, fewer"):
        pruned.open(keep=2, at_random=False)


def test_labels_that_are_pruned_alone_have_the_logits_of_all_classes(pruned, tmp_path):
    folder = tmp_path / "pruned"
    folder.mkdir()
    order = "sampler_indices_batch.json"
    (folder / order).write_text((pruned.folder / order).read_text())
    for number, items in enumerate(pruned.lists):
        torch.save([items[0].half(), *items[1:5], items[5].half()], folder / f"batch_{number}.tar")
    labels = LpqldLabels(folder, pruned.fkd.labels, CLASSES, at_random=False)
    assert (labels.kind, labels.form) == (
        "logits",
        "LPQLD, 5 of 5 logits in float16, which are all",
    )
    for number, batch in enumerate(labels.epoch(0)):
        assert torch.equal(batch.logits, pruned.lists[number][5].half())
    torch.save(pruned.lists[1], folder / "batch_1.tar")  # coordinates in float32
    with pytest.raises(ValueError, match="coords must be float16"):
        list(labels.epoch(0))
    (folder / "batch_1.tar").write_bytes((pruned.folder / "batch_1.tar").read_bytes())
    with pytest.raises(ValueError, match=r"batch_1.*5 logits of 16 images"):
        list(labels.epoch(0))


def test_a_class_map_renumbers_the_kept_classes(tmp_path):
    order = torch.tensor([3, 0, 4, 2, 1])  # class c is the teacher's order[c]
    fkd = relabel(tmp_path / "fkd", n=250, batch_size=16, epochs=1, teacher_order=order)
    written = quantize(tmp_path / "labels", fkd)
    with pytest.raises(ValueError, match="labels-class-map"):
        written.open()
    labels = written.open(class_map=order, at_random=False)
    batch = next(iter(labels.epoch(0)))
    plain = next(iter(written.open(at_random=False, verify=False).epoch(0)))
    torch.testing.assert_close(batch.logits.dense(CLASSES), plain.logits.dense(CLASSES)[:, order])


def test_labels_in_another_order_are_refused(damaged):
    path = damaged.folder / "sampler_indices_batch.json"
    path.write_text(json.dumps({n: sorted(order) for n, order in damaged.order.items()}))
    with pytest.raises(ValueError, match=r"in the first batches .* read from sampler_indices_batc"):
        damaged.open()


def test_files_and_their_list_must_agree(damaged):
    path = damaged.folder / "sampler_indices_batch.json"
    (damaged.folder / "batch_5.tar").rename(damaged.folder / "batch_9.tar")
    with pytest.raises(FileNotFoundError, match=r"the 8 batches in .*, batch_5.tar is missing"):
        damaged.open()
    (damaged.folder / "batch_9.tar").rename(damaged.folder / "batch_5.tar")
    path.write_text(json.dumps({n: order for n, order in damaged.order.items() if n != "7"}))
    with pytest.raises(ValueError, match=r"got batch_7.tar"):
        damaged.open()
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"sampler_indices_batch.json"):
        damaged.open()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "must map numbers of batches to lists of images"),
        ("{}", "must list batches by their numbers from 0, got 0"),
        ('{"a": [1]}', "must map numbers of batches"),
        ('{"0": [99]}', "json: batch 0 must be from 0 to 49, got 99 to 99"),
        ('{"0": []}', "json: batch 0 must"),
        ('{"0": 3}', r"json: batch 0 must be int64 \(1\), got int64 \(\)"),
    ],
)
def test_a_list_that_is_none_is_refused(damaged, text, message):
    (damaged.folder / "sampler_indices_batch.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        damaged.open()


def changed(item, value):
    def change(items):
        items[item] = value(items[item]) if callable(value) else value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: i[:5], r"must .* LPQLD's list of 6 or 7 items, got 5 items"),
        (lambda i: {"a": 1}, r"must .* LPQLD's list of 6 or 7 items, got dict"),
        (lambda i: i[:6], r"logits must be .* \(16, 5\), got float16 \(16, 2\)"),
        (
            lambda i: [*i[:2], {}, *i[2:]],
            r"must .* parameters of RandAugment \(a list of 8",
        ),
        (
            changed(6, torch.zeros(16, 5).half()),
            r"must .* parameters of RandAugment \(a list of 7",
        ),
        (changed(6, torch.arange(16)), r"must .* int16 classes .* a list of G-VBSM"),
        (changed(6, torch.zeros(16, 2).short()), r"indices of a row must be unique, 16 of 16 rows"),
        (changed(6, lambda x: x + 5), r"indices must be from 0 to 4, got 5 to 9"),
        (changed(6, lambda x: x[:, :1]), r"indices must be int16 \(16, 2\), got int16 \(16, 1\)"),
        (changed(0, lambda x: x.float()), r"coords must be float16 \(B, 4\), got float32 \(16, 4"),
        (changed(2, lambda x: x + 20), r"mix_index must be from 0 to 15"),
        (changed(5, lambda x: x / 0), r"logits must be finite"),
        (
            changed(5, torch.zeros(16, 6).half()),
            r"logits must be floating.* \(16, k\), k from 1 to",
        ),
        (changed(5, lambda x: x[:, :1]), r"indices must be int16 \(16, 1\)"),
    ],
)
def test_a_file_with_something_else_in_it(damaged, change, message):
    labels = damaged.open(at_random=False)
    damaged.rewrite(4, change)
    with pytest.raises(ValueError, match=rf"batch_4.tar:? {message}"):
        list(labels.epoch(1))


def test_a_file_that_was_cut_off_is_refused(damaged):
    path = damaged.folder / "batch_6.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[:40])
    with pytest.raises(ValueError, match=r"batch_6.tar must have at least 128 bytes, .* got 40"):
        damaged.open()
    path.write_bytes(whole[:-300])
    with pytest.raises(ValueError, match=r"batch_6.tar must be a complete torch.save file"):
        damaged.open()  # whose last batches are compared with the classes of the images


def test_a_fingerprint_tells_other_labels_and_other_options(damaged):
    prints = [damaged.open().fingerprint()]
    assert damaged.open().fingerprint() == prints[0]
    prints += [damaged.open(keep=7).fingerprint(), damaged.open(rest="min").fingerprint()]
    prints += [damaged.open(at_random=False).fingerprint()]
    damaged.rewrite(0, changed(5, lambda x: x + 0.5))
    prints.append(damaged.open().fingerprint())
    assert len(set(prints)) == 5
