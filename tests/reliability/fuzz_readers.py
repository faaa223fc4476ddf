"""Everything that reads a user's files, each with whole files that it accepts."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.datasets import CIFAR10

from gift_fast.data.datasets import ImageDataset, TensorSplit, load_dataset
from gift_fast.data.distilled import (
    DistilledSet,
    read_class_map,
    read_distilled,
    write_distilled,
)
from gift_fast.data.images.decoded_cache import decoded_once
from gift_fast.data.images.file_split import FileSplit
from gift_fast.data.labels import LabelSet
from gift_fast.data.zca import fit_zca, read_zca
from gift_fast.evaluation.protocols import load_preset
from gift_fast.evaluation.results import read_run
from gift_fast.report import write_report
from gift_fast.report.evaluations import evaluations_table, read_evaluations
from gift_fast.studies.study_files import load_study
from gift_fast.training.checkpoint import read_state, write_state
from gift_fast.training.weights import load_weights, save_weights
from tests.recorded import RecordedStudy
from tests.reliability.fuzz import Reader

GOLDEN = Path(__file__).parents[1] / "data" / "labels" / "golden"

CLASSES, SIDE, IPC = 3, 8, 2
LABELS = torch.arange(CLASSES).repeat_interleave(IPC)


def pixels(n: int, seed: int = 0) -> Tensor:
    """Images (n, 3, 8, 8) of bytes."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)


def toy() -> ImageDataset:
    """What the distilled sets are for."""
    test = TensorSplit(pixels(6, seed=9), LABELS)
    half = (0.5, 0.5, 0.5)
    return ImageDataset("toy", test, test, half, half, ("ant", "bee", "cat"))


def write_image(file: Path, seed: int) -> None:
    """A small image."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(1, seed)[0].permute(1, 2, 0).numpy()).save(file)


def read_all(split: object) -> None:
    """Every batch of a split, as training reads them."""
    assert isinstance(split, TensorSplit | FileSplit)
    for images, labels in split.batches(torch.arange(len(split)).split(4)):
        assert images.shape[1:] == split.shape
        assert len(images) == len(labels)


# ---- label sets ----------------------------------------------------------------------------------


def write_label_set(folder: Path) -> None:
    """Three epochs in two shards."""
    for path in GOLDEN.iterdir():
        shutil.copy(path, folder)


def read_label_set(folder: Path) -> None:
    """Every epoch of a label set, as training reads them."""
    labels = LabelSet(folder)
    for epoch in range(1, min(labels.manifest.epochs, 9) + 1):
        assert len(labels.epoch(epoch).labels) == labels.manifest.images


# ---- distilled sets ------------------------------------------------------------------------------


def use(distilled: DistilledSet) -> None:
    """Reads what a student would be trained on."""
    if distilled.replay is not None:
        for batch in distilled.replay.epoch(0):
            assert len(batch.index) == len(batch.named())


def reads(name: str, labels: str | None = None, inside: str = ".") -> Callable[[Path], None]:
    """A reader of a format of distilled sets; ``labels`` is the folder of FKD labels, if any."""

    def read(folder: Path) -> None:
        stored = None if labels is None else folder / labels
        use(read_distilled(name, folder / inside, toy(), labels=stored))

    return read


def write_gift(folder: Path) -> None:
    """GIFT's file, with soft labels."""
    soft = F.one_hot(LABELS, CLASSES).float()
    contents = {"dataset": "toy", "data": pixels(6) / 255, "label": soft}
    torch.save(contents, folder / "data.pt")


def write_datm(folder: Path) -> None:
    """DATM's three files."""
    torch.save(pixels(6) / 99, folder / "images_best.pt")
    torch.save(F.one_hot(LABELS, CLASSES).float(), folder / "labels_best.pt")
    torch.save(torch.tensor(0.02), folder / "lr_best.pt")


