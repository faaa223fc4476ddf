"""Weights of networks in files, as the field exchanges them.

A checkpoint is a file of ``torch.save`` with the state dict under ``model`` and plain values beside
it, named ``{dataset}_{model}.pth``: the layout of RDED's and GIFT's published teachers. Other
layouts are read too: a state dict alone, or under another key (``state_dict``, ``net``,
``model_state_dict``); keys with the prefix of a wrapper (``DataParallel``, ``torch.compile``,
``AveragedModel``, a Lightning module) or with any other prefix that they share; and files of
safetensors.

A ConvNet's keys are ``layers.conv.{d}``, ``layers.norm.{d}`` and ``classifier`` (RDED), or
``features.{n}`` with four layers a block, and ``classifier`` (dataset condensation and what follows
it); both are read, the first is written.
"""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gift_fast.files.atomic import replacing
from gift_fast.files.pickles import described, load_tensors, numpy_arrays
from gift_fast.training.models import ConvNet

logger = logging.getLogger(__name__)

STATE_KEYS = ("model", "state_dict", "net", "model_state_dict", "model_state", "network", "weights")
"""Where a checkpoint keeps its state dict, if it is not one itself; the first there is counts."""

COMPILED = "_orig_mod."
"""What ``torch.compile`` puts before the keys of the module that it wraps, wherever that is."""

NOT_WEIGHTS = frozenset({"n_averaged"})
"""Keys that wrappers add beside the network's: the counter of ``AveragedModel``."""

MAJORITY = 0.5
"""The part of a file's tensors that must lie under one prefix to be taken for the network."""

HOW_TO_SAVE = 'save it with torch.save({"model": network.state_dict()}, path)'

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
            unexpected, or shapes that differ, as for another number of classes; or several of its
            state dicts fit; or weights are sparse, complex, integers, NaN or infinite. The error
            says how to save the weights so that they can be read.
    """
    path = Path(path)
    weights, record = split_checkpoint(path, read_checkpoint(path))
    own = state_dict_of(model)
    rename = convnet_key if isinstance(model, ConvNet) else str
    weights = fitting(path, weights, own, type(model).__name__, rename)
    strange = [
        f"{key} ({described(tensor)})"
        for key, tensor in weights.items()
        if tensor.layout is not torch.strided
        or (own[key].is_floating_point() and not tensor.is_floating_point())
    ]
    if strange:
        raise ValueError(
            f"{path} must hold dense weights, and floating-point numbers where the network has "
            f"them, got {listing(strange)}"
        )
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


def read_checkpoint(path: Path) -> Any:
    """What a file of ``torch.save`` or safetensors holds."""
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            if path.stat().st_size == 0:
                raise ValueError(f"{path} must hold weights, it is empty: download it again")
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} must be a safetensors file, but {error}") from error
    try:
        return load_tensors(path, (*numpy_arrays(), argparse.Namespace))
    except ValueError as error:
        if "copy or download" in str(error):  # saving it otherwise would not help
            raise
        if "TorchScript" in str(error):
            raise ValueError(
                f"{path} must hold a state dict, got a TorchScript archive, which is a program; "
                'save its weights: torch.save({"model": torch.jit.load(path).state_dict()}, path)'
            ) from error
        raise ValueError(
            f"{error}; for the weights of a network that was saved whole, {HOW_TO_SAVE}"
        ) from error


def split_checkpoint(path: Path, contents: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A checkpoint's state dict, its keys as they are, and what lies beside it."""
    if is_state_dict(contents):
        return dict(contents), {}
    found: list[str] = []
    if isinstance(contents, Mapping):
        candidates = [key for key, value in contents.items() if is_state_dict(value)]
        named = [key for key in STATE_KEYS if key in candidates]
        chosen = named[:1] or candidates
        if len(chosen) == 1:
            others = [str(key) for key in candidates if key != chosen[0]]
            if others:
                logger.warning(
                    "%s: the weights under %r are read, and not %s",
                    path,
                    chosen[0],
                    listing(others),
                )
            record = {str(k): value for k, value in contents.items() if k != chosen[0]}
            return dict(contents[chosen[0]]), record
        if len(chosen) > 1:
            raise ValueError(
                f"{path} must hold one state dict, got {listing(sorted(map(str, chosen)))}: "
                'save the one that is meant: torch.save({"model": ...}, path)'
            )
        found = sorted(map(str, contents))
    raise ValueError(
        f"{path} must hold a state dict, or one under a key such as {STATE_KEYS[0]!r} or "
        f"{STATE_KEYS[1]!r}; got {found or type(contents).__name__}; {HOW_TO_SAVE}"
    )


