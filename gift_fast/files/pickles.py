"""Safe reading of ``torch.save`` files: no code in them is executed.

Unpickling can run arbitrary code, and distilled sets and their labels come from untrusted servers.
:func:`load_tensors` therefore uses PyTorch's restricted unpickler, which creates tensors, numbers,
strings, lists and dictionaries and rejects all functions that are not on an allowlist.
"""

from __future__ import annotations

import functools
import re
import threading
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gift_fast.files.bounds import check_archive, check_values
from gift_fast.process.errors import is_out_of_memory

Allowed = Callable[..., Any] | tuple[Callable[..., Any], str]
"""A function or class that a file may reference, or a pair with the name used in the file."""

SCALAR_TYPES = "?bhilqBHILQefd"
"""NumPy's codes of the allowed scalar types: bool, integers, and floats of up to 64 bits."""

# safe_globals temporarily changes an allowlist that all threads share.
_safe_globals = threading.Lock()


@functools.cache
def numpy_scalars() -> tuple[Allowed, ...]:
    """The globals that a file with NumPy scalars references, for all versions of NumPy.

    The bounding boxes of FKD's cutmix are such scalars (``numpy.int64``).
    """
    import numpy as np

    scalar = np.float64(0.0).__reduce__()[0]
    assert callable(scalar)
    return (
        np.dtype,
        *(type(np.dtype(code)) for code in SCALAR_TYPES),
        (scalar, "numpy.core.multiarray.scalar"),  # up to NumPy 1.26
        (scalar, "numpy._core.multiarray.scalar"),
    )


@functools.cache
def numpy_arrays() -> tuple[Allowed, ...]:
    """The globals that a file with NumPy arrays and scalars references, for all versions of NumPy.

    Checkpoints may contain such arrays in addition to the weights, for example accuracies.
    """
    import numpy as np

    reconstruct = np.zeros(1).__reduce__()[0]
    assert callable(reconstruct)
    return (
        *numpy_scalars(),
        np.ndarray,
        (reconstruct, "numpy.core.multiarray._reconstruct"),  # up to NumPy 1.26
        (reconstruct, "numpy._core.multiarray._reconstruct"),
    )


def load_tensors(path: Path, allowed: Iterable[Allowed] = (), *, mapped: bool = False) -> Any:
    """Read a ``torch.save`` file onto the CPU without executing code in it.

    Thread-safe: only one thread reads at a time.

    Args:
        path: the file, with any suffix.
        allowed: globals that the file may reference in addition to tensors and plain Python values,
            such as :func:`numpy_scalars`.
        mapped: memory-map a file in torch's zip format, so that the values of its tensors are only
            read when needed; do not write to them.

    Returns:
        The saved object. All tensors are on the CPU and require no gradient; parameters become
        tensors.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file references a function or class that is not allowed, is damaged, was not
            written by ``torch.save``, would take far more memory than its size, or contains tensors
            without values (on the device ``meta``).

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "lr_best.pt"
        >>> torch.save(torch.tensor(0.25), path)
        >>> load_tensors(path)
        tensor(0.2500)
    """
    with path.open("rb"):  # raises OSError here, so that errors below are about the contents
        pass
    check_archive(path)
    try:
        with _safe_globals, torch.serialization.safe_globals(list(allowed)):
            mmap = mapped and zipfile.is_zipfile(path)
            contents = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # torch raises many types of errors for damaged files
        if is_out_of_memory(error):
            raise
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused is not None:
            raise ValueError(
                f"{path} must contain only tensors and plain values, but it references "
                f"{refused[1]}; it was not executed, since a pickle can run arbitrary code"
            ) from error
        unpickler = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
        reason = unpickler[1] if unpickler else str(error).partition("\n")[0]
        raise ValueError(
            f"{path} must be a complete torch.save file; reading it raised "
            f"{type(error).__name__}: {reason}"
        ) from error
    check_values(path, contents)
    return without_gradients(contents)


def without_gradients(value: Any) -> Any:
    """Detach all tensors of a value, including those in containers.

    Distilled images and learned labels were optimized, and ``torch.save`` stores that they require
    a gradient.
    """
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, dict):
        return {key: without_gradients(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(without_gradients(item) for item in value)
    return value


def described(value: object) -> str:
    """Describe a value for an error message.

    Example:
        >>> described(torch.zeros(2, 3)), described([1])
        ('float32 (2, 3)', 'list')
    """
    if not isinstance(value, Tensor):
        return type(value).__name__
    dtype, layout = (str(name).removeprefix("torch.") for name in (value.dtype, value.layout))
    return f"{dtype} {tuple(value.shape)}{'' if layout == 'strided' else f' {layout}'}"