def write_fkd(folder: Path, items: int) -> None:
    """Images as SRe2L names them and two batches of labels: seven items, or six and their order."""
    for label in range(CLASSES):
        for number in range(IPC):
            name = f"new{label:03d}/class{label:03d}_id{number:03d}.png"
            write_image(folder / "images" / name, seed=label * IPC + number)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    epoch = folder / "labels" / "epoch_0"
    epoch.mkdir(parents=True)
    for number, index in enumerate(order.split(3)):
        coords = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(3, 1)
        mixed = (torch.tensor([1, 2, 0]), 0.75, (0, 0, 4, 4)) if number else (None, None, None)
        logits = 9.0 * F.one_hot(LABELS[index], CLASSES).half()
        contents = [coords, torch.zeros(3, dtype=torch.bool), *mixed, logits, index]
        torch.save(contents[:items], epoch / f"batch_{number}.tar")
    if items == 6:
        text = json.dumps({"0": order.tolist()})
        (folder / "labels" / "sampler_indices_epoch.json").write_text(text)


def write_lpqld(folder: Path) -> None:
    """Images as SRe2L names them, and the two largest logits of two batches."""
    write_fkd(folder, 7)
    (folder / "quantized").mkdir()
    order = {}
    for number in range(2):
        items = torch.load(folder / "labels" / "epoch_0" / f"batch_{number}.tar")
        kept = items[5].topk(2)
        mixing = items[2:5]
        if number:
            box = [torch.tensor(edge, dtype=torch.uint8) for edge in items[4]]
            mixing = [items[2].to(torch.uint8), items[3], box]
        contents = [items[0].half(), items[1], *mixing, kept.values, kept.indices.short()]
        torch.save(contents, folder / "quantized" / f"batch_{number}.tar")
        order[number] = items[6].tolist()
    (folder / "quantized" / "sampler_indices_batch.json").write_text(json.dumps(order))


def write_hald(folder: Path) -> None:
    """Images as SRe2L names them, and the probabilities of one epoch."""
    write_fkd(folder, 7)
    (folder / "epochs").mkdir()
    generator = torch.Generator().manual_seed(42)
    order = torch.tensor(list(torch.utils.data.RandomSampler(range(6), generator=generator)))
    coords = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(3, 1).half()
    contents = [
        [
            coords,
            torch.zeros(3, dtype=torch.bool),
            *(None, None, None),
            (9.0 * F.one_hot(LABELS[index], CLASSES)).softmax(1).half(),
        ]
        for index in order.split(3)
    ]
    torch.save(contents, folder / "epochs" / "epoch_0.tar")
    torch.save({"0": order.tolist()}, folder / "epochs" / "sampler_indices_dict.pt")


def write_fkd_images(folder: Path) -> None:
    """Images as SRe2L names them, and the two most probable classes of two crops of each."""
    write_fkd(folder, 7)
    for image, label in enumerate(LABELS.tolist()):
        name = f"new{label:03d}/class{label:03d}_id{image % IPC:03d}.tar"
        (folder / "crops" / name).parent.mkdir(parents=True, exist_ok=True)
        kept = (9.0 * F.one_hot(LABELS[[image]], CLASSES)).softmax(1).topk(2)
        crop = torch.stack([kept.indices.float(), kept.values], 1)
        coords = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(2, 1)
        contents = [coords, torch.tensor([False, True]), crop.repeat(2, 1, 1)]
        torch.save([tensor.numpy() for tensor in contents], folder / "crops" / name)


def write_rded(folder: Path) -> None:
    """Images as RDED names them."""
    for label in range(CLASSES):
        write_image(folder / f"syn_data/{label:05d}/class{label:05d}_id00000.jpg", label)


def write_named(folder: Path) -> None:
    """Images in folders that are named by their classes."""
    for label, name in enumerate(("ant", "bee", "cat")):
        write_image(folder / name / "0.png", label)


def write_native(folder: Path) -> None:
    """The project's own pair of files."""
    soft = F.one_hot(LABELS, CLASSES).float()
    write_distilled(folder / "set", DistilledSet(pixels(6), LABELS, soft, source="made up"), toy())


def read_native(folder: Path) -> None:
    """The pair, found by its folder."""
    use(read_distilled("gift-fast", folder, toy()))


def write_class_maps(folder: Path) -> None:
    """A class map in either form."""
    (folder / "map.json").write_text("[2, 0, 1]")
    (folder / "map.txt").write_text("# old new\n0 2\n1 0\n2 1\n")