def is_state_dict(weights: Any) -> bool:
    """Whether it maps strings to tensors, and is not empty."""
    return (
        isinstance(weights, Mapping)
        and len(weights) > 0
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in weights.items())
    )


def state_dict_of(model: nn.Module) -> dict[str, Tensor]:
    """A network's state dict without the prefixes of wrappers; the tensors are the network's."""
    while isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        model = model.module
    weights = {key.replace(COMPILED, ""): tensor for key, tensor in model.state_dict().items()}
    if weights and all(key.startswith("module.") for key in weights):
        weights = {key.removeprefix("module."): tensor for key, tensor in weights.items()}
    return weights


def fitting(
    path: Path,
    weights: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    model: str,
    rename: Callable[[str], str],
) -> dict[str, Tensor]:
    """The tensors of a state dict that are the network's, by the network's keys.

    They may lie under a prefix, whatever it is, if most of the file's tensors do.

    Args:
        path: of the file, for the messages.
        weights: as the file has them.
        own: the network's own state dict.
        model: what the network is called.
        rename: takes a key in the file, without prefix, to the network's.

    Raises:
        ValueError: none fit, or those under several prefixes do.
    """
    plain = {k.replace(COMPILED, ""): t for k, t in weights.items() if k not in NOT_WEIGHTS}
    parts = (key.split(".")[:-1] for key in plain)
    prefixes = {"".join(f"{p}." for p in part[:n]) for part in parts for n in range(len(part) + 1)}
    under = {
        prefix: {rename(k[len(prefix) :]): t for k, t in plain.items() if k.startswith(prefix)}
        for prefix in sorted(prefixes | {""}, key=lambda prefix: (len(prefix), prefix))
    }
    fit = [prefix for prefix, tensors in under.items() if not faults_of(tensors, own)]
    if fit and fit[0] != "" and len(under[fit[0]]) <= MAJORITY * len(plain):
        if len(fit) > 1:
            raise ValueError(
                f"{path} must hold the weights of one {model}, got several, under "
                f"{listing([prefix.rstrip('.') for prefix in fit])}: save the one that is meant: "
                'torch.save({"model": ...}, path)'
            )
        fit = []
    if fit:
        others = [key for key in plain if not key.startswith(fit[0])]
        if others:
            logger.warning(
                "%s: the weights under %r are read, and not %s", path, fit[0][:-1], listing(others)
            )
        return under[fit[0]]
    # Under the prefix that holds most of the network's keys, the faults say most.
    best = max(under.values(), key=lambda tensors: len(own.keys() & tensors.keys()))
    raise ValueError(
        f"{path} does not fit the {model}: {'; '.join(faults_of(best, own))}. It must be saved "
        f"from the same network with as many classes; {HOW_TO_SAVE}"
    )


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


def faults_of(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """How keys and shapes in a file differ from those of a network's state dict, in words."""
    # Files from before PyTorch 0.4.1 do not count batches, and nothing here reads the count.
    missing = [k for k in own if k not in weights and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in weights if k not in own]
    shapes = [
        f"{k} of shape {tuple(weights[k].shape)}, expected {tuple(own[k].shape)}"
        for k in own
        if k in weights and weights[k].shape != own[k].shape
    ]
    return [
        f"{kind} {listing(keys)}"
        for kind, keys in (("it has", shapes), ("missing:", missing), ("unexpected:", unexpected))
        if keys
    ]


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
