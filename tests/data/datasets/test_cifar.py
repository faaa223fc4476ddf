from __future__ import annotations

import hashlib
import pickle

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100

from gift_fast.data.datasets import load_dataset

CLASSES = ["airplane", "automobile", "bird"]


class OldDtype:
    """numpy.uint8 as the NumPy of 2009 pickled it, with numbers for truth values."""

    def __reduce__(self):
        return np.dtype, ("u1", 0, 1), (3, "|", None, None, None, -1, -1, 0)


class OldArray:
    """An array as the NumPy of 2009 pickled it."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __reduce__(self):
        reconstruct = self.array.__reduce__()[0]
        state = (1, self.array.shape, OldDtype(), False, self.array.tobytes().decode("latin1"))
        return reconstruct, (np.ndarray, (0,), "b"), state


def rows(images: torch.Tensor) -> OldArray:
    """Images (N, 3, 32, 32) as rows of red, green and blue planes."""
    return OldArray(images.flatten(1).numpy())


def pixels(n: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, 32, 32), generator=generator, dtype=torch.uint8)


def publish(monkeypatch, reader, folder, contents: dict[str, dict]) -> None:
    """Writes the batches, and tells torchvision their MD5 in the place of the real ones."""
    folder.mkdir(parents=True)
    sums = {}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    for attribute in ("train_list", "test_list"):
        files = [[name, sums[name]] for name, _ in getattr(reader, attribute)]
        monkeypatch.setattr(reader, attribute, files)
    meta = reader.meta["filename"]
    monkeypatch.setattr(reader, "meta", {**reader.meta, "md5": sums[meta]})


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    batches = {f"data_batch_{i}": (pixels(2, i), [i % 3, 2]) for i in range(1, 6)}
    batches["test_batch"] = pixels(3, 9), [2, 0, 1]
    contents = {name: {"data": rows(x), "labels": y} for name, (x, y) in batches.items()}
    contents["batches.meta"] = {"label_names": CLASSES}
    publish(monkeypatch, CIFAR10, tmp_path / "cifar-10-batches-py", contents)
    return tmp_path, batches


@pytest.mark.parametrize("within", [False, True])
def test_cifar10_is_read_from_its_folder_or_the_one_above(cifar10, within):
    root, batches = cifar10
    dataset = load_dataset("cifar10", root / "cifar-10-batches-py" if within else root)
    train = [batches[f"data_batch_{i}"] for i in range(1, 6)]
    assert torch.equal(dataset.train.images, torch.cat([images for images, _ in train]))
    assert dataset.train.labels.tolist() == [label for _, labels in train for label in labels]
    assert torch.equal(dataset.test.images, batches["test_batch"][0])
    assert dataset.test.labels.tolist() == [2, 0, 1]
    assert dataset.class_names == tuple(CLASSES)
    assert dataset.test.images.dtype == torch.uint8
    assert dataset.mean == (0.4914, 0.4822, 0.4465)


def test_cifar100_has_its_fine_labels(tmp_path, monkeypatch):
    contents = {
        name: {"data": rows(pixels(2, seed)), "fine_labels": [7, 3], "coarse_labels": [1, 1]}
        for seed, name in enumerate(["train", "test"])
    }
    names = [f"fine {i}" for i in range(100)]
    contents["meta"] = {"fine_label_names": names, "coarse_label_names": ["coarse"] * 20}
    publish(monkeypatch, CIFAR100, tmp_path / "cifar-100-python", contents)
    dataset = load_dataset("cifar100", tmp_path, train=False)
    assert dataset.train is None
    assert dataset.test.labels.tolist() == [7, 3]
    assert dataset.class_names == tuple(names)
    assert torch.equal(dataset.test.images, pixels(2, 1))


def test_a_file_that_is_not_as_published_is_not_unpickled(cifar10, monkeypatch):
    root, _ = cifar10
    path = root / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(path.read_bytes() + b"x")
    monkeypatch.setattr(pickle, "load", lambda *a, **k: pytest.fail("unpickled"))
    with pytest.raises(ValueError, match=r"must .* published files, .* MD5 .* unpack"):
        load_dataset("cifar10", root)


def test_the_error_for_a_missing_folder_gives_a_command_that_can_be_pasted(tmp_path):
    command = rf"from torchvision.datasets import CIFAR10; CIFAR10\('{tmp_path}', download=True\)"
    with pytest.raises(FileNotFoundError, match=command):
        load_dataset("cifar10", tmp_path)
