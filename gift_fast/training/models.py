"""The networks that are trained as students and teachers.

A new network is one class or function and one line in ``MODELS``; it is called with the number of
channels, the side of the square images in pixels and the number of classes. A user-defined network
is such a class or function, named by its import path. torchvision and timm are only imported when
they are used.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from gift_fast.data.datasets import ImageDataset
from gift_fast.files import spec
from gift_fast.files.checks import check_choice
from gift_fast.training.seeds import seed_for

GROUPS = 4
"""Groups of ``norm="group"``, as in the ConvNet of dataset condensation (Zhao and Bilen, 2021)."""

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": lambda width: nn.GroupNorm(GROUPS, width),
    "instance": lambda width: nn.GroupNorm(width, width),
}


class ConvNet(nn.Module):
    """ConvNet-d: d blocks of 3x3 convolution, norm, ReLU and 2x2 average pool, then a linear layer.

    The network of Gidaris and Komodakis (CVPR 2018), a standard student in dataset distillation.
    The keys of its state dict are those of RDED's checkpoints: ``layers.conv.{d}.weight``,
    ``layers.norm.{d}.weight``, ``classifier.weight``.

    Args:
        depth: number of blocks d; every block halves the side.
        channels: channels of the images.
        side: side of the square images, in pixels, at least ``2**depth``.
        num_classes: number of logits.
        width: channels of every block.
        norm: ``batch``, ``instance`` (one group per channel) or ``group`` (4 groups).

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
        check_choice("norm", norm, NORMS)
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
        """Map images (N, channels, side, side) to logits (N, num_classes)."""
        convs, norms = self.layers["conv"].children(), self.layers["norm"].children()
        for conv, norm in zip(convs, norms, strict=True):
            images = self.pool(norm(conv(images)).relu())
        logits: Tensor = self.classifier(images.flatten(1))
        return logits


# ---- torchvision ---------------------------------------------------------------------------------

RGB = 3
VIT_PATCH = 16

TORCHVISION = (
    "efficientnet_b0",
    "mobilenet_v2",
    "resnet18",
    "resnet50",
    "resnet101",
    "swin_v2_t",
)
"""Networks for images of nearly any size."""

RESNETS = ("resnet18", "resnet50", "resnet101")
"""Networks with a ``_modified`` variant."""


def from_torchvision(
    name: str, channels: int, side: int, num_classes: int, **arguments: int
) -> nn.Module:
    """A network of ``torchvision.models`` without pretrained weights.

    If the images do not have three channels, the first convolution is replaced by one for their
    channels, with PyTorch's default initialization.

    Args:
        name: its name in torchvision.
        channels: channels of the images.
        side: side of the square images, in pixels; these networks do not depend on it.
        num_classes: number of logits.
        arguments: further arguments of the network.

    Raises:
        ImportError: torchvision is not installed.
    """
    models = library("torchvision.models", name, "pip install 'gift-fast[student]'")
    network: nn.Module = models.get_model(name, num_classes=num_classes, **arguments)
    if channels != RGB:
        path, stem = next((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d))
        network.set_submodule(
            path,
            nn.Conv2d(
                channels,
                stem.out_channels,
                kernel_size=stem.kernel_size,  # type: ignore[arg-type]
                stride=stem.stride,  # type: ignore[arg-type]
                padding=stem.padding,  # type: ignore[arg-type]
                bias=stem.bias is not None,
            ),
        )
    return network


