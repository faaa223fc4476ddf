"""Tries public bug reports about similar software on this package, and writes what came out.

Every program below rebuilds the situation of one report, or of several that are alike, in a
temporary folder, and returns what came out in a few words. ``python -m tests.reliability.reports``
runs them all and writes the table into docs/reliability.md; ``--json FILE`` only writes what came
out. ``reports_before.json`` is that file for the commit that the table calls "before": this file
was run in a checkout of it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import nn

BEFORE = Path(__file__).with_name("reports_before.json")
COMMIT_BEFORE = "e4f376b"
SIDE = 16
FOLDER = f"folder:side={SIDE},shorter_side={SIDE}"
CLASSES = ("ant", "bee", "cat")
SHOWN = 230
"""Characters of an outcome that the table shows."""


@dataclass(frozen=True)
class Report:
    """A program, and what it was made after.

    Attributes:
        addresses: of the public reports.
        tried: what the program does, in words.
        program: takes an empty folder, and returns what came out.
    """

    addresses: tuple[str, ...]
    tried: str
    program: Callable[[Path], str]


REPORTS: list[Report] = []


def report(*addresses: str, tried: str) -> Callable[[Callable[[Path], str]], Callable[[Path], str]]:
    """Adds a program to ``REPORTS``; addresses are ``owner/repository#number``."""

    def add(program: Callable[[Path], str]) -> Callable[[Path], str]:
        REPORTS.append(Report(addresses, tried, program))
        return program

    return add


# ---- what the programs are made of ---------------------------------------------------------------


def picture(seed: int, *, side: int = SIDE) -> Image.Image:
    """A picture of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def write_split(root: Path, classes: tuple[str, ...] | list[str], images: int = 2) -> None:
    """A folder of pictures for each class."""
    for k, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(images):
            picture(100 * k + i).save(root / name / f"{i}.png")


def write_dataset(root: Path, classes: tuple[str, ...] | list[str] = CLASSES) -> None:
    """``train`` and ``val``."""
    for part in ("train", "val"):
        write_split(root / part, classes)


def load(root: Path, name: str = FOLDER, *, train: bool = False) -> Any:
    """A dataset of this package."""
    from gift_fast.data.datasets import load_dataset

    return load_dataset(name, root, train=train)


def animals(names: tuple[str, ...] = CLASSES, *, name: str = "animals", side: int = SIDE) -> Any:
    """A dataset in memory, with these classes."""
    from gift_fast.data.datasets import ImageDataset, TensorSplit

    labels = torch.arange(len(names))
    split = TensorSplit(torch.zeros(len(names), 3, side, side), labels)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return ImageDataset(name=name, train=None, test=split, mean=mean, std=std, class_names=names)


def read(path: Path, dataset: Any, form: str = "auto") -> Any:
    """A distilled set, read."""
    from gift_fast.data.distilled import read_distilled

    return read_distilled(form, path, dataset)


def network() -> nn.Module:
    """A ConvNet with weights of its own."""
    from gift_fast.training.models import ConvNet

    return ConvNet(2, 3, 8, 10, width=8)


def loaded(path: Path, contents: Any, model: nn.Module) -> str:
    """Whether the weights of ``model``, in a file with ``contents``, are read."""
    from gift_fast.training.weights import load_weights

    torch.save(contents, path)
    other = network()
    load_weights(path, other)
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    return "loaded, equal" if all(torch.equal(a, b) for a, b in pairs) else "loaded, NOT equal"


def every_image(split: Any) -> torch.Tensor:
    """All images of a split."""
    return next(iter(split.batches([torch.arange(len(split))])))[0]


@contextlib.contextmanager
def listening() -> Iterator[io.StringIO]:
    """Collects what is logged."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger("gift_fast").addHandler(handler)
    try:
        yield stream
    finally:
        logging.getLogger("gift_fast").removeHandler(handler)


