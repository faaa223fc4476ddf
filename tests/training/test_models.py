from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import nn

from gift_fast.training.models import MODELS, ConvNet, build_model

torchvision = pytest.importorskip("torchvision")

TORCHVISION = {
    "resnet18": torchvision.models.ResNet18_Weights.IMAGENET1K_V1,
    "resnet50": torchvision.models.ResNet50_Weights.IMAGENET1K_V1,
    "resnet101": torchvision.models.ResNet101_Weights.IMAGENET1K_V1,
    "efficientnet_b0": torchvision.models.EfficientNet_B0_Weights.IMAGENET1K_V1,
    "mobilenet_v2": torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1,
    "swin_v2_t": torchvision.models.Swin_V2_T_Weights.IMAGENET1K_V1,
    "vit_b_16": torchvision.models.ViT_B_16_Weights.IMAGENET1K_V1,
}
"""torchvision's record of what it trained on ImageNet-1K, the number of parameters included."""

MODIFIED = {"resnet18_modified": 512, "resnet50_modified": 2048, "resnet101_modified": 2048}
"""With the features that the last layer sees."""


def build(model: str, *, channels: int = 3, side: int = 32, num_classes: int = 10) -> nn.Module:
    return build_model(model, channels=channels, side=side, num_classes=num_classes, seed=0)


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def without_weights(model: str, **kwargs: int) -> nn.Module:
    """The network on the meta device: shapes without numbers, in no time."""
    with torch.device("meta"):
        return build(model, **kwargs)


@pytest.mark.parametrize(
    ("depth", "side", "num_classes", "parameters"),
    [
        (3, 32, 10, 320_010),
        (3, 32, 100, 504_420),
        (4, 64, 200, 857_160),
        (4, 64, 1000, 2_496_360),
        (5, 128, 10, 615_690),
        (6, 128, 100, 794_340),
    ],
)
@pytest.mark.parametrize("norm", ["batch", "instance", "group"])
def test_a_convnet_has_the_published_number_of_parameters(
    depth, side, num_classes, parameters, norm
):
    model = f"convnet{depth}:norm={norm}"
    assert count(without_weights(model, side=side, num_classes=num_classes)) == parameters


def test_the_keys_are_those_of_rdeds_checkpoints():
    keys = set(ConvNet(3, 1, 8, 10, width=8).state_dict())
    layers = {f"layers.conv.{d}.{p}" for d in range(3) for p in ("weight", "bias")}
    norms = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    layers |= {f"layers.norm.{d}.{p}" for d in range(3) for p in norms}
    assert keys == layers | {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("norm", ["batch", "instance", "group"])
def test_the_forward_pass_is_the_published_one(norm):
    model = ConvNet(2, 1, 8, 5, width=8, norm=norm).eval()
    images = torch.randn(3, 1, 8, 8)
    x = images
    for d in range(2):
        x = nn.functional.conv2d(
            x,
            model.layers["conv"][d].weight,
            model.layers["conv"][d].bias,
            padding=1,
        )
        x = nn.functional.avg_pool2d(model.layers["norm"][d](x).relu(), 2)
    assert torch.equal(model(images), model.classifier(x.flatten(1)))


@pytest.mark.parametrize(("norm", "groups"), [("instance", 8), ("group", 4)])
def test_a_norm_has_the_stated_number_of_groups(norm, groups):
    assert ConvNet(1, 1, 8, 5, width=8, norm=norm).layers["norm"][0].num_groups == groups


def test_the_seed_alone_sets_the_weights():
    def weights(seed: int) -> torch.Tensor:
        model = build_model("convnet3:width=8", channels=1, side=8, num_classes=10, seed=seed)
        return torch.cat([p.flatten() for p in model.parameters()])

    first = weights(0)
    torch.manual_seed(123)
    assert torch.equal(weights(0), first)
    assert not torch.equal(weights(1), first)


def test_building_a_model_leaves_the_global_generator_alone():
    state = torch.random.get_rng_state()
    build_model("convnet3:width=8", channels=1, side=8, num_classes=10, seed=0)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("model", TORCHVISION)
def test_a_network_of_torchvision_has_the_number_of_parameters_that_torchvision_records(model):
    built = without_weights(model, side=224, num_classes=1000)
    assert count(built) == TORCHVISION[model].meta["num_params"]


@pytest.mark.parametrize(("num_classes", "parameters"), [(100, 11_220_132), (200, 11_271_432)])
def test_a_modified_resnet18_has_the_published_number_of_parameters(num_classes, parameters):
    assert count(without_weights("resnet18_modified", num_classes=num_classes)) == parameters


@pytest.mark.parametrize(("model", "features"), MODIFIED.items())
def test_a_modified_resnet_keeps_the_resolution_and_torchvisions_keys(model, features):
    built = without_weights(model)
    plain = without_weights(model.removesuffix("_modified"))
    images = torch.zeros(1, 3, 32, 32, device="meta")
    assert built.maxpool(built.conv1(images)).shape == (1, 64, 32, 32)
    assert built.conv1.bias is None
    assert built.fc.in_features == features
    differing = {k for k, v in built.state_dict().items() if v.shape != plain.state_dict()[k].shape}
    assert list(built.state_dict()) == list(plain.state_dict())
    assert differing == {"conv1.weight"}


@pytest.mark.parametrize("model", ["resnet18", "mobilenet_v2"])
def test_a_network_of_torchvision_is_what_torchvision_builds_from_the_seed(model):
    built = build(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = torchvision.models.get_model(model, num_classes=10)
    expected = theirs.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in built.state_dict().items())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("model", [name for name in MODELS if name != "timm"])
def test_every_network_takes_small_images_of_any_number_of_channels(model, channels):
    side = 64 if model in ("convnet5", "convnet6") else 32
    built = without_weights(model, channels=channels, side=side, num_classes=7).eval()
    assert built(torch.zeros(2, channels, side, side, device="meta")).shape == (2, 7)


@pytest.mark.parametrize("model", TORCHVISION)
def test_a_stem_for_grey_images_differs_in_its_inputs_alone(model):
    gray, rgb = (
        next(
            (name, m)
            for name, m in without_weights(model, channels=channels).named_modules()
            if isinstance(m, nn.Conv2d)
        )
        for channels in (1, 3)
    )
    assert gray[0] == rgb[0]
    assert str(gray[1]) == str(rgb[1]).replace("Conv2d(3,", "Conv2d(1,")


def test_a_vision_transformer_has_a_position_for_every_patch_and_the_class():
    built = without_weights("vit_b_16", side=64)
    assert built.encoder.pos_embedding.shape == (1, 4 * 4 + 1, 768)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet18"])
def test_a_network_of_timm_is_made_for_the_images(name):
    pytest.importorskip("timm")
    built = without_weights(f"timm:name={name}", channels=1, num_classes=7).eval()
    assert built(torch.zeros(2, 1, 32, 32, device="meta")).shape == (2, 7)


@pytest.mark.parametrize("name", ["nothing_like_it", ""])
def test_a_name_that_timm_does_not_know_is_refused(name):
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match=rf"one of timm.list_models\(\), .*, got '{name}'"):
        build(f"timm:name={name}")