def read_class_maps(folder: Path) -> None:
    """Both."""
    for name in ("map.json", "map.txt"):
        assert sorted(read_class_map(folder / name)) == list(
            range(len(read_class_map(folder / name)))
        )


# ---- weights, states and results -----------------------------------------------------------------


def network() -> nn.Module:
    """Whose weights are stored."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))


def write_weights(folder: Path) -> None:
    """A checkpoint of this project, a state dict alone, and one in torch's old layout."""
    torch.manual_seed(0)
    model = network()
    save_weights(folder / "new.pth", model, top1=50.0, checks=[{"epoch": 1}])
    torch.save({f"module.{k}": v for k, v in model.state_dict().items()}, folder / "bare.pth")
    state = {"state_dict": model.state_dict(), "epoch": 3}
    torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)


def read_weights(folder: Path) -> None:
    """All three."""
    for name in ("new.pth", "bare.pth", "old.pth"):
        load_weights(folder / name, network())


IDENTITY = {"config": {"dataset": "toy", "seed": 0}, "inputs": {"test": "0" * 16}}


def write_run_state(folder: Path) -> None:
    """The checkpoint of a run."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 1}
    write_state(folder / "run.ckpt", IDENTITY, state)


def read_run_state(folder: Path) -> None:
    """The checkpoint, into a network."""
    read_state(folder / "run.ckpt", IDENTITY)


def write_study(folder: Path) -> None:
    """A study of two losses, and an evaluation that belongs to none."""
    study = RecordedStudy(folder)
    study.over_sets("gift", [50.0, 51.0])
    study.over_sets("ce", [48.0, 49.5])
    study.write()
    loose = RecordedStudy(folder)
    loose.add("kl", 40.0, seed=7)


def read_runs(folder: Path) -> None:
    """Every result, one by one."""
    for file in sorted(folder.glob("*.json")):
        if not file.name.startswith("study-"):
            read_run(file)


class UnclearError(AssertionError):
    """What could not be read was told without its file."""


def check_told(messages: tuple[str, ...], folder: Path) -> None:
    """Raises unless every message of a report or a table names a file."""
    for message in messages:
        if str(folder) not in message:
            raise UnclearError(f"no file in: {message}")


def read_report(folder: Path) -> None:
    """The report of the folder."""
    check_told(write_report(folder, folder / "page.html")[1], folder)


def read_table(folder: Path) -> None:
    """The table of the folder."""
    found = read_evaluations(folder)
    check_told(found.damaged, folder)
    if found.found:
        evaluations_table(found.found)


PRESET = """\
title: A preset
source: made up
notes: ""
settings:
  optimizer: adamw
  learning_rate: 1.0e-3
  epochs: 10
  batch_size: 10
  augmentation: dsa
overrides:
  - when: {dataset: cifar10, student: [convnet3]}
    epochs: 20
"""

STUDY = """\
title: Two losses
preset: paper
losses: [ce, gift]
sets:
  - {dataset: digits, method: selected, ipc: 1, network: "convnet3:width=8"}
dataset_seeds: [0]
seeds: [0]
settings: {epochs: 2}
optimizers: [{optimizer: adamw}]
"""


def read_preset(folder: Path) -> None:
    """The preset, and its settings."""
    preset = load_preset(str(folder / "mine.yaml"))
    preset.settings_for(dataset="cifar10", student="convnet3", format="rded")


def read_study_file(folder: Path) -> None:
    """The study, and its runs."""
    study = load_study(str(folder / "mine.yaml"))
    study.experiments(published=False)


# ---- datasets ------------------------------------------------------------------------------------


def write_cifar(folder: Path) -> None:
    """CIFAR-10's files, with two images each."""
    root = folder / "cifar-10-batches-py"
    root.mkdir()
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        data = torch.zeros(2, 3072, dtype=torch.uint8).numpy()
        (root / name).write_bytes(pickle.dumps({"data": data, "labels": [0, 2]}, protocol=2))
    names = {"label_names": ["ant", "bee", "cat"]}
    (root / "batches.meta").write_bytes(pickle.dumps(names, protocol=2))