def outcome(program: Callable[[Path], str]) -> str:
    """What comes out of a program: what it returns or raises, and what was logged meanwhile."""
    with (
        tempfile.TemporaryDirectory() as folder,
        listening() as log,
        warnings.catch_warnings(),
        mock.patch.dict(os.environ, GIFT_FAST_CACHE=str(Path(folder) / "cache")),
    ):
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        try:
            text = program(Path(folder))
        except (ValueError, OSError) as error:
            text = f"refused: {error}"
        except Exception as error:
            text = f"TRACEBACK {type(error).__name__}: {error}"
        if told := log.getvalue().strip():
            text += f"; told: {told}"
        text = text.replace(f"{folder}/", "").replace(folder, "FOLDER")
    return " ".join(re.sub(r"0x[0-9a-f]+", "0x...", text).split())


# ---- class folders -------------------------------------------------------------------------------


@report(
    "pytorch/vision#2831",
    "open-mmlab/mmpretrain#507",
    "tensorflow/tensorflow#46595",
    tried="`.ipynb_checkpoints` with an image in `train` and `val`; classes that are read",
)
def hidden_class(root: Path) -> str:
    write_dataset(root, [".ipynb_checkpoints", *CLASSES])
    return ", ".join(load(root).class_names)


@report(
    "pytorch/vision#109",
    "bghira/SimpleTuner#94",
    tried="`.DS_Store`, `Thumbs.db` and a tool's folder with images inside a class's folder",
)
def hidden_files(root: Path) -> str:
    write_dataset(root)
    for name in (".DS_Store", "Thumbs.db"):
        (root / "val" / "ant" / name).write_bytes(b"0")
    write_split(root / "val" / "ant", ["@eaDir", ".ipynb_checkpoints"])
    test = load(root).test
    return f"{len(test)} test images of 6"


@report(
    "Project-MONAI/MONAI#8305",
    "alinlab/CSI#31",
    tried="`._0.png`, which macOS puts beside `0.png` in archives, among the test images",
)
def apple_double(root: Path) -> str:
    write_dataset(root)
    (root / "val" / "ant" / "._0.png").write_bytes(b"\0\5\x16\7Mac OS X")
    test = load(root).test
    return f"{len(every_image(test))} images read of 6"


@report(
    "pytorch/vision#714",
    "NVIDIA/DIGITS#665",
    "deeplearning4j/deeplearning4j#3859",
    tried="classes in folders 0 to 11; the labels of folders 2 and 10",
)
def numbered_folders(root: Path) -> str:
    write_split(root / "val", [str(k) for k in range(12)], images=1)
    names = load(root).class_names
    return f"2 has label {names.index('2')}, 10 has label {names.index('10')}"


def imagenet(root: Path, first: int) -> str:
    for k in range(1000):
        folder = root / "val" / str(k + first)
        folder.mkdir(parents=True)
        picture(0).save(folder / "0.png")
    test = load(root, "imagenet-1k:side=14").test
    pairs = zip(test.names, test.labels.tolist(), strict=True)
    wrong = sum(int(name.partition("/")[0]) != label for name, label in pairs)
    return f"{wrong} of 1000 folders have another label than their number"


@report(
    "modestyachts/ImageNetV2#10", tried="ImageNet-1K in folders 0 to 999, by torchvision's labels"
)
def imagenet_by_label(root: Path) -> str:
    return imagenet(root, 0)


@report(
    "raoyongming/DynamicViT#17",
    tried="ImageNet-1K in folders 1 to 1000, the numbers of its development kit",
)
def imagenet_by_kit(root: Path) -> str:
    return imagenet(root, 1)


@report(
    "CSAILVision/places365#22",
    tried="a distilled set in folders 0 to 11; the labels of folders 2 and 10",
)
def numbered_set(root: Path) -> str:
    write_split(root / "set", [str(k) for k in range(12)], images=1)
    distilled = read(root / "set", animals(tuple(f"c{k:02d}" for k in range(12))), "folder")
    labels = dict(zip(sorted(map(str, range(12))), distilled.labels.tolist(), strict=True))
    return f"2 has label {labels['2']}, 10 has label {labels['10']}"


