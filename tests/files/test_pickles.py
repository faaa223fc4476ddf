from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from gift_fast.files.pickles import load_tensors, numpy_scalars


class MakesAFolder:
    """Runs os.mkdir when it is unpickled freely."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrap", [lambda it: it, lambda it: [torch.zeros(2), {"label": it}]])
def test_a_malicious_file_is_named_and_not_run(tmp_path, zipped, wrap):
    path, trace = tmp_path / "data.pt", tmp_path / "trace"
    contents = wrap(MakesAFolder(trace))
    torch.save(contents, path, _use_new_zipfile_serialization=zipped)
    for allowed in ((), numpy_scalars()):
        with pytest.raises(ValueError, match=r"data\.pt .* but it references (posix|nt)\.mkdir"):
            load_tensors(path, allowed)
    assert not trace.exists()

    torch.load(path, weights_only=False)
    assert trace.exists(), "the file is harmless, so nothing was tested"


def test_tensors_and_plain_values_come_back_as_they_were(tmp_path):
    path = tmp_path / "batch_0.tar"
    tensors = [torch.rand(3, 4).half(), torch.tensor([True, False])]
    torch.save([*tensors, None, 0.25, (1, 2), {"dataset": "cifar10"}], path)
    loaded = load_tensors(path)
    assert all(
        torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(tensors, loaded[:2], strict=True)
    )
    assert loaded[2:] == [None, 0.25, (1, 2), {"dataset": "cifar10"}]


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_numpy_scalars_load_whichever_version_of_numpy_wrote_them(tmp_path, module):
    path = tmp_path / "batch_0.tar"
    box = [np.int64(3), np.int32(-4), np.uint8(5), np.float64(0.1), np.float32(2), np.bool_(True)]
    torch.save(box, path, _use_new_zipfile_serialization=False)  # whose pickle is not compressed
    written = path.read_bytes()
    here = next(name for name in (b"numpy._core.", b"numpy.core.") if name in written)
    path.write_bytes(written.replace(here + b"multiarray", module.encode()))
    loaded = load_tensors(path, numpy_scalars())
    assert loaded == box
    assert [type(a) for a in loaded] == [type(b) for b in box]


@pytest.mark.parametrize(
    "value", [np.array([1, 2]), np.array([object()]), np.str_("text"), np.datetime64("2025-01-01")]
)
def test_numpy_values_that_are_no_numbers_are_refused(tmp_path, value):
    path = tmp_path / "batch_0.tar"
    torch.save([value], path)
    with pytest.raises(ValueError, match=r"batch_0\.tar must "):
        load_tensors(path, numpy_scalars())


def test_what_is_allowed_once_is_not_allowed_afterwards(tmp_path):
    path = tmp_path / "batch_0.tar"
    torch.save([np.int64(3)], path)
    load_tensors(path, numpy_scalars())
    with pytest.raises(ValueError, match=r"references numpy\._?core\.multiarray\.scalar"):
        load_tensors(path)


def test_threads_do_not_take_each_others_permissions_away(tmp_path):
    path = tmp_path / "batch_0.tar"
    torch.save([np.int64(3)], path)
    with ThreadPoolExecutor(8) as threads:
        loaded = threads.map(lambda _: load_tensors(path, numpy_scalars()), range(400))
        assert all(batch == [3] for batch in loaded)


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:-50],
        lambda whole: b"",
        lambda whole: b"<html>404 Not Found</html>",
    ],
    ids=["half", "end missing", "empty", "no pickle"],
)
def test_a_damaged_file_is_named(tmp_path, damage):
    path = tmp_path / "images_best.pt"
    torch.save(torch.rand(100), path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"images_best\.pt must be a complete torch\.save file"):
        load_tensors(path)


@pytest.mark.parametrize(
    ("kept", "said"),
    [(0, "it is empty"), (500, r"its end is missing or damaged \(it has 500 bytes\)")],
)
def test_an_incomplete_file_is_told_in_plain_words(tmp_path, kept, said):
    path = tmp_path / "cifar10_convnet3.pth"
    torch.save(torch.rand(100), path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=rf"convnet3\.pth .*{said}: copy or download") as raised:
        load_tensors(path)
    assert "PytorchStreamReader" not in str(raised.value)
    assert "EOFError" not in str(raised.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lr_best\.pt"):
        load_tensors(tmp_path / "lr_best.pt")


def test_nothing_that_is_read_requires_a_gradient(tmp_path):
    images = torch.rand(2, 3, requires_grad=True)
    contents = {
        "images": images,
        "pair": (torch.nn.Parameter(torch.ones(2)), [images * 2]),
        "rate": 0.1,
    }
    torch.save(contents, tmp_path / "data.pt")
    read = load_tensors(tmp_path / "data.pt")
    assert torch.equal(read["images"], images)
    for tensor in (read["images"], read["pair"][0], read["pair"][1][0]):
        assert type(tensor) is torch.Tensor
        assert not tensor.requires_grad
    assert read["rate"] == 0.1


def test_tensors_without_values_are_refused_by_name(tmp_path):
    torch.save([torch.empty(2, device="meta")], tmp_path / "data.pt")
    with pytest.raises(ValueError, match=r"data\.pt must store all elements"):
        load_tensors(tmp_path / "data.pt")