def read_cifar(folder: Path) -> None:
    """CIFAR-10, with the MD5 sums of the small files in the place of the published ones."""
    published = CIFAR10.train_list, CIFAR10.test_list, CIFAR10.meta
    try:
        sums = cifar_sums()
        CIFAR10.train_list = [[name, sums[name]] for name, _ in CIFAR10.train_list]
        CIFAR10.test_list = [[name, sums[name]] for name, _ in CIFAR10.test_list]
        CIFAR10.meta = {**CIFAR10.meta, "md5": sums["batches.meta"]}
        read_all(load_dataset("cifar10", folder).training_split)
    finally:
        CIFAR10.train_list, CIFAR10.test_list, CIFAR10.meta = published


_cifar_sums: dict[str, str] = {}


def cifar_sums() -> dict[str, str]:
    """The MD5 sums of the whole files."""
    if not _cifar_sums:
        import tempfile

        with tempfile.TemporaryDirectory() as place:
            write_cifar(Path(place))
            files = (Path(place) / "cifar-10-batches-py").iterdir()
            _cifar_sums.update({f.name: hashlib.md5(f.read_bytes()).hexdigest() for f in files})
    return _cifar_sums


def idx(values: Tensor) -> bytes:
    """The IDX format."""
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes([0, 0, 8, values.dim()]) + sizes + values.numpy().tobytes()


def fashion_files() -> dict[str, bytes]:
    """The four files, without compression."""
    files = {}
    for prefix in ("train", "t10k"):
        files[f"{prefix}-images-idx3-ubyte"] = idx(torch.zeros(3, 28, 28, dtype=torch.uint8))
        files[f"{prefix}-labels-idx1-ubyte"] = idx(torch.arange(3, dtype=torch.uint8))
    return files


def write_fashion(folder: Path) -> None:
    """Fashion-MNIST as it is published."""
    for name, content in fashion_files().items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content, 1, mtime=0))


def write_fashion_raw(folder: Path) -> None:
    """Fashion-MNIST as torchvision unpacks it."""
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in fashion_files().items():
        (raw / name).write_bytes(content)


def read_fashion(folder: Path) -> None:
    """Both splits."""
    dataset = load_dataset("fashion-mnist", folder)
    read_all(dataset.test)
    read_all(dataset.training_split)


WNIDS = ("n01", "n02", "n03")


def write_tiny(folder: Path) -> None:
    """Tiny-ImageNet with three classes."""
    annotations = []
    for k, wnid in enumerate(WNIDS):
        for place in (f"train/{wnid}/images/{wnid}_0.jpeg", f"val/images/val_{k}.jpeg"):
            file = folder / place
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 64), (50 * k, 9, 9)).save(file)
        annotations.append(f"val_{k}.jpeg\t{wnid}\t0\t0\t62\t62")
    (folder / "val" / "val_annotations.txt").write_text("\n".join(annotations) + "\n")
    (folder / "words.txt").write_text("".join(f"{wnid}\tword, other\n" for wnid in WNIDS))


def read_tiny(folder: Path) -> None:
    """Both splits, decoded into a cache beside them."""
    module = importlib.import_module("gift_fast.data.datasets.tinyimagenet")
    before, module.CLASSES = module.CLASSES, len(WNIDS)
    os.environ["GIFT_FAST_CACHE"] = str(folder.parent / "cache")
    try:
        dataset = load_dataset("tinyimagenet", folder)
        read_all(dataset.test)
        read_all(dataset.training_split)
    finally:
        module.CLASSES = before
        del os.environ["GIFT_FAST_CACHE"]


def write_subset(folder: Path) -> None:
    """Three classes of ImageNet, and the list that names them."""
    for k, wnid in enumerate(WNIDS):
        for split in ("train", "val"):
            write_image(folder / split / wnid / f"{wnid}_0.jpeg", k)
    (folder / "classes.txt").write_text("# mine\nn02 bee\nn01 ant\nn03\n")