@report(
    "ultralytics/ultralytics#13936",
    "ultralytics/ultralytics#23566",
    tried="a class of `train` that has no folder in `val`",
)
def class_missing_in_test(root: Path) -> str:
    write_dataset(root)
    for file in (root / "val" / "bee").iterdir():
        file.unlink()
    (root / "val" / "bee").rmdir()
    return ", ".join(load(root).class_names)


@report(
    "huggingface/pytorch-image-models#957",
    "pytorch/vision#4925",
    tried="a class whose folder in `val` is empty",
)
def empty_class(root: Path) -> str:
    write_dataset(root)
    for file in (root / "val" / "bee").iterdir():
        file.unlink()
    return ", ".join(load(root).class_names)


@report(
    "tjmoon0104/pytorch-tiny-imagenet#4",
    tried="Tiny-ImageNet as it is published, with `val/images`, read as `folder`",
)
def tiny_imagenet_as_folder(root: Path) -> str:
    write_split(root / "train", CLASSES)
    write_split(root / "val", ["images"])
    return ", ".join(load(root).class_names)


@report(
    "tjmoon0104/pytorch-tiny-imagenet#4",
    "mlverse/torchvision#87",
    tried="the same, read as `tinyimagenet`; the labels of `val`",
)
def tiny_imagenet(root: Path) -> str:
    wnids = [f"n{k:08d}" for k in range(200)]
    write_split(root / "train", wnids, images=0)
    (root / "val" / "images").mkdir(parents=True)
    lines = []
    for k, wnid in enumerate(reversed(wnids)):
        picture(k, side=64).save(root / "val" / "images" / f"val_{k}.png")
        lines.append(f"val_{k}.png\t{wnid}\t0\t0\t1\t1")
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines))
    labels = load(root, "tinyimagenet").test.labels.tolist()
    return f"{sum(a == b for a, b in zip(labels, reversed(range(200)), strict=True))} of 200 right"


@report(
    "huggingface/pytorch-image-models#1081",
    "facebookresearch/kill-the-bits#5",
    tried="ImageNet's validation images in one folder, as they are published",
)
def flat_validation(root: Path) -> str:
    (root / "val").mkdir(parents=True)
    picture(0).save(root / "val" / "ILSVRC2012_val_00000001.png")
    return str(len(load(root, "imagenet-1k").test))


@report(
    "huggingface/datasets#4839",
    tried="the test images in a folder `validation`",
)
def another_name_of_val(root: Path) -> str:
    write_split(root / "train", CLASSES)
    write_split(root / "validation", CLASSES)
    return str(len(load(root).test))


@report(
    "open-edge-platform/anomalib#3058",
    "pytorch/vision#446",
    "GaParmar/clean-fid#37",
    tried="`0.JPG`, `1.Jpeg` and `2.PNG` in a class's folder",
)
def upper_case(root: Path) -> str:
    write_dataset(root)
    for name in ("0.JPG", "1.Jpeg", "2.PNG"):
        picture(0).save(root / "val" / "ant" / name)
    return f"{len(load(root).test)} test images of 9"


@report(
    "FlyMyAI/flymyai-lora-trainer#72",
    tried="two images of a class as `.gif` and `.jfif`, which ImageFolder passes over",
)
def unread_kinds(root: Path) -> str:
    write_dataset(root)
    picture(0).save(root / "val" / "ant" / "2.gif")
    picture(0).save(root / "val" / "ant" / "3.jfif", format="JPEG")
    return f"{len(load(root).test)} test images of 8"


@report(
    "LINs-lab/RDED#9",
    "LINs-lab/RDED#10",
    "Jiacheng8/CV-DD#5",
    tried="a distilled set of ImageNet-10, whose classes are not sorted, in wnid folders",
)
def wnid_folders(root: Path) -> str:
    from gift_fast.data.datasets.imagenet_classes import IMAGENET_10

    write_split(root / "val", list(IMAGENET_10), images=1)
    write_split(root / "set", list(IMAGENET_10), images=1)
    dataset = load(root, "imagenet-10:side=14")
    labels = read(root / "set", dataset, "folder").labels.tolist()
    expected = [list(IMAGENET_10).index(wnid) for wnid in sorted(IMAGENET_10)]
    return f"{sum(a != b for a, b in zip(labels, expected, strict=True))} of 10 labels wrong"


