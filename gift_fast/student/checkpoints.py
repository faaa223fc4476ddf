"""Weights of networks in files, as the field exchanges them.

A checkpoint is a file of ``torch.save`` with the state dict under ``model`` and plain values beside
it, named ``{dataset}_{model}.pth``: the layout of RDED's and GIFT's published teachers. State dicts
alone, or under ``state_dict``, are read too, with the prefixes that ``DataParallel`` and
``torch.compile`` put before every key.

A ConvNet's keys are ``layers.conv.{d}``, ``layers.norm.{d}`` and ``classifier`` (RDED), or
``features.{n}`` with four layers a block, and ``classifier`` (dataset condensation and what follows
it); both are read, the first is written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gift_fast.student.atomic import replacing
from gift_fast.student.distilled.pickles import load_tensors, numpy_scalars
from gift_fast.student.models import ConvNet

STATE_KEYS = ("model", "state_dict")
"""Where a checkpoint keeps its state dict, if it is not one itself."""

PREFIXES = ("module.", "_orig_mod.")
"""What ``DataParallel`` and ``torch.compile`` put before every key."""

LAYERS_PER_BLOCK = 4
"""Convolution, norm, activation, pool: the numbering of ``features`` in the original ConvNet."""

SHOWN = 3
"""Keys of one kind that an error names."""


def checkpoint_name(dataset: str, model: str) -> str:
    """The file name of a network's weights; what a file name should not hold becomes ``-``.

    Example:
        >>> checkpoint_name("cifar100", "convnet3")
        'cifar100_convnet3.pth'
        >>> checkpoint_name("digits", "convnet3:width=16,norm=group")
        'digits_convnet3-width=16-norm=group.pth'
    """
    return re.sub(r"[^\w.=+-]+", "-", f"{dataset}_{model}") + ".pth"


def save_weights(path: Path | str, model: nn.Module, **record: Any) -> None:
    """Writes the weights of a network and what is to be known about them, whole or not at all.

    Args:
        path: the file; see :func:`checkpoint_name`.
        model: its state dict is written under ``model``, on the CPU.
        record: plain values to keep beside it: numbers, strings, None, and lists, tuples and
            dictionaries of these.

    Raises:
        OSError: the file cannot be written; the message names it.
        TypeError: ``record`` holds something else, which could not be read without trusting the
            file.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / checkpoint_name("digits", "linear")
        >>> save_weights(path, nn.Linear(2, 2), top1=97.5)
        >>> load_weights(path, nn.Linear(2, 2))
        {'top1': 97.5}
    """
    for name, value in record.items():
        check_plain(name, value)
    weights = {key: tensor.detach().cpu() for key, tensor in state_dict_of(model).items()}
    with replacing(Path(path)) as temporary:
        torch.save({"model": weights, **record}, temporary)


def load_weights(path: Path | str, model: nn.Module) -> dict[str, Any]:
    """Loads the weights in a file into a network, which must be the one they were saved from.

    Args:
        path: a checkpoint in any of the layouts above. Nothing in it is run: it is read with
            ``torch.load(weights_only=True)``.
        model: gets the weights, in its own dtype and on its own device.

    Returns:
        What the file holds beside the weights, by name.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file is no checkpoint, or does not fit the model: keys that are missing or
            unexpected, or shapes that differ, as for another number of classes; or weights are NaN
            or infinite.
    """
    path = Path(path)
    contents = load_tensors(path, numpy_scalars())
    weights, record = split_checkpoint(path, contents)
    if isinstance(model, ConvNet):
        weights = {convnet_key(key): tensor for key, tensor in weights.items()}
    own = state_dict_of(model)
    check_fit(path, weights, own, type(model).__name__)
    # As the network will hold them: the largest float64 are infinite in float32.
    converted = {key: tensor.to(own[key].dtype) for key, tensor in weights.items()}
    broken = [key for key, tensor in converted.items() if not tensor.isfinite().all()]
    if broken:
        raise ValueError(
            f"{path} must hold finite weights, got NaN or infinity in {listing(broken)}"
        )
    with torch.no_grad():
        for key, tensor in converted.items():
            own[key].copy_(tensor)
    return record


def split_checkpoint(path: Path, contents: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A checkpoint's state dict, without the prefixes of wrappers, and what lies beside it."""
    record: dict[str, Any] = {}
    weights = contents
    if isinstance(contents, Mapping):
        key = next((k for k in STATE_KEYS if isinstance(contents.get(k), Mapping)), None)
        if key is not None:
            record = {k: value for k, value in contents.items() if k != key}
            weights = contents[key]
    if not is_state_dict(weights):
        found = sorted(map(str, contents)) if isinstance(contents, Mapping) else type(contents)
        raise ValueError(
            f"{path} must hold a state dict, or one under {' or '.join(map(repr, STATE_KEYS))}; "
            f"got {found}"
        )
    return without_prefixes(weights), record


