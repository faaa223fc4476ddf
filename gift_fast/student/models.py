"""The networks that are trained as students and teachers.

A new network is one class or function and one line in ``MODELS``; it is called with the number of
channels, the side of the square images in pixels and the number of classes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from gift_fast.student import spec

GROUPS = 4
"""Groups of ``norm="group"``, as in the ConvNet of dataset condensation (Zhao and Bilen, 2021)."""

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": lambda width: nn.GroupNorm(GROUPS, width),
    "instance": lambda width: nn.GroupNorm(width, width),
}


class ConvNet(nn.Module):
    """ConvNet-d: d blocks of 3x3 convolution, norm, ReLU and 2x2 average pool, then a linear layer.

    The network of Gidaris and Komodakis (CVPR 2018) that dataset distillation is measured with. The
    keys of its state dict are those of RDED's checkpoints: ``layers.conv.{d}.weight``,
    ``layers.norm.{d}.weight``, ``classifier.weight``.

    Args:
        depth: number of blocks d; every block halves the side.
        channels: channels of the images.
        side: side of the square images, in pixels, at least ``2**depth``.
        num_classes: number of logits.
        width: channels of every block.
        norm: ``batch``, ``instance`` (one group a channel) or ``group`` (4 groups).

    Raises:
        ValueError: an unknown norm, or images too small for the depth.

    Example:
        >>> model = ConvNet(3, 3, 32, 10)
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
        >>> sum(p.numel() for p in model.parameters())
        320010
    """

    def __init__(
        self,
        depth: int,
        channels: int,
        side: int,
        num_classes: int,
        *,
        width: int = 128,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
        if width < 1 or (norm == "group" and width % GROUPS):
            expected = f"a multiple of {GROUPS}" if norm == "group" else "at least 1"
            raise ValueError(f"width must be {expected}, got {width}")
        if side < 2**depth:
            raise ValueError(
                f"side must be at least {2**depth} pixels for ConvNet-{depth}, got {side}"
            )
        inputs = [channels] + [width] * (depth - 1)
        self.layers = nn.ModuleDict(
            {
                "conv": nn.ModuleList(nn.Conv2d(n, width, 3, padding=1) for n in inputs),
                "norm": nn.ModuleList(NORMS[norm](width) for _ in inputs),
            }
        )
        self.pool = nn.AvgPool2d(2)
        self.classifier = nn.Linear(width * (side // 2**depth) ** 2, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, channels, side, side) to logits (N, num_classes)."""
        convs, norms = self.layers["conv"].children(), self.layers["norm"].children()
        for conv, norm in zip(convs, norms, strict=True):
            images = self.pool(norm(conv(images)).relu())
        logits: Tensor = self.classifier(images.flatten(1))
        return logits


MODELS: dict[str, Callable[..., nn.Module]] = {
    "convnet3": partial(ConvNet, 3),
    "convnet4": partial(ConvNet, 4),
    "convnet5": partial(ConvNet, 5),
    "convnet6": partial(ConvNet, 6),
}


def build_model(model: str, *, channels: int, side: int, num_classes: int, seed: int) -> nn.Module:
    """The network that a specification names, initialised from ``seed`` on the CPU.

    PyTorch's layers draw their weights from the global generator; its state is put back after.

    Example:
        >>> model = build_model("convnet3:width=32", channels=1, side=8, num_classes=10, seed=0)
        >>> sum(p.numel() for p in model.parameters())
        19338
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return spec.build("model", model, MODELS, channels, side, num_classes)