def read_subset(folder: Path) -> None:
    """The classes that the list names."""
    name = f"imagenet-subset:classes={folder / 'classes.txt'},side=8"
    dataset = load_dataset(name, folder)
    read_all(dataset.test)
    read_all(dataset.training_split)


def write_folders(folder: Path) -> None:
    """Two splits of three classes."""
    for k, name in enumerate(("ant", "bee", "cat")):
        for split in ("train", "val"):
            write_image(folder / split / name / "0.png", k)


def read_folders(folder: Path) -> None:
    """Both splits."""
    dataset = load_dataset("folder:side=8,shorter_side=8", folder)
    read_all(dataset.test)
    read_all(dataset.training_split)


# ---- caches --------------------------------------------------------------------------------------


def small_split() -> TensorSplit:
    """Whose whitening is kept."""
    return TensorSplit(pixels(20)[:, :, :2, :2], torch.zeros(20, dtype=torch.int64))


def write_whitening(folder: Path) -> None:
    """The cache of a whitening."""
    fit_zca(small_split(), folder)


def read_whitening(folder: Path) -> None:
    """The cache, whatever is in it."""
    for file in folder.iterdir():
        read_zca(file, small_split())


def write_decoded(folder: Path) -> None:
    """A split of images, and what was decoded of it."""
    write_image(folder / "images" / "0.png", 0)
    decoded_once(image_split(folder), "toy", folder / "cache")


def image_split(folder: Path) -> FileSplit:
    """One image."""
    return FileSplit(folder / "images", ("0.png",), torch.tensor([0]), side=SIDE)


def read_decoded(folder: Path) -> None:
    """The split, by its cache or anew."""
    read_all(decoded_once(image_split(folder), "toy", folder / "cache"))


READERS: dict[str, Reader] = {
    "distilled: GIFT's data.pt": Reader(write_gift, reads("gift", inside="data.pt"), 2),
    "distilled: recognized": Reader(write_gift, reads("auto")),
    "distilled: DATM": Reader(write_datm, reads("datm"), 2),
    "distilled: FKD labels, 7 items": Reader(
        lambda folder: write_fkd(folder, 7), reads("gvbsm", "labels", "images"), 2
    ),
    "distilled: FKD labels, 6 items": Reader(
        lambda folder: write_fkd(folder, 6), reads("lpld", "labels", "images"), 2
    ),
    "distilled: LPQLD's labels": Reader(
        write_lpqld, reads("lpqld:at_random=false", "quantized", "images"), 2
    ),
    "distilled: HALD's labels": Reader(write_hald, reads("hald", "epochs", "images"), 2),
    "distilled: FKD's labels of images": Reader(
        write_fkd_images, reads("fkd", "crops", "images"), 2
    ),
    "distilled: RDED's images": Reader(write_rded, reads("rded")),
    "distilled: folders": Reader(write_named, reads("folder")),
    "distilled: safetensors": Reader(write_native, read_native),
    "label sets": Reader(write_label_set, read_label_set, 2),
    "class maps": Reader(write_class_maps, read_class_maps),
    "weights": Reader(write_weights, read_weights, 2),
    "checkpoint of a run": Reader(write_run_state, read_run_state),
    "results of runs": Reader(write_study, read_runs),
    "report": Reader(write_study, read_report),
    "table": Reader(write_study, read_table),
    "preset": Reader(lambda f: (f / "mine.yaml").write_text(PRESET), read_preset, 2),
    "study": Reader(lambda f: (f / "mine.yaml").write_text(STUDY), read_study_file, 2),
    "dataset: CIFAR-10": Reader(write_cifar, read_cifar),
    "dataset: Fashion-MNIST": Reader(write_fashion, read_fashion),
    "dataset: Fashion-MNIST of torchvision": Reader(write_fashion_raw, read_fashion),
    "dataset: Tiny-ImageNet": Reader(write_tiny, read_tiny),
    "dataset: ImageNet's subsets": Reader(write_subset, read_subset),
    "dataset: folders": Reader(write_folders, read_folders),
    "cache of a whitening": Reader(write_whitening, read_whitening),
    "cache of decoded images": Reader(write_decoded, read_decoded),
}