@report(
    "LINs-lab/RDED#3",
    "LINs-lab/RDED#4",
    tried="the audit of a set whose classes are in another order than the teacher's",
)
def another_class_order(root: Path) -> str:
    from gift_fast.auditing import audit
    from gift_fast.data.distilled import DistilledSet
    from gift_fast.evaluation.config import TeacherConfig
    from gift_fast.evaluation.teacher import train_teacher

    digits = load(root, "digits", train=True)
    config = TeacherConfig(
        dataset="digits",
        model="convnet3:width=16",
        optimizer="adamw",
        learning_rate=1e-3,
        epochs=6,
        augmentation="none",
        batch_size=50,
    )
    teacher, _ = train_teacher(config, digits)
    images, labels = digits.train.images[:200], digits.train.labels[:200]
    found = audit(digits, DistilledSet(images, (labels + 1) % 10), [teacher])
    (diagnosis,) = [f for f in found.findings if f.severity == "error"]
    return diagnosis.text


# ---- images --------------------------------------------------------------------------------------

RAMP = np.linspace(0, 65535, SIDE * SIDE).reshape(SIDE, SIDE).astype(np.uint16)


def levels(pixels: torch.Tensor) -> str:
    gray = (pixels[0].float() * (255 if pixels.is_floating_point() else 1)).round()
    return f"{len(gray.unique())} levels, {(gray == 255).float().mean():.0%} of the pixels white"


@report(
    "python-pillow/Pillow#2574",
    "python-pillow/Pillow#5991",
    tried="a 16-bit PNG ramp from black to white among the test images",
)
def sixteen_bits(root: Path) -> str:
    write_dataset(root)
    Image.fromarray(RAMP).save(root / "val" / "ant" / "0.png")
    return levels(every_image(load(root).test)[0])


@report(
    "python-pillow/Pillow#1108",
    tried="the same ramp as a 16-bit TIFF in a distilled set",
)
def sixteen_bits_distilled(root: Path) -> str:
    write_split(root / "set", CLASSES)
    Image.fromarray(RAMP).save(root / "set" / "ant" / "0.tiff")
    (root / "set" / "ant" / "0.png").unlink()
    return levels(read(root / "set", animals(), "folder").images[0])


@report(
    "python-pillow/Pillow#5991",
    tried="a TIFF of 32-bit floats from 0 to 1 among the test images",
)
def floats(root: Path) -> str:
    write_dataset(root)
    values = RAMP.astype(np.float32) / 65535
    (root / "val" / "ant" / "0.png").unlink()
    Image.fromarray(values).save(root / "val" / "ant" / "0.tiff")
    return levels(every_image(load(root).test)[0])


