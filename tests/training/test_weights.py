from __future__ import annotations

import argparse
import types

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from gift_fast.training.models import ConvNet
from gift_fast.training.weights import checkpoint_name, load_weights, save_weights

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def convnet(norm: str = "batch", num_classes: int = 10) -> ConvNet:
    """A ConvNet-2 with weights and running statistics of its own."""
    model = ConvNet(2, 3, 8, num_classes, width=8, norm=norm)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
    return model.eval()


class OriginalConvNet(nn.Module):
    """ConvNet-2 in the layout of dataset condensation: one sequence, then the classifier."""

    def __init__(self, norm: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in (3, 8):
            layers.append(nn.Conv2d(inputs, 8, kernel_size=3, padding=1))
            layers.append(nn.BatchNorm2d(8) if norm == "batch" else nn.GroupNorm(8, 8))
            layers.append(nn.ReLU(inplace=True))
            layers.append(nn.AvgPool2d(kernel_size=2, stride=2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(8 * 2 * 2, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(images).flatten(1))


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict().values(), b.state_dict().values()
    return all(torch.equal(x, y) for x, y in zip(ours, theirs, strict=True))


def test_what_is_saved_is_loaded_with_what_is_known_about_it(tmp_path):
    model, other = convnet(), convnet()
    path = tmp_path / checkpoint_name("cifar10", "convnet2")
    record = {"dataset": "cifar10", "top1": 97.5, "epochs": 3, "checks": [[1, 50.0]], "note": None}
    save_weights(path, model, **record)
    assert load_weights(path, other) == record
    assert same_weights(other, model)


def test_a_saved_file_is_what_rdeds_code_reads(tmp_path):
    model = convnet()
    save_weights(tmp_path / "teacher.pth", model, top1=97.5)
    contents = torch.load(tmp_path / "teacher.pth", weights_only=True)
    assert list(contents["model"]) == list(model.state_dict())
    convnet().load_state_dict(contents["model"])


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_the_original_convnets_weights_give_the_same_logits(tmp_path, norm):
    original = OriginalConvNet(norm)
    with torch.no_grad():
        for tensor in original.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
    torch.save(original.state_dict(), tmp_path / "original.pt")
    model = convnet(norm)
    assert load_weights(tmp_path / "original.pt", model) == {}
    torch.testing.assert_close(model(IMAGES), original.eval()(IMAGES))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: model.state_dict(),
        lambda model: {"model": model.state_dict(), "best_acc1": np.float64(61.27)},
        lambda model: {"state_dict": model.state_dict(), "epoch": 3},
        lambda model: {"model": nn.DataParallel(model).state_dict()},
        lambda model: torch.compile(model).state_dict(),
        lambda model: torch.compile(nn.DataParallel(model)).state_dict(),
        lambda model: nn.DataParallel(torch.compile(model)).state_dict(),
    ],
    ids=["bare", "model", "state_dict", "parallel", "compiled", "outer", "inner"],
)
def test_every_layout_is_read(tmp_path, wrap):
    model, other = convnet(), convnet()
    torch.save(wrap(model), tmp_path / "teacher.pth")
    load_weights(tmp_path / "teacher.pth", other)
    assert same_weights(other, model)


class Lit(nn.Module):
    """A Lightning module as it is usually written: the network, and what measures it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("class_weights", torch.ones(10))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: {"net": model.state_dict(), "epoch": 3},
        lambda model: {"model_state_dict": model.state_dict(), "optimizer_state_dict": {}},
        lambda model: {"ema": model.state_dict()},
        lambda model: AveragedModel(model).state_dict(),
        lambda model: {"model": AveragedModel(nn.DataParallel(model)).state_dict()},
        lambda model: {"state_dict": Lit(model).state_dict(), "pytorch-lightning_version": "2.5.0"},
        lambda model: {"state_dict": Lit(torch.compile(model)).state_dict()},
        lambda model: {f"backbone.net.{k}": v for k, v in model.state_dict().items()},
        lambda model: {"model": model.state_dict(), "args": argparse.Namespace(lr=0.1)},
        lambda model: {k: nn.Parameter(v.float()) for k, v in model.state_dict().items()},
    ],
    ids=[
        "net",
        "model_state_dict",
        "only one",
        "averaged",
        "averaged parallel",
        "lightning",
        "lightning compiled",
        "any prefix",
        "namespace",
        "parameters",
    ],
)
def test_weights_are_found_wherever_a_trainer_has_put_them(tmp_path, wrap):
    model, other = convnet(), convnet()
    torch.save(wrap(model), tmp_path / "teacher.pth")
    load_weights(tmp_path / "teacher.pth", other)
    assert same_weights(other, model)


def test_the_original_convnets_keys_may_have_a_prefix_too(tmp_path):
    original = OriginalConvNet("batch").eval()
    torch.save({"state_dict": Lit(original).state_dict()}, tmp_path / "original.pth")
    model = convnet()
    load_weights(tmp_path / "original.pth", model)
    torch.testing.assert_close(model(IMAGES), original(IMAGES))


def test_safetensors_are_read(tmp_path):
    model, other = convnet(), convnet()
    save_file(model.state_dict(), tmp_path / "teacher.safetensors")
    load_weights(tmp_path / "teacher.safetensors", other)
    assert same_weights(other, model)
    (tmp_path / "damaged.safetensors").write_bytes(b"no such file")
    with pytest.raises(ValueError, match=r"damaged\.safetensors"):
        load_weights(tmp_path / "damaged.safetensors", other)


def test_what_lies_beside_the_network_under_another_prefix_is_told(tmp_path, caplog):
    torch.save(Lit(convnet()).state_dict(), tmp_path / "lightning.ckpt")
    load_weights(tmp_path / "lightning.ckpt", convnet())
    assert "class_weights" in caplog.text


def test_averaged_weights_beside_the_others_are_told(tmp_path, caplog):
    model, other = convnet(), convnet()
    contents = {"state_dict": model.state_dict(), "state_dict_ema": convnet().state_dict()}
    torch.save(contents, tmp_path / "timm.pth.tar")
    load_weights(tmp_path / "timm.pth.tar", other)
    assert same_weights(other, model)
    assert "state_dict_ema" in caplog.text


def test_two_networks_in_a_file_are_not_guessed_between(tmp_path):
    weights = convnet().state_dict()
    both = {f"{who}.{k}": v for who in ("student", "teacher") for k, v in weights.items()}
    torch.save({"state_dict": both}, tmp_path / "both.pth")
    with pytest.raises(ValueError, match=r"both\.pth .*student.*teacher"):
        load_weights(tmp_path / "both.pth", convnet())
    torch.save({"student": weights, "teacher": weights}, tmp_path / "two.pth")
    with pytest.raises(ValueError, match=r"two\.pth .*student.*teacher"):
        load_weights(tmp_path / "two.pth", convnet())


def test_a_layer_of_another_network_is_not_taken_for_a_small_network(tmp_path):
    large = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    torch.save(large.state_dict(), tmp_path / "large.pth")
    with pytest.raises(ValueError, match=r"large\.pth does not fit the Linear"):
        load_weights(tmp_path / "large.pth", nn.Linear(4, 2))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_file_says_how_to_save_its_weights(tmp_path):
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "scripted.pt")
    with pytest.raises(ValueError, match=r"scripted\.pt .*torch\.jit\.load"):
        load_weights(tmp_path / "scripted.pt", nn.Linear(2, 2))


def test_wrapped_networks_are_saved_and_loaded_without_their_wrapper(tmp_path):
    model, other = convnet(), convnet()
    save_weights(tmp_path / "teacher.pth", torch.compile(model))
    saved = torch.load(tmp_path / "teacher.pth", weights_only=True)["model"]
    assert list(saved) == list(model.state_dict())
    load_weights(tmp_path / "teacher.pth", nn.DataParallel(other))
    assert same_weights(other, model)


def test_numpy_scalars_beside_the_weights_are_read(tmp_path):
    torch.save({"model": convnet().state_dict(), "acc": np.float64(61.27)}, tmp_path / "a.pth")
    assert load_weights(tmp_path / "a.pth", convnet()) == {"acc": 61.27}


def test_numpy_arrays_beside_the_weights_are_read(tmp_path):
    history = np.array([50.0, 61.27])
    torch.save({"model": convnet().state_dict(), "history": history}, tmp_path / "a.pth")
    assert load_weights(tmp_path / "a.pth", convnet())["history"].tolist() == history.tolist()


def test_weights_take_the_dtype_of_the_network(tmp_path):
    model, other = convnet(), convnet()
    save_weights(tmp_path / "half.pth", model.half())
    load_weights(tmp_path / "half.pth", other)
    assert same_weights(other, model.float())
    assert other.classifier.weight.dtype == torch.float32


def test_a_file_from_before_batches_were_counted_is_read(tmp_path):
    weights = {k: v for k, v in convnet().state_dict().items() if "num_batches" not in k}
    torch.save(weights, tmp_path / "old.pth")
    load_weights(tmp_path / "old.pth", convnet())


def test_another_number_of_classes_is_an_error_that_tells_both(tmp_path):
    path = tmp_path / "cifar10_convnet2.pth"
    save_weights(path, convnet(num_classes=10))
    message = (
        r"cifar10_convnet2.pth does not fit the ConvNet: "
        r"it has classifier.weight of shape \(10, 32\), expected \(100, 32\), "
        r"classifier.bias of shape \(10,\), expected \(100,\)\."
    )
    with pytest.raises(ValueError, match=message):
        load_weights(path, convnet(num_classes=100))


def test_missing_and_unexpected_keys_are_named(tmp_path):
    path = tmp_path / "teacher.pth"
    weights = convnet().state_dict()
    weights["head.weight"] = weights.pop("classifier.weight")
    torch.save(weights, path)
    message = "teacher.pth .*: missing: classifier.weight; unexpected: head.weight\\."
    with pytest.raises(ValueError, match=message):
        load_weights(path, convnet())


def test_another_norm_is_an_error_that_names_a_few_of_many_keys(tmp_path):
    path = tmp_path / "teacher.pth"
    save_weights(path, convnet("instance"))
    message = (
        "missing: layers.norm.0.running_mean, layers.norm.0.running_var, "
        r"layers.norm.1.running_mean and 1 more\."
    )
    with pytest.raises(ValueError, match=message):
        load_weights(path, convnet("batch"))


def test_what_does_not_fit_leaves_the_network_as_it_was(tmp_path):
    save_weights(tmp_path / "teacher.pth", convnet(num_classes=100))
    model = convnet()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match="does not fit"):
        load_weights(tmp_path / "teacher.pth", model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_file_and_key(tmp_path, value):
    model = convnet()
    model.layers["norm"][1].running_var[3] = value
    save_weights(tmp_path / "diverged.pth", model)
    message = r"diverged.pth must .* finite weights, got NaN or infinity in layers.norm.1.running"
    with pytest.raises(ValueError, match=message):
        load_weights(tmp_path / "diverged.pth", convnet())


def test_a_path_may_be_a_text(tmp_path):
    path = str(tmp_path / "teacher.pth")
    save_weights(path, convnet(), top1=1.0)
    assert load_weights(path, convnet()) == {"top1": 1.0}


@pytest.mark.parametrize(
    ("contents", "found"),
    [
        ([1, 2], "got list"),
        ({"model": {"weight": 1.0}}, r"got \['model'\]"),
        ({}, r"got dict"),
    ],
)
def test_a_file_without_a_state_dict_is_refused_and_says_how_to_save_one(tmp_path, contents, found):
    torch.save(contents, tmp_path / "other.pth")
    message = rf"other.pth must .* a state dict, .*'model'.*, {found}.*state_dict\(\)"
    with pytest.raises(ValueError, match=message):
        load_weights(tmp_path / "other.pth", convnet())


def test_a_pickled_network_is_refused_and_not_run(tmp_path):
    torch.save({"model": convnet()}, tmp_path / "whole.pth")
    message = r"whole.pth must contain only tensors .*ConvNet.*network\.state_dict\(\)"
    with pytest.raises(ValueError, match=message):
        load_weights(tmp_path / "whole.pth", convnet())


def test_a_file_that_is_absent_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent.pth"):
        load_weights(tmp_path / "absent.pth", convnet())


def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "teacher.pth"
    save_weights(path, convnet(), top1=1.0)

    def failing(contents: object, file: types.SimpleNamespace) -> None:
        file.write_bytes(b"half a file")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", failing)
    with pytest.raises(OSError, match="disk full"):
        save_weights(path, convnet(), top1=2.0)
    assert load_weights(path, convnet()) == {"top1": 1.0}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.float64(1.0), "top1 must be a plain value, got float64"),
        ({"a": [1, object()]}, r"top1\['a'\]\[1\] must be a plain value, got object"),
        ({object(): 1}, "a key of top1 must be a plain value, got object"),
    ],
)
def test_a_record_that_could_not_be_read_safely_is_refused(tmp_path, value, message):
    with pytest.raises(TypeError, match=message):
        save_weights(tmp_path / "teacher.pth", convnet(), top1=value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants:UserWarning")
@pytest.mark.parametrize(
    "strange",
    [
        lambda weight: weight.to_sparse(),
        lambda weight: weight.to(torch.complex64),
        lambda weight: weight.to(torch.int32),
    ],
    ids=["sparse", "complex", "integer"],
)
def test_weights_of_another_kind_are_refused_by_name(tmp_path, strange):
    weights = convnet().state_dict()
    weights["layers.conv.0.weight"] = strange(weights["layers.conv.0.weight"])
    torch.save({"model": weights}, tmp_path / "strange.pth")
    with pytest.raises(ValueError, match=r"strange\.pth must .* dense .*layers\.conv\.0\.weight"):
        load_weights(tmp_path / "strange.pth", convnet())
