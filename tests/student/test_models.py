from __future__ import annotations

import pytest
import torch
from torch import nn

from gift_fast.student.models import ConvNet, build_model


@pytest.mark.parametrize(
    ("depth", "side", "num_classes", "count"),
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
def test_a_convnet_has_the_published_number_of_parameters(depth, side, num_classes, count, norm):
    model = ConvNet(depth, 3, side, num_classes, norm=norm)
    assert sum(p.numel() for p in model.parameters()) == count


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


@pytest.mark.parametrize(
    ("spec", "side", "message"),
    [
        ("convnet3:norm=layer", 8, "norm must be one of batch, group, instance, got 'layer'"),
        ("convnet3:width=6,norm=group", 8, "width must be a multiple of 4, got 6"),
        ("convnet3:width=0", 8, "width must be at least 1, got 0"),
        ("convnet4", 8, "side must be at least 16 pixels for ConvNet-4, got 8"),
    ],
)
def test_a_network_that_cannot_be_is_refused(spec, side, message):
    with pytest.raises(ValueError, match=message):
        build_model(spec, channels=1, side=side, num_classes=10, seed=0)
