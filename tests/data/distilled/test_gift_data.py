from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gift_fast.data.distilled import read_distilled

SOFT = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3], [0.0, 0.1, 0.9], [0.2, 0.6, 0.2]])
HARD = torch.tensor([1, 0, 2, 1])


def write_gift(folder, **contents):
    """As the GIFT authors' loader expects it."""
    images = torch.rand(4, 3, 8, 8)
    whole = {"dataset": "animals", "data": images, "label": HARD, **contents}
    torch.save(
        {key: value for key, value in whole.items() if value is not None}, folder / "data.pt"
    )
    return images


@pytest.mark.parametrize("label", [HARD, HARD[:, None], HARD.int(), HARD[:, None].float()])
def test_hard_labels_are_taken_as_rows_or_as_a_column(tmp_path, animals, label):
    images = write_gift(tmp_path, label=label)
    distilled = read_distilled("gift", tmp_path, animals)
    assert torch.equal(distilled.images, images)
    assert torch.equal(distilled.labels, HARD)
    assert distilled.soft_labels is None
    assert not distilled.whitened


def test_soft_labels_give_the_hard_ones_and_it_is_said(tmp_path, animals):
    write_gift(tmp_path, label=SOFT)
    distilled = read_distilled("gift", tmp_path, animals)
    assert torch.equal(distilled.soft_labels, SOFT)
    assert torch.equal(distilled.labels, HARD)
    assert "hard labels from the largest soft label" in distilled.source


def gradient(images):
    return images.clone().requires_grad_()


@pytest.mark.parametrize(
    "store",
    [
        gradient,
        torch.nn.Parameter,
        lambda images: images.transpose(2, 3).contiguous().transpose(2, 3),
        lambda images: images.to(memory_format=torch.channels_last),
        torch.Tensor.double,
        torch.Tensor.half,
        torch.Tensor.bfloat16,
    ],
    ids=["gradient", "parameter", "strided", "channels last", "double", "half", "bfloat16"],
)
@pytest.mark.parametrize("label", [HARD, SOFT])
def test_images_are_read_however_they_were_stored(tmp_path, animals, store, label):
    images = (torch.rand(4, 3, 8, 8) * 256).floor() / 256  # which bfloat16 holds
    soft = label.is_floating_point()
    write_gift(tmp_path, data=store(images), label=gradient(label) if soft else label)
    distilled = read_distilled("gift", tmp_path, animals)
    assert torch.equal(distilled.images, images)
    assert distilled.images.dtype == torch.float32
    tensors = (distilled.images, distilled.labels, distilled.soft_labels)
    assert not any(tensor is not None and tensor.requires_grad for tensor in tensors)
    assert distilled.fingerprint() == replace(distilled, images=images).fingerprint()


@pytest.mark.parametrize("name", ["gift", "auto"])
def test_the_file_may_have_any_name_when_it_is_given_itself(tmp_path, animals, name):
    write_gift(tmp_path)
    file = (tmp_path / "data.pt").rename(tmp_path / "ipc10.pt")
    distilled = read_distilled(name, file, animals)
    assert len(distilled) == 4
    assert "made for animals" in distilled.source


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (
            {"label": None},
            r"data\.pt must .* keys \['data', 'dataset', 'label'\], got \['data', ",
        ),
        ({"extra": 1}, r"data\.pt must .* a dictionary with the keys .*, got .*'extra'"),
        ({"data": torch.rand(4, 8, 8)}, r"data must be float .*, got float32 \(4, 8, 8\)"),
        (
            {"data": torch.zeros(4, 3, 8, 8).byte()},
            r"data must be float images .* in \[0, 1\], got uint8 .*; divide uint8 images by 255",
        ),
        ({"label": SOFT > 0.5}, r"soft_labels must be floating-point \(4, 3\), .* torch.bool"),
        ({"data": 2 * torch.rand(4, 3, 8, 8) - 1}, r"images must be in \[0, 1\], got -"),
        ({"data": 255 * torch.rand(4, 3, 8, 8)}, r"images must be in \[0, 1\].* divided by 255"),
        ({"data": torch.rand(4, 8, 8, 3)}, r"got \(4, 8, 8, 3\).*permute\(0, 3, 1, 2\)"),
        ({"data": torch.rand(4, 3, 8, 6)}, r"images must be \(N, C, S, S\), .*got \(4, 3, 8, 6\)"),
        (
            {"label": torch.rand(4, 5)},
            r"label must be \(4,\), \(4, 1\) or \(4, 3\), .*got float32 \(4, 5\)",
        ),
        ({"label": HARD[:3]}, r"label must be \(4,\), \(4, 1\) or \(4, 3\), .*got int64 \(3,\)"),
        ({"label": HARD + 1}, r"labels must be int64 from 0 to 2, the classes of animals, .* to 3"),
        ({"label": HARD + 0.5}, r"label must be whole numbers"),
        ({"label": SOFT.double() / 0}, r"soft_labels must be finite"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, animals, contents, message):
    write_gift(tmp_path, **contents)
    with pytest.raises(ValueError, match=message) as raised:
        read_distilled("gift", tmp_path, animals)
    assert str(raised.value).startswith(f"{tmp_path} must be readable as gift: ")


def test_keys_that_are_no_texts_are_named(tmp_path, animals):
    torch.save({"data": 1, 3: 1}, tmp_path / "data.pt")
    with pytest.raises(ValueError, match=r"must .* a dictionary .*, got \['3', 'data'\]"):
        read_distilled("gift", tmp_path, animals)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")  # torch's, on reading one
@pytest.mark.parametrize("key", ["data", "label"])
def test_sparse_tensors_are_refused_with_what_to_do(tmp_path, animals, key):
    dense = {"data": torch.rand(4, 3, 8, 8), "label": SOFT}
    write_gift(tmp_path, **{key: dense[key].to_sparse()})
    message = rf"{key} must be dense, got float32 .* sparse_coo;.* {key}\.to_dense\(\)"
    with pytest.raises(ValueError, match=message):
        read_distilled("gift", tmp_path, animals)
