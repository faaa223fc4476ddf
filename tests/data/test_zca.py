from __future__ import annotations

import re

import pytest
import torch

from gift_fast.data.datasets import TensorSplit
from gift_fast.data.zca import EPSILON, fit_zca


@pytest.fixture
def split() -> TensorSplit:
    """Images whose neighboring pixels are alike, and of which two values never change."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(200, 3, 4, 4, generator=generator).cumsum(3) / 4
    images[:, :, 0, 0] = 0.25
    return TensorSplit(images, torch.zeros(200, dtype=torch.int64))


def whitened_by_definition(images: torch.Tensor, train: torch.Tensor) -> torch.Tensor:
    """(x - mean) U (S + eps)^(-1/2) U^T from the eigenvectors of the covariance, in float64."""
    flat = train.double().flatten(1)
    values, vectors = torch.linalg.eigh(torch.cov(flat.T, correction=1))
    matrix = vectors @ torch.diag((values + 0.1) ** -0.5) @ vectors.T
    return ((images.double().flatten(1) - flat.mean(0)) @ matrix).view(images.shape)


def test_whitening_is_that_of_the_eigenvectors_in_float64(split):
    images = torch.rand(7, 3, 4, 4)
    expected = whitened_by_definition(images, split.images)
    result = fit_zca(split)(images)
    assert EPSILON == 0.1
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), expected, atol=1e-5, rtol=1e-5)


def test_bytes_are_taken_to_the_unit_range_before_the_fit(split):
    integers = TensorSplit((split.images * 255).to(torch.uint8), split.labels)
    expected = whitened_by_definition(split.images, integers.images / 255)
    torch.testing.assert_close(
        fit_zca(integers)(split.images).double(), expected, atol=1e-5, rtol=1e-5
    )


def test_the_images_are_read_in_parts(split, monkeypatch):
    whole = fit_zca(split)
    monkeypatch.setattr("gift_fast.data.zca.IMAGES_AT_ONCE", 64)
    torch.testing.assert_close(fit_zca(split).matrix, whole.matrix, atol=1e-6, rtol=0)


def test_a_second_call_reads_the_cache_and_not_the_images(split, tmp_path, monkeypatch):
    first = fit_zca(split, tmp_path)
    monkeypatch.setattr(TensorSplit, "batches", lambda *a: pytest.fail("read again"))
    again = fit_zca(split, tmp_path)
    assert torch.equal(again.mean, first.mean)
    assert torch.equal(again.matrix, first.matrix)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda file, zca: file.write_bytes(file.read_bytes()[:200]), "must be a complete"),
        (lambda file, zca: torch.save([zca.mean], file), r"must .* mean and matrix"),
        (lambda file, zca: torch.save({"mean": zca.mean, "matrix": 1}, file), "matrix must be"),
        (
            lambda file, zca: torch.save({"mean": zca.mean / 0, "matrix": zca.matrix}, file),
            r"mean must be finite numbers of shape \(1, 48\)",
        ),
    ],
    ids=["truncated", "list", "number", "infinite"],
)
def test_a_damaged_cache_is_fitted_anew_and_replaced(split, tmp_path, caplog, damage, reason):
    first = fit_zca(split, tmp_path)
    (file,) = tmp_path.iterdir()
    damage(file, first)
    again = fit_zca(split, tmp_path)
    assert torch.equal(again.matrix, first.matrix)
    (warning,) = caplog.messages
    assert str(file) in warning
    assert re.search(reason, warning)
    fit_zca(split, tmp_path)
    assert len(caplog.messages) == 1, "the file was not replaced"


def test_other_images_are_fitted_anew(split, tmp_path):
    first = fit_zca(split, tmp_path)
    other = fit_zca(split.subset(torch.arange(100)), tmp_path)
    assert not torch.equal(other.matrix, first.matrix)
    assert len(list(tmp_path.iterdir())) == 2


def test_autocast_does_not_round_the_whitening(split):
    zca = fit_zca(split)
    images = split.images[:5]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = zca(images)
    assert torch.equal(under, zca(images))


def test_images_of_another_size_are_refused(split):
    with pytest.raises(
        ValueError, match=r"images must have 48 values per image, .* \(2, 3, 5, 5\)"
    ):
        fit_zca(split)(torch.zeros(2, 3, 5, 5))