@pytest.mark.parametrize(
    ("model", "package", "command"),
    [
        ("resnet18", "torchvision", r"pip install 'gift-fast\[student\]'"),
        ("timm:name=resnet18", "timm", "pip install timm"),
    ],
)
def test_a_missing_library_is_an_error_with_the_command_that_installs_it(
    model, package, command, monkeypatch
):
    monkeypatch.setitem(sys.modules, package, None)  # what import sees of a package that is absent
    monkeypatch.delitem(sys.modules, f"{package}.models", raising=False)
    with pytest.raises(ImportError, match=f"{package}: {command}"):
        build(model)


@pytest.mark.parametrize(
    ("network", "got"),
    [
        (lambda *sizes: nn.Sequential(nn.Flatten(), nn.Linear(64, 7)), r"got \(1, 7\)"),
        (lambda *sizes: nn.Conv2d(1, 10, 8), r"got \(1, 10, 1, 1\)"),
        (lambda *sizes: nn.MaxPool2d(8, return_indices=True), "got tuple"),
    ],
    ids=["classes", "shape", "tuple"],
)
def test_a_network_of_ones_own_must_give_a_logit_for_every_class(monkeypatch, network, got):
    module = types.ModuleType("networks_of_my_own")
    module.network = network
    monkeypatch.setitem(sys.modules, "networks_of_my_own", module)
    message = r"model 'networks_of_my_own.network' must .* logits of shape \(1, 10\), "
    with pytest.raises(ValueError, match=message + got):
        build("networks_of_my_own.network", channels=1, side=8)


def test_a_network_of_ones_own_is_built_from_its_import_path(monkeypatch):
    class Linear(nn.Sequential):
        def __init__(self, channels, side, num_classes, *, bias: bool = True):
            inputs = channels * side * side
            super().__init__(nn.Flatten(), nn.Linear(inputs, num_classes, bias=bias))

    module = types.ModuleType("networks_of_my_own")
    module.Linear = Linear
    monkeypatch.setitem(sys.modules, module.__name__, module)
    built = build("networks_of_my_own.Linear:bias=false", channels=1, side=8)
    assert count(built) == 640


@pytest.mark.parametrize(
    ("spec", "side", "message"),
    [
        ("convnet3:norm=layer", 8, "norm must be one of batch, group, instance, got 'layer'"),
        ("convnet3:width=6,norm=group", 8, "width must be a multiple of 4, got 6"),
        ("convnet3:width=0", 8, "width must be at least 1, got 0"),
        ("convnet4", 8, "side must be at least 16 pixels for ConvNet-4, got 8"),
        ("vit_b_16", 40, "side must be a multiple of 16 for vit_b_16, got 40"),
    ],
)
def test_a_network_that_cannot_be_is_refused(spec, side, message):
    with pytest.raises(ValueError, match=message):
        build_model(spec, channels=1, side=side, num_classes=10, seed=0)
