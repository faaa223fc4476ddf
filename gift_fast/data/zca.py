"""ZCA whitening, which DATM applies to distilled images and test images.

This is kornia's ``ZCAWhitening(eps=0.1)``, fitted on the training images in [0, 1], as in the code
of DATM (Guo et al., ICLR 2024), which is based on MTT's. It maps every image x, flattened to D
numbers, to (x - mean) W with W = U (S + 0.1)^(-1/2) U^T, where U S U^T is the covariance of the
training images.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gift_fast.data.images.splits import Split
from gift_fast.files.atomic import replacing
from gift_fast.files.fingerprint import fingerprint
from gift_fast.files.pickles import load_tensors

logger = logging.getLogger(__name__)

EPSILON = 0.1
"""Added to every variance, so that directions with little variance are not amplified."""

IMAGES_AT_ONCE = 1000


@dataclass(frozen=True)
class ZCA:
    """A fitted whitening.

    Attributes:
        mean: (1, D) float32, of the flattened training images.
        matrix: (D, D) float32, symmetric.

    Example:
        >>> zca = ZCA(mean=torch.zeros(1, 12), matrix=2 * torch.eye(12))
        >>> zca(torch.ones(5, 3, 2, 2)).unique()
        tensor([2.])
    """

    mean: Tensor
    matrix: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """Whiten images (N, C, H, W) in [0, 1], in float32 even under autocast.

        Raises:
            ValueError: the images do not have the size of those that the whitening was fitted on.
        """
        flat = images.flatten(1)
        if flat.shape[1] != len(self.matrix):
            raise ValueError(
                f"images must have {len(self.matrix)} values per image, like the training images "
                f"of the whitening, got shape {tuple(images.shape)}"
            )
        with torch.autocast(images.device.type, enabled=False):
            return ((flat.float() - self.mean) @ self.matrix).view(images.shape)

    def to(self, device: torch.device | str) -> ZCA:
        """The same whitening for images on ``device``."""
        return ZCA(self.mean.to(device), self.matrix.to(device))

    def fingerprint(self) -> str:
        """A digest of the whitening."""
        return fingerprint([self.mean, self.matrix])


def fit_zca(split: Split, cache: Path | None = None) -> ZCA:
    """Fit the whitening on a training split, or read it from the cache.

    Fitting needs memory for three times the images in float32 (1.8 GB for CIFAR, measured) and a
    singular value decomposition of a D x D matrix, so the result is stored in ``cache``.

    Args:
        split: the training images; the whitening is fitted on the split's device.
        cache: the folder of cache files, keyed by the split's fingerprint. None disables it. A
            damaged file is replaced, with a warning.

    Returns:
        The whitening, on the CPU.

    Raises:
        ImportError: the whitening is not in the cache, and kornia is not installed.
        OSError: the folder cannot be written to.
    """
    path = None if cache is None else cache / f"zca-{split.fingerprint()}.pt"
    if path is not None and path.exists():
        try:
            return read_zca(path, split)
        except ValueError as error:
            logger.warning("fitting the whitening again: %s", error)

    from kornia.enhance import ZCAWhitening

    whitening = ZCAWhitening(eps=EPSILON).fit(all_images(split))
    zca = ZCA(whitening.mean_vector, whitening.transform_matrix).to("cpu")
    if path is not None:
        with replacing(path) as temporary:
            torch.save({"mean": zca.mean, "matrix": zca.matrix}, temporary)
    return zca


def read_zca(path: Path, split: Split) -> ZCA:
    """The whitening in a cache file.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is damaged, or is not a whitening for images of ``split``.
    """
    contents = load_tensors(path)
    size = math.prod(split.shape)
    shapes = {"mean": (1, size), "matrix": (size, size)}
    if not isinstance(contents, dict) or contents.keys() != shapes.keys():
        raise ValueError(f"{path} must contain {' and '.join(shapes)}")
    for name, shape in shapes.items():
        tensor = contents[name]
        if not isinstance(tensor, Tensor) or tensor.shape != shape or not tensor.isfinite().all():
            raise ValueError(f"{path}: {name} must be finite numbers of shape {shape}")
    return ZCA(**contents)


def all_images(split: Split) -> Tensor:
    """All images of a split, float32 (N, C, H, W) in [0, 1], without a second copy of them."""
    every = torch.arange(len(split)).split(IMAGES_AT_ONCE)
    images: Tensor | None = None
    for index, (batch, _) in zip(every, split.batches(every), strict=True):
        if images is None:
            images = batch.new_empty(len(split), *split.shape)
        images[index.to(batch.device)] = batch
    assert images is not None  # a split has at least one image
    return images