@report(
    "huggingface/datasets#6252",
    "pytorch/vision#7977",
    tried="a JPEG with EXIF orientation 6, as telephones write it",
)
def orientation(root: Path) -> str:
    write_dataset(root)
    upright = Image.fromarray(np.kron([[255, 0], [0, 0]], np.ones((8, 8))).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = upright.transpose(Image.Transpose.ROTATE_90).convert("RGB")
    (root / "val" / "ant" / "0.png").unlink()
    stored.save(root / "val" / "ant" / "0.jpg", exif=exif)
    return "upright" if every_image(load(root).test)[0, 0, 3, 3] > 0.9 else "turned by 90 degrees"


@report(
    "kohya-ss/sd-scripts#1269",
    "graphdeco-inria/gaussian-splatting#1193",
    tried="a PNG with transparent pixels",
)
def transparency(root: Path) -> str:
    write_dataset(root)
    image = picture(0).convert("RGBA")
    image.putalpha(0)
    image.save(root / "val" / "ant" / "0.png")
    got = every_image(load(root).test)[0]
    same = torch.allclose(got, torch.from_numpy(np.asarray(picture(0))).permute(2, 0, 1) / 255)
    return "the color below, as ImageFolder" if same else "another color"


@report(
    "JackSyu/HOI-Matting#5",
    tried="a CMYK image",
)
def cmyk(root: Path) -> str:
    write_dataset(root)
    (root / "val" / "ant" / "0.png").unlink()
    picture(0).convert("CMYK").save(root / "val" / "ant" / "0.tiff")
    got = every_image(load(root).test)[0]
    expected = torch.from_numpy(np.asarray(picture(0))).permute(2, 0, 1) / 255
    return "its colors" if torch.allclose(got, expected, atol=0.01) else "other colors"


@report(
    "napari/napari#3745",
    tried="a TIFF of three pages among the test images",
)
def frames(root: Path) -> str:
    write_dataset(root)
    pages = [picture(seed) for seed in (1, 2)]
    picture(0).save(root / "val" / "ant" / "2.tiff", save_all=True, append_images=pages)
    return f"the first page, as one of {len(every_image(load(root).test))} images"


@report(
    "matteo-dunnhofer/imagenet#14",
    "DeepLabCut/DeepLabCut#2520",
    "lucidrains/gigagan-pytorch#27",
    tried="two damaged test images; what is said when the dataset is loaded, before any training",
)
def damaged(root: Path) -> str:
    write_dataset(root)
    for name in ("0.png", "1.png"):
        (root / "val" / "bee" / name).write_bytes(b"<html>404</html>")
    load(root)
    return "nothing"


# ---- distilled tensors ---------------------------------------------------------------------------


@report(
    "GeorgeCazenavette/mtt-distillation#11",
    "DataDistillation/DataDAM#13",
    tried="DATM's images for CIFAR-10 and ImageNette; whether test images are whitened",
)
def whitening(root: Path) -> str:
    torch.save(9 * torch.randn(6, 3, SIDE, SIDE), root / "images_best.pt")
    torch.save(torch.randn(6, 3), root / "labels_best.pt")
    cifar = read(root, animals(name="cifar10"), "datm").whitened
    torch.save(torch.randn(6, 3, SIDE, SIDE), root / "images_best.pt")
    subset = read(root, animals(name="imagenet-nette"), "datm").whitened
    return f"CIFAR-10 {cifar}, ImageNette {subset} (right: True, False)"


@report(
    "DataDistillation/DataDAM#13",
    tried="normalized images for CIFAR-10 where whitened ones are expected",
)
def not_whitened(root: Path) -> str:
    dataset = animals(name="cifar10")
    torch.save(dataset.normalize(torch.rand(6, 3, SIDE, SIDE)), root / "images_best.pt")
    torch.save(torch.randn(6, 3), root / "labels_best.pt")
    return f"whitened {read(root, dataset, 'datm').whitened}"


def write_data(root: Path, images: Any) -> Path:
    contents = {"dataset": "animals", "data": images, "label": torch.arange(3)}
    torch.save(contents, root / "data.pt")
    return root / "data.pt"


@report(
    "GeorgeCazenavette/mtt-distillation#37",
    tried="`data.pt` with normalized images",
)
def normalized(root: Path) -> str:
    dataset = animals()
    images = dataset.normalize(torch.rand(3, 3, SIDE, SIDE))
    return f"{len(read(write_data(root, images), dataset))} images"


@report(
    "dcharatan/pixelsplat#46",
    tried="`data.pt` with floats from 0 to 255",
)
def bytes_as_floats(root: Path) -> str:
    return f"{len(read(write_data(root, 255 * torch.rand(3, 3, SIDE, SIDE)), animals()))} images"


@report(
    "LeeJunHyun/Image_Segmentation#29",
    tried="`data.pt` with images (N, S, S, C)",
)
def channels_last(root: Path) -> str:
    return f"{len(read(write_data(root, torch.rand(3, SIDE, SIDE, 3)), animals()))} images"


@report(
    "rosinality/swapping-autoencoder-pytorch#20",
    tried="`data.pt` with the optimized images themselves, which require a gradient",
)
def requires_grad(root: Path) -> str:
    images = torch.rand(3, 3, SIDE, SIDE, requires_grad=True)
    distilled = read(write_data(root, images), animals())
    distilled.fingerprint()
    distilled.images.numpy()
    return f"requires_grad {distilled.images.requires_grad}"


# ---- weights -------------------------------------------------------------------------------------


@report(
    "sming256/OpenTAD#44",
    "open-mmlab/mmengine#507",
    tried="weights of `AveragedModel`: `module.` before the keys, beside `n_averaged`",
)
def averaged(root: Path) -> str:
    model = network()
    return loaded(root / "w.pth", torch.optim.swa_utils.AveragedModel(model).state_dict(), model)


@report(
    "Lightning-AI/pytorch-lightning#20233",
    "Lightning-AI/pytorch-lightning#17415",
    tried="a Lightning module's weights, its network compiled: `model._orig_mod.`",
)
def lightning(root: Path) -> str:
    model = network()
    weights = {f"model._orig_mod.{key}": value for key, value in model.state_dict().items()}
    return loaded(root / "w.ckpt", {"state_dict": weights, "epoch": 1}, model)


@report(
    "huggingface/pytorch-image-models#2003",
    "rasbt/LLMs-from-scratch#580",
    "akamaster/pytorch_resnet_cifar10#30",
    tried="weights of a compiled network in `DataParallel`",
)
def compiled(root: Path) -> str:
    model = network()
    weights = nn.DataParallel(torch.compile(model)).state_dict()  # type: ignore[arg-type]
    return loaded(root / "w.pth", {"state_dict": weights}, model)


@report(
    "Haichao-Zhang/FeatureScatter#6",
    "mingcv/DSRNet#12",
    tried="weights under `net` with the prefix `module.basic_net.`, and under `weight`",
)
def other_keys(root: Path) -> str:
    model = network()
    prefixed = {f"module.basic_net.{key}": value for key, value in model.state_dict().items()}
    first = loaded(root / "w.pth", {"net": prefixed, "epoch": 1}, model)
    second = loaded(root / "w.pth", {"weight": model.state_dict(), "opt_g": {}}, model)
    return f"{first} / {second}"


@report(
    "bioimage-io/core-bioimage-io-python#486",
    "facebookresearch/fairseq#5603",
    tried="a NumPy array beside the weights",
)
def array(root: Path) -> str:
    model = network()
    return loaded(root / "w.pth", {"model": model.state_dict(), "stats": np.zeros(3)}, model)


@report(
    "ChenDelong1999/RemoteCLIP#8",
    "WongKinYiu/yolov7#1555",
    tried="a TorchScript file as weights",
)
def torchscript(root: Path) -> str:
    from gift_fast.training.weights import load_weights

    torch.jit.script(nn.Linear(2, 2)).save(root / "w.pt")
    load_weights(root / "w.pt", nn.Linear(2, 2))
    return "loaded"


@report(
    "mlcommons/mlperf-automations#465",
    tried="`argparse.Namespace` beside the weights",
)
def namespace(root: Path) -> str:
    model = network()
    args = argparse.Namespace(lr=0.1)
    return loaded(root / "w.pth", {"model": model.state_dict(), "args": args}, model)


@report(
    "tanjimin/C.Origami#51",
    "sktime/pytorch-forecasting#1998",
    tried="a network that was saved whole, as a pickle",
)
def whole(root: Path) -> str:
    model = network()
    return loaded(root / "w.pth", {"model": model}, model)


@report(
    "Blaizzy/mlx-audio#902",
    "hexgrad/kokoro#368",
    tried="weights whose keys are not the network's",
)
def other_network(root: Path) -> str:
    model = network()
    weights = {f"{key}_g": value for key, value in model.state_dict().items()}
    return loaded(root / "w.pth", weights, model)


# ---- training, tests and losses ------------------------------------------------------------------


@report(
    "haitongli/knowledge-distillation-pytorch#16",
    "haitongli/knowledge-distillation-pytorch#17",
    tried="a teacher's stored labels, read in the order they were stored in and in another one",
)
def order_of_labels(root: Path) -> str:
    from gift_fast.data.labels.fkd import FkdLabels

    labels = torch.arange(8).repeat(16)
    sampler = torch.utils.data.RandomSampler(
        list(range(128)), generator=torch.Generator().manual_seed(42)
    )
    for epoch in range(2):
        folder = root / f"epoch_{epoch}"
        folder.mkdir()
        for number, index in enumerate(torch.tensor(list(sampler)).split(32)):
            logits = 10 * nn.functional.one_hot(labels[index], 8).half()
            coords = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(32, 1)
            items = [coords, torch.zeros(32).bool(), None, None, None, logits]
            torch.save(items, folder / f"batch_{number}.tar")
    agreed = FkdLabels(root, labels, 8).agreement((0, 1)).share
    try:
        FkdLabels(root, labels, 8, seed=7)
    except ValueError as error:
        return f"as stored: {agreed:.0%} agree; otherwise refused: {error}"
    return f"as stored: {agreed:.0%} agree; otherwise accepted"


@report(
    "vrvlive/knowlege-distillation#2",
    "facebookresearch/unbiased-teacher#47",
    tried="a teacher in train mode is handed over; whether its running statistics move",
)
def teacher_in_train_mode(root: Path) -> str:
    from gift_fast.data.distilled import DistilledSet
    from gift_fast.evaluation import EvaluationConfig, evaluate
    from gift_fast.training.models import new_model

    digits = load(root, "digits", train=True)
    teacher = new_model("convnet3:width=8", digits, seed=0).train()
    before = [value.clone() for value in teacher.state_dict().values()]
    name = "convnet3:width=8"
    config = EvaluationConfig(dataset="digits", student=name, teachers=(name,), epochs=2)
    distilled = DistilledSet(digits.train.images[:40], digits.train.labels[:40])
    evaluate(config, digits, distilled, [teacher])
    after = teacher.state_dict().values()
    same = all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    return "they stay" if same else "they move"


@report(
    "pytorch/pytorch#25162",
    "areal-project/AReaL#1096",
    tried="1, 2, 3 and 7 processes test 500 images; the images that are counted",
)
def padded_test(root: Path) -> str:
    from gift_fast.training.models import new_model
    from gift_fast.training.predict import count_correct

    digits = load(root, "digits")
    model = new_model("convnet3:width=8", digits, seed=0)
    totals = []
    for processes in (1, 2, 3, 7):
        edges = [500 * k // processes for k in range(processes + 1)]
        counts = sum(
            count_correct(model, digits, start=start, stop=stop) for start, stop in pairwise(edges)
        )
        totals.append((counts[:, 0].sum().item(), counts[:, 1].sum().item()))
    same = len(set(totals)) == 1
    return f"{totals[0][0]:.0f} images, {'the same' if same else 'OTHER'} hits for each number"


@report(
    "huggingface/accelerate#2823",
    "huggingface/accelerate#4195",
    "huggingface/transformers#11663",
    tried="the tests that compare stopped and resumed runs with unbroken ones, bit for bit",
)
def resumed(root: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-k", RESUMED, RESUME_TESTS],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    return "all passed" if done.returncode == 0 else done.stdout.strip().splitlines()[-1]


RESUME_TESTS = "tests/training/test_checkpoint.py"
RESUMED = "interrupted or so_does or goes_on"


@report(
    "linkedin/Liger-Kernel#968",
    "linkedin/Liger-Kernel#678",
    tried="`reduction='none'` times a weight for each row, some rows ignored; the gradient",
)
def weighted_rows(root: Path) -> str:
    from gift_fast import gift_loss

    torch.manual_seed(0)
    soft, target = torch.randn(6, 10), torch.tensor([1, -100, 3, 4, -100, 5])
    weights, gradients = torch.rand(6), []
    logits = torch.randn(6, 10)
    for backend in ("auto", "reference"):
        z = logits.clone().requires_grad_()
        loss = gift_loss(z, soft, target, reduction="none", backend=backend)
        (loss * weights).sum().backward()
        gradients.append(z.grad)
    difference = (gradients[0] - gradients[1]).abs().max().item()
    ignored = gradients[0][[1, 4]].abs().max().item()
    near = "within 1e-6 of the definition" if difference < 1e-6 else f"off by {difference:.1e}"
    return f"{near}; {ignored:.0f} for ignored rows"


@report(
    "karpathy/nanochat#610",
    tried="every target is ignored; `mean`, `sum` and the gradient",
)
def all_ignored(root: Path) -> str:
    from gift_fast import gift_loss

    z = torch.randn(3, 5, requires_grad=True)
    soft, target = torch.randn(3, 5), torch.full((3,), -100)
    mean = gift_loss(z, soft, target)
    total = gift_loss(z, soft, target, reduction="sum")
    mean.backward()
    return (
        f"mean {mean.item()} as F.cross_entropy, sum {total.item()}, "
        f"gradient {z.grad.abs().max().item()}"
    )


@report(
    "Megvii-BaseDetection/YOLOX#17",
    "analogdevicesinc/ai8x-training#248",
    tried="a run without the module `resource`, as on Windows",
)
def without_resource(root: Path) -> str:
    from gift_fast.data.distilled import DistilledSet
    from gift_fast.evaluation import EvaluationConfig, evaluate

    digits = load(root, "digits", train=True)
    distilled = DistilledSet(digits.train.images[:40], digits.train.labels[:40])
    config = EvaluationConfig(
        dataset="digits", student="convnet3:width=8", teachers=(), epochs=2, loss="ce"
    )
    kept = sys.modules.get("resource")
    sys.modules["resource"] = None  # type: ignore[assignment]
    try:
        result = evaluate(config, digits, distilled)
    finally:
        if kept is None:
            del sys.modules["resource"]
        else:
            sys.modules["resource"] = kept
    return f"the result of {result.checks[-1].epoch} epochs"


# ---- the table -----------------------------------------------------------------------------------


def cell(text: str) -> str:
    """A text as a cell of a Markdown table shows it."""
    short = text if len(text) <= SHOWN else text[: SHOWN - 3].rstrip() + "..."
    for mark in "|<>*_":
        short = short.replace(mark, f"\\{mark}")
    return short


def link(address: str) -> str:
    """An address as a Markdown link; GitHub leads from ``issues`` to ``pull``."""
    repository, _, number = address.partition("#")
    return f"[{address}](https://github.com/{repository}/issues/{number})"


def is_other(old: str, new: str) -> bool:
    """Whether an outcome has changed, and not only the message of a refusal."""
    return old != new and not (old.startswith("refused: ") and new.startswith("refused: "))


def table(before: dict[str, str], now: dict[str, str]) -> str:
    """The table of all reports."""
    lines = ["| report | tried | before | now |", "|---|---|---|---|"]
    for entry in REPORTS:
        name = entry.program.__name__
        old, new = before[name], now[name]
        cells = (
            ", ".join(map(link, entry.addresses)),
            entry.tried,
            cell(old),
            "the same" if old == new else cell(new),
        )
        lines.append(f"| {' | '.join(cells)} |")
    changed = sum(is_other(before[name], now[name]) for name in now)
    addresses = {address for entry in REPORTS for address in entry.addresses}
    summary = (
        f"{len(REPORTS)} programs after {len(addresses)} reports. Before is commit "
        f"{COMMIT_BEFORE}; {changed} programs have another outcome now. A refusal in other words "
        "is not counted."
    )
    return "\n".join([summary, "", *lines])


def main() -> None:
    """Runs every program, and writes the table or a file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, help="write what came out here, and no table")
    file = parser.parse_args().json
    torch.set_num_threads(1)
    now = {}
    for entry in REPORTS:
        now[entry.program.__name__] = outcome(entry.program)
        print(f"{entry.program.__name__}: {now[entry.program.__name__]}", flush=True)
    if file is not None:
        file.write_text(json.dumps(now, indent=2) + "\n", encoding="utf-8")
        return
    from tests.reliability.document import write_section

    write_section("reports", table(json.loads(BEFORE.read_text(encoding="utf-8")), now))


if __name__ == "__main__":
    main()