def modified_resnet(name: str, channels: int, side: int, num_classes: int) -> nn.Module:
    """A ResNet of torchvision with a stem for small images, as in the code of RDED.

    The first convolution is 3x3 with stride 1 and PyTorch's default initialization, and there is no
    max-pool. The keys of the state dict are torchvision's.
    """
    network = from_torchvision(name, RGB, side, num_classes)
    network.conv1 = nn.Conv2d(channels, 64, kernel_size=3, stride=1, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


def vit_b_16(channels: int, side: int, num_classes: int) -> nn.Module:
    """ViT-B/16 of torchvision, with position embeddings for images of this size.

    Raises:
        ValueError: the side is not a multiple of the patch size, 16 pixels.
    """
    if side % VIT_PATCH:
        raise ValueError(f"side must be a multiple of {VIT_PATCH} for vit_b_16, got {side}")
    return from_torchvision("vit_b_16", channels, side, num_classes, image_size=side)


def library(module: str, model: str, command: str) -> ModuleType:
    """Import the library of a model, or raise ImportError with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(f"model {model!r} requires {package}: {command}") from error


# ---- timm ----------------------------------------------------------------------------------------


def from_timm(channels: int, side: int, num_classes: int, *, name: str = "") -> nn.Module:
    """A network of timm without pretrained weights: ``timm:name=vit_tiny_patch16_224``.

    Args:
        channels: channels of the images.
        side: side of the square images, in pixels; passed to networks with a fixed input size.
        num_classes: number of logits.
        name: its name in timm.

    Raises:
        ImportError: timm is not installed.
        ValueError: timm has no such network.
    """
    timm = library("timm", "timm", "pip install timm")
    if not timm.is_model(name):
        raise ValueError(
            "model 'timm': name must be one of timm.list_models(), such as vit_tiny_patch16_224, "
            f"got {name!r}"
        )
    has_fixed_size = timm.models.get_pretrained_cfg_value(name, "fixed_input_size")
    size = {"img_size": side} if has_fixed_size else {}
    network: nn.Module = timm.create_model(name, in_chans=channels, num_classes=num_classes, **size)
    return network


MODELS: dict[str, Callable[..., nn.Module]] = {
    **{f"convnet{depth}": partial(ConvNet, depth) for depth in (3, 4, 5, 6)},
    **{name: partial(from_torchvision, name) for name in TORCHVISION},
    **{f"{name}_modified": partial(modified_resnet, name) for name in RESNETS},
    "vit_b_16": vit_b_16,
    "timm": from_timm,
}


def build_model(model: str, *, channels: int, side: int, num_classes: int, seed: int) -> nn.Module:
    """Build the network that a specification names, initialized from ``seed`` on the CPU.

    PyTorch's layers draw their weights from the global generator, whose state is restored. A
    user-defined network is checked with one black image.

    Args:
        model: a name in ``MODELS`` with options, or the import path of a class or function that is
            called with channels, side and num_classes.
        channels: channels of the images.
        side: side of the square images, in pixels.
        num_classes: number of logits.
        seed: of the initialization.

    Raises:
        ImportError: the network's library is not installed.
        TypeError: the specification is not a string.
        ValueError: an unknown network or option, a value out of range, or a user-defined network
            that does not return one logit per class.

    Example:
        >>> model = build_model("convnet3:width=32", channels=1, side=8, num_classes=10, seed=0)
        >>> sum(p.numel() for p in model.parameters())
        19338
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = spec.build("model", model, MODELS, channels, side, num_classes)
        if spec.split_spec(model)[0] not in MODELS:
            black = torch.zeros(1, channels, side, side)
            with torch.no_grad():
                logits_of(f"model {model!r}", network.eval(), black, num_classes)
            network.train()
    return network


def logits_of(
    name: str, network: Callable[[Tensor], Any], images: Tensor, num_classes: int
) -> Tensor:
    """Run a network on a batch of images and check its output, (B, C).

    Raises:
        ValueError: the output is something else; the message starts with ``name``.
    """
    logits = network(images)
    expected = (len(images), num_classes)
    if not isinstance(logits, Tensor) or logits.shape != expected:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"{name} must return logits of shape {expected}, got {got}")
    return logits


def new_model(model: str, dataset: ImageDataset, seed: int) -> nn.Module:
    """Build a network for the images and classes of a dataset, with initial weights."""
    return build_model(
        model,
        channels=dataset.channels,
        side=dataset.side,
        num_classes=dataset.num_classes,
        seed=seed_for(seed, "initialisation"),  # spelled as in version 0.1, whose bits it keeps
    )
