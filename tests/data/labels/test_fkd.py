from __future__ import annotations

import json
import shutil
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms
from torchvision.transforms import functional as tv

from gift_fast.data.labels import batch_file
from gift_fast.data.labels.agreement import agreement
from gift_fast.data.labels.fkd import FkdLabels, spread
from gift_fast.data.labels.read_ahead import READ_AHEAD
from gift_fast.data.labels.replay import replay

CLASSES = 5
SIDE = 8  # of the crops that the teacher sees


def images_of(n, side=12):
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (n, 3, side, side), dtype=np.uint8))


def labels_of(n):
    """The classes of a distilled set: folder after folder, as many images in each."""
    return torch.arange(n) * CLASSES // n


class Relabeled(Dataset):
    """Images as the projects' relabeling loads them, with what was drawn for each."""

    def __init__(self, images, labels, cutout, rng):
        self.images, self.labels, self.cutout, self.rng = images, labels, cutout, rng

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = tv.to_pil_image(self.images[index])
        width, height = image.size
        box = transforms.RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3])
        coords = torch.tensor(box) / torch.tensor([height, width, height, width])
        image = tv.resized_crop(image, *box, [SIDE, SIDE])
        if self.cutout:
            center, color = self.rng.integers(SIDE, size=2), self.rng.integers(256, size=3)
            pixels = tv.to_tensor(image)
            top, left = (max(c - SIDE // 4, 0) for c in center)
            bottom, right = (
                c + SIDE // 4 + 1 for c in center
            )  # PIL's rectangles include their end
            pixels[:, top:bottom, left:right] = torch.from_numpy(color / 255).view(3, 1, 1)
            drawn = torch.tensor([*(center / SIDE), 0.5, 0.5, *color], dtype=torch.float32)
        else:
            drawn = bool(torch.rand(1) < 0.5)
            pixels = tv.to_tensor(tv.hflip(image) if drawn else image)
        return pixels, int(self.labels[index]), drawn, coords, index


def cutmix_box(lam, rng):
    """The box as the projects draw it: NumPy's integers, clipped at the border."""
    cut = int(SIDE * np.sqrt(1.0 - lam))
    center = rng.integers(SIDE, size=2)
    return [*np.clip(center - cut // 2, 0, SIDE), *np.clip(center + cut // 2, 0, SIDE)]


@dataclass
class Relabeling:
    """What was written, and what the teacher saw meanwhile."""

    folder: Path
    images: torch.Tensor
    labels: torch.Tensor
    seen: dict = field(default_factory=dict)
    order: dict = field(default_factory=dict)

    def open(self, **options):
        return FkdLabels(self.folder, self.labels, CLASSES, **options)

    def path(self, epoch, batch):
        return self.folder / f"epoch_{epoch}" / f"batch_{batch}.tar"

    def rewrite(self, epoch, batch, change):
        """Changes a file's list in place."""
        items = torch.load(self.path(epoch, batch), weights_only=False)
        change(items)
        torch.save(items, self.path(epoch, batch))


def relabel(
    folder,
    n=50,
    batch_size=16,
    epochs=3,
    mixing="cutmix",
    *,
    seed=42,
    with_index=False,
    cutout=False,
    half=True,
    pruned_to=None,
    teacher_order=None,
    sampler=RandomSampler,
):
    """Writes FKD labels as the projects do, by a teacher that knows 9 of 10 images."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    images, labels = images_of(n), labels_of(n)
    written = Relabeling(folder, images, labels)
    dataset = Relabeled(images, labels, cutout, rng)
    order = sampler(dataset, generator=torch.Generator().manual_seed(seed))
    loader = DataLoader(dataset, batch_size, sampler=order, drop_last=pruned_to is not None)
    count = 0
    for epoch in range(epochs):
        (folder / f"epoch_{epoch}").mkdir(parents=True)
        for number, (pixels, target, drawn, coords, index) in enumerate(loader):
            mix_index = lam = bbox = None
            names = target.clone()
            if mixing != "none":
                mix_index, lam = torch.randperm(len(pixels)), rng.beta(1.0, 1.0)
                if mixing == "mixup":
                    pixels = lam * pixels + (1 - lam) * pixels[mix_index]
                else:
                    bbox = cutmix_box(lam, rng)
                    a, b, c, d = bbox
                    pixels[:, :, a:c, b:d] = pixels[mix_index, :, a:c, b:d]
                names = torch.where(torch.rand(len(names)) < lam, names, target[mix_index])
            unsure = torch.rand(len(names)) < 0.1
            names[unsure] = torch.randint(CLASSES, (int(unsure.sum()),))
            if teacher_order is not None:
                names = teacher_order[names]
            logits = torch.randn(len(names), CLASSES)
            logits[torch.arange(len(names)), names] += 9.0
            logits = logits.half() if half else logits
            items = [coords, drawn, mix_index, lam, bbox, logits]
            torch.save(items + [index] * with_index, written.path(epoch, number))
            written.seen[epoch, number] = pixels
            written.order.setdefault(str(epoch), []).extend(index.tolist())
            count += 1
            if count == pruned_to:
                break
    if pruned_to is not None:
        (folder / "sampler_indices_epoch.json").write_text(json.dumps(written.order))
    return written


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Three epochs of 50 images, in batches of 16, 16, 16 and 2."""
    return relabel(tmp_path_factory.mktemp("stored") / "fkd")


@pytest.fixture
def copy(stored, tmp_path):
    """The same labels, to be damaged."""
    shutil.copytree(stored.folder, tmp_path / "fkd")
    return Relabeling(tmp_path / "fkd", stored.images, stored.labels, stored.seen, stored.order)


@pytest.mark.parametrize("mixing", ["none", "mixup", "cutmix"])
@pytest.mark.parametrize("kind", ["SRe2L", "G-VBSM", "LPLD on ImageNet-21K"])
def test_replay_shows_the_student_what_the_teacher_saw(tmp_path, mixing, kind):
    written = relabel(
        tmp_path / "fkd",
        mixing=mixing,
        with_index=kind == "G-VBSM",
        cutout=kind == "LPLD on ImageNet-21K",
        half=kind != "G-VBSM",
    )
    labels = written.open()
    for epoch in range(3):
        for number, batch in enumerate(labels.epoch(epoch)):
            result = replay(written.images[batch.index], batch, SIDE)
            expected = written.seen[epoch, number]
            torch.testing.assert_close(result, expected, rtol=0, atol=2.001 / 255)
            assert (result - expected).abs().mean() < 1e-3
            assert batch.logits.dtype == (torch.float32 if kind == "G-VBSM" else torch.float16)
            assert type(batch.lam) in (float, type(None))
            assert batch.bbox is None or {type(edge) for edge in batch.bbox} == {int}


def test_a_folder_tells_its_epochs_batches_and_sizes(stored):
    labels = stored.open()
    assert (labels.epochs, labels.batches, labels.images, labels.batch_size) == (3, 4, 50, 16)
    assert labels.nbytes == sum(file.stat().st_size for file in stored.folder.rglob("*.tar"))


def test_the_order_of_every_epoch_is_that_of_the_sampler(stored):
    labels = stored.open()
    for epoch in (2, 0, 1):
        index = torch.cat([batch.index for batch in labels.epoch(epoch)])
        assert index.tolist() == stored.order[str(epoch)]


def test_an_epoch_is_read_without_the_files_of_earlier_ones(copy):
    labels = copy.open()
    shutil.rmtree(copy.folder / "epoch_0")
    shutil.rmtree(copy.folder / "epoch_1")
    index = torch.cat([batch.index for batch in labels.epoch(2)])
    assert index.tolist() == copy.order["2"]


def test_there_is_no_epoch_after_the_last(stored):
    with pytest.raises(IndexError, match=r"epoch must be from 0 to 2 for .*fkd, got 3"):
        stored.open().epoch(3)


def test_a_stored_index_is_taken_whatever_the_sampler(tmp_path):
    written = relabel(tmp_path / "fkd", with_index=True, seed=7)
    index = torch.cat([batch.index for batch in written.open().epoch(1)])
    assert index.tolist() == written.order["1"]


def test_edcs_lists_end_with_orders_of_patches_that_change_nothing(tmp_path):
    written = relabel(tmp_path / "fkd", with_index=True, seed=7)
    plain = [batch for epoch in range(3) for batch in written.open().epoch(epoch)]
    for place in written.seen:
        rows = len(torch.load(written.path(*place), weights_only=False)[0])
        orders = torch.tensor([[1, 0], [0, 1]]).repeat(rows, 1, 1)
        written.rewrite(*place, lambda items, orders=orders: items.append(orders))
    edc = [batch for epoch in range(3) for batch in written.open().epoch(epoch)]
    for a, b in zip(plain, edc, strict=True):
        assert torch.equal(a.index, b.index)
        assert torch.equal(a.logits, b.logits)
        assert torch.equal(a.coords, b.coords)
    written.rewrite(1, 2, lambda items: items.__setitem__(7, torch.zeros(16)))
    with pytest.raises(ValueError, match=r"EDC's and end with .* \(16, 2, 2\), got float"):
        list(written.open(verify=False).epoch(1))


def test_mixed_labels_weigh_as_their_pixels_do(stored):
    for batch in stored.open().epoch(0):
        if len(batch) < 16:
            continue  # its two images are their own partners
        number = torch.arange(len(batch)).view(-1, 1, 1, 1).expand(-1, 1, 12, 12).double()
        left = (replay(number, batch, SIDE) - number[:, :, :SIDE, :SIDE]).abs() < 1e-9
        moved = batch.mix_index != torch.arange(len(batch))
        share = left[moved].double().mean().item()
        assert batch.mix_weight(SIDE) == pytest.approx(share)


class TestPrunedLabels:
    """LPLD: full batches alone, for a few epochs, and the order in a file beside them."""

    @pytest.fixture
    def pruned(self, tmp_path):
        return relabel(tmp_path / "fkd", epochs=3, pruned_to=8)

    def test_the_order_is_read_from_the_file(self, tmp_path):
        written = relabel(tmp_path / "fkd", epochs=3, pruned_to=8, seed=7)
        labels = written.open()
        assert (labels.epochs, labels.batches, labels.images) == (2, 3, 48)
        index = torch.cat([batch.index for batch in labels.epoch(1)])
        assert index.tolist() == written.order["1"]

    def test_the_sampler_gives_the_same_order_where_the_file_is_lost(self, tmp_path):
        written = relabel(tmp_path / "fkd", epochs=2, pruned_to=6)
        (written.folder / "sampler_indices_epoch.json").unlink()
        index = torch.cat([batch.index for batch in written.open().epoch(1)])
        assert index.tolist() == written.order["1"]

    def test_batches_are_drawn_at_random_from_all_that_are_stored(self, pruned):
        labels = pruned.open(at_random=True)
        assert (labels.epochs, labels.batches, labels.images) == (None, 3, 48)
        known = {
            tuple(pruned.order[epoch][k : k + 16])
            for epoch in pruned.order
            for k in range(0, len(pruned.order[epoch]), 16)
        }
        assert len(known) == 8
        drawn = {
            tuple(batch.index.tolist()) for epoch in range(30) for batch in labels.epoch(epoch)
        }
        assert drawn == known

    def test_draws_repeat_with_their_seed_and_differ_between_epochs_and_seeds(self, pruned):
        labels = pruned.open(at_random=True)

        def drawn(seed):
            epochs = [labels.epoch(epoch, seed=seed) for epoch in range(6)]
            return [tuple(batch.index.tolist()) for epoch in epochs for batch in epoch]

        assert drawn(1) == drawn(1)
        assert drawn(1) != drawn(2)
        assert len({tuple(drawn(1)[k : k + 3]) for k in range(0, 18, 3)}) > 1

    def test_a_full_folder_is_pruned_by_keeping_its_first_batches(self, stored):
        labels = stored.open(at_random=True, keep=6)
        first = {tuple(batch.index.tolist()) for e in (0, 1) for batch in labels.epoch(e)}
        drawn = {tuple(b.index.tolist()) for epoch in range(40) for b in labels.epoch(epoch)}
        order = stored.order["0"][:48] + stored.order["1"][:32]
        kept = {tuple(order[k : k + 16]) for k in range(0, len(order), 16)}
        assert first <= drawn == kept  # never the 2 images that end epoch 0
        assert stored.open(keep=9).epochs == 2

    def test_keeping_more_than_there_is_is_refused(self, stored):
        with pytest.raises(ValueError, match=r"keep must be from 4, one epoch, to 12, .* got 13"):
            stored.open(keep=13)

    def test_a_list_of_other_images_is_refused(self, pruned):
        path = pruned.folder / "sampler_indices_epoch.json"
        path.write_text(json.dumps({**pruned.order, "0": [99] * 48}))
        with pytest.raises(ValueError, match=r"json: epoch 0 must be from 0 to 49, got 99 to 99"):
            pruned.open()

    def test_a_number_in_place_of_a_list_is_refused(self, pruned):
        path = pruned.folder / "sampler_indices_epoch.json"
        path.write_text(json.dumps({**pruned.order, "0": 3}))
        with pytest.raises(ValueError, match=r"json: epoch 0 must be int64 \(1\), got int64 \(\)"):
            pruned.open()

    def test_a_list_that_is_none_is_refused(self, pruned):
        path = pruned.folder / "sampler_indices_epoch.json"
        path.write_text(json.dumps({"1": [0]}))
        with pytest.raises(ValueError, match="must map epochs, counted from 0, to lists of images"):
            pruned.open()

    def test_a_list_in_another_order_is_refused(self, pruned):
        path = pruned.folder / "sampler_indices_epoch.json"
        path.write_text(json.dumps({e: sorted(order) for e, order in pruned.order.items()}))
        with pytest.raises(ValueError, match=r"is read from sampler_indices_epoch.json: these are"):
            pruned.open()

    def test_epochs_that_are_not_listed_are_refused(self, pruned):
        shutil.copytree(pruned.folder / "epoch_0", pruned.folder / "epoch_3")
        with pytest.raises(ValueError, match=r"must .* the 3 epochs of .*, got 4"):
            pruned.open()


class OneDraw(RandomSampler):
    """The sampler of PyTorch before it drew a second permutation an epoch."""

    def __iter__(self):
        yield from torch.randperm(len(self.data_source), generator=self.generator).tolist()


class TestLabelsOfOtherImages:
    def test_labels_are_theirs(self, stored):
        found = stored.open().agreement(epochs=range(3))
        assert found.rows == 150
        assert found.share > 0.85
        assert found.chance == pytest.approx(0.35, abs=0.05)  # two of five classes, or one twice
        assert not found.near_chance

    def test_another_seed_is_told_by_the_labels(self, tmp_path):
        written = relabel(tmp_path / "fkd", seed=7)
        with pytest.raises(ValueError, match=r"in epoch 0 \d+ of 50 do; .*with seed 42 over 50 im"):
            written.open()
        assert written.open(seed=7).epochs == 3

    def test_a_sampler_that_ran_on_differently_is_told_by_the_second_epoch(self, tmp_path):
        written = relabel(tmp_path / "fkd", sampler=OneDraw)
        with pytest.raises(ValueError, match=r"epochs from 1 on \d+ of 100 do; .* In epoch 0 they"):
            written.open()

    @pytest.mark.parametrize("mixing", ["none", "cutmix"])
    def test_another_order_of_classes_is_told_and_mended_by_a_class_map(self, tmp_path, mixing):
        order = torch.tensor([3, 0, 4, 2, 1])  # class c is the teacher's order[c]
        written = relabel(
            tmp_path / "fkd", n=250, batch_size=64, epochs=2, mixing=mixing, teacher_order=order
        )
        with pytest.raises(ValueError, match=r"has another class order; .* --labels-class-map"):
            written.open()
        assert written.open(class_map=order).agreement().share > 0.85

    def test_shuffled_images_are_not_taken_for_permuted_classes(self, tmp_path):
        written = relabel(tmp_path / "fkd", n=250, batch_size=64, epochs=1, mixing="none")
        written.labels = written.labels[torch.randperm(250)]
        with pytest.raises(ValueError, match="some images are missing or not sorted"):
            written.open()

    def test_an_audit_may_open_what_does_not_agree(self, tmp_path):
        labels = relabel(tmp_path / "fkd", seed=7).open(verify=False)
        assert labels.agreement().near_chance
        with pytest.raises(ValueError, match="must predict the classes of their images"):
            labels.verify()

    def test_labels_that_can_tell_nothing_are_taken(self, stored):
        batch = next(stored.open().epoch(0))
        one_class = torch.zeros(16, CLASSES).index_fill_(1, torch.tensor(2), 1.0)
        found = agreement([replace(batch, logits=one_class)], torch.full((50,), 2))
        assert (found.share, found.chance) == (1.0, 1.0)
        assert not found.near_chance

    def test_chance_is_what_dealing_the_labels_at_random_gives(self, stored):
        batches = list(stored.open().epoch(0))
        found = agreement(batches, stored.labels)
        generator = torch.Generator().manual_seed(0)
        batch = batches[0]
        alone = agreement([batch], stored.labels)
        shares = []
        for _ in range(400):
            shuffled = batch.logits[torch.randperm(16, generator=generator)]
            dealt = replace(batch, logits=shuffled)
            shares.append(agreement([dealt], stored.labels).share)
        assert np.mean(shares) == pytest.approx(alone.chance, abs=0.02)
        assert found.share > alone.chance


class TestDamagedFolders:
    def test_an_empty_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"epoch_0/batch_0.tar, got an empty folder"):
            FkdLabels(tmp_path, labels_of(50), CLASSES)

    def test_a_folder_around_the_right_one(self, copy):
        with pytest.raises(FileNotFoundError, match=r"epoch_0/batch_0.tar, got fkd"):
            FkdLabels(copy.folder.parent, copy.labels, CLASSES)

    def test_a_missing_epoch(self, copy):
        shutil.rmtree(copy.folder / "epoch_1")
        with pytest.raises(FileNotFoundError, match=r"must .* epoch_1, because it has epoch_2"):
            copy.open()

    @pytest.mark.parametrize("batch", [1, 3])
    def test_a_missing_batch(self, copy, batch):
        copy.path(1, batch).unlink()
        message = rf"epoch_1 must .* 4 batches .* batch_{batch}.tar is missing"
        with pytest.raises(FileNotFoundError, match=message):
            copy.open()

    def test_a_truncated_file(self, copy):
        path = copy.path(2, 1)
        path.write_bytes(path.read_bytes()[:100])
        with pytest.raises(ValueError, match=r"epoch_2/batch_1.tar must have at least 160 bytes"):
            copy.open()

    def test_a_file_that_lost_its_end_is_told_when_it_is_read(self, copy):
        path = copy.path(2, 1)
        path.write_bytes(path.read_bytes()[:-100])
        labels = copy.open(verify=False)
        with pytest.raises(ValueError, match=r"epoch_2/batch_1.tar must be a .*torch.save"):
            list(labels.epoch(2))

    @pytest.mark.parametrize(
        ("n", "message"),
        [
            (60, r"epoch_0/batch_3.tar must have 12 rows, .* 60 images in batches of 16, got 2"),
            (100, r"epoch_0 must .* 7 batches of 16 images, for 100 images; batch_4.tar is"),
            (30, r"epoch_0 must .* 2 batches of 16 images, for 30 images; got 4"),
        ],
    )
    def test_labels_for_another_number_of_images(self, stored, n, message):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            FkdLabels(stored.folder, labels_of(n), CLASSES)

    def test_labels_for_another_number_of_classes(self, stored):
        with pytest.raises(
            ValueError, match=r"batch_0.tar: logits must be .* \(16, 7\), got float16 \(16, 5"
        ):
            FkdLabels(stored.folder, stored.labels, 7)

    def test_files_that_run_code_are_not_run(self, copy, tmp_path):
        class Trap:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "sprung",))

        copy.rewrite(0, 0, lambda items: items.__setitem__(3, Trap()))
        with pytest.raises(
            ValueError, match=r"batch_0.tar must contain only tensors and plain values"
        ):
            copy.open()
        assert not (tmp_path / "sprung").exists()

    @pytest.mark.parametrize(
        ("item", "value", "message"),
        [
            (0, torch.rand(16, 3), r"coords must be float32 \(B, 4\), got float32 \(16, 3\)"),
            (0, torch.full((16, 4), 0.7), r"coords must be boxes within \[0, 1\], got 0.7 to 0.7"),
            (0, torch.rand(5, 4) / 2 + 0.01, r"logits must be floating-point \(5, 5\)"),
            (1, torch.zeros(16), r"cutout must be float32 \(16, 7\), got float32 \(16,\)"),
            (1, None, r"flip must be bool \(16\), got NoneType"),
            (
                2,
                torch.zeros(4, dtype=torch.int64),
                r"mix_index must be int64 \(16\), got int64 \(4",
            ),
            (2, torch.full((16,), 16), r"mix_index must be from 0 to 15, got 16 to 16"),
            (3, 1.5, r"lam must be from 0 to 1, got 1.5"),
            (3, None, r"lam must be a number .* got None"),
            (4, [1, 2, 3], r"lam must be a number and bbox 4 .* got 0.\d+ and \[1, 2, 3\]"),
            (4, [4, 4, 1, 1], r"bbox must be first row and column, then the ends, got \(4, 4, 1"),
            (5, torch.zeros(16, 5).fill_(torch.nan), r"logits must be finite, 16 of 16 rows are"),
        ],
    )
    def test_a_file_with_something_else_in_it(self, copy, item, value, message):
        labels = copy.open()
        copy.rewrite(2, 2, lambda items: items.__setitem__(item, value))
        with pytest.raises(ValueError, match=rf"epoch_2/batch_2.tar: {message}"):
            list(labels.epoch(2))

    def test_a_file_of_another_kind(self, copy):
        labels = copy.open()
        copy.rewrite(1, 0, lambda items: items.append(torch.arange(16)))
        with pytest.raises(ValueError, match=r"epoch_1/batch_0.tar must .* 6 items, .* got 7"):
            list(labels.epoch(1))
        torch.save({"images": torch.zeros(3)}, copy.path(1, 0))
        with pytest.raises(ValueError, match=r"must .* a list of 6, 7 or 8 items, got dict"):
            list(labels.epoch(1))

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (torch.zeros(50), r"labels must be int64 \(N\), N >= 1, got float32 \(50,\)"),
            (labels_of(50) + 1, "labels must be from 0 to 4, got 1 to 5"),
        ],
    )
    def test_labels_that_are_no_classes(self, stored, labels, message):
        with pytest.raises(ValueError, match=message):
            FkdLabels(stored.folder, labels, CLASSES)

    def test_a_class_map_that_is_no_permutation(self, stored):
        with pytest.raises(ValueError, match="class_map must have every class from 0 to 4 once"):
            stored.open(class_map=torch.tensor([0, 1, 1, 2, 3]))