def is_state_dict(weights: Any) -> bool:
    """Whether it maps strings to tensors, and is not empty."""
    return (
        isinstance(weights, Mapping)
        and len(weights) > 0
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in weights.items())
    )


def state_dict_of(model: nn.Module) -> dict[str, Tensor]:
    """A network's state dict without the prefixes of wrappers; the tensors are the network's."""
    return without_prefixes(model.state_dict())


def without_prefixes(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, without the prefixes that all keys share."""
    stripped = dict(weights)
    for _ in PREFIXES:  # a wrapper may wrap the other one
        for prefix in PREFIXES:
            if all(key.startswith(prefix) for key in stripped):
                stripped = {k.removeprefix(prefix): tensor for k, tensor in stripped.items()}
    return stripped


def convnet_key(key: str) -> str:
    """The key of a ConvNet's tensor in RDED's layout, from either layout.

    Example:
        >>> convnet_key("features.4.weight"), convnet_key("features.9.bias")
        ('layers.conv.1.weight', 'layers.norm.2.bias')
        >>> convnet_key("classifier.weight")
        'classifier.weight'
    """
    match = re.fullmatch(r"features\.(\d+)\.(\w+)", key)
    if match is None:
        return key
    block, layer = divmod(int(match[1]), LAYERS_PER_BLOCK)
    return f"layers.{('conv', 'norm')[layer]}.{block}.{match[2]}" if layer < 2 else key


def check_fit(
    path: Path, weights: Mapping[str, Tensor], own: Mapping[str, Tensor], model: str
) -> None:
    """Raises ValueError unless keys and shapes in a file are those of the model's state dict."""
    # Files from before PyTorch 0.4.1 do not count batches, and nothing here reads the count.
    missing = [k for k in own if k not in weights and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in weights if k not in own]
    shapes = [
        f"{k} of shape {tuple(weights[k].shape)}, expected {tuple(own[k].shape)}"
        for k in own
        if k in weights and weights[k].shape != own[k].shape
    ]
    faults = [
        f"{kind} {listing(keys)}"
        for kind, keys in (("it has", shapes), ("missing:", missing), ("unexpected:", unexpected))
        if keys
    ]
    if faults:
        raise ValueError(f"{path} does not fit the {model}: {'; '.join(faults)}")


def listing(items: list[str]) -> str:
    """The first few items, and how many more there are."""
    more = len(items) - SHOWN
    return ", ".join(items[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def check_plain(name: str, value: object) -> None:
    """Raises TypeError unless ``value`` is made of what ``torch.load(weights_only=True)`` reads."""
    if isinstance(value, dict):
        for key, item in value.items():
            check_plain(f"a key of {name}", key)
            check_plain(f"{name}[{key!r}]", item)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            check_plain(f"{name}[{index}]", item)
    elif type(value) not in (bool, int, float, str, type(None)):
        raise TypeError(f"{name} must be a plain value, got {type(value).__name__}")
