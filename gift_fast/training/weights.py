"""Files with the weights of networks.

Weights are written with ``torch.save``: a dictionary with the state dict under ``model`` and plain
values, in a file ``{dataset}_{model}.pth``, as RDED's and GIFT's teachers are published. Other
layouts are read too: a bare state dict, or one under another key (``state_dict``, ``net``,
``model_state_dict``); keys with the prefix of a wrapper (``DataParallel``, ``torch.compile``,
``AveragedModel``, a Lightning module) or any other common prefix; and safetensors files.

The keys of a ConvNet are ``layers.conv.{d}``, ``layers.norm.{d}`` and ``classifier`` (RDED), or
``features.{n}``, with four layers per block, and ``classifier`` (dataset condensation and the code
based on it). Both are read, and the first is written.
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
"""Keys under which files have a state dict; the first that is present is used."""

COMPILED = "_orig_mod."
"""Prefix that ``torch.compile`` adds to the keys of the module that it wraps, at any level."""

NOT_WEIGHTS = frozenset({"n_averaged"})
"""Keys that wrappers add to those of the network: the counter of ``AveragedModel``."""

MAJORITY = 0.5
"""Fraction of a file's tensors that must be under a prefix for it to be that of the network."""

HOW_TO_SAVE = 'save it with torch.save({"model": network.state_dict()}, path)'

LAYERS_PER_BLOCK = 4
"""Convolution, norm, activation and pooling, in the numbering of the original ConvNet."""

SHOWN = 3
"""Largest number of keys of one kind in an error message."""


def checkpoint_name(dataset: str, model: str) -> str:
    """The file name of a network's weights; characters unsuited to file names become ``-``.

    Example:
        >>> checkpoint_name("cifar100", "convnet3")
        'cifar100_convnet3.pth'
        >>> checkpoint_name("digits", "convnet3:width=16,norm=group")
        'digits_convnet3-width=16-norm=group.pth'
    """
    return re.sub(r"[^\w.=+-]+", "-", f"{dataset}_{model}") + ".pth"


def save_weights(path: Path | str, model: nn.Module, **record: Any) -> None:
    """Write the weights of a network and a record about them, atomically.

    Args:
        path: the file; see :func:`checkpoint_name`.
        model: its state dict is written under ``model``, on the CPU.
        record: plain values to store with the weights: numbers, strings, None, and lists, tuples
            and dictionaries of these.

    Raises:
        OSError: the file cannot be written; the message names it.
        TypeError: ``record`` has other values, which ``torch.load(weights_only=True)`` refuses.

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
    """Load the weights in a file into a network of the same architecture.

    Args:
        path: a file in any of the layouts above. It is read with
            ``torch.load(weights_only=True)``, so no code in it is executed.
        model: the network; its dtype and device do not change.

    Returns:
        The other values in the file, by name.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file has no state dict, or several that fit; keys are missing or
            unexpected; shapes differ, for instance because of another number of classes; or
            weights are sparse, complex, integers, NaN or infinite. The message says how to save
            the weights so that they can be read.
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
            f"{path} must contain dense weights, and floating-point weights where the network has "
            f"them, got {listing(strange)}"
        )
    # Checked in the network's dtype: large float64 values are infinite in float32.
    converted = {key: tensor.to(own[key].dtype) for key, tensor in weights.items()}
    broken = [key for key, tensor in converted.items() if not tensor.isfinite().all()]
    if broken:
        raise ValueError(
            f"{path} must contain finite weights, got NaN or infinity in {listing(broken)}"
        )
    with torch.no_grad():
        for key, tensor in converted.items():
            own[key].copy_(tensor)
    return record


def read_checkpoint(path: Path) -> Any:
    """Read the contents of a file of ``torch.save`` or safetensors."""
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            if path.stat().st_size == 0:
                raise ValueError(f"{path} must contain weights, it is empty: download it again")
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} must be a safetensors file, got: {error}") from error
    try:
        return load_tensors(path, (*numpy_arrays(), argparse.Namespace))
    except ValueError as error:
        if "copy or download" in str(error):  # saving it in another way would not help
            raise
        if "TorchScript" in str(error):
            raise ValueError(
                f"{path} must contain a state dict, got a TorchScript archive, which is a program; "
                'save its weights: torch.save({"model": torch.jit.load(path).state_dict()}, path)'
            ) from error
        raise ValueError(
            f"{error}; if a network was saved instead of its state dict, {HOW_TO_SAVE}"
        ) from error


def split_checkpoint(path: Path, contents: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split the contents of a file into the state dict, with its original keys, and the rest."""
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
                    "%s: loading the weights under %r, not %s",
                    path,
                    chosen[0],
                    listing(others),
                )
            record = {str(k): value for k, value in contents.items() if k != chosen[0]}
            return dict(contents[chosen[0]]), record
        if len(chosen) > 1:
            raise ValueError(
                f"{path} must contain one state dict, got {listing(sorted(map(str, chosen)))}; "
                'save the right one: torch.save({"model": ...}, path)'
            )
        found = sorted(map(str, contents))
    raise ValueError(
        f"{path} must contain a state dict, or one under a key such as {STATE_KEYS[0]!r} or "
        f"{STATE_KEYS[1]!r}, got {found or type(contents).__name__}; {HOW_TO_SAVE}"
    )


def is_state_dict(weights: Any) -> bool:
    """Whether ``weights`` is a non-empty mapping from strings to tensors."""
    return (
        isinstance(weights, Mapping)
        and len(weights) > 0
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in weights.items())
    )


def state_dict_of(model: nn.Module) -> dict[str, Tensor]:
    """A network's state dict without the prefixes of wrappers; it shares the network's tensors."""
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
    """Find the network's tensors in a state dict and return them by the network's keys.

    They may be under any prefix, if most of the file's tensors are.

    Args:
        path: of the file, for the messages.
        weights: the state dict in the file.
        own: the network's state dict.
        model: name of the network, for the messages.
        rename: maps a key in the file, without prefix, to that of the network.

    Raises:
        ValueError: no tensors fit, or those under several prefixes do.
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
                f"{path} must contain the weights of one {model}, got several, under "
                f"{listing([prefix.rstrip('.') for prefix in fit])}; save the right one: "
                'torch.save({"model": ...}, path)'
            )
        fit = []
    if fit:
        others = [key for key in plain if not key.startswith(fit[0])]
        if others:
            logger.warning(
                "%s: loading the weights under %r, not %s", path, fit[0][:-1], listing(others)
            )
        return under[fit[0]]
    # The message lists the differences under the prefix that matches most of the network's keys.
    best = max(under.values(), key=lambda tensors: len(own.keys() & tensors.keys()))
    raise ValueError(
        f"{path} does not fit the {model}: {'; '.join(faults_of(best, own))}. It must be saved "
        f"from the same network with the same number of classes; {HOW_TO_SAVE}"
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
    """Describe how keys and shapes in a file differ from those of a network's state dict."""
    # Files from before PyTorch 0.4.1 have no num_batches_tracked, which is not used here.
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
    """Join the first few items and state how many more there are."""
    more = len(items) - SHOWN
    return ", ".join(items[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def check_plain(name: str, value: object) -> None:
    """Raise TypeError unless ``torch.load(weights_only=True)`` can read ``value``."""
    if isinstance(value, dict):
        for key, item in value.items():
            check_plain(f"a key of {name}", key)
            check_plain(f"{name}[{key!r}]", item)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            check_plain(f"{name}[{index}]", item)
    elif type(value) not in (bool, int, float, str, type(None)):
        raise TypeError(f"{name} must be a plain value, got {type(value).__name__}")