class TestReadingAhead:
    @pytest.fixture
    def reads(self, monkeypatch):
        """The files that are read, as they are read."""
        reads = []

        def load(path, allowed):
            reads.append(path)
            return fkd_load(path, allowed)

        fkd_load = batch_file.load_tensors
        monkeypatch.setattr(batch_file, "load_tensors", load)
        return reads

    def test_batches_come_before_they_are_asked_for_and_no_more_than_a_few(self, tmp_path, reads):
        labels = relabel(tmp_path / "fkd", n=100, batch_size=5, epochs=1).open()
        reads.clear()
        batches = labels.epoch(0)
        next(batches)
        wait_until(lambda: len(reads) == READ_AHEAD + 2)
        time.sleep(0.05)
        assert len(reads) == READ_AHEAD + 2  # one used, four waiting, one without a place
        assert len(list(batches)) == 19
        assert len(reads) == 20

    def test_the_thread_ends_when_the_iterator_is_dropped(self, tmp_path, reads):
        labels = relabel(tmp_path / "fkd", n=100, batch_size=5, epochs=1).open()
        reads.clear()
        batches = labels.epoch(0)
        next(batches)
        wait_until(lambda: len(reads) == READ_AHEAD + 2)  # and it waits for room
        assert reading()
        del batches
        wait_until(lambda: not reading())

    def test_the_thread_ends_with_the_epoch(self, stored):
        assert len(list(stored.open().epoch(0))) == 4
        wait_until(lambda: not reading())

    def test_an_error_comes_in_the_place_of_its_batch(self, copy):
        labels = copy.open()
        copy.path(2, 2).write_bytes(b"")
        batches = labels.epoch(2)
        assert [len(next(batches)), len(next(batches))] == [16, 16]
        with pytest.raises(ValueError, match=r"epoch_2/batch_2.tar"):
            next(batches)
        wait_until(lambda: not reading())

    def test_epochs_may_be_read_side_by_side(self, stored):
        labels = stored.open()
        pairs = zip(labels.epoch(1), labels.epoch(2), strict=True)
        found = [(a.index.tolist(), b.index.tolist()) for a, b in pairs]
        for k, epoch in enumerate(("1", "2")):
            assert [i for pair in found for i in pair[k]] == stored.order[epoch]


def reading():
    return [thread for thread in threading.enumerate() if thread.name == "fkd-read-ahead"]


def wait_until(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "waited for two minutes"
        time.sleep(0.005)


def test_a_fingerprint_tells_other_labels_and_other_options(copy, stored):
    original = stored.open().fingerprint()
    assert copy.open().fingerprint() == original
    assert copy.open(keep=8).fingerprint() != original
    assert copy.open(at_random=True).fingerprint() != original

    def add(items):
        items[5] = items[5] + 0.5

    def widen(items):
        items[5] = items[5].double()

    fingerprints = [original]
    for epoch in range(3):  # as large as before
        for batch in range(4):
            copy.rewrite(epoch, batch, add)
            fingerprints.append(copy.open().fingerprint())
    copy.rewrite(2, 1, widen)
    fingerprints.append(copy.open().fingerprint())
    shutil.rmtree(copy.folder / "epoch_2")
    fingerprints.append(copy.open().fingerprint())
    assert len(set(fingerprints)) == 15


@pytest.mark.parametrize(
    ("count", "sampled"),
    [(1, [0]), (3, [0, 1, 2]), (5, [0, 1, 2, 3, 4]), (300, [0, 74, 149, 224, 299])],
)
def test_a_fingerprint_samples_from_the_first_file_to_the_last(count, sampled):
    assert spread(count) == sampled
